"""Figures as commands print them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulebook.commands.shared.text import (
    energy,
    exact_energy,
    gpu_hours,
    lasted,
    mean_power_w,
    moment,
    percent,
    power,
    size,
    size_of,
)
from joulebook.core.units_text import CO2E, ENERGY, in_column


@given(st.lists(st.integers(0, 10**18), min_size=1, max_size=8))
def test_one_unit_for_a_column(values: list[int]) -> None:
    unit, cells = in_column(values, ENERGY)
    per = {name: per for per, name in ENERGY}[unit]
    assert (
        len({cell.partition(".")[2] and len(cell.partition(".")[2]) for cell in cells if cell}) == 1
    )
    for value, cell in zip(values, cells, strict=True):
        number = float(cell.removeprefix("<").replace(",", ""))
        if cell.startswith("<"):
            assert 0 < value / per < number
        else:
            assert number == pytest.approx(value / per, rel=0.06, abs=1e-6)
            assert bool(number) == bool(value)


def test_units_of_a_column() -> None:
    assert in_column([14_580_000_000, 401_000_000, None], ENERGY) == ("Wh", ["4.05", "0.11", "-"])
    assert in_column([33_319_224_000], CO2E) == ("kg", ["33.3"])
    assert in_column([0, None], ENERGY) == ("J", ["0", "-"])
    assert in_column([36 * 10**14, 1], ENERGY) == ("MWh", ["1.000000", "<0.000001"])


def test_figures() -> None:
    assert energy(812_000_000) == "812 J"
    assert exact_energy(4_320_000_000_001) == "4,320,000.000001 J = 1.2000 kWh"
    assert exact_energy(1_500_000) == "1.500000 J = 0.0000004 kWh"
    assert power(2431.4) == "2,431 W"
    assert gpu_hours(45_000 * 10**9) == "12.50 GPU-hours"
    assert gpu_hours(30 * 10**9) == "0.0083 GPU-hours (30.0 GPU-seconds)"
    assert lasted(300_000_000) == "0.300 s"
    assert lasted(642 * 10**9) == "10 min 42 s"
    assert lasted(7509 * 10**9) == "2 h 05 min 09 s"
    assert lasted(-1) == "0.000 s"
    assert percent(1, 250) == "0.4 %"
    assert percent(1, 0) == "-"
    assert size(812) == "812 B"
    assert size(80 << 30) == "80.0 GiB"
    assert size_of(61 << 30, 80 << 30) == "61.0/80.0 GiB"
    assert moment(0) == "1970-01-01 00:00:00 UTC"
    assert moment(1e300) == "not known"
    assert mean_power_w(300_000_000, 10**9) == 300.0
    assert mean_power_w(1, 0) is None
