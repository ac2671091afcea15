"""What a statement is of: hosts that were not measured, runs that are cut, traces, code."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import pytest
import yaml

from joulebook.core.energy.readings import Component, Meter
from joulebook.core.evidence import Amount, Method
from joulebook.core.money.amounts import Charge, Exact, Item, RateUsed
from joulebook.core.money.rates import PPM, RATIO_PPM, Quality
from joulebook.core.report.dataset import (
    Charged,
    Posting,
    ReportData,
    ReportWorkload,
    UsedRate,
    replay_warning,
)
from joulebook.core.report.run_roles import RoleChoice
from joulebook.core.workloads import Labels, WorkloadId
from joulebook.errors import ConfigError
from joulebook.lab.report.about import About
from joulebook.lab.report.document import document
from joulebook.lab.report.formats import renderer
from joulebook.lab.report.model import Statement
from joulebook.lab.report.short import short
from joulebook.lab.report.statement import StatementContext, make
from joulebook.units import NS_PER_HOUR, NS_PER_S, UJ_PER_KWH

T0_S = 1_767_225_600
CPU = Meter(Component.CPU, "package-0")
HOUR = Amount(UJ_PER_KWH, 0, NS_PER_HOUR)


def gpu(n: int) -> Meter:
    return Meter(Component.GPU, f"GPU-{n}")


def job(name: str, begin_s: int = 0, end_s: int | None = 3600, **more: Any) -> ReportWorkload:
    return ReportWorkload(
        WorkloadId("slurm", name),
        labels=Labels("ada", "nlp", "bert"),
        started_utc_ns=(T0_S + begin_s) * NS_PER_S,
        ended_utc_ns=None if end_s is None else (T0_S + end_s) * NS_PER_S,
        **more,
    )


def posted(
    workload: ReportWorkload, meter: Meter, amount: Amount = HOUR, node: str = "n1"
) -> Posting:
    return Posting(node, workload.id, meter, T0_S, amount, Method.COUNTER, "prolog")


def account(
    workloads: Iterable[ReportWorkload],
    postings: Sequence[Posting],
    since_s: int = 0,
    **more: Any,
) -> ReportData:
    return ReportData(
        "ledger of n1", since_s, 1 << 40, tuple(postings),
        workloads={each.id: each for each in workloads}, **more,
    )  # fmt: skip


def said(found: ReportData, choice: RoleChoice = RoleChoice()) -> Statement:  # noqa: B008 - frozen
    return make(found, About(), choice, StatementContext(T0_S, zone="DE"))


def one_of_fourteen() -> ReportData:
    jobs = [job(str(n)) for n in range(14)]
    rows = [posted(each, gpu(n)) for n, each in enumerate(jobs)]
    return account(jobs, [*rows, posted(jobs[3], CPU, Amount(UJ_PER_KWH // 2), "n1")])


def test_hosts_measured_for_a_part_of_the_runs_are_a_lower_bound() -> None:
    found = said(one_of_fourteen())
    assert found.quality.host.value == pytest.approx(100 / 14)
    energy = found.energy
    for figure in (energy.host, energy.cpu, energy.it, energy.project, energy.sweep):
        assert "a lower bound" in figure.note
        assert "measured for 7.1 % of the GPU-hours" in figure.note
    assert energy.dram.value is None
    assert energy.dram.unknown == "not measured"
    assert "a lower bound" not in energy.gpu.note
    text = " ".join(document(found).paragraph)
    assert "(a lower bound, measured for 7.1 % of the GPU-hours)" in text


def test_the_facility_has_the_bound_of_what_it_is_made_of() -> None:
    pue = RateUsed(T0_S, "pue", PPM * 2, RATIO_PPM, "room", Quality.MEASURED)
    rates = (UsedRate(pue, 15 * UJ_PER_KWH, 0, "n1"),)
    found = said(msgspec.structs.replace(one_of_fourteen(), rates=rates))
    assert found.energy.facility.value == 29
    assert "a lower bound" in found.energy.facility.note


def test_a_part_on_another_node_without_a_meter_of_its_host_counts_too() -> None:
    both = job("1")
    rows = [posted(both, gpu(0)), posted(both, CPU), posted(both, gpu(0), node="n2")]
    found = said(account([both], rows))
    assert found.quality.host.value == 50
    assert "measured for 50.0 % of the GPU-hours" in found.energy.best.note


def test_hosts_measured_for_all_of_it_are_no_lower_bound() -> None:
    only = job("1")
    found = said(account([only], [posted(only, gpu(0)), posted(only, CPU)]))
    assert found.quality.host.value == 100
    assert found.energy.host.note == found.energy.it.note == ""
    alone = said(account([only], [posted(only, gpu(0))]))
    assert alone.energy.it.note == "GPUs alone"


def test_gpu_hours_are_what_was_held() -> None:
    """A GPU held for an hour and read for a quarter of it, another one never read."""
    held = job("1", gpu_count=2)
    quarter = Amount(UJ_PER_KWH, 0, NS_PER_HOUR // 4)
    found = said(account([held], [posted(held, gpu(0), quarter)]))
    assert found.inventory.gpu_hours.value == 2
    assert "measured for 0.2500" in found.inventory.gpu_hours.note
    assert found.runs[0].gpu_hours == 2
    assert found.quality.coverage.value == 12.5
    assert "a lower bound: see coverage" in found.energy.gpu.note


def test_of_a_gpu_that_was_never_read_nothing_is_covered() -> None:
    held = job("1", gpu_count=1)
    found = said(account([held], [posted(held, gpu(0), Amount(0))]))
    assert found.quality.coverage.value == 0
    assert "a lower bound: see coverage" in found.energy.gpu.note
    assert "measured for 0 % of that time" in " ".join(short(found))


def test_jobs_without_a_gpu_count_by_their_number() -> None:
    jobs = [job("1"), job("2")]
    dram = Meter(Component.DRAM, "dram-0")
    rows = [posted(each, CPU, Amount(UJ_PER_KWH)) for each in jobs]
    found = said(account(jobs, [*rows, posted(jobs[0], dram, Amount(UJ_PER_KWH))]))
    assert found.quality.host.value == 100
    assert "measured for 50.0 % of the runs and nodes" in found.energy.dram.note


@pytest.mark.parametrize(
    ("run", "since_s", "until_s"),
    [
        (job("1", -1800, 1800), T0_S, 1 << 40),
        (job("1", 0, 5400), T0_S, T0_S + 3600),
        (job("1", 0, None), T0_S, T0_S + 900),
    ],
)
def test_a_run_that_is_cut_is_no_best_run(run: ReportWorkload, since_s: int, until_s: int) -> None:
    cut = msgspec.structs.replace(
        account([run, job("2")], [posted(run, gpu(0)), posted(job("2"), gpu(1))]),
        since_s=since_s, until_s=until_s,
    )  # fmt: skip
    found = said(cut)
    assert "1" in found.counts.partial_runs
    assert [row.whole for row in found.runs if row.id == "1"] == [False]
    assert "of them only in part" in document(found).paragraph[0]
    with pytest.raises(ConfigError, match="'1' is incomplete"):
        said(cut, RoleChoice("1"))
    alone = said(msgspec.structs.replace(cut, postings=cut.postings[:1]))
    assert alone.energy.best.value is None


def test_a_run_in_the_time_of_the_report_is_whole() -> None:
    whole = account([job("1")], [posted(job("1"), gpu(0))], T0_S, known_until_s={"n1": T0_S + 9000})
    found = said(msgspec.structs.replace(whole, until_s=T0_S + 3600))
    assert found.counts.partial_runs == []
    assert found.energy.best.value == 1


def test_the_best_run_is_not_excluded() -> None:
    two = account([job("1"), job("2")], [posted(job("1"), gpu(0)), posted(job("2"), gpu(1))])
    with pytest.raises(ConfigError, match="'1' is the best run and an excluded one"):
        said(two, RoleChoice("1", (), {"1": "wrong data"}))


def test_an_outcome_that_nobody_told_is_not_called_an_end() -> None:
    found = said(account([job("1")], [posted(job("1"), gpu(0))]))
    rows = {row.label: row.value for s in document(found).sections for row in s.rows}
    assert rows["runs"] == "1 in all: 1 with an outcome that is not known"


def test_an_experiment_that_code_named_needed_a_change() -> None:
    span = msgspec.structs.replace(job("1"), id=WorkloadId("process", "mark.0123456789abcdef"))
    for workload, expected in ((job("1"), True), (span, False)):
        found = said(account([workload], [posted(workload, gpu(0))]))
        text = " ".join(document(found).paragraph)
        assert ("without changes to the code" in text) is expected
        assert found.named_in_code is not expected


def a_trace() -> Statement:
    carbon = Charged("n1", job("1").id, T0_S, Charge(Item.CO2E), Exact(0, 344_139_882))
    pue = RateUsed(T0_S, "pue", PPM, RATIO_PPM, "room", Quality.MEASURED)
    return said(
        account(
            [job("1")],
            [posted(job("1"), gpu(0))],
            charges=(carbon,),
            rates=(UsedRate(pue, UJ_PER_KWH, 0, "n1"),),
            warnings=replay_warning("ledger of n1", [gpu(0)]),
            replayed=frozenset({("n1", gpu(0))}),
        )
    )


@pytest.mark.parametrize(
    "name", ["text", "markdown", "latex", "json", "csv", "hf", "boamps", "html"]
)
def test_no_format_calls_a_recorded_trace_measured(name: str) -> None:
    found = a_trace()
    text = renderer(name)(found)
    assert "trace" in text
    assert "Energy was measured" not in text
    if name == "csv":
        head, row = text.splitlines()
        assert dict(zip(head.split(","), row.split(","), strict=True))["recorded_trace"] == "True"
    if name == "hf":
        source = yaml.safe_load(text.strip("-\n"))["co2_eq_emissions"]["source"]
        assert "recorded trace, not measured" in source
    if name == "boamps":
        report = json.loads(text)
        assert report["quality"] == "low"
        assert report["measures"][0]["measurementMethod"] == "recorded trace"
        assert report["environment"]["powerSourceCarbonIntensity"] == 344.14


def test_notes_are_sentences() -> None:
    notes = document(a_trace()).notes
    assert all(note.endswith(".") for note in notes)
