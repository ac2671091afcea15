"""No result wins by what is missing of it: partial, other boundaries, given, zero, doubled."""

from __future__ import annotations

import csv
import io
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import msgspec
import pytest

from joulebook.cli import main
from joulebook.core.energy.readings import Component, Meter
from joulebook.core.evidence import Amount, Method
from joulebook.core.money.amounts import Charge, Exact, Item
from joulebook.core.report.dataset import Charged, Posting, ReportData, ReportWorkload
from joulebook.core.report.leaderboard import (
    Board,
    ComparedMetric,
    Join,
    RankBoundary,
    Unit,
    against_budget,
    board,
)
from joulebook.core.workloads import Labels, WorkloadId
from joulebook.lab.leaderboard.formats import Leaderboard, as_csv, as_json, markdown
from joulebook.lab.leaderboard.join import JOINED_BY, WORKLOAD_TAG, by_experiment, by_run
from joulebook.lab.leaderboard.model_card import read_card
from joulebook.lab.leaderboard.plot import draw
from joulebook.lab.leaderboard.ranked import Asked
from joulebook.lab.leaderboard.ranked import ranked as ranked_of
from joulebook.lab.leaderboard.results import Result, exact, read_csv
from joulebook.lab.leaderboard.tables import measured_of
from joulebook.units import NS_PER_HOUR, UJ_PER_KWH

ACCURACY = ComparedMetric("accuracy")
GPU, CPU = Meter(Component.GPU, "GPU-0"), Meter(Component.CPU, "package-0")
WH = UJ_PER_KWH // 1000


def job(
    name: str,
    hours: float = 1,
    begin_h: float = 0,
    experiment: str = "bert",
    account: str = "nlp",
    **more: Any,
) -> ReportWorkload:
    t0_ns = round((100 + begin_h) * NS_PER_HOUR)
    return ReportWorkload(
        WorkloadId("slurm", name, t0_ns // 10**9),
        labels=Labels("ada", account, experiment),
        started_utc_ns=t0_ns,
        ended_utc_ns=t0_ns + round(hours * NS_PER_HOUR),
        gpu_count=1,
        **more,
    )


def consumed(
    workload: ReportWorkload, wh: float, held_h: float | None = None, cpu_wh: float | None = None
) -> list[Posting]:
    whole_ns = (workload.ended_utc_ns or 0) - (workload.started_utc_ns or 0)
    held_ns = whole_ns if held_h is None else round(held_h * NS_PER_HOUR)
    rows = [(GPU, Amount(round(wh * WH), 0, held_ns))]
    rows += [] if cpu_wh is None else [(CPU, Amount(round(cpu_wh * WH)))]
    return [
        Posting("n1", workload.id, meter, 360_000, amount, Method.COUNTER, "prolog")
        for meter, amount in rows
    ]


def books(*jobs: tuple[ReportWorkload, list[Posting]], since_s: int = 0) -> ReportData:
    return ReportData(
        "ledger of n1", since_s, 1 << 40, tuple(row for _, rows in jobs for row in rows),
        workloads={each.id: each for each, _ in jobs}, models={("n1", GPU): "NVIDIA H100"},
    )  # fmt: skip


def result(run: str, value: str, experiment: str = "bert", **more: object) -> Result:
    return Result(experiment, run, "accuracy", Fraction(value), **more)  # type: ignore[arg-type]


def ranked(results: list[Result], account: ReportData) -> Board:
    return board("", ACCURACY, "NVIDIA H100", by_run(results, account).entrants)


def names(found: Board) -> tuple[list[str], list[str], list[str]]:
    return (
        [step.entrant.name.rpartition("/")[2].strip() for step in found.front],
        [each.entrant.name.rpartition("/")[2].strip() for each in found.dominated],
        [each.entrant.name.rpartition("/")[2].strip() for each in found.aside],
    )


def test_a_run_that_was_read_for_half_of_its_time_does_not_lead() -> None:
    half, whole, best = job("1"), job("2"), job("3")
    account = books(
        (half, consumed(half, 128.6, held_h=0.5)), (whole, consumed(whole, 250)), (best,
        consumed(best, 500))
    )  # fmt: skip
    found = ranked([result("1", "0.9"), result("2", "0.9"), result("3", "0.92")], account)
    assert names(found) == (["2", "3"], [], ["1"])
    assert found.aside[0].why == ("a lower bound: measured for 50.0 % of its GPU time")
    # Nothing is marginal to what is not compared.
    assert found.front[0].uj_per_point is None
    text = markdown(Leaderboard((found,)))
    assert "not compared" in text and "measured for 50.0 %" in text
    (shown,) = as_json(Leaderboard((found,)))["boards"]
    assert [r["on_front"] for r in shown["results"]] == [True, True, False]
    assert "a lower bound" in as_csv(Leaderboard((found,)))


def test_coverage_and_boundary_stand_beside_every_row() -> None:
    half, bare, metered = job("1"), job("2"), job("3")
    account = books(
        (half, consumed(half, 128.6, held_h=0.5)), (bare, consumed(bare, 250)), (metered,
        consumed(metered, 500, cpu_wh=90))
    )  # fmt: skip
    results = [result("1", "0.9"), result("2", "0.9"), result("3", "0.92")]
    given = result("4", "0.95", energy_uj=UJ_PER_KWH, gpu="NVIDIA H100")
    found = ranked([*results, given], account)
    measured = {each.name.rpartition("/")[2].strip(): measured_of(each) for each in found.entrants}
    assert measured == {
        "1": "GPUs, 50.0 % of the time",
        "2": "GPUs, 100 % of the time",
        "3": "GPUs and hosts, 100 % of the time",
        "4": "stated by its author",
    }
    text = markdown(Leaderboard((found,)))
    assert all(each in text for each in measured.values())
    rows = list(csv.DictReader(io.StringIO(as_csv(Leaderboard((found,))))))
    shares = {row["result"].rpartition("/")[2].strip(): row["coverage"] for row in rows}
    assert shares == {"1": "0.5000", "2": "1.0000", "3": "1.0000", "4": ""}


def emitted(workload: ReportWorkload, grams: int) -> Charged:
    amount = Exact(0, grams * 1_000_000)
    return Charged("n1", workload.id, 360_000, Charge(Item.CO2E), amount)


def test_each_point_has_its_co2e() -> None:
    first, second = job("1"), job("2")
    account = books((first, consumed(first, 100)), (second, consumed(second, 300)))
    charges = (emitted(first, 40), emitted(second, 120))
    account = msgspec.structs.replace(account, charges=charges)
    metric = ComparedMetric("accuracy", unit=Unit.RATIO)
    entrants = by_run([result("1", "0.90"), result("2", "0.92")], account).entrants
    found = board("", metric, "NVIDIA H100", entrants)
    # 80 g more for two points.
    assert found.front[1].ug_per_point == 40_000_000
    (shown,) = as_json(Leaderboard((found,)))["boards"]
    assert [each["co2e_kg"] for each in shown["results"]] == [0.04, 0.12]
    assert shown["results"][1]["co2e_kg_per_point"] == 0.04
    head = markdown(Leaderboard((found,))).splitlines()[2]
    assert "CO2e (g)" in head and "CO2e per point (g)" in head
    unpriced = msgspec.structs.replace(account, charges=charges[:1])
    entrants = by_run([result("1", "0.90"), result("2", "0.92")], unpriced).entrants
    assert board("", metric, "NVIDIA H100", entrants).front[1].ug_per_point is None


def test_a_board_of_nothing_that_compares_is_written_and_not_drawn() -> None:
    half = job("1")
    found = ranked([result("1", "0.9")], books((half, consumed(half, 10, held_h=0.5))))
    assert names(found) == ([], [], ["1"])
    assert "not compared" in markdown(Leaderboard((found,)))
    assert not draw([found]).shapes


def test_a_run_that_is_cut_does_not_lead() -> None:
    cut, whole = job("1"), job("2", begin_h=2)
    account = books(
        (cut, consumed(cut, 10)), (whole, consumed(whole, 250)), since_s=100 * 3600 + 900
    )
    assert names(ranked([result("1", "0.9"), result("2", "0.9")], account)) == (["2"], [], ["1"])


def test_hosts_are_compared_only_where_all_have_them() -> None:
    """250 Wh and 208 of the host is no worse than 250 Wh without a host meter."""
    metered, bare = job("1"), job("2")
    account = books((metered, consumed(metered, 250, cpu_wh=208)), (bare, consumed(bare, 250)))
    found = ranked([result("1", "0.91"), result("2", "0.9")], account)
    assert found.boundary is RankBoundary.GPUS
    assert names(found) == (["1"], ["2"], [])
    assert {each.energy_uj for each in found.entrants} == {250 * WH}
    both = books(
        (metered, consumed(metered, 250, cpu_wh=208)), (bare, consumed(bare, 250, cpu_wh=1))
    )
    found = ranked([result("1", "0.91"), result("2", "0.9")], both)
    assert found.boundary is RankBoundary.HOSTS
    assert names(found) == (["2", "1"], [], [])
    assert "GPUs and their hosts" in markdown(Leaderboard((found,)))


def test_an_experiment_ranks_by_a_value_that_its_energy_bought() -> None:
    own = job("1")
    account = books((own, consumed(own, 100)))
    found = by_experiment(ACCURACY, [result("1", "0.8"), result("elsewhere", "0.99")], account)
    assert [each.value for each in found.entrants] == [Fraction("0.8")]
    assert [left.result.run for left in found.left] == ["elsewhere"]


def test_an_experiment_of_two_accounts_is_two() -> None:
    own, other = job("1"), job("2", account="vision")
    account = books((own, consumed(own, 100)), (other, consumed(other, 900)))
    (ours,) = by_experiment(ACCURACY, [result("1", "0.8")], account).entrants
    assert (ours.energy_uj, ours.runs) == (100 * WH, 1)
    for results in ([result("1", "0.8"), result("2", "0.9")], [result("", "0.9")]):
        found = by_experiment(ACCURACY, results, account)
        assert not found.entrants
        why = "its experiment's name exists in several accounts: nlp, vision"
        assert [left.why for left in found.left] == [why] * len(results)


def test_an_experiment_whose_best_run_is_inferred_says_so() -> None:
    own = job("1")
    account = books((own, consumed(own, 100)))
    times: dict[str, Any] = {"started_utc_ns": own.started_utc_ns, "ended_utc_ns": own.ended_utc_ns}
    runs = [result("0a1b", "0.9", host="n1", **times)]
    (found,) = by_experiment(ACCURACY, runs, account).entrants
    assert found.join is Join.INFERRED
    (named,) = by_experiment(ACCURACY, [*runs, result("1", "0.95")], account).entrants
    assert named.join is Join.EXPERIMENT


def test_a_job_whose_gpus_nothing_measured_does_not_lead_with_zero() -> None:
    bare, own = job("1"), job("2")
    cpu_only = [Posting("n1", own.id, CPU, 360_000, Amount(9 * WH), Method.COUNTER, "prolog")]
    entrants = by_run(
        [result("1", "0.9"), result("2", "0.8")],
        books((bare, consumed(bare, 250)), (own, cpu_only)),
    ).entrants
    alike = [msgspec.structs.replace(each, gpu="", partial="") for each in entrants]
    found = board("", ACCURACY, "", alike)
    assert names(found) == (["1"], [], ["2"])
    assert "nothing was measured of its GPUs" in found.aside[0].why


def test_a_budget_is_of_what_is_compared() -> None:
    """100 and 300 Wh of GPUs; not the 90 of one host, nor the half of a run."""
    metered, bare, half = job("1"), job("2"), job("3")
    account = books(
        (metered, consumed(metered, 100, cpu_wh=90)), (bare, consumed(bare, 300)), (half,
        consumed(half, 7, held_h=0.5))
    )  # fmt: skip
    runs = [result("1", "0.8"), result("2", "0.9"), result("3", "0.7")]
    found = ranked_of(runs, Asked(metric="accuracy"), lambda: account)
    assert found.expected["NVIDIA H100"]["bert"][-1].energy_uj == 400 * WH


def test_an_unknown_coverage_is_said() -> None:
    own = job("1")
    (found,) = by_run([result("1", "0.9")], books((own, consumed(own, 1)))).entrants
    unknown = msgspec.structs.replace(found, coverage=None)
    assert measured_of(unknown) == "GPUs, not known for how long"


def test_energy_of_an_authors_file_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "results.csv"
    file.write_text("experiment,run,metric,value,kwh\na,1,accuracy,0.9,10\nb,2,accuracy,0.8,5\n")
    config = tmp_path / "joulebook.toml"
    config.write_text(f'[ledger]\npath = "{tmp_path}/none.db"\n')
    assert main(["--config", str(config), "leaderboard", str(file)]) == 0
    text = capsys.readouterr().out
    assert "Energy of 2 results: as stated in the authors' files, not measured here" in text
    assert "ledger" not in text


def test_what_is_given_is_not_compared_with_what_is_measured() -> None:
    own = job("1")
    given = result("x", "0.95", energy_uj=WH, gpu="NVIDIA H100")
    found = ranked([result("1", "0.9"), given], books((own, consumed(own, 100))))
    assert names(found) == (["1"], [], ["x"])


@pytest.mark.parametrize("kwh", ["0", "0.0", "1e-400000000", "nan"])
def test_no_energy_is_no_result(tmp_path: Path, kwh: str) -> None:
    file = tmp_path / "results.csv"
    file.write_text(f"experiment,run,metric,value,kwh\na,1,m,0.9,{kwh}\nb,2,m,0.8,5\n")
    found = by_run(read_csv(file), books())
    assert [each.name for each in found.entrants] == ["b / 2"]
    assert "line 2" in found.left[0].why
    nothing = job("1")
    found = by_run([result("1", "0.9")], books((nothing, consumed(nothing, 0))))
    assert not found.entrants
    assert found.left[0].why == "nothing was booked to its job"


def test_a_job_of_two_results_counts_once_in_a_budget() -> None:
    """1.014 kWh in all, not 1.27."""
    shared, other = job("1"), job("2", begin_h=2)
    account = books((shared, consumed(shared, 256)), (other, consumed(other, 758)))
    tags = {"slurm_job_id": "1"}
    runs = [result("a", "0.8", tags=tags), result("b", "0.9", tags=tags), result("2", "0.7")]
    found = by_run(runs, account).entrants
    assert [each.energy_uj for each in found] == [256 * WH, 256 * WH, 758 * WH]
    assert "one job made 2 results" in found[0].hedge
    assert against_budget(ACCURACY, found)[-1].energy_uj == 1014 * WH


def test_what_was_inferred_stays_inferred_after_writing_back() -> None:
    own = job("1")
    account = books((own, consumed(own, 100)))
    reported = {WORKLOAD_TAG: "slurm/1", JOINED_BY: Join.INFERRED.value}
    (inferred,) = by_run([result("0a1b", "0.9", tags=reported)], account).entrants
    assert inferred.join is Join.INFERRED
    by_a_tag = {WORKLOAD_TAG: "slurm/1", JOINED_BY: Join.TAG.value}
    (said,) = by_run([result("0a1b", "0.9", tags=by_a_tag)], account).entrants
    assert said.join is Join.TAG
    several = {WORKLOAD_TAG: "slurm/1,slurm/2", JOINED_BY: Join.TAG.value}
    two = job("2")
    found = by_run(
        [result("0a", "0.9", tags=several)], books((own, consumed(own, 1)), (two, consumed(two, 2)))
    )
    assert [each.energy_uj for each in found.entrants] == [3 * WH]


def test_of_two_jobs_of_one_number_the_one_that_ran_then_is_meant() -> None:
    first, again = job("500"), job("500", begin_h=50)
    account = books((first, consumed(first, 1)), (again, consumed(again, 2)))
    unknown = by_run([result("500", "0.9")], account)
    assert "2 jobs have its id" in unknown.left[0].why
    then = result(
        "500", "0.9", started_utc_ns=again.started_utc_ns, ended_utc_ns=again.ended_utc_ns
    )
    assert [each.energy_uj for each in by_run([then], account).entrants] == [2 * WH]


@pytest.mark.parametrize("value", ["", "NaN", "inf", "None", "-", "#N/A", "<NA>", "#DIV/0!"])
def test_a_blank_value_leaves_out_its_row_and_not_the_file(tmp_path: Path, value: str) -> None:
    file = tmp_path / "results.csv"
    file.write_text(f"experiment,run,metric,value,kwh\na,1,m,{value},3\nb,2,m,0.8,5\n")
    found = by_run(read_csv(file), books())
    assert [each.name for each in found.entrants] == ["b / 2"]
    assert "line 2, value" in found.left[0].why


@pytest.mark.parametrize(
    "text",
    [
        "Experiment, Run,METRIC,Value,kWh\na,1,m,92.5,3\n",
        "experiment; run; metric; value; kwh\na;1;m;92,5;3,0\n",
        "experiment\trun\tmetric\tvalue\tkwh\na\t1\tm\t92.5\t3\n",
    ],
)
def test_headers_as_spreadsheets_write_them(tmp_path: Path, text: str) -> None:
    file = tmp_path / "results.csv"
    file.write_text(text)
    (found,) = read_csv(file)
    assert (found.experiment, found.run, found.value, found.energy_uj) == (
        "a", "1", Fraction("92.5"), 3 * UJ_PER_KWH,
    )  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        "experiment;run;metric;value;kwh;\na;1;m;92,5;3;\n;;;;;\n",
        "experiment,run,metric,value,kwh,,\na,1,m,92.5,3,,\n,,,,,,\n",
        "experiment,run,metric,value,kwh,cost,currency,flops\na,1,m,92.5,3,nan,EUR,NaN\n",
    ],
)
def test_what_a_spreadsheet_leaves_empty_is_nothing(tmp_path: Path, text: str) -> None:
    file = tmp_path / "results.csv"
    file.write_text(text)
    (found,) = read_csv(file)
    assert (found.value, found.energy_uj, found.cost_nano, found.flops, found.problem) == (
        Fraction("92.5"), 3 * UJ_PER_KWH, {}, None, "",
    )  # fmt: skip


def test_a_run_is_shown_by_its_name() -> None:
    assert result("0a1b2c3d4e5f", "0.9", title="lr-3e-4 (0a1b2c)").name == "bert / lr-3e-4 (0a1b2c)"


@pytest.mark.parametrize("text", ["1e-400000000", "1E-99999999999", "0e-400000000", "9e-101"])
def test_a_small_number_is_no_bomb(text: str) -> None:
    assert 0 <= exact(text, "x") < Fraction(1, 10**100)


def test_a_card_of_aliases_is_no_bomb(tmp_path: Path) -> None:
    """416 bytes that would be gigabytes."""
    levels = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    card = tmp_path / "card.yaml"
    card.write_text(
        "a0: &a0 [x]\n" + "\n".join(levels) + "\nmodel-index:\n- name: *a8\n  results: []\n"
    )
    assert main(["leaderboard", str(card)]) == 2
    card.write_text(json.dumps({"model-index": [{"name": ["x"], "results": [
        {"metrics": [{"type": "accuracy", "value": 0.9}]}]}]}))  # fmt: skip
    with pytest.raises(Exception, match="expected a name"):
        read_card(card)
