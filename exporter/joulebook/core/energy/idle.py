"""What is idle: the one place that decides it, from the facts that sensors report.

A device is *at rest* between two looks if it did no work: its utilization was 0 at both, and no
process had time on its multiprocessors between them. A process that sleeps on it does no work.
Where a device does not tell its utilization, it is at rest if nobody was on it at either look.

An interval at rest is *idle* if its energy is not far above the device's idle floor (short work
between two looks is seen by its energy alone). The floor is learnt from idle intervals.
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
"""A shorter interval may hold the energy of two counter steps more than its time accounts for."""

LEARNING = 16
"""Each idle interval moves the floor by one part in this many of the difference."""

YOUNG_NS = 5 * NS_PER_S
"""So long the floor is the mean of all that it was learnt from: the first interval may lack a step
of the counter or two, and be far too low. The last moment before work is left out of it: it may
hold the beginning of that work, which utilization reports late."""

FAR_PER_CENT = 25
FAR_MW = 10 * MW_PER_W
"""More than this above the floor, in percent or in power, is far above it."""

SETTLED_NS = 300 * NS_PER_S
STEADY_PER_CENT = 5
"""A device that stays at rest for so long, and so steady, has a new floor: a process keeps it in a
higher power state, and sleeps."""


class Stretch(Protocol):
    """What is asked of an interval here."""

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
    """The idle floor of a device, and how it is being learnt.

    Attributes:
        idle_mw: The floor (`None`: not learnt).
        rest_mw: The power of a steady rest above the floor; while the floor is young, what it was
            before the last stretch.
        rest_ns: For how long it rests like that; below 0: the floor is young, and was learnt from
            so much time.

    """

    idle_mw: int | None = None
    rest_mw: int = 0
    rest_ns: int = 0


def is_at_rest(before: Reading, now: Reading) -> bool:
    """Whether the device did no work between two readings, as far as it tells."""
    worked = any(process.sm_time_ns for process in _users(now))
    return _rests(before) and _rests(now) and not worked


def _rests(reading: Reading) -> bool:
    if reading.busy is not None:
        return not reading.busy
    asked = reading.processes is not None and reading.meter.component is Component.GPU
    active = any(each.active_ppm for each in reading.instances or ())
    return asked and not any(_users(reading)) and not active


def _users(reading: Reading) -> Iterator[ProcessUse]:
    """The processes on a device that do not serve everybody."""
    return (each for each in reading.processes or () if each.workload != INFRASTRUCTURE)


def is_idle(stretch: Stretch, floor: Floor) -> bool:
    """Whether a stretch at rest is idle: its energy is not far above the floor."""
    if not stretch.idle or floor.idle_mw is None:
        return stretch.idle
    most_mw = floor.idle_mw + max(floor.idle_mw * FAR_PER_CENT // 100, FAR_MW)
    slack_ns = STEPS_NS if stretch.duration_ns < LEARN_NS else 0
    return stretch.energy_uj * PJ_PER_UJ <= most_mw * (stretch.duration_ns + slack_ns)


def learnt(floor: Floor, stretches: Iterable[Stretch]) -> Floor:
    """The floor after these stretches: a slow mean over those that are near it, or below.

    Not the lowest: a counter that steps only ten times a second makes single intervals look up to
    a tenth too low, and once would be for ever. Nor a mean by time, in which the last moment before
    work is seen would count for much while little is known.
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
