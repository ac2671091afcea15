"""What the doctor says of money and carbon."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.commands.ledger_sample import write_ledger
from tests.unit.ledger.samples import sql

from joulebook.commands.doctor.checks import Site, Status
from joulebook.commands.doctor.ledger import balance, in_force, settings
from joulebook.config import load


def site(tmp_path: Path, text: str = "") -> Site:
    file = tmp_path / "joulebook.toml"
    file.write_text(f'[ledger]\npath = "{tmp_path / "ledger.db"}"\n{text}')
    return Site(load(file, {}), file, environ={})


RATES = """
[rates]
currency = "EUR"
pue = 1.2
[rates.price]
kind = "constant"
per_kwh = 0.2
[rates.hardware."NVIDIA H100*"]
per_gpu_hour = 1.0
"""


def test_every_missing_setting_is_named(tmp_path: Path) -> None:
    found = list(settings(site(tmp_path)))
    assert {finding.status for finding in found} == {Status.NONE}
    for key in ("rates.price.kind", "rates.carbon.kind", "rates.pue", "rates.hardware"):
        assert any(finding.found.startswith(f"{key} is not set: no ") for finding in found)
    (carbon,) = settings(site(tmp_path, RATES))
    assert (carbon.status, carbon.found) == (
        Status.WARN,
        "rates.carbon.kind is not set: no CO2e",
    )


def test_rates_in_force_are_told_with_their_source(tmp_path: Path) -> None:
    assert list(in_force(site(tmp_path))) == []
    found = [finding.found for finding in in_force(site(tmp_path, RATES))]
    assert found == [
        "price: from rates.price.per_kwh (measured)",
        "pue: from rates.pue (estimated)",
    ]


def test_a_feed_of_which_nothing_is_kept_is_told(tmp_path: Path) -> None:
    text = RATES.replace('kind = "constant"\nper_kwh = 0.2', 'kind = "energy-charts"\nzone = "FR"')
    (price,) = (f for f in in_force(site(tmp_path, text)) if f.status is Status.WARN)
    assert "no current value of Energy-Charts FR is cached" in price.found
    assert not (tmp_path / "rates").exists(), "only read"


def test_charges_that_do_not_balance_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = site(tmp_path, RATES)
    assert list(balance(here)) == []
    write_ledger(tmp_path / "ledger.db")
    assert list(balance(here)) == []
    with sql(tmp_path / "ledger.db") as conn:
        conn.execute("INSERT INTO charges VALUES (900, 0, 'system', 'co2e', '', 1, 0, 0, 1)")
    (found,) = balance(here)
    assert found.status is Status.FAIL
