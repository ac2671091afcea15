"""When a counter moved: the times of a meter's own ticks, inferred from the readings.

A GPU's energy counter does not flow, it steps every 20-100 ms; a reading shows the value of the
last step, up to a step old. At a boundary between two workloads that is worth up to 100 ms of one
of them. So a boundary is followed by a burst of readings a few milliseconds apart, which see the
counter step; a step that was seen is an exact point (time, energy) of the energy curve, and the
step before it lies one period earlier. Between such points the curve is taken as straight, so
that the step which holds the boundary is split by time.

Only times move here; energies are the counter's own, and no total depends on this file.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import msgspec

from joulebook.core.readings import Break, Reading
from joulebook.units import NS_PER_MS

SHARP_NS = 15 * NS_PER_MS
"""A step seen between two readings at most this far apart is taken as seen."""

STALE_NS = 500 * NS_PER_MS
"""A counter that shows the same value for longer is at rest, not between two steps."""

SHORTEST_TICK_NS = 5 * NS_PER_MS
LEARNING = 8
"""The learnt period moves by one part in this many towards each new observation."""


class Knot(msgspec.Struct, frozen=True, gc=False):
    """A point of the energy curve. `index` is the reading it comes from, `sharp` if seen."""

    reading: Reading
    index: int
    sharp: bool


def knots(base: Reading, pending: Sequence[Reading], tick_ns: int) -> tuple[list[Knot], int]:
    """The points of the energy curve after `base`, and the counter's period as now known.

    `base` is a point already (its time is final). `tick_ns` is the period learnt so far (0: none).
    Repeated values within a step are dropped; what they said of processes moves to the next point.
    """
    points = _changes(base, pending)
    tick_ns = _learn(points, tick_ns)
    if tick_ns:
        points = _backdate(base, pending, points, tick_ns)
    return points, tick_ns


def _changes(base: Reading, pending: Sequence[Reading]) -> list[Knot]:
    points: list[Knot] = []
    before, since_ns = base, base.t_ns
    for index, reading in enumerate(pending):
        plain = reading.breaks is Break.NONE and not reading.after_outage
        same = plain and reading.energy_uj is not None and reading.energy_uj == before.energy_uj
        if same and reading.t_ns - since_ns <= STALE_NS:
            before = reading
            continue
        width_ns = reading.t_ns - before.t_ns
        sharp = plain and not same and reading.energy_uj is not None and width_ns <= SHARP_NS
        if sharp:
            edge_ns = reading.t_ns - width_ns // 2
            points.append(Knot(msgspec.structs.replace(reading, t_ns=edge_ns), index, sharp=True))
        else:
            points.append(Knot(reading, index, sharp=False))
        before, since_ns = reading, reading.t_ns
    return points


def _learn(points: Sequence[Knot], tick_ns: int) -> int:
    """Follow the period by the distance of steps that were seen one after the other."""
    for a, b in pairwise(points):
        distance_ns = b.reading.t_ns - a.reading.t_ns
        if a.sharp and b.sharp and SHORTEST_TICK_NS <= distance_ns <= STALE_NS:
            tick_ns += (distance_ns - tick_ns) // LEARNING if tick_ns else distance_ns
    return tick_ns


def _backdate(
    base: Reading, pending: Sequence[Reading], points: Sequence[Knot], tick_ns: int
) -> list[Knot]:
    """Move the step before a seen one, itself unseen, to one period before it."""
    moved = list(points)
    for i in range(len(points) - 1):
        knot, after = points[i], points[i + 1]
        if knot.sharp or not after.sharp or knot.reading.breaks or knot.reading.after_outage:
            continue
        before_ns = pending[knot.index - 1].t_ns if knot.index else base.t_ns
        if i:
            before_ns = max(before_ns, moved[i - 1].reading.t_ns)
        t_ns = min(max(after.reading.t_ns - tick_ns, before_ns + 1), knot.reading.t_ns)
        moved[i] = Knot(msgspec.structs.replace(knot.reading, t_ns=t_ns), knot.index, sharp=False)
    return moved
