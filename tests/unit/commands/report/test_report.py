"""`joulebook report` on a real ledger: as booked, and at other rates."""

from __future__ import annotations

import json
import re
import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.unit.core.money.test_accrual import T0_S, hourly, metered, rates_of
from tests.unit.ledger.test_charges import written

from joulebook.cli import main
from joulebook.commands.daemon.run import demo_config
from joulebook.config import Config
from joulebook.config.rates import Rates, missing
from joulebook.core.money.rates import UG_PER_G
from joulebook.ledger.sqlite import SqliteStore

NEW = """
[rates]
currency = "EUR"
pue = 1.25
[rates.price]
kind = "constant"
per_kwh = 0.30
[rates.carbon]
kind = "constant"
grams_per_kwh = 400
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """24 kWh of one experiment, 20/5/5 kWh of the facility at 300/500/400 g and 0.20 EUR."""
    path = tmp_path / "ledger.db"
    hours = hourly(300 * UG_PER_G, 500 * UG_PER_G, 400 * UG_PER_G)
    rates = rates_of([(0, 200_000_000)], hours, 1_250_000)
    with closing(SqliteStore(path, allow_volatile=True)) as store:
        written(store, metered([16_000_000, 4_000_000, 4_000_000], rates=rates))
    (tmp_path / "new.toml").write_text(NEW)
    file = tmp_path / "joulebook.toml"
    file.write_text(f'[ledger]\npath = "{path}"\n')
    return file


def reported(capsys: pytest.CaptureFixture[str], config: Path, *arguments: str) -> Any:
    assert main(["--config", str(config), "report", "--json", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


def test_what_was_booked(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = reported(capsys, config)
    (line,) = found["lines"]
    assert line["experiment"] == "c"
    assert line["energy_kwh"] == 24
    assert line["booked"] == {
        "cost": {"EUR": 6.0},
        "by_kind": {"electricity_EUR": 6.0},
        "idle_by_kind": {},
        "co2e_grams": 10_500,
    }
    assert "restated" not in line
    carbon = [r for r in found["rates_used"] if r["quantity"] == "carbon"]
    assert [(r["source"], r["quality"], r["least"], r["greatest"]) for r in carbon] == [
        ("test", "measured", 300_000_000, 500_000_000)
    ]
    # What was charged was set when it was booked; this machine's file may be another's.
    assert found["missing"] == ["rates.hardware is not set: no cost of hardware"]
    assert reported(capsys, config, "--ledger", str(config.with_name("ledger.db")))["missing"] == []


def test_at_other_rates(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = reported(capsys, config, "--rates", str(config.with_name("new.toml")))["lines"]
    assert line["restated"]["cost"] == {"EUR": 9.0}
    assert line["restated"]["co2e_grams"] == 12_000
    assert line["difference"] == {"cost": {"EUR": 3.0}, "co2e_grams": 1_500}


def test_a_window_and_an_experiment(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    since = "2025-10-09T10:00:00Z"  # an hour after the begin
    assert T0_S == 1_760_000_400
    (line,) = reported(capsys, config, "--since", since)["lines"]
    assert line["energy_kwh"] == 8
    assert line["booked"]["co2e_grams"] == 4_500
    assert reported(capsys, config, "--experiment", "other")["lines"] == []
    with_new = ("--experiment", "other", "--rates", str(config.with_name("new.toml")))
    assert reported(capsys, config, *with_new)["lines"] == []


def test_as_text(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new = str(config.with_name("new.toml"))
    assert main(["--config", str(config), "report", "--rates", new]) == 0
    text = capsys.readouterr().out
    table = text.splitlines()
    assert re.split(" {2,}", table[2]) == [
        "experiment", "energy (kWh)", "GPU-hours", "cost (EUR)", "CO2e (kg)", "cost at new (EUR)",
        "CO2e at new (kg)", "cost +/- (EUR)", "CO2e +/- (kg)",
    ]  # fmt: skip
    assert table[3].split()[-8:] == [
        "24.0", "3.00", "6.00", "10.5", "9.00", "12.0", "+3.00", "+1.50"
    ]  # fmt: skip
    assert "carbon as booked: test (measured) for 100 % of what was charged" in text
    assert "coverage and single runs, write a statement" in text


def test_a_rate_that_the_new_ones_leave_out_has_no_difference(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = config.with_name("new.toml")
    new.write_text('[rates]\npue = 1.0\n[rates.carbon]\nkind = "constant"\ngrams_per_kwh = 1\n')
    (line,) = reported(capsys, config, "--rates", str(new))["lines"]
    assert line["restated"]["cost"] == {}
    assert line["difference"]["cost"] == {}
    assert line["difference"]["co2e_grams"] == 24 - 10_500


@pytest.mark.parametrize("text", ["yesterday", "2026-01-01T00:07Z"])
def test_a_time_that_cannot_be_used(
    config: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--config", str(config), "report", "--since", text]) == 2
    assert text in capsys.readouterr().err


def test_right_after_a_demo_its_ledger_is_found(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = config.with_name("empty.toml")
    empty.write_text(f'[ledger]\npath = "{config.parent}/none.db"\n')
    monkeypatch.chdir(config.parent)
    command = ["--config", str(empty), "report", "--experiment", "c", "--format", "latex"]
    assert main(command) == 2
    said = capsys.readouterr().err
    assert "none.db" in said and "--ledger FILE" in said and "--collected URL" in said
    demo = config.parent / ".build" / "demo"
    demo.mkdir(parents=True)
    shutil.copy(config.with_name("ledger.db"), demo / "ledger.db")
    assert main(command) == 0
    found = capsys.readouterr()
    assert "using the demo's, .build/demo/ledger.db" in found.err
    assert "begin{table}" in found.out


def test_the_demo_has_rates_unless_the_site_has(tmp_path: Path) -> None:
    found = demo_config(Config(), tmp_path).rates
    assert not missing(found)
    own = Rates(pue=1.5)
    assert demo_config(Config(rates=own), tmp_path).rates == own
