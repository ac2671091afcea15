"""The contract of rate sources, their errors, and plausible values.

A further feed is one file with a class like those in `neso.py`: a name, a `Plan`, and `fetch`,
which asks `http_client.Web`, reads the answer into points and raises a `FeedError`; and one line in
`sources.py`. Holes, cache, back-off and age are looked after elsewhere.

Negative prices are real (a third of sunny Sundays), a negative intensity is not. Bounds are wide:
they are there to tell a wrong unit, column or decimal point from a bad day on the market.

    FeedError            nothing usable was said; `reason` is the label value
      FeedDown           may work at the next look (`down`, `timeout`, `http_5xx`, `truncated`)
      FeedLimited        we ask too often; `retry_after_s` is what the feed wants (`limited`)
      FeedDenied         a person must act: no key, a wrong one (`no_key`, `denied`)
      FeedEmpty          it answers, and has nothing for that time (`no_data`)
      FeedWrong          what it says cannot be used: `garbage`, `unit`, `currency`, `negative`,
                         `absurd`, `redirect`, `too_large`, `http_4xx`, `refused`, `file`
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

import msgspec

from joulebook.core.money.rates import (
    NANO,
    PPM,
    RATIO_PPM,
    UG_PER_G,
    UG_PER_KWH,
    UL_PER_KWH,
    UL_PER_L,
    Point,
    nano_per_kwh,
    whole,
)
from joulebook.core.sanitize import one_line
from joulebook.errors import FeedDenied, FeedWrong
from joulebook.untrusted_files import read_secret, shown_path

T = TypeVar("T")

HOUR_S = 3600
DAY_S = 86_400

_MAX_KEY = 1024


class Quantity(StrEnum):
    """Of what there are sources."""

    PRICE = "price"
    CARBON = "carbon"
    PUE = "pue"
    WATER_SITE = "water_site"
    """Water per IT energy."""
    WATER_GRID = "water_grid"
    """Water per facility energy."""


class Plan(NamedTuple):
    """How a source should be queried."""

    every_s: float
    """From one question to the next."""
    ahead_s: int = 0
    """How far into the future it knows."""
    late_s: int = 0
    """How far behind now its newest value may end before it counts as late."""
    back_s: int = 2 * DAY_S
    """How far back it is queried each time, since values are revised."""
    local: bool = False
    """A local source: not cached, read before the first tick."""


class RateSource(Protocol):
    """One source of one quantity."""

    @property
    def name(self) -> str:
        """Return its display name with the zone: `Energy-Charts DE-LU`."""

    @property
    def plan(self) -> Plan:
        """Return how it should be queried."""

    def fetch(self, t0_s: int, t1_s: int) -> tuple[Point, ...]:
        """Return all it knows of [t0, t1) UTC, in any order; points beyond that do no harm.

        What is not known is left out, never 0. Raises `FeedError`.
        """


def utc_s(text: str) -> int:
    """Seconds since the epoch of an ISO 8601 time with its offset.

    Raises `ValueError`; so does a time without an offset, which would be a guess.
    """
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no offset from UTC")
    return int(moment.timestamp())


class ApiKey:
    """The key of a feed: in a file, else in an environment variable. It is never shown."""

    def __init__(self, file: Path | None, variable: str, environ: Mapping[str, str]) -> None:
        self._file = file
        self._variable = variable
        self._found = environ.get(variable, "")

    def __repr__(self) -> str:
        return f"Key({self._file or self._variable})"

    @property
    def is_set(self) -> bool:
        """Whether there is one to read."""
        return self._file is not None or bool(self._found)

    def read(self) -> str:
        """The key, from the file as it is now. Raises `FeedDenied` (`no_key`)."""
        where = shown_path(self._file) if self._file else self._variable
        try:
            text = read_secret(self._file).decode() if self._file else self._found
        except (OSError, UnicodeDecodeError) as error:
            why = (isinstance(error, OSError) and error.strerror) or "not text"
            raise FeedDenied(f"the key in {where} cannot be read: {why}", reason="no_key") from None
        key = text.strip()
        if not key:
            hint = "" if self._file else " (or set token_file)"
            raise FeedDenied(f"no key in {where}{hint}", reason="no_key")
        # It goes into a header: a line break in it would be another header.
        if len(key) > _MAX_KEY or not (key.isascii() and key.isprintable()):
            raise FeedDenied(f"the content of {where} is not a key", reason="no_key")
        return key


def decoded(body: bytes, decoder: msgspec.json.Decoder[T], where: str) -> T:
    """JSON as a typed value. Raises `FeedWrong` (`garbage`) saying what was expected where."""
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        why = one_line(str(error))
        raise FeedWrong(f"{where}: unexpected JSON: {why}", reason="garbage") from None


G_PER_KWH_MAX = 3_000
"""More than lignite in an old plant (about 1,300); Turkmenistan's mix is 1,306."""

_STRONG = frozenset({"EUR", "USD", "GBP", "CHF", "CAD", "AUD", "NZD", "SGD", "ILS"})
_PER_KWH_MAX = 10
"""Of a strong currency. The day-ahead market's own cap is 4 to 5 EUR/kWh."""
_WEAK_FACTOR = 10_000
"""Dong, rupiah and rial have larger figures."""

_PER_KWH = {"kWh": Decimal(1), "MWh": Decimal(1000), "Wh": Decimal("0.001")}


def price_nano(value: float | Decimal | str, unit: str, currency: str, where: str) -> int:
    """Return a price in a unit like `EUR / MWh` as nano-currency per kWh.

    Raises `FeedWrong` (`unit`, `currency`, `garbage`) if it is none, or in another currency.
    """
    match = re.fullmatch(r"\s*([A-Za-z]{3})\s*/\s*(\w+)\s*", unit)
    if match is None or match[2] not in _PER_KWH:
        raise FeedWrong(f"{where}: the unit is {unit!r}, not {currency}/MWh", reason="unit")
    if match[1].upper() != currency:
        raise FeedWrong(
            f"{where}: prices are in {match[1].upper()}, but rates.currency is {currency}",
            reason="currency",
        )
    return _whole(value, Decimal(NANO) / _PER_KWH[match[2]], where)


def grams_ug(value: float | Decimal | str, where: str) -> int:
    """Grams per kWh as micrograms per kWh. Raises `FeedWrong` if it is no number."""
    return _whole(value, Decimal(UG_PER_G), where)


class _Bounds(NamedTuple):
    """The unit of a quantity, units of it to one as people write it, and what is plausible."""

    unit: str
    per: int
    least: int
    most: int


_BOUNDS = {
    Quantity.CARBON: _Bounds(UG_PER_KWH, UG_PER_G, 0, G_PER_KWH_MAX),
    Quantity.PUE: _Bounds(RATIO_PPM, PPM, 1, 10),
    Quantity.WATER_SITE: _Bounds(UL_PER_KWH, UL_PER_L, 0, 100),
    Quantity.WATER_GRID: _Bounds(UL_PER_KWH, UL_PER_L, 0, 100),
}


def unit_of(quantity: Quantity, currency: str) -> str:
    """Return the unit that points of a quantity are in."""
    return nano_per_kwh(currency) if quantity is Quantity.PRICE else _BOUNDS[quantity].unit


def figure_of(text: str, quantity: Quantity, where: str) -> int:
    """Return a figure of any quantity but a price as points have it.

    Raises `FeedWrong` if it is no number.
    """
    return _whole(text, Decimal(_BOUNDS[quantity].per), where)


def fault(point: Point, quantity: Quantity, currency: str) -> str:
    """Return the reason word for an implausible point; empty if plausible."""
    if point.unit != unit_of(quantity, currency):
        return "unit"
    if quantity is not Quantity.PRICE:
        _, per, least, most = _BOUNDS[quantity]
        if point.value < 0:
            return "negative"
        return "" if least * per <= point.value <= most * per else "absurd"
    most = _PER_KWH_MAX * (1 if currency in _STRONG else _WEAK_FACTOR) * NANO
    return "absurd" if abs(point.value) > most else ""


def sift(
    points: Iterable[Point], quantity: Quantity, currency: str
) -> tuple[tuple[Point, ...], Counter[str]]:
    """Return the plausible points in order of time, and the number of others by reason.

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
