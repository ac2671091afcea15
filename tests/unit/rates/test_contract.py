"""Units and bounds of what feeds say."""

from __future__ import annotations

import pytest

from joulebook.core.money.rates import NANO, UG_PER_G, Point, Quality
from joulebook.errors import FeedWrong
from joulebook.rates.contract import Quantity, fault, grams_ug, price_nano, sift, utc_s


def price(value: int, unit: str = "nEUR/kWh", start: int = 0, end: int | None = None) -> Point:
    return Point(start, value, unit, "s", Quality.MEASURED, end)


def carbon(grams: float) -> Point:
    return Point(0, round(grams * UG_PER_G), "ugCO2e/kWh", "s", Quality.MEASURED)


@pytest.mark.parametrize(
    ("value", "unit", "nano"),
    [
        (91.53, "EUR / MWh", 91_530_000),
        (-17.31, "EUR/MWh", -17_310_000),
        (0.0915, "eur/kWh", 91_500_000),
        (0, "EUR/MWh", 0),
    ],
)
def test_prices_of_any_unit_become_nano_per_kwh(value: float, unit: str, nano: int) -> None:
    assert price_nano(value, unit, "EUR", "feed") == nano


@pytest.mark.parametrize(
    ("value", "unit", "reason"),
    [
        (1, "EUR/GJ", "unit"),
        (1, "", "unit"),
        (1, "ct/kWh", "unit"),
        (1, "GBP/MWh", "currency"),
        ("a lot", "EUR/MWh", "garbage"),
        ("nan", "EUR/MWh", "garbage"),
        ("1e999999999", "EUR/MWh", "garbage"),
    ],
)
def test_prices_that_are_none(value: float | str, unit: str, reason: str) -> None:
    with pytest.raises(FeedWrong) as caught:
        price_nano(value, unit, "EUR", "feed")
    assert caught.value.reason == reason


def test_grams() -> None:
    assert grams_ug(344.14, "feed") == 344_140_000
    with pytest.raises(FeedWrong):
        grams_ug(float("inf"), "feed")


@pytest.mark.parametrize(
    ("point", "quantity", "currency", "reason"),
    [
        (price(-(NANO // 2)), Quantity.PRICE, "EUR", ""),
        (price(11 * NANO), Quantity.PRICE, "EUR", "absurd"),
        (price(-11 * NANO), Quantity.PRICE, "EUR", "absurd"),
        (price(2500 * NANO, "nVND/kWh"), Quantity.PRICE, "VND", ""),
        (price(1, "nUSD/kWh"), Quantity.PRICE, "EUR", "unit"),
        (price(1), Quantity.CARBON, "EUR", "unit"),
        (carbon(0), Quantity.CARBON, "EUR", ""),
        (carbon(1306.3), Quantity.CARBON, "EUR", ""),
        (carbon(-0.5), Quantity.CARBON, "EUR", "negative"),
        (carbon(3001), Quantity.CARBON, "EUR", "absurd"),
    ],
)
def test_what_can_be_a_rate(point: Point, quantity: Quantity, currency: str, reason: str) -> None:
    assert fault(point, quantity, currency) == reason


def test_sift_orders_drops_and_counts() -> None:
    points = [
        price(3, start=20),
        price(1, start=10, end=5),
        price(2, start=5),
        price(99 * NANO, start=7),
        price(4, start=20),
    ]
    good, refused = sift(points, Quantity.PRICE, "EUR")
    assert [(p.start_utc_s, p.value) for p in good] == [(5, 2), (20, 4)]
    assert refused == {"garbage": 1, "absurd": 1}


def test_a_time_without_offset_is_a_guess() -> None:
    assert utc_s("2018-05-15T12:00Z") == 1_526_385_600
    assert utc_s("2018-05-15T14:00:00.000+02:00") == 1_526_385_600
    with pytest.raises(ValueError, match="no offset"):
        utc_s("2018-05-15T12:00")
