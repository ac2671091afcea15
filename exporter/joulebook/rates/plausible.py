"""What can be a price or an intensity, and in which unit it came.

Negative prices are real (a third of sunny Sundays), a negative intensity is not. Bounds are wide:
they are there to tell a wrong unit, column or decimal point from a bad day on the market.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from decimal import Decimal

from joulebook.core.money.rates import NANO, UG_PER_G, UG_PER_KWH, Point, nano_per_kwh, whole
from joulebook.errors import FeedWrong
from joulebook.rates.contract import Quantity

G_PER_KWH_MAX = 3_000
"""More than lignite in an old plant (about 1,300); Turkmenistan's mix is 1,306."""

_STRONG = frozenset({"EUR", "USD", "GBP", "CHF", "CAD", "AUD", "NZD", "SGD", "ILS"})
_PER_KWH_MAX = 10
"""Of a strong currency. The day-ahead market's own cap is 4 to 5 EUR/kWh."""
_WEAK_FACTOR = 10_000
"""Dong, rupiah and rial have larger figures."""

_PER_KWH = {"kWh": Decimal(1), "MWh": Decimal(1000), "Wh": Decimal("0.001")}


def price_nano(value: float | Decimal | str, unit: str, currency: str, where: str) -> int:
    """A price in a unit like `EUR / MWh` as nano-currency per kWh.

    Raises `FeedWrong` (`unit`, `currency`, `garbage`) if it is none, or in another currency.
    """
    match = re.fullmatch(r"\s*([A-Za-z]{3})\s*/\s*(\w+)\s*", unit)
    if match is None or match[2] not in _PER_KWH:
        raise FeedWrong(f"{where}: the unit is {unit!r}, not {currency}/MWh", reason="unit")
    if match[1].upper() != currency:
        raise FeedWrong(
            f"{where}: prices are in {match[1].upper()}, and rates.currency is {currency}",
            reason="currency",
        )
    return _whole(value, Decimal(NANO) / _PER_KWH[match[2]], where)


def grams_ug(value: float | Decimal | str, where: str) -> int:
    """Grams per kWh as micrograms per kWh. Raises `FeedWrong` if it is no number."""
    return _whole(value, Decimal(UG_PER_G), where)


def unit_of(quantity: Quantity, currency: str) -> str:
    """The unit that points of a quantity are in."""
    return UG_PER_KWH if quantity is Quantity.CARBON else nano_per_kwh(currency)


def fault(point: Point, quantity: Quantity, currency: str) -> str:
    """The reason word for a point that cannot be believed; empty if it can."""
    if point.unit != unit_of(quantity, currency):
        return "unit"
    if quantity is Quantity.CARBON:
        if point.value < 0:
            return "negative"
        return "absurd" if point.value > G_PER_KWH_MAX * UG_PER_G else ""
    most = _PER_KWH_MAX * (1 if currency in _STRONG else _WEAK_FACTOR) * NANO
    return "absurd" if abs(point.value) > most else ""


def sift(
    points: Iterable[Point], quantity: Quantity, currency: str
) -> tuple[tuple[Point, ...], Counter[str]]:
    """The points that can be believed, in order of time, and how many cannot, by reason.

    Of several that start together the last counts.
    """
    refused: Counter[str] = Counter()
    good: dict[int, Point] = {}
    for point in points:
        reason = fault(point, quantity, currency)
        if not reason and point.end_utc_s is not None and point.end_utc_s <= point.start_utc_s:
            reason = "garbage"
        if reason:
            refused[reason] += 1
        else:
            good[point.start_utc_s] = point
    return tuple(good[start] for start in sorted(good)), refused


def _whole(value: float | Decimal | str, per: Decimal, where: str) -> int:
    try:
        return whole(Decimal(str(value)) * per)
    except (ValueError, ArithmeticError):
        raise FeedWrong(f"{where}: {value!r:.40} is not a number", reason="garbage") from None
