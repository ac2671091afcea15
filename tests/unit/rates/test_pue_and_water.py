"""PUE over time, and the factors of water."""

from __future__ import annotations

from pathlib import Path

import pytest

from joulebook.config import load
from joulebook.core.money.amounts import Charge, Item
from joulebook.core.money.rates import PPM, UL_PER_L
from joulebook.errors import ConfigError
from joulebook.lab.rates_service import RatesPages
from joulebook.rates.build import charges, make_poller, rates_of, water_of
from joulebook.rates.contract import Quantity
from joulebook.rates.feeds.server import _DOCUMENT

T0_S = 1_767_225_600
CSV = """start,pue,source
2026-01-01T00:00:00Z,1.2,meter of the room
2026-01-01T01:00:00Z,1.35,meter of the room
"""


def config(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "joulebook.toml"
    path.write_text(f'[ledger]\npath = "{tmp_path}/ledger.db"\n{text}')
    return path


@pytest.fixture
def timed(tmp_path: Path) -> Path:
    (tmp_path / "pue.csv").write_text(CSV)
    return config(
        tmp_path,
        '[rates.carbon]\nkind = "constant"\ngrams_per_kwh = 400\n'
        f'[rates.pue_curve]\nkind = "csv"\nfile = "{tmp_path}/pue.csv"\n',
    )


def test_pue_of_a_file_follows_time(timed: Path) -> None:
    rates = load(timed, {}).rates
    assert Charge(Item.CO2E) in charges(rates), "a PUE over time is a PUE"
    known, problems = rates_of(rates, {}, T0_S, T0_S + 7200)
    assert not problems
    assert [known.at(T0_S + s).pue.value for s in (0, 3599, 3600)] == [  # type: ignore[union-attr]
        PPM * 6 // 5, PPM * 6 // 5, PPM * 27 // 20,
    ]  # fmt: skip
    assert known.steps_ns(T0_S * 10**9, (T0_S + 7200) * 10**9) == [(T0_S + 3600) * 10**9]


def test_the_rates_service_passes_it_on(timed: Path) -> None:
    poller = make_poller(load(timed, {}), {}, read_only=True)
    assert poller.current.at(T0_S).pue is not None
    pages = RatesPages(poller)
    told = _DOCUMENT.decode(pages.document(0))
    assert told.pue is not None
    assert [point.value for point in told.pue.points] == [PPM * 6 // 5, PPM * 27 // 20]
    assert pages.ready() == (True, "ready")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[rates]\npue = 1.2\n[rates.pue_curve]\nkind = "csv"\nfile = "/p.csv"', "rates.pue"),
        ('[rates.pue_curve]\nkind = "csv"', "rates.pue_curve.file"),
        ('[rates.pue_curve]\nkind = "csv"\nfile = "p.csv"', "expected an absolute path"),
        ("[rates.water]\nsite_l_per_kwh = 0.2", "rates.water.site_source"),
        (
            '[rates.water]\ngrid_l_per_kwh = 1\ngrid_source = "x"\ngrid_file = "/g.csv"',
            "rates.water.grid_file",
        ),
        ('[rates.water]\ngrid_file = "g.csv"', "expected an absolute path"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load(config(tmp_path, text), {})


@pytest.mark.parametrize(("pue", "said"), [("0.9", "absurd"), ("1e9", "expected a number")])
def test_a_pue_that_cannot_be_is_refused(timed: Path, pue: str, said: str) -> None:
    file = timed.with_name("pue.csv")
    file.write_text(CSV.replace("1.35", pue))
    with pytest.raises(ConfigError, match=said):
        make_poller(load(timed, {}), {}, read_only=True)


def test_factors_of_water(tmp_path: Path) -> None:
    (tmp_path / "grid.csv").write_text(
        "start,l_per_kwh\n2026-01-01T00:00:00Z,1.5\n2026-02-01T00:00:00Z,2\n"
    )
    text = (
        '[rates.water]\nsite_l_per_kwh = 0\nsite_source = "dry coolers"\n'
        f'grid_file = "{tmp_path}/grid.csv"'
    )
    found = water_of(load(config(tmp_path, text), {}).rates)
    site, grid = found[Quantity.WATER_SITE].at(T0_S), found[Quantity.WATER_GRID].at(T0_S)
    assert site is not None and grid is not None
    assert (site.value, site.source) == (0, "dry coolers")
    assert (grid.value, grid.source) == (1.5 * UL_PER_L, "grid.csv")
    assert water_of(load(config(tmp_path, ""), {}).rates) == {}
    (tmp_path / "grid.csv").write_text("start,l_per_kwh\n2026-01-01T00:00:00Z,-1\n")
    with pytest.raises(ConfigError, match=r"rates\.water: .*grid\.csv, .*negative|negative"):
        water_of(load(config(tmp_path, text), {}).rates)
