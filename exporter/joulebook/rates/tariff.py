"""A weekly time-of-use tariff by the clock on the wall.

Each instant has the price of what a clock in the tariff's time zone shows then. So on the day of
23 hours a window over the missing hour is short, on the day of 25 hours the repeated hour has the
same price twice.

Also one figure for all time, and the bundled table of yearly carbon intensities by country.
"""

from __future__ import annotations

import csv
import difflib
import functools
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple
from zoneinfo import ZoneInfo

import msgspec

from joulebook.core.money.rates import UG_PER_KWH, Point, Quality
from joulebook.errors import ConfigError
from joulebook.rates.contract import DAY_S, HOUR_S, Plan, grams_ug

TABLE = Path(__file__).parents[1] / "data" / "grid_carbon_intensity.csv"


class Country:
    """The mean intensity of a country (ISO 3166, two letters) in the newest year on record."""

    plan = Plan(every_s=DAY_S, local=True)

    def __init__(self, zone: str) -> None:
        """Raises `ConfigError` if the table has no such country."""
        with TABLE.open(encoding="utf-8", newline="") as file:
            rows = {row["zone"]: row for row in csv.DictReader(file)}
        row = rows.get(zone.upper())
        if row is None:
            raise ConfigError(
                f"rates.carbon.zone: {zone!r} is not in the table of countries{_hint(zone, rows)}"
            )
        self.name = _source(row)
        value = grams_ug(row["gco2e_per_kwh"], self.name)
        self._point = Point(0, value, UG_PER_KWH, self.name, Quality.DEFAULT)

    def fetch(self, t0_s: int, t1_s: int) -> tuple[Point, ...]:
        """Return the figure, for all time: an older or newer year is not in the table."""
        return (self._point,)


@functools.cache
def defaults() -> frozenset[str]:
    """Return the sources that the figures of the table are shown with, to know one again by it."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        return frozenset(_source(row) for row in csv.DictReader(file))


def _source(row: dict[str, str]) -> str:
    return f"{row['country']} {row['year']}, {row['source']}"


def _hint(zone: str, rows: dict[str, dict[str, str]]) -> str:
    country = zone.partition("-")[0].upper()  # Of a bidding zone, DE-LU.
    if country in rows:
        return f"; for {rows[country]['country']}, use {country!r}"
    names = {row["country"].lower(): code for code, row in rows.items()}
    close = difflib.get_close_matches(zone.lower(), names, 1)
    return f"; did you mean {names[close[0]]!r}?" if close else ": two letters, like 'DE'"


class Fixed:
    """A constant.

    `source` is where it is from, as the user says. A price by contract is `measured`; one figure
    for the intensity of all hours is a mean, so `estimated`.
    """

    plan = Plan(every_s=DAY_S, local=True)

    def __init__(self, value: int, unit: str, quality: Quality, source: str) -> None:
        self.name = source
        self._point = Point(0, value, unit, source, quality)

    def fetch(self, t0_s: int, t1_s: int) -> tuple[Point, ...]:
        """Return the constant, without begin or end."""
        return (self._point,)


_DAY_MINUTES = 24 * 60


class TariffWindow(NamedTuple):
    """Hours with a price of their own, from `from_min` to `to_min` minutes after midnight.

    `days` (Monday 0) are those on which it begins; it ends on the next day if `to_min` is not
    after `from_min`.
    """

    days: frozenset[int]
    from_min: int
    to_min: int
    nano_per_kwh: int

    def holds(self, weekday: int, minute: int) -> bool:
        """Whether the window covers a minute of a weekday, as the clock on the wall has them."""
        if self.to_min > self.from_min:
            return weekday in self.days and self.from_min <= minute < self.to_min
        if minute >= self.from_min:
            return weekday in self.days
        return minute < self.to_min and (weekday - 1) % 7 in self.days


class Schedule:
    """The tariff: `default` outside all windows, else the first window that fits."""

    plan = Plan(every_s=HOUR_S, local=True)

    def __init__(
        self, zone: ZoneInfo, default: int, windows: Sequence[TariffWindow], unit: str, source: str
    ) -> None:
        self.name = source
        self._zone = zone
        self._default = default
        self._windows = tuple(windows)
        self._unit = unit
        self._edges = sorted({0, *(m % _DAY_MINUTES for w in windows for m in (w[1], w[2]))})

    def fetch(self, t0_s: int, t1_s: int) -> tuple[Point, ...]:
        """Return the tariff from t0 to t1, a point for each change of price."""
        points: list[Point] = []
        for start in [t0_s, *sorted({s for s in self._instants(t0_s, t1_s) if t0_s < s < t1_s})]:
            value = self._value(start)
            if not points or points[-1].value != value:
                points.append(Point(start, value, self._unit, self.name, Quality.MEASURED))
        # No further than was asked for: beyond it there may be other prices.
        points[-1] = msgspec.structs.replace(points[-1], end_utc_s=t1_s)
        return tuple(points)

    def _value(self, t_s: int) -> int:
        wall = datetime.fromtimestamp(t_s, self._zone)
        weekday, minute = wall.weekday(), wall.hour * 60 + wall.minute
        fits = (w.nano_per_kwh for w in self._windows if w.holds(weekday, minute))
        return next(fits, self._default)

    def _instants(self, t0_s: int, t1_s: int) -> Iterator[int]:
        """At least all instants at which the clock on the wall passes an edge, or is set."""
        midnight = datetime.fromtimestamp(t0_s, self._zone).replace(
            hour=0, minute=0, second=0, microsecond=0, fold=0
        ) - timedelta(days=1)
        while (begin := _utc_s(midnight)) < t1_s:
            next_midnight = midnight + timedelta(days=1)
            for minutes in self._edges:
                wall = midnight + timedelta(minutes=minutes)
                # In the repeated hour the clock passes an edge twice.
                yield _utc_s(wall)
                yield _utc_s(wall.replace(fold=1))
            yield from self._clock_is_set(begin, _utc_s(next_midnight))
            midnight = next_midnight

    def _clock_is_set(self, t0_s: int, t1_s: int) -> Iterator[int]:
        if self._offset(t0_s) == self._offset(t1_s):
            return
        while t1_s - t0_s > 1:
            middle = (t0_s + t1_s) // 2
            if self._offset(middle) == self._offset(t0_s):
                t0_s = middle
            else:
                t1_s = middle
        yield t1_s

    def _offset(self, t_s: int) -> timedelta | None:
        return datetime.fromtimestamp(t_s, self._zone).utcoffset()


def _utc_s(wall: datetime) -> int:
    return int(wall.astimezone(UTC).timestamp())
