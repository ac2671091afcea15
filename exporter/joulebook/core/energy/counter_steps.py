"""Infer from readings when a meter's counter stepped.

A GPU's energy counter advances in steps every 20-100 ms; a reading shows the value of the last
step, up to a step old. At a boundary between two workloads that is worth up to 100 ms of one of
them. So a boundary is followed by a burst of readings a few milliseconds apart, which observe the
counter step: an observed step is an exact point (time, energy) of the energy curve, and other steps
nearby are whole periods away from it. Between such points the curve is assumed straight, except for
the step that contains a boundary, where it may bend (`bent`).

Of a burst only the readings around a step are kept (`Burst`). Only times, and energy within a step,
move here; no total depends on this module.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from fractions import Fraction
from itertools import pairwise

import msgspec

from joulebook.core.energy.readings import Break, Meter, Reading
from joulebook.units import NS_PER_MS

SHARP_NS = 15 * NS_PER_MS
"""A step between two readings at most this far apart counts as observed."""

STALE_NS = 500 * NS_PER_MS
"""A counter with the same value for longer is at rest, not between two steps."""

MISFIT_NS = 30 * NS_PER_MS
"""How far the unobserved start of a step may be from where it is expected."""

SHORTEST_TICK_NS = 5 * NS_PER_MS

RATE_NS = 1200 * NS_PER_MS
"""The rate before a boundary is averaged over at most this long."""

REACH = 10
"""Over how many periods an unobserved step may be placed from an observed one."""

LEARNING = 8
"""The learned period moves by one part in about this many towards each new observation."""

LEARNING_REACH = 3
"""The most periods between two observed steps to learn from: more might be miscounted."""


class Knot(msgspec.Struct, frozen=True, gc=False):
    """A point of the energy curve. `index` is the reading it comes from, `sharp` if observed."""

    reading: Reading
    index: int
    sharp: bool


def knots(base: Reading, pending: Sequence[Reading], tick_ns: int) -> list[Knot]:
    """Return the points of the energy curve after `base`, one per value of the counter.

    `base` is a point already (its time is final). `tick_ns` is the period learned so far (0: none).
    Repeated values within a step are dropped. The last reading before a break or an outage is a
    point when it was read, too, however early its value was new: the gap begins there.
    """
    points = _changes(base, pending)
    tick_ns = learnt(points, tick_ns)
    points = _placed(base, pending, points, tick_ns) if tick_ns else points
    return [
        point
        for i, point in enumerate(points)
        if not i
        or (point.index, point.reading.t_ns) != (points[i - 1].index, points[i - 1].reading.t_ns)
    ]


def learnt(points: Sequence[Knot], tick_ns: int) -> int:
    """Update the period from observed steps close to one another."""
    for a, b in pairwise(points):
        distance_ns = b.reading.t_ns - a.reading.t_ns
        if not (a.sharp and b.sharp and distance_ns >= SHORTEST_TICK_NS):
            continue
        if not tick_ns:
            tick_ns = distance_ns if distance_ns <= STALE_NS else 0
            continue
        periods = max(_rounded(distance_ns, tick_ns), 1)
        if periods <= LEARNING_REACH:
            tick_ns += (distance_ns - periods * tick_ns) // (periods + LEARNING)
    return tick_ns


def bent(base: Reading, points: Sequence[Knot], edges: Iterable[int]) -> list[Knot]:
    """Add a point at an edge inside a step, if a change of power there fits the count.

    Power changes where jobs do. The step after the edge gives the power after it, so going back
    from the end of the step gives the energy at the edge, whenever the step began. That holds if
    the rest of the step fits the power before it, as far as the step's start is known; otherwise
    power changed elsewhere (a job that starts slowly), and the step stays straight.
    """
    curve: list[Knot] = []
    ordered = sorted(set(edges))
    for i, knot in enumerate(points):
        start = points[i - 1].reading if i else base
        low, high = bisect_right(ordered, start.t_ns), bisect_left(ordered, knot.reading.t_ns)
        if low < high and i + 1 < len(points) and knot.sharp and points[i + 1].sharp:
            since_ns = max(ordered[low - 1] if low else 0, start.t_ns - RATE_NS)
            before = _rate_until(base, points[:i], since_ns)
            after = _slope(knot.reading, points[i + 1].reading)
            bend = _bend(start, knot.reading, ordered[high - 1], before, after)
            if bend is not None:
                curve.append(Knot(bend, knot.index, sharp=False))
        curve.append(knot)
    return curve


def _rate_until(base: Reading, points: Sequence[Knot], since_ns: int) -> Fraction | None:
    """Return the mean rate from `since_ns` to the last point, between observed steps if
    possible.
    """
    known = [Knot(base, -1, sharp=False), *points]
    known = [p for p in known if p.reading.t_ns >= since_ns]
    seen = [p for p in known if p.sharp]
    span = seen if len(seen) > 1 else known
    return _slope(span[0].reading, span[-1].reading) if len(span) > 1 else None


def _changes(base: Reading, pending: Sequence[Reading]) -> list[Knot]:
    points: list[Knot] = []
    before, before_index, since_ns = base, -1, base.t_ns
    for index, reading in enumerate(pending):
        plain = reading.breaks is Break.NONE and not reading.after_outage
        same = plain and reading.energy_uj is not None and reading.energy_uj == before.energy_uj
        if same and reading.t_ns - since_ns <= STALE_NS:
            before, before_index = reading, index
            continue
        counts_on = plain and reading.energy_uj is not None
        if not counts_on and before_index >= 0:
            points.append(Knot(before, before_index, sharp=False))
        width_ns = reading.t_ns - before.t_ns
        counted = reading.energy_uj is not None and before.energy_uj is not None
        if plain and not same and counted and width_ns <= SHARP_NS:
            edge_ns = reading.t_ns - width_ns // 2
            points.append(Knot(msgspec.structs.replace(reading, t_ns=edge_ns), index, sharp=True))
        else:
            points.append(Knot(reading, index, sharp=False))
        before, before_index, since_ns = reading, index, reading.t_ns
    return points


def _rounded(distance_ns: int, tick_ns: int) -> int:
    return (2 * distance_ns + tick_ns) // (2 * tick_ns)


def _placed(
    base: Reading, pending: Sequence[Reading], points: Sequence[Knot], tick_ns: int
) -> list[Knot]:
    """Move each unobserved step to whole periods from an observed one nearby, if any."""
    placed = list(points)
    for i, knot in enumerate(points):
        is_end = i > 0 and points[i - 1].index == knot.index
        if knot.sharp or is_end or knot.reading.breaks or knot.reading.after_outage:
            continue
        before = pending[knot.index - 1] if knot.index else base
        if knot.reading.energy_uj is None or knot.reading.energy_uj == before.energy_uj:
            continue
        t_ns = _on_grid(points, i, tick_ns)
        t_ns = min(max(t_ns, before.t_ns + 1), knot.reading.t_ns)
        moved = msgspec.structs.replace(knot.reading, t_ns=t_ns)
        placed[i] = Knot(moved, knot.index, sharp=False)
    return placed


def _on_grid(points: Sequence[Knot], i: int, tick_ns: int) -> int:
    """Return when the value of point `i` was new, by the nearest observed step."""
    t_ns = points[i].reading.t_ns
    if i + 1 < len(points) and points[i + 1].sharp:
        return points[i + 1].reading.t_ns - tick_ns
    after = next((p.reading.t_ns for p in points[i + 1 :] if p.sharp), None)
    since = next((p.reading.t_ns for p in reversed(points[:i]) if p.sharp), None)
    if after is not None and (since is None or after - t_ns <= t_ns - since):
        periods = -(-(after - t_ns) // tick_ns)
        return after - periods * tick_ns if periods <= REACH else t_ns
    if since is not None:
        periods = (t_ns - since) // tick_ns
        return since + periods * tick_ns if periods <= REACH else t_ns
    return t_ns


def _slope(a: Reading, b: Reading) -> Fraction | None:
    """Return microjoules per nanosecond from one point to the next."""
    if b.breaks or a.energy_uj is None or b.energy_uj is None or b.energy_uj < a.energy_uj:
        return None
    return Fraction(b.energy_uj - a.energy_uj, b.t_ns - a.t_ns)


def _bend(
    start: Reading, end: Reading, edge_ns: int, before: Fraction | None, after: Fraction | None
) -> Reading | None:
    whole = _slope(start, end)
    if before is None or after is None or whole is None:
        return None
    assert start.energy_uj is not None and end.energy_uj is not None
    counted_uj, later_uj = end.energy_uj - start.energy_uj, after * (end.t_ns - edge_ns)
    misfit_uj = counted_uj - later_uj - before * (edge_ns - start.t_ns)
    if abs(misfit_uj) > before * MISFIT_NS:
        return None
    energy_uj = end.energy_uj - min(max(round(later_uj), 0), counted_uj)
    return msgspec.structs.replace(end, t_ns=edge_ns, energy_uj=energy_uj)


PAUSE_NS = 3 * NS_PER_MS
"""Pause between two glances."""

LENGTH_NS = 400 * NS_PER_MS
"""A counter that has not stepped twice in this time is not waited for."""

STEPS = 2


class Burst:
    """The counters of one burst, which began at node time `began_ns`."""

    def __init__(self, began_ns: int) -> None:
        self._until_ns = began_ns + LENGTH_NS
        self._counters: dict[Meter, _Counter] = {}

    def take(self, readings: Iterable[Reading]) -> list[Reading]:
        """Decide which of two consecutive burst readings to keep."""
        kept: list[Reading] = []
        for reading in readings:
            counter = self._counters.get(reading.meter)
            if counter is None:
                self._counters[reading.meter] = _Counter(reading)
                kept.append(reading)
            elif reading.energy_uj != counter.last.energy_uj:
                kept += [counter.last, reading] if counter.last is not counter.kept else [reading]
                counter.last = counter.kept = reading
                counter.steps += 1
            else:
                counter.last = reading
        return kept

    def awaited(self, meters: Iterable[Meter]) -> list[Meter]:
        """Return the meters whose counters have yet to step."""
        counters = self._counters
        return [m for m in meters if m not in counters or counters[m].steps < STEPS]

    def is_over(self, now_ns: int) -> bool:
        """Return whether every counter has stepped twice, or the time is up."""
        return now_ns >= self._until_ns or all(
            counter.steps >= STEPS for counter in self._counters.values()
        )


class _Counter:
    """How often one counter has stepped in this burst, and its last readings."""

    def __init__(self, first: Reading) -> None:
        self.last = self.kept = first
        self.steps = 0
