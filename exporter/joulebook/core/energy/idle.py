"""Decide what is idle, from the facts that sensors report. No other module does.

A device is *at rest* between two polls if it did no work: its utilization was 0 at both, and no
process had SM time between them. A process that sleeps on it does no work. If a device does not
report utilization, it is at rest if no process was on it at either poll.

An interval at rest is *idle* if its energy is not far above the device's idle floor (short work
between two polls shows in its energy only). The floor is learned from idle intervals.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

from joulebook.core.energy.readings import Component, ProcessUse, Reading
from joulebook.core.workloads import INFRASTRUCTURE
from joulebook.units import MW_PER_W, NS_PER_S, PJ_PER_UJ

LEARN_NS = NS_PER_S // 2
"""An interval must last this long to teach the idle floor."""

STEPS_NS = NS_PER_S // 5
"""A shorter interval may contain the energy of two more counter steps than its time accounts
for.
"""

LEARNING = 16
"""Each idle interval moves the floor by one part in this many of the difference."""

YOUNG_NS = 5 * NS_PER_S
"""For this long the floor is the mean of everything it was learned from: the first interval may
lack one or two counter steps, and be far too low. The last moment before work is left out: it may
contain the start of that work, which utilization reports late.
"""

FAR_PER_CENT = 25
FAR_MW = 10 * MW_PER_W
"""More than this above the floor, in percent or in power, is far above it."""

SETTLED_NS = 300 * NS_PER_S
STEADY_PER_CENT = 5
"""A device that rests this long and this steadily gets a new floor: a sleeping process keeps it in
a higher power state.
"""


class Stretch(Protocol):
    """The part of an interval that this module needs."""

    @property
    def duration_ns(self) -> int:
        """How long it is."""

    @property
    def energy_uj(self) -> int:
        """Its energy."""

    @property
    def idle(self) -> bool:
        """Whether the device was at rest in it."""


class Floor(NamedTuple):
    """The idle floor of a device, and the state of learning it.

    Attributes:
        idle_mw: The floor (`None`: not learned yet).
        rest_mw: The power of a steady rest above the floor; while the floor is young, what it was
            before the last stretch.
        rest_ns: How long it has rested like that; below 0: the floor is young, and was learned from
            this much time.

    """

    idle_mw: int | None = None
    rest_mw: int = 0
    rest_ns: int = 0


def is_at_rest(before: Reading, now: Reading) -> bool:
    """Return whether the device did no work between two readings, as far as it reports."""
    worked = any(process.sm_time_ns for process in _users(now))
    return _rests(before) and _rests(now) and not worked


def _rests(reading: Reading) -> bool:
    if reading.busy is not None:
        return not reading.busy
    asked = reading.processes is not None and reading.meter.component is Component.GPU
    active = any(each.active_ppm for each in reading.instances or ())
    return asked and not any(_users(reading)) and not active


def _users(reading: Reading) -> Iterator[ProcessUse]:
    """Return the processes on a device that do not serve everyone."""
    return (each for each in reading.processes or () if each.workload != INFRASTRUCTURE)


def is_idle(stretch: Stretch, floor: Floor) -> bool:
    """Return whether a stretch at rest is idle: its energy is not far above the floor."""
    if not stretch.idle or floor.idle_mw is None:
        return stretch.idle
    most_mw = floor.idle_mw + max(floor.idle_mw * FAR_PER_CENT // 100, FAR_MW)
    slack_ns = STEPS_NS if stretch.duration_ns < LEARN_NS else 0
    return stretch.energy_uj * PJ_PER_UJ <= most_mw * (stretch.duration_ns + slack_ns)


def learnt(floor: Floor, stretches: Iterable[Stretch]) -> Floor:
    """Return the floor after these stretches: a slow mean over those that are near it, or below.

    Not the lowest: a counter that steps only ten times a second makes single intervals look up to a
    tenth too low, and one would be enough. Nor a mean by time, in which the last moment before work
    is detected would count for too much while little is known.
    """
    for stretch in stretches:
        if not stretch.idle:
            before_mw = floor.rest_mw if floor.rest_ns < 0 else 0
            floor = Floor(before_mw or floor.idle_mw, rest_ns=min(floor.rest_ns, 0))
            continue
        if stretch.duration_ns < LEARN_NS:
            continue
        mean_mw = _mean_mw(stretch)
        known_mw = mean_mw if floor.idle_mw is None else floor.idle_mw
        if floor.idle_mw is None or floor.rest_ns < 0:
            age_ns = stretch.duration_ns - floor.rest_ns
            young_mw = known_mw + (mean_mw - known_mw) * stretch.duration_ns // age_ns
            is_young = age_ns < YOUNG_NS
            before_mw = floor.idle_mw or 0
            floor = Floor(young_mw, before_mw, -age_ns) if is_young else Floor(young_mw)
            continue
        if mean_mw * 100 <= known_mw * (100 + STEADY_PER_CENT):
            floor = Floor(known_mw + (mean_mw - known_mw) // LEARNING)
            continue
        steady = abs(mean_mw - floor.rest_mw) * 100 <= floor.rest_mw * STEADY_PER_CENT
        rest_ns = stretch.duration_ns + (floor.rest_ns if steady else 0)
        floor = Floor(floor.idle_mw, floor.rest_mw if steady else mean_mw, rest_ns)
        if rest_ns >= SETTLED_NS:
            floor = Floor(floor.rest_mw)
    return floor


def _mean_mw(stretch: Stretch) -> int:
    return stretch.energy_uj * PJ_PER_UJ // stretch.duration_ns
