"""Figures as they are printed: four digits, in a unit of their size, never a bare unknown."""

from __future__ import annotations

import pytest

from joulebook.lab.report.model import Figure
from joulebook.lab.report.wording import figure, listed, number, percent, quantity


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"), (1.2346, "1.235"), (12345.6, "12,346"), (0.012345, "0.01235"),
        (999.96, "1,000.0"), (-2.5, "-2.500"), (1e-9, "1.000e-09"),
    ],
)  # fmt: skip
def test_four_digits(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 %"), (100, "100 %"), (99.99, "99.9 %"), (0.01, "0.01 %"), (150, "150.0 %")],
)
def test_all_and_nothing_are_exact(value: float, text: str) -> None:
    assert percent(value) == text


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.004533, "kWh", "4.533 Wh"),
        (1e-5, "kWh", "36.00 J"),
        (24, "kWh", "24.00 kWh"),
        (12_890, "kWh", "12.89 MWh"),
        (1_289_000, "kWh", "1.289 GWh"),
        (552_100, "kg CO2e", "552.1 t CO2e"),
        (0.0195, "kg CO2e per trial", "19.50 g CO2e per trial"),
        (6, "USD", "6.000 USD"),
        (0, "kWh", "0 kWh"),
    ],
)
def test_the_unit_has_the_size_of_the_figure(value: float, unit: str, text: str) -> None:
    assert quantity(value, unit) == text


def test_a_range_a_default_and_an_unknown() -> None:
    embodied = Figure(0.78, "kg CO2e", low=0.5439, high=1.013, default=True)
    assert figure(embodied) == "0.5439 to 1.013 kg CO2e (default)"
    assert figure(Figure(None, "kWh", unknown="no meter")) == "not known: no meter"
    assert figure(Figure(None, "kWh", unknown="not known from X: y")) == "not known from X: y"
    assert listed([]) == "not known"
    assert listed([str(n) for n in range(14)]).endswith("11 and 2 more")
