from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulebook.core import units_text
from joulebook.units import NS_PER_S, UJ_PER_J


def plain(text: str) -> str:
    return text.replace("\u202f", " ")


@pytest.mark.parametrize(
    ("joules", "said"),
    [
        (0, "0 J"),
        (0.25, "0.25 J"),
        (812.4, "812 J"),
        (3600, "1.00 Wh"),
        (3600 * 999.6, "1,000 Wh"),
        (3.6e6, "1.00 kWh"),
        (3.6e6 * 12.44, "12.4 kWh"),
        (3.6e6 * 12345, "12,345 kWh"),
        (-3.6e6, "-1.00 kWh"),
    ],
)
def test_energy(joules: float, said: str) -> None:
    assert plain(units_text.energy(round(joules * UJ_PER_J))) == said


@given(st.integers())
def test_exact_energy_loses_nothing(energy_uj: int) -> None:
    said = plain(units_text.exact(energy_uj)).removesuffix(" J")
    assert int(said.replace(",", "").replace(".", "")) == energy_uj


@pytest.mark.parametrize(
    ("share", "said"),
    [
        (0, "0 %"),
        (1e-9, "0.1 %"),
        (0.004, "0.4 %"),
        (0.37, "37 %"),
        (0.999999, "99.9 %"),
        (1, "100 %"),
    ],
)
def test_percent(share: float, said: str) -> None:
    assert plain(units_text.percent(share)) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (-5, "0.0 s"),
        (0.3, "0.3 s"),
        (9.97, "9 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (3599, "59 min"),
        (3600, "1.00 h"),
        (11_790, "3.27 h"),
        (1e6, "278 h"),
    ],
)
def test_duration(seconds: float, said: str) -> None:
    assert plain(units_text.duration(round(seconds * NS_PER_S))) == said


def test_power_and_clock() -> None:
    assert plain(units_text.watts(2431.4)) == "2,431 W"
    assert units_text.clock(1_764_005_000.9) == "17:23:20 UTC"


@pytest.mark.parametrize(
    ("nano", "said"),
    [
        (0, "0.00 EUR"),
        (1, "under 0.0001 EUR"),
        (-1, "over -0.0001 EUR"),
        (4_210_000, "0.0042 EUR"),
        (1_234_500_000_000, "1,234.50 EUR"),
        (-2_500_000_000, "-2.50 EUR"),
    ],
)
def test_money(nano: int, said: str) -> None:
    assert units_text.money(nano, "EUR").replace("\u202f", " ") == said


@pytest.mark.parametrize(
    ("ug", "said"), [(812_000, "812 mg"), (1_440_000, "1.44 g"), (12_400_000_000, "12.4 kg")]
)
def test_co2e(ug: int, said: str) -> None:
    assert units_text.co2e(ug).replace("\u202f", " ") == said


def test_energies_of_a_column_have_one_unit() -> None:
    shown = units_text.energies([45, 3_600 * UJ_PER_J * 12, 812 * UJ_PER_J])
    assert [each.split("\u202f")[1] for each in shown] == ["Wh", "Wh", "Wh"]
    assert units_text.energies([0, 812 * UJ_PER_J])[1] == "812\u202fJ"
