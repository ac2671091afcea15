"""Rates as step curves over time, and the charges for energy and held time.

All amounts are integers: money in nano-units of the currency, CO2e in micrograms (ug), a price in
nano-units per kWh, an intensity in ug per kWh, PUE in millionths (ppm). Time is in whole seconds
UTC since the Unix epoch, as Unix counts them: leap seconds do not exist.

    facility energy = energy x PUE
    electricity = facility energy x price      hardware = held time x hourly rate
    CO2e = facility energy x intensity         (location-based)

The daemon accrues exactly (`amounts`, `accrual`); here, single amounts of a statement are rounded
to the nearest unit.

An unknown rate is `None`, never 0.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import NamedTuple

import msgspec

from joulebook.core.energy.readings import for_model
from joulebook.units import NS_PER_HOUR, NS_PER_S, UJ_PER_KWH

NANO = 1_000_000_000
"""Nano-units in a unit of a currency."""
UG_PER_G = 1_000_000
PPM = 1_000_000
"""Millionths in one."""
HOURS_PER_YEAR = 8_760
"""Of 365 days, for depreciation."""

PER_KWH = UJ_PER_KWH * PPM
"""Divides energy (uJ) x rate per kWh x PUE (ppm) into units of the rate."""
PER_HOUR = NS_PER_HOUR
"""Divides held time (ns) x hourly rate into units of the rate."""

UG_PER_KWH = "ugCO2e/kWh"
RATIO_PPM = "ppm"
UL_PER_KWH = "uL/kWh"
UL_PER_L = 1_000_000


def nano_per_kwh(currency: str) -> str:
    """Return the unit of a price: `nEUR/kWh`."""
    return f"n{currency}/kWh"


class Quality(StrEnum):
    """How well a rate is known."""

    MEASURED = "measured"
    """Settled: metered, or fixed by a contract or by the market."""
    ESTIMATED = "estimated"
    """A stand-in: declared so by the source, a mean for all hours, or the last good value."""
    FORECAST = "forecast"
    """Stated before the time it is for."""
    DEFAULT = "default"
    """Joulebook's own figure (the country table), not one of this site."""
    UNKNOWN = "not known"
    """For a rate only known as a gauge, which has no quality; nothing is charged at it."""


class Point(msgspec.Struct, frozen=True, gc=False):
    """One step of a curve: `value` from `start_utc_s` until the next point or `end_utc_s`."""

    start_utc_s: int
    value: int
    unit: str
    source: str
    quality: Quality
    end_utc_s: int | None = None


@dataclass(frozen=True, slots=True)
class StepCurve:
    """A step curve. Before its first point, and after an end, the rate is unknown.

    Raises `ValueError` if the points are not in order of time or one ends before it starts.
    """

    points: tuple[Point, ...] = ()
    _starts: tuple[int, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        starts = tuple(point.start_utc_s for point in self.points)
        if any(a >= b for a, b in itertools.pairwise(starts)):
            raise ValueError("the points of a curve must be in order of time")
        if any(p.end_utc_s is not None and p.end_utc_s <= p.start_utc_s for p in self.points):
            raise ValueError("a point of a curve must end after it starts")
        object.__setattr__(self, "_starts", starts)

    def at(self, t_s: int) -> Point | None:
        """Return the step at an instant; `None`: unknown."""
        index = bisect_right(self._starts, t_s) - 1
        if index < 0:
            return None
        point = self.points[index]
        return None if point.end_utc_s is not None and point.end_utc_s <= t_s else point

    def steps(self, t0_s: int, t1_s: int) -> list[int]:
        """Return the instants within (t0, t1) at which the value changes or (un)known begins."""
        first = max(bisect_right(self._starts, t0_s) - 1, 0)
        edges: set[int] = set()
        for point in self.points[first : bisect_left(self._starts, t1_s)]:
            edges.add(point.start_utc_s)
            if point.end_utc_s is not None:
                edges.add(point.end_utc_s)
        return [
            edge
            for edge in sorted(edges)
            if t0_s < edge < t1_s and _value(self.at(edge - 1)) != _value(self.at(edge))
        ]


def _value(point: Point | None) -> int | None:
    return None if point is None else point.value


def overlay(old: Iterable[Point], new: Iterable[Point]) -> tuple[Point, ...]:
    """Merge points by time; where they overlap, the new ones win. Each list must be in order."""
    over = list(_closed(new))
    kept = list(over)
    first = 0
    for point in _closed(old):
        start, end = point.start_utc_s, point.end_utc_s
        while first < len(over) and _ends(over[first]) <= start:
            first += 1
        for cover in over[first:]:
            if end is not None and cover.start_utc_s >= end:
                break
            if cover.start_utc_s > start:
                kept.append(_cut(point, start, cover.start_utc_s))
            if cover.end_utc_s is None:
                end = start
                break
            start = cover.end_utc_s
        if end is None or start < end:
            kept.append(_cut(point, start, end))
    return tuple(sorted(kept, key=lambda point: point.start_utc_s))


def _ends(point: Point) -> float:
    return math.inf if point.end_utc_s is None else point.end_utc_s


def carried(points: Iterable[Point], keep_s: int) -> tuple[Point, ...]:
    """Fill each hole after a point with its value for at most `keep_s`, as an estimate."""
    closed = list(_closed(points))
    filled: list[Point] = []
    for i, point in enumerate(closed):
        filled.append(point)
        end = point.end_utc_s
        if end is None or keep_s <= 0:
            continue
        until = end + keep_s
        if i + 1 < len(closed):
            until = min(until, closed[i + 1].start_utc_s)
        if until > end:
            source = f"{point.source}, last good value"
            stand_in = Point(end, point.value, point.unit, source, Quality.ESTIMATED, until)
            filled.append(stand_in)
    return tuple(filled)


def _closed(points: Iterable[Point]) -> Iterator[Point]:
    """Yield the points, each with an end where the next one begins."""
    previous: Point | None = None
    for point in points:
        if previous is not None:
            end = previous.end_utc_s
            yield _cut(
                previous,
                previous.start_utc_s,
                point.start_utc_s if end is None else min(end, point.start_utc_s),
            )
        previous = point
    if previous is not None:
        yield previous


def _cut(point: Point, start: int, end: int | None) -> Point:
    if (start, end) == (point.start_utc_s, point.end_utc_s):
        return point
    return msgspec.structs.replace(point, start_utc_s=start, end_utc_s=end)


class HardwareRate(NamedTuple):
    """The hourly cost of a GPU, for models that match `pattern` (`*` matches anything)."""

    pattern: str
    nano_per_gpu_hour: int
    source: str


class InForce(NamedTuple):
    """The rates at one instant; `None`: not known."""

    price: Point | None
    carbon: Point | None
    pue: Point | None

    @property
    def electricity(self) -> int | None:
        """Return the price per kWh of IT energy, in nano-units / `PPM`; `None`: it or PUE is
        unknown.
        """
        return facility_rate(_value(self.price), _value(self.pue))

    @property
    def co2e(self) -> int | None:
        """Return CO2e per kWh of IT energy, in ug / `PPM`; `None`: intensity or PUE is unknown."""
        return facility_rate(_value(self.carbon), _value(self.pue))


@dataclass(frozen=True, slots=True)
class RateSet:
    """All rates of a site, immutable."""

    currency: str = ""
    zone: str = ""
    price: StepCurve = StepCurve()
    carbon: StepCurve = StepCurve()
    pue: StepCurve = StepCurve()
    hardware: tuple[HardwareRate, ...] = ()

    def at(self, t_s: int) -> InForce:
        """Return the rates at an instant."""
        return InForce(self.price.at(t_s), self.carbon.at(t_s), self.pue.at(t_s))

    def steps_ns(self, t0_ns: int, t1_ns: int) -> list[int]:
        """Return the instants (ns UTC) within (t0, t1) at which any rate per kWh changes.

        Between two of them, the rates are those `at` the second that the first one is in.
        """
        t0_s, t1_s = t0_ns // NS_PER_S, -(-t1_ns // NS_PER_S)
        steps = {s for c in (self.price, self.carbon, self.pue) for s in c.steps(t0_s, t1_s)}
        return [s * NS_PER_S for s in sorted(steps) if t0_ns < s * NS_PER_S < t1_ns]

    def hardware_for(self, model: str) -> HardwareRate | None:
        """Return the rate of a GPU model; of several matching patterns, the most specific.

        Not the first: templates that write the file (Helm's `toToml`) sort its keys.
        """
        return for_model(model, self.hardware, lambda rate: rate.pattern)


def facility_rate(value: int | None, pue_ppm: int | None) -> int | None:
    """Return a price or intensity per facility kWh as one per IT kWh, in millionths of its unit."""
    return None if value is None or pue_ppm is None else value * pue_ppm


def hourly_nano(
    price_nano: int, residual_nano: int, life_years: Decimal, utilisation: Decimal
) -> int:
    """Hourly cost of a GPU from its purchase: (price - residual) / (life hours x utilisation)."""
    hours = life_years * HOURS_PER_YEAR * utilisation
    return int((Decimal(price_nano - residual_nano) / hours).to_integral_value())


def whole(value: Decimal | float | str, per: int = 1) -> int:
    """Return a figure from outside in integer units, `per` of them to one of its own; half to even.

    A float counts as its shortest decimal representation, which is what was written. Raises
    `ValueError` if it is not a number, infinite, or unreasonably large.
    """
    try:
        exact = value if isinstance(value, Decimal) else Decimal(str(value))
    except ArithmeticError:
        raise ValueError(f"{value!r} is not a number") from None
    # An exponent of millions would make a number of megabytes.
    if not exact.is_finite() or exact.adjusted() > 30:
        raise ValueError(f"{value!r} is not a number in any range")
    return int((exact * per).to_integral_value())
