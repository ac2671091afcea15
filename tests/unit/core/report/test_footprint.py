"""The formulas of a statement against figures that were published, or worked out by hand."""

from __future__ import annotations

import pytest
from tests.unit.core.money.test_rates import co2e_ug, facility_uj

from joulebook.core.money.rates import NANO, PPM, UG_PER_G, hourly_nano
from joulebook.core.report import footprint
from joulebook.core.report.footprint import HostServer, embodied_kg, embodied_of, pflops_days, sci
from joulebook.units import NS_PER_HOUR, UJ_PER_KWH

H100_HOURS = 40.0


def test_embodied_of_the_worked_example() -> None:
    """(1,312 + 2,500)/8 x 40/35,040 = 0.54 kg; with 575 kg for each GPU 1.01 kg."""
    row = embodied_of("NVIDIA H100 80GB HBM3")
    assert row is not None
    assert 8 * row.low_kg == 1_312
    assert f"{embodied_kg(H100_HOURS, row.low_kg, HostServer()):.2f}" == "0.54"
    assert f"{embodied_kg(H100_HOURS, row.high_kg, HostServer()):.2f}" == "1.01"
    assert embodied_of("NVIDIA GeForce GTX 970") is None


def test_sci_of_the_worked_example() -> None:
    """11.04 / 4 = 2.76 kg for each trial."""
    embodied = embodied_kg(H100_HOURS, 164, HostServer())
    assert f"{sci(10.5, embodied, 4):.2f}" == "2.76"


def test_alexnet() -> None:
    """AI and Compute: 2 GPUs x 1.58e-3 PFLOPS x 5.5 days x 0.33 = 0.0057 PFLOP/s-days (0.0058)."""
    found = pflops_days(2 * 5.5 * footprint.HOURS_PER_DAY, 1.58e-3 * footprint.PETA, 0.33)
    assert f"{found:.4f}" == "0.0057"
    assert found == pytest.approx(0.0058, rel=0.02)


def test_gpt3() -> None:
    """Patterson et al., 2021: 10,000 x 330 W x 14.8 days, PUE 1.10, 429 g/kWh.

    The formula gives 1,289 MWh and 553.1 t; the published 552.1 t are of the published 1,287 MWh.
    """
    it_uj = 10_000 * 330 * 148 * 24 * UJ_PER_KWH // 10_000
    whole_uj = facility_uj(it_uj, PPM * 11 // 10)
    assert round(whole_uj / UJ_PER_KWH / 1000) == 1_289
    tonnes = co2e_ug(it_uj, PPM * 11 // 10, 429 * UG_PER_G) / UG_PER_G / 1e6
    assert f"{tonnes:.1f}" == "553.1"
    published = co2e_ug(1_287_000 * UJ_PER_KWH, PPM, 429 * UG_PER_G) / UG_PER_G / 1e6
    assert f"{published:.1f}" == "552.1"


def test_bloom() -> None:
    """Luccioni et al., 2022: 433,196 kWh at 57 g/kWh are 24.69 t."""
    tonnes = co2e_ug(433_196 * UJ_PER_KWH, PPM, 57 * UG_PER_G) / UG_PER_G / 1e6
    assert f"{tonnes:.2f}" == "24.69"


def test_hardware_of_the_worked_example() -> None:
    """$280,320 / (8 x 35,040 h x 0.8) = $1.25 for each GPU-hour."""
    from decimal import Decimal

    assert hourly_nano(35_040 * NANO, 0, Decimal(4), Decimal("0.8")) == NANO * 5 // 4


def test_bounds_are_added() -> None:
    assert footprint.uncertainty_percent(5, 0.5) == 5.5
    assert footprint.hours(NS_PER_HOUR // 2) == 0.5
