"""The worked example to the digit, through a real ledger, `joulebook report` and every figure."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.unit.lab.report.worked import write_worked

from joulebook.cli import main
from joulebook.core.workloads import Labels

ABOUT = """
title = "BERT base"
best = "103"
exclude = { "104" = "wrong data" }
region = "Frankfurt, Germany"
params = 110e6
metric = "accuracy"
split = "test"
value = 0.92
unit = "trial"
units = 4
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    write_worked(tmp_path / "ledger.db")
    (tmp_path / "about.toml").write_text(ABOUT)
    file = tmp_path / "joulebook.toml"
    file.write_text(
        f'[node]\nname = "gpu-1"\n[ledger]\npath = "{tmp_path}/ledger.db"\n'
        '[rates]\nzone = "DE"\n[report]\nsacct = ""\n'
    )
    return file


def reported(capsys: pytest.CaptureFixture[str], config: Path, *arguments: str) -> Any:
    command = ["--config", str(config), "report", "--format", "json", *arguments]
    assert main(command) == 0
    return json.loads(capsys.readouterr().out)


def value(figure: dict[str, Any], digits: int = 2) -> str:
    return f"{figure['value']:.{digits}f} {figure['unit']}"


def test_the_worked_example(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    about = str(config.with_name("about.toml"))
    found = reported(capsys, config, "--experiment", "bert-base", "--about", about)
    energy, carbon = found["energy"], found["carbon"]
    assert value(found["inventory"]["gpu_hours"]) == "40.00 GPU-hours"
    assert value(energy["gpu"]) == "20.00 kWh"
    assert value(energy["host"]) == value(energy["cpu"]) == "4.00 kWh"
    assert value(energy["it"]) == "24.00 kWh"
    assert value(energy["facility"]) == "30.00 kWh"
    assert value(energy["idle"]) == "2.00 kWh"
    assert value(carbon["location_based"]) == "10.50 kg CO2e"
    assert value(carbon["intensity"]) == "350.00 g CO2e/kWh"
    assert {each["kind"]: value(each["cost"]) for each in found["cost"]} == {
        "electricity": "6.00 USD",
        "hardware": "50.00 USD",
    }
    embodied = carbon["embodied"]
    assert (f"{embodied['low']:.2f}", f"{embodied['high']:.2f}") == ("0.54", "1.01")
    assert embodied["default"] is True
    assert f"{carbon['sci']['low']:.2f} {carbon['sci']['unit']}" == "2.76 kg CO2e per trial"
    assert found["quality"]["coverage"]["value"] == 100
    assert found["quality"]["uncertainty"]["value"] == 5
    assert found["quality"]["uncertainty"]["default"] is True
    # The sixth of the energy that is the hosts' is shared out.
    assert f"{found['quality']['attribution']['value']:.1f}" == "16.7"
    assert found["inventory"]["gpus"] == [
        {"model": "NVIDIA H100 80GB HBM3", "count": 8, "gpu_hours": 40.0, "energy_kwh": 20.0}
    ]
    assert found["inventory"]["region"] == "Frankfurt, Germany"
    assert found["result"] == {
        "params": 110e6, "metric": "accuracy", "split": "test", "value": 0.92,
    }  # fmt: skip


def test_best_sweep_and_project(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    about = str(config.with_name("about.toml"))
    found = reported(capsys, config, "--about", about)
    energy = found["energy"]
    assert [energy[role]["value"] for role in ("best", "sweep", "project")] == [6, 18, 24]
    assert found["counts"]["excluded_runs"] == {"104": "wrong data"}
    assert found["counts"]["total"] == 4
    roles = {run["id"]: run["role"] for run in found["runs"]}
    assert roles == {"101": "sweep", "102": "sweep", "103": "best", "104": "excluded"}
    narrow = reported(capsys, config, "--runs", "101", "102", "--exclude", "103=crashed")
    assert narrow["energy"]["sweep"]["value"] == 12
    assert narrow["energy"]["best"]["value"] is None
    assert "--best" in narrow["energy"]["best"]["unknown"]
    assert narrow["energy"]["project"]["value"] == 24


def test_rates_stand_with_source_year_and_quality(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rates = {each["quantity"]: each for each in reported(capsys, config)["rates"]}
    assert rates["pue"]["mean"] == 1.25
    assert rates["pue"]["source"] == "machine room, 2025"
    assert rates["carbon"]["years"] == "2026"
    assert (rates["carbon"]["low"], rates["carbon"]["high"]) == (300, 500)
    assert f"{rates['carbon']['mean']:.1f}" == "350.0"
    assert (rates["price"]["mean"], rates["price"]["unit"]) == (0.2, "USD/kWh")
    assert not any(each["default"] for each in rates.values())


def test_at_other_rates_the_booked_ones_stand_beside_it(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A flat 400 g would say 12.0 kg."""
    new = config.with_name("new.toml")
    new.write_text(
        '[rates]\ncurrency = "USD"\nzone = "DE"\npue = 1.25\n'
        '[rates.carbon]\nkind = "country"\n[rates.price]\nkind = "constant"\nper_kwh = 0.3\n'
    )
    found = reported(capsys, config, "--rates", str(new))
    assert found["restated"]["booked_co2e_kg"] == 10.5
    difference = found["restated"]["difference_co2e_kg"]
    assert found["carbon"]["location_based"]["value"] == pytest.approx(10.5 + difference)
    assert found["restated"]["difference_cost"] == {"electricity_USD": pytest.approx(3)}
    # The country table is a figure of Joulebook's own.
    assert found["carbon"]["location_based"]["default"] is True
    assert [r["default"] for r in found["rates"] if r["quantity"] == "carbon"] == [True]
    flat = config.with_name("flat.toml")
    flat.write_text('[rates]\npue = 1.25\n[rates.carbon]\nkind = "constant"\ngrams_per_kwh = 400\n')
    assert value(reported(capsys, config, "--rates", str(flat))["carbon"]["location_based"]) == (
        "12.00 kg CO2e"
    )


def test_without_rates_nothing_is_made_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_worked(tmp_path / "ledger.db", priced=False)
    config = tmp_path / "joulebook.toml"
    config.write_text(f'[ledger]\npath = "{tmp_path}/ledger.db"\n[report]\nsacct = ""\n')
    found = reported(capsys, config)
    assert found["energy"]["facility"]["value"] is None
    assert "no PUE" in found["energy"]["facility"]["unknown"]
    assert found["carbon"]["location_based"]["value"] is None
    assert all(each["cost"]["value"] is None for each in found["cost"])
    assert found["energy"]["dram"]["value"] is None
    assert main(["--config", str(config), "report", "--format", "text"]) == 0
    text = capsys.readouterr().out
    assert "power usage effectiveness" not in text
    assert "Location-based emissions" not in text
    assert main(["--config", str(config), "report", "--format", "hf"]) == 2
    assert "rates.carbon" in capsys.readouterr().err


def test_settings_of_the_site_are_no_defaults(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text(
        config.read_text()
        + 'sensor_percent = 1.5\nsensor_source = "PDU, 2026"\nserver_kg = 2500\nserver_gpus = 8\n'
        'server_life_years = 4\n[report.embodied]\n"NVIDIA H100*" = '
        '{ low_kg = 164, high_kg = 164, source = "our LCA" }\n'
    )
    found = reported(capsys, config)
    assert found["quality"]["uncertainty"] == {"value": 1.5, "unit": "%"}
    assert "default" not in found["carbon"]["embodied"]
    assert f"{found['carbon']['embodied']['value']:.2f}" == "0.54"
    assert found["carbon"]["embodied"]["source"] == "our LCA"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--best", "999"], "'999' matches no run of this report; known: 101, 102"),
        (["--exclude", "104"], "--exclude 104: expected RUN=WHY"),
        (["--about", "/nowhere.toml"], "/nowhere.toml: cannot be read"),
        (["--until", "2026-01-01", "--since", "2026-01-02"], "expected a time after --since"),
        (["--prometheus", "ftp://x"], "expected http(s)://host:port/path"),
        (["--prometheus", "http://u:p@x"], "expected no password"),
        (["--prometheus", "http://127.0.0.1:1"], "--since: expected one"),
        (["--prometheus", "http://127.0.0.1:1", "--header", "a\nb"], "--header: expected NAME"),
        (["--prometheus", "http://127.0.0.1:1", "--timeout", "nan"], "--timeout nan"),
        (
            ["--prometheus", "http://127.0.0.1:1", "--since", "2026-01-01"],
            "http://127.0.0.1:1: cannot be reached",
        ),
        (["--prometheus", "http://x", "--ledger", "y"], "use only one of them"),
        (["--output", "/nowhere/x"], "--output /nowhere/x: cannot be written"),
    ],
)
def test_what_is_wrong_is_said(
    config: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert main(["--config", str(config), "report", "--experiment", "bert-base", *arguments]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--experiment", "bert-bas"],
            "--experiment bert-bas: nothing was booked to it in this time; "
            "ledger of gpu-1 has bert-base",
        ),
        (["--experiment", "bert-base", "--experiment", "gpt"], "--experiment gpt: nothing was"),
        (["--user", "eve", "--format", "csv"], "--user eve: nothing was booked to it"),
        (["--account", "nlp", "--workload", "9"], "ledger of gpu-1 has 101, 102, 103, 104"),
        (
            ["--workload", "101", "--workload", "slurm/102", "--workload", "99"],
            "--workload 99: nothing was booked to it",
        ),
        (
            ["--experiment", "bert-base", "--since", "2027-01-01"],
            "--experiment bert-base: nothing was booked to it in this time; "
            "ledger of gpu-1 has no experiment at all",
        ),
        (["--experiment", "\x1b[2J", "--format", "json"], "nothing was booked to it"),
    ],
)
def test_a_name_that_nothing_was_booked_to_is_no_statement_of_zero(
    config: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert main(["--config", str(config), "report", *arguments]) == 2
    reported = capsys.readouterr()
    assert not reported.out
    assert said in reported.err
    assert "\x1b" not in reported.err


def test_an_experiment_of_two_accounts_is_two(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither group's figure has the other's in it, unless both are asked for."""
    other = tmp_path / "gpu-2.db"
    write_worked(other, Labels("grace", "vision", "bert-base"))
    with closing(sqlite3.connect(other)) as conn, conn:
        conn.execute("UPDATE ledger SET ledger_id = 'another'")
    both = ("--ledger", str(tmp_path / "ledger.db"), "--ledger", str(other))
    command = ["--config", str(config), "report", *both, "--experiment", "bert-base"]
    assert main(command) == 2
    said = capsys.readouterr().err
    assert "several accounts: nlp, vision; select one with --account NAME" in said
    one = reported(capsys, config, *both, "--experiment", "bert-base", "--account", "nlp")
    assert (one["counts"]["total"], one["energy"]["it"]["value"]) == (4, 24)
    accounts = ("--account", "nlp", "--account", "vision")
    together = reported(capsys, config, *both, "--experiment", "bert-base", *accounts)
    assert (together["counts"]["total"], together["energy"]["it"]["value"]) == (8, 48)


def test_two_users_without_accounts_have_an_experiment_each(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_worked(tmp_path / "a.db", Labels("ada", "", "baseline"))
    write_worked(tmp_path / "b.db", Labels("bob", "", "baseline"))
    with closing(sqlite3.connect(tmp_path / "b.db")) as conn, conn:
        conn.execute("UPDATE ledger SET ledger_id = 'another'")
    both = ("--ledger", str(tmp_path / "a.db"), "--ledger", str(tmp_path / "b.db"))
    assert main(["--config", str(config), "report", *both, "--experiment", "baseline"]) == 2
    assert "several users: ada, bob" in capsys.readouterr().err
    one = reported(capsys, config, *both, "--experiment", "baseline", "--user", "bob")
    assert one["counts"]["total"] == 4


def test_two_clusters_are_told_apart(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same job numbers at the same time of the same user, on nodes of one name."""
    copy = tmp_path / "copy.db"
    shutil.copy(tmp_path / "ledger.db", copy)
    with closing(sqlite3.connect(copy)) as conn, conn:
        conn.execute("UPDATE ledger SET ledger_id = 'another'")
    both = ("--ledger", f"east/n1={tmp_path}/ledger.db", "--ledger", f"west/n1={copy}")
    every = reported(capsys, config, *both)
    assert every["counts"]["total"] == 8
    assert every["inventory"]["nodes"] == ["east/n1", "west/n1"]
    command = ["--config", str(config), "report", *both, "--experiment", "bert-base"]
    assert main(command) == 2
    assert "select one with --cluster NAME" in capsys.readouterr().err
    east = reported(capsys, config, *both, "--experiment", "bert-base", "--cluster", "east")
    assert east["counts"]["total"] == 4


def test_a_key_that_is_none_is_named(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    about = config.with_name("about.toml")
    about.write_text('titel = "x"\n')
    assert main(["--config", str(config), "report", "--about", str(about)]) == 2
    assert "titel = 'x': unknown key; did you mean title?" in capsys.readouterr().err


def test_an_output_is_whole_or_not_there(config: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    command = ["--config", str(config), "report", "--format", "html", "--output", str(page)]
    assert main(command) == 0
    assert page.read_text().endswith("</html>\n")
    assert not list(tmp_path.glob(".page*"))


def test_many_ledgers(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A job on two nodes is one run, and its energy that of both."""
    write_worked(tmp_path / "gpu-2.db")
    ledgers = ("--ledger", f"gpu-1={tmp_path}/ledger.db", "--ledger", f"{tmp_path}/gpu-2.db")
    found = reported(capsys, config, *ledgers)
    assert found["energy"]["it"]["value"] == 48
    assert found["carbon"]["location_based"]["value"] == 21
    assert found["counts"]["total"] == 4
    assert found["inventory"]["nodes"] == ["gpu-1", "gpu-2"]
    assert found["source"] == "ledgers of 2 nodes"
    twice = ("--ledger", f"gpu-2={tmp_path}/ledger.db", "--ledger", f"{tmp_path}/gpu-2.db")
    assert main(["--config", str(config), "report", "--format", "text", *twice]) == 2
    assert "is also of node gpu-2" in capsys.readouterr().err


def test_the_list_rolls_up_to_user_account_and_lab(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for level, owner in (
        ("experiment", {"user": "ada", "account": "nlp", "experiment": "bert-base"}),
        ("user", {"user": "ada", "account": "nlp", "experiment": ""}),
        ("account", {"user": "", "account": "nlp", "experiment": ""}),
        ("lab", {"user": "", "account": "", "experiment": ""}),
    ):
        assert main(["--config", str(config), "report", "--json", "--by", level]) == 0
        (line,) = json.loads(capsys.readouterr().out)["lines"]
        assert {name: line[name] for name in owner} == owner
        assert line["energy_kwh"] == 24
        assert line["booked"]["cost"] == {"USD": 56.0}
    assert main(["--config", str(config), "report", "--by", "account"]) == 0
    assert "account" in capsys.readouterr().out.splitlines()[2]


def test_failed_runs_are_counted_and_named(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sacct = tmp_path / "sacct"
    sacct.write_text(
        "#!/bin/sh\n"
        "printf '%s\\n' '101|101|lab|1|2|3|COMPLETED' '102|102|lab|1|2|3|OUT_OF_MEMORY' "
        "'103|103|lab|1|2|3|CANCELLED by 1000'\n"
    )
    sacct.chmod(0o755)
    config.write_text(config.read_text().replace('sacct = ""', f'sacct = "{sacct}"'))
    found = reported(capsys, config)
    assert found["counts"] == {
        "total": 4, "completed": 1, "failed": 1, "cancelled": 1, "running": 0, "not_known": 1,
        "preempted": 0, "excluded": 0, "failed_runs": ["102"],
        "cancelled_runs": ["103"], "preempted_runs": [], "excluded_runs": {}, "partial_runs": [],
        "states_from": "ends of runs from sacct",
    }  # fmt: skip
    assert found["energy"]["project"]["value"] == 24
    states = {run["id"]: run["state"] for run in found["runs"]}
    assert states == {"101": "completed", "102": "failed", "103": "cancelled", "104": "not known"}
    assert main(["--config", str(config), "report", "--experiment", "bert-base"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert (
        "took 4 runs (1 completed, 1 failed, 1 cancelled, 1 with an outcome that is not known; "
        "all of them are counted)"
    ) in text
    assert "failed 102" in text


def test_every_view_of_a_job_says_what_it_cost(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*arguments: str) -> str:
        assert main(["--config", str(config), "job", *arguments]) == 0
        return capsys.readouterr().out

    assert "Cost        14.00 USD, 2.62 kg CO2e" in said("101")
    assert "14.00 USD, 2.62 kg CO2e" in said("101", "--summary")
    (job,) = json.loads(said("101", "--json"))["workloads"]
    assert job["cost"] == {"USD": 14.0}
    assert job["by_kind"] == {"electricity_USD": 1.5, "hardware_USD": 12.5}
    assert job["co2e_grams"] == 2625


def test_every_view_of_an_array_says_what_it_cost(
    tmp_path: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as ledger, ledger:
        ledger.execute("UPDATE workloads SET display = '99_' || workload")
    assert main(["--config", str(config), "job", "99", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [each["cost"]["USD"] for each in found["workloads"]] == [14.0] * 4
    assert (found["total"]["cost"], found["total"]["co2e_grams"]) == ({"USD": 56.0}, 10_500)
    assert main(["--config", str(config), "job", "99"]) == 0
    listed = capsys.readouterr().out
    assert listed.count("14.00 USD, 2.62 kg CO2e") == 4
    assert "Cost        56.00 USD, 10.5 kg CO2e" in listed
    assert main(["--config", str(config), "job", "99", "--summary"]) == 0
    assert capsys.readouterr().out.count("14.00 USD, 2.62 kg CO2e") == 4


def test_market_based_emissions_are_of_a_contract_or_not_known(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def market() -> dict[str, Any]:
        found: dict[str, Any] = reported(capsys, config)["carbon"]["market_based"]
        return found

    plain = config.read_text()
    assert market()["value"] is None and "no contracts" in market()["unknown"]
    config.write_text(plain + "market_grams_per_kwh = 40\n")
    assert market()["value"] is None and "report.market_source" in market()["unknown"]
    config.write_text(plain + 'market_grams_per_kwh = 40\nmarket_source = "wind, 2026"\n')
    # 30 kWh at the facility.
    assert (market()["value"], market()["source"]) == (1.2, "wind, 2026")
    assert main(["--config", str(config), "report", "--format", "markdown"]) == 0
    said = capsys.readouterr().out
    assert "Location-based emissions were 10.50 kg CO2e" in said
    assert (
        "Market-based emissions were 1.200 kg CO2e (E\\_fac x 40 g CO2e/kWh; wind, 2026)." in said
    )
    # A certificate of zero is a figure, too.
    config.write_text(plain + 'market_grams_per_kwh = 0\nmarket_source = "wind, 2026"\n')
    assert market()["value"] == 0


def test_a_job_may_be_asked_for_by_any_of_its_names(
    tmp_path: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as ledger, ledger:
        ledger.execute("UPDATE workloads SET display = '99_' || workload")
    names = ("--workload", "slurm/101", "--workload", "99_102", "--workload", "103")
    assert reported(capsys, config, *names)["counts"]["total"] == 3


def test_a_feed_out_of_reach_costs_its_own_figures_only(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And neither a path of this machine nor what a program answered stands in the statement."""
    new = tmp_path / "new.toml"
    new.write_text(
        f'[rates]\npue = 1.5\n[rates.price]\nkind = "constant"\nper_kwh = 1.0\n'
        f'[rates.carbon]\nkind = "csv"\nfile = "{tmp_path}/nothing.csv"\n'
    )
    sacct = tmp_path / "sacct"
    sacct.write_text(
        "#!/bin/sh\necho 'sacct: error: slurm_persist_conn_open: /var/x' >&2; exit 1\n"
    )
    sacct.chmod(0o755)
    config.write_text(config.read_text().replace('sacct = ""', f'sacct = "{sacct}"'))
    found = reported(capsys, config, "--rates", str(new))
    assert {each["kind"]: each["cost"]["value"] for each in found["cost"]}["electricity"] == 36
    assert found["carbon"]["location_based"]["value"] is None
    assert found["warnings"] == ["carbon of nothing.csv is not known for all of this time"]
    assert found["restated"]["rates_file"] == "new.toml"
    assert found["restated"]["unpriced_kwh"] == {"co2e": 24}
    for name in ("text", "latex", "html", "markdown"):
        assert main(["--config", str(config), "report", "--format", name, "--rates", str(new)]) == 0
        printed = capsys.readouterr()
        assert str(tmp_path) not in printed.out
        assert "slurm_persist_conn_open" not in printed.out
        assert "slurm_persist_conn_open" in printed.err
        assert "nothing.csv: cannot be read" in printed.err
