"""Rates: curves over time, and money and CO2e that add up whatever is cut or shared out."""

from __future__ import annotations

import itertools
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.core.audit import laws

from joulebook.core.money.rates import (
    NANO,
    PER_KWH,
    PPM,
    UG_PER_G,
    HardwareRate,
    InForce,
    Point,
    Quality,
    RateSet,
    StepCurve,
    carried,
    hourly_nano,
    nano_per_kwh,
    overlay,
    whole,
)
from joulebook.units import NS_PER_S, UJ_PER_KWH

KWH = UJ_PER_KWH
PUE_125 = 1_250_000
G = UG_PER_G


def facility_uj(energy_uj: int, pue_ppm: int) -> int:
    """Return the facility energy for IT energy, to the nearest microjoule."""
    return _nearest(energy_uj * pue_ppm, PPM)


def cost_nano(energy_uj: int, pue_ppm: int, price_nano_per_kwh: int) -> int:
    """Electricity cost of one amount at one price, to the nearest nano-unit (for statements)."""
    return _nearest(energy_uj * pue_ppm * price_nano_per_kwh, PER_KWH)


def co2e_ug(energy_uj: int, pue_ppm: int, ug_per_kwh: int) -> int:
    """CO2e of one amount at one intensity, to the nearest microgram (for statements)."""
    return _nearest(energy_uj * pue_ppm * ug_per_kwh, PER_KWH)


def _nearest(numerator: int, denominator: int) -> int:
    return (2 * numerator + denominator) // (2 * denominator)


def point(start: int, value: int, end: int | None = None, source: str = "s") -> Point:
    return Point(start, value, "nEUR/kWh", source, Quality.MEASURED, end)


# Curves


def test_a_step_holds_until_the_next_one_or_its_end() -> None:
    curve = StepCurve((point(100, 1), point(200, 2, 250), point(300, 3)))
    values = {
        t: found and found.value
        for t in (0, 99, 100, 199, 200, 249, 250, 299, 300, 10**12)
        if (found := curve.at(t)) or True
    }
    assert values == {
        0: None,
        99: None,
        100: 1,
        199: 1,
        200: 2,
        249: 2,
        250: None,
        299: None,
        300: 3,
        10**12: 3,
    }


def test_steps_are_where_the_value_changes_within_the_stretch() -> None:
    curve = StepCurve((point(100, 1), point(150, 1), point(200, 2, 250), point(300, 3)))
    assert curve.steps(0, 1000) == [100, 200, 250, 300]
    assert curve.steps(100, 300) == [200, 250]
    assert curve.steps(201, 249) == []
    assert StepCurve().steps(0, 10) == []


@pytest.mark.parametrize(
    "points", [(point(2, 1), point(1, 1)), (point(1, 1), point(1, 2)), (point(5, 1, 5),)]
)
def test_a_curve_out_of_order_is_refused(points: tuple[Point, ...]) -> None:
    with pytest.raises(ValueError, match="a curve must"):
        StepCurve(points)


@st.composite
def steps_of_a_curve(draw: st.DrawFn) -> tuple[Point, ...]:
    starts = sorted(draw(st.sets(st.integers(0, 60), max_size=8)))
    points = []
    for start in starts:
        end = draw(st.none() | st.integers(start + 1, start + 20))
        points.append(point(start, draw(st.integers(-5, 5)), end))
    return tuple(points)


def values(curve: StepCurve) -> list[int | None]:
    return [found.value if (found := curve.at(t)) else None for t in range(-1, 90)]


@laws(400)
@given(steps_of_a_curve())
def test_between_two_steps_the_value_is_one(points: tuple[Point, ...]) -> None:
    curve = StepCurve(points)
    cuts = [-1, *curve.steps(-1, 90), 90]
    found = values(curve)
    for a, b in itertools.pairwise(cuts):
        assert len({found[t + 1] for t in range(a, b)}) == 1
    for cut in cuts[1:-1]:
        assert found[cut] != found[cut + 1]


@laws(400)
@given(steps_of_a_curve(), steps_of_a_curve())
def test_overlay_is_the_new_where_it_says_something_else_the_old(
    old: tuple[Point, ...], new: tuple[Point, ...]
) -> None:
    both = values(StepCurve(overlay(old, new)))
    wanted = [
        b if b is not None else a
        for a, b in zip(values(StepCurve(old)), values(StepCurve(new)), strict=True)
    ]
    assert both == wanted


@laws(300)
@given(steps_of_a_curve(), st.integers(0, 10))
def test_carried_fills_holes_for_so_long_and_says_so(
    points: tuple[Point, ...], keep_s: int
) -> None:
    known, filled = StepCurve(points), StepCurve(carried(points, keep_s))
    for t in range(90):
        said, used = known.at(t), filled.at(t)
        if said is not None:
            assert used is not None
            assert (used.value, used.quality) == (said.value, Quality.MEASURED)
        else:
            lately = [at for s in range(max(t - keep_s, 0), t) if (at := known.at(s))]
            assert (used is None) == (not lately)
            if used is not None:
                assert used.value == lately[-1].value
                assert used.quality is Quality.ESTIMATED
                assert used.source == "s, last good value"


# Money and CO2e

prices = st.integers(-(10**12), 10**12)
pues = st.integers(PPM, 10 * PPM)


def test_the_worked_example_of_the_field_note() -> None:
    # 4 trials x 2 H100 x 5 h; E_gpu 20 kWh, E_host 4, PUE 1.25, price $0.20.
    assert facility_uj(24 * KWH, PUE_125) == 30 * KWH
    assert cost_nano(24 * KWH, PUE_125, 200_000_000) == 6 * NANO
    hourly = hourly_nano(35_040 * NANO, 0, Decimal(4), Decimal("0.8"))
    assert hourly == 1_250_000_000
    assert 40 * hourly == 50 * NANO
    grams = [(16 * KWH, 300), (4 * KWH, 500), (4 * KWH, 400)]
    assert [co2e_ug(e, PUE_125, g * G) for e, g in grams] == [6000 * G, 2500 * G, 2000 * G]
    assert co2e_ug(24 * KWH, PUE_125, 400 * G) == 12_000 * G


def test_published_figures() -> None:
    # GPT-3: 10,000 x 330 W x 14.8 d, PUE 1.10 and 0.429 kg/kWh; BLOOM: 433,196 kWh x 57 g.
    gpt3_uj = 10_000 * 330 * 1_000_000 * round(14.8 * 86_400)
    published_t = Fraction(
        co2e_ug(round(Fraction(1_287_000_000 * KWH, 1000)), PPM, 429 * G), 10**12
    )
    assert round(float(published_t), 1) == 552.1
    reckoned_mwh = facility_uj(gpt3_uj, 1_100_000) / KWH / 1000
    assert round(reckoned_mwh) == 1289
    assert round(co2e_ug(433_196 * KWH, PPM, 57 * G) / 10**12, 2) == 24.69


def test_a_purchase_with_a_residual_value() -> None:
    assert hourly_nano(40_000 * NANO, 4_960 * NANO, Decimal(5), Decimal(1)) == NANO * 35_040 // (
        5 * 8760
    )


@laws(200)
@given(st.integers(0, 2**80), pues, prices)
def test_one_amount_is_rounded_to_the_nearest(energy_uj: int, pue: int, price: int) -> None:
    exact = Fraction(energy_uj * pue * price, PER_KWH)
    assert abs(cost_nano(energy_uj, pue, price) - exact) <= Fraction(1, 2)


# A set of rates


def test_a_price_that_changes_inside_an_interval_splits_it() -> None:
    rates = RateSet(
        "EUR",
        price=StepCurve((point(0, 100), point(3600, -20), point(7200, 300, 9000))),
        pue=StepCurve((point(0, PPM),)),
        carbon=StepCurve((point(5000, 7),)),
    )
    t0_ns, t1_ns = 3_599_500_000_000, 9_100_000_000_001
    cuts = rates.steps_ns(t0_ns, t1_ns)
    assert cuts == [3600 * NS_PER_S, 5000 * NS_PER_S, 7200 * NS_PER_S, 9000 * NS_PER_S]
    found = [rates.at(t // NS_PER_S) for t in [t0_ns, *cuts]]
    assert [now.electricity for now in found] == [100 * PPM, -20 * PPM, -20 * PPM, 300 * PPM, None]
    assert [now.co2e for now in found] == [None, None, 7 * PPM, 7 * PPM, 7 * PPM]


def test_edges_of_an_interval_are_no_cuts_of_it() -> None:
    rates = RateSet(price=StepCurve((point(10, 1), point(20, 2))))
    assert rates.steps_ns(10 * NS_PER_S, 20 * NS_PER_S) == []
    assert rates.steps_ns(10 * NS_PER_S - 1, 20 * NS_PER_S + 1) == [10 * NS_PER_S, 20 * NS_PER_S]


def test_what_is_not_known_is_none_and_never_0() -> None:
    nothing = RateSet("EUR").at(0)
    assert nothing == InForce(None, None, None)
    assert (nothing.electricity, nothing.co2e) == (None, None)
    without_pue = RateSet(price=StepCurve((point(0, 5),)), carbon=StepCurve((point(0, 5),))).at(0)
    assert (without_pue.electricity, without_pue.co2e) == (None, None)
    assert (
        RateSet(price=StepCurve((point(0, 0),)), pue=StepCurve((point(0, PPM),))).at(0).electricity
        == 0
    )


@pytest.mark.parametrize(
    ("model", "cost"),
    [
        ("NVIDIA H100 80GB HBM3", 3),
        ("NVIDIA H100 PCIe", 2),
        ("NVIDIA A100-SXM4-80GB", 1),
        ("AMD Instinct", None),
        ("xNVIDIA H100 PCIe", None),
    ],
)
@pytest.mark.parametrize("turn", [1, -1])
def test_the_most_specific_pattern_counts_in_any_order(
    model: str, cost: int | None, turn: int
) -> None:
    patterns = [("NVIDIA*", 1), ("NVIDIA H100*", 2), ("NVIDIA H100*HBM3", 3), ("N.*", 9)]
    rates = RateSet(hardware=tuple(HardwareRate(p, c, "") for p, c in patterns[::turn]))
    found = rates.hardware_for(model)
    assert (found and found.nano_per_gpu_hour) == cost


# Figures from outside


@pytest.mark.parametrize(
    ("value", "per", "units"),
    [
        (0.1, NANO, 100_000_000),
        (0.30000000000000004, NANO, 300_000_000),
        ("-0.01731", NANO, -17_310_000),
        (Decimal("1.25"), PPM, 1_250_000),
        ("0.0000000005", NANO, 0),
        ("0.0000000015", NANO, 2),
        (1e22, 1, 10**22),
    ],
)
def test_figures_become_integers_exactly(value: float | str, per: int, units: int) -> None:
    assert whole(value, per) == units


@pytest.mark.parametrize("value", ["", "x", "nan", "inf", float("inf"), "1e999999999", 1e300])
def test_what_is_no_figure_is_refused(value: float | str) -> None:
    with pytest.raises(ValueError, match="not a number"):
        whole(value)


def test_units_name_the_currency() -> None:
    assert nano_per_kwh("EUR") == "nEUR/kWh"
