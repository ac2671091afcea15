"""Turn two readings into the energy between them, or into a gap with its reason.

Counters are subtracted; without a counter, power is integrated over the driver's own samples. A
counter that was reset gives what it counted since; one that jumped gives a gap.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import msgspec

from joulebook.core.energy.idle import is_at_rest
from joulebook.core.energy.power import MAX_HOLE_NS, counted_uj, drawn_uj, max_power_mw
from joulebook.core.energy.readings import (
    Break,
    InstanceUse,
    Meter,
    PowerSample,
    ProcessUse,
    Reading,
)
from joulebook.core.evidence import Gap, Method, Remainder
from joulebook.units import NS_PER_MS, NS_PER_S, PJ_PER_UJ

PLAUSIBLE_LAG_NS = 500 * NS_PER_MS
"""A counter advances in steps: a reading may contain the energy of this much more time."""

UPTIME_SLACK_NS = 2 * NS_PER_S
"""Drivers report their uptime in whole seconds."""


class Calibration(msgspec.Struct, frozen=True):
    """How what a meter reads is put right: `gain` (in millionths) x power + `offset`.

    `uncertainty_ppm` is the error that is left, in millionths; `source` says who measured it.
    """

    gain_ppm: int = 1_000_000
    offset_mw: int = 0
    uncertainty_ppm: int = 50_000
    source: str = ""


class Interval(msgspec.Struct, frozen=True, gc=False):
    """The energy of one meter in `[t0, t1)`, integer microjoules, and how it is known.

    Attributes:
        idle: Whether the device did no work in it (`core/energy/idle.py`).
        outage: Whether the daemon was down.
        remainder: Set if the energy is known, but not when it was consumed, so that it cannot
            be attributed.

    """

    meter: Meter
    t0_ns: int
    t1_ns: int
    energy_uj: int
    method: Method
    idle: bool = False
    outage: bool = False
    remainder: Remainder | None = None
    processes: tuple[ProcessUse, ...] = ()
    instances: tuple[InstanceUse, ...] | None = None
    """The MIG instances present at either end; `None` if not queried."""
    unread: bool = False
    """The device cannot be read: only its held time is known, not its energy."""
    charged: bool = False
    """Its held time was charged already, while it could not be read."""
    before: tuple[ProcessUse, ...] = ()
    """The processes of the last list before it (`processes` are those of the next)."""
    calibration_uj: int = 0
    """The part of the energy that calibration added to what was read (may be below zero)."""
    calibration: Calibration | None = None
    tensor_ns: int = 0
    tensor_known_ns: int = 0
    """Time x activity of the tensor cores, and the time for which that is known."""

    @property
    def duration_ns(self) -> int:
        """How long it is."""
        return self.t1_ns - self.t0_ns

    def until_uj(self, t_ns: int) -> int:
        """Energy from `t0` to `t_ns`, evenly spread; its differences add up exactly."""
        return self.energy_uj * (t_ns - self.t0_ns) // (self.t1_ns - self.t0_ns)

    def cut(self, t0_ns: int, t1_ns: int) -> Interval:
        """Return the part in `[t0, t1)`, which must lie inside the interval."""
        if (t0_ns, t1_ns) == (self.t0_ns, self.t1_ns):
            return self
        energy_uj = self.until_uj(t1_ns) - self.until_uj(t0_ns)
        whole_ns, added_uj = self.t1_ns - self.t0_ns, self.calibration_uj
        if added_uj:
            until_uj = added_uj * (t1_ns - self.t0_ns) // whole_ns
            added_uj = until_uj - added_uj * (t0_ns - self.t0_ns) // whole_ns
        return msgspec.structs.replace(
            self,
            t0_ns=t0_ns,
            t1_ns=t1_ns,
            energy_uj=energy_uj,
            calibration_uj=added_uj,
            tensor_ns=self.tensor_ns * (t1_ns - t0_ns) // whole_ns,
            tensor_known_ns=self.tensor_known_ns * (t1_ns - t0_ns) // whole_ns,
        )


def judge(before: Reading, now: Reading) -> Break | None:
    """Judge what happened to the counter between two readings; `None` if undecided.

    A drop or a jump is certain at once only if the driver's uptime or the boot id proves a reset.
    Without proof it may be one bad answer, and the next reading decides.
    """
    if before.energy_uj is None or now.energy_uj is None:
        return Break.NONE
    if before.epoch != now.epoch:
        return Break.REBOOT if _plausible(now.energy_uj, _lifetime_ns(before, now), now) else None
    if has_restarted(before, now):
        return Break.RESET if _plausible(now.energy_uj, _lifetime_ns(before, now), now) else None
    if now.wrap_uj is not None and _burnable_uj(now.t_ns - before.t_ns, now) >= now.wrap_uj:
        return Break.WRAPPED
    delta_uj = now.energy_uj - before.energy_uj
    if delta_uj < 0 and now.wrap_uj is not None:
        delta_uj += now.wrap_uj
    if delta_uj < 0 or not _plausible(delta_uj, now.t_ns - before.t_ns, now):
        return None
    return Break.NONE


def confirm(before: Reading, suspect: Reading) -> Break:
    """Return what a drop or a jump was, once the next reading has confirmed it."""
    assert before.energy_uj is not None and suspect.energy_uj is not None
    fell = suspect.energy_uj < before.energy_uj or before.epoch != suspect.epoch
    if fell and _plausible(suspect.energy_uj, _lifetime_ns(before, suspect), suspect):
        return Break.REBOOT if before.epoch != suspect.epoch else Break.RESET
    return Break.IMPLAUSIBLE


def between(before: Reading, now: Reading) -> tuple[Interval | Gap, ...]:
    """Return the intervals and gaps between two readings, in order and without overlap.

    `now.breaks` must have been judged. Gaps and intervals together span `[before, now)`, but
    for energy of unknown time after a reset, which stands beside its gap.
    """
    if now.breaks is Break.STALLED:
        return (_by_power(before, now),)
    if now.energy_uj is None or before.energy_uj is None:
        return _integrate(before, now)
    meter, t0, t1 = now.meter, before.t_ns, now.t_ns
    if now.breaks in (Break.IMPLAUSIBLE, Break.WRAPPED):
        return (Gap(meter, t0, t1, now.breaks.value),)
    if now.breaks is Break.NONE:
        return (_counted(before, now, t0, counted_uj(before, now) or 0),)
    reason = now.breaks.value
    if now.uptime_ns is not None:
        born = min(max(t1 - now.uptime_ns, t0 + 1), t1 - 1)
        return (Gap(meter, t0, born, reason), _counted(before, now, born, now.energy_uj))
    since = _counted(before, now, t0, now.energy_uj)
    remainder = Remainder.DAEMON_DOWN if now.after_outage else Remainder.COUNTER_RESET
    return (Gap(meter, t0, t1, reason), msgspec.structs.replace(since, remainder=remainder))


def unread(before: Reading, now: Reading, gap: Gap) -> Interval:
    """Return a gap as an interval without energy: held time is charged all the same."""
    interval = _interval(before, now, gap.t0_ns, gap.t1_ns, 0, Method.INTEGRATED)
    return msgspec.structs.replace(interval, idle=False, unread=True)


def energy_uj(parts: Sequence[Interval | Gap]) -> int:
    """Return the energy that is known of what `between` gave."""
    return sum(part.energy_uj for part in parts if isinstance(part, Interval))


def known_instances(
    before: tuple[InstanceUse, ...] | None, now: tuple[InstanceUse, ...] | None
) -> tuple[InstanceUse, ...] | None:
    """Return the instances of two looks: those of the later, and those that were gone by then.

    How busy an instance was before it was destroyed is unknown.
    """
    if before is None or now is None:
        return now
    there = {each.uuid for each in now}
    gone = (each._replace(active_ppm=None) for each in before if each.uuid not in there)
    return (*now, *gone)


def _counted(before: Reading, now: Reading, t0_ns: int, delta_uj: int) -> Interval:
    return _interval(before, now, t0_ns, now.t_ns, delta_uj, Method.COUNTER)


def _by_power(before: Reading, now: Reading) -> Interval | Gap:
    drawn = drawn_uj(before, now)
    if drawn is None:
        return Gap(now.meter, before.t_ns, now.t_ns, now.breaks.value)
    return _interval(before, now, before.t_ns, now.t_ns, drawn, Method.INTEGRATED)


def _interval(
    before: Reading, now: Reading, t0_ns: int, t1_ns: int, energy_uj: int, method: Method
) -> Interval:
    duration_ns, ppm = t1_ns - t0_ns, now.tensor_ppm
    return Interval(
        now.meter,
        t0_ns,
        t1_ns,
        energy_uj,
        Method.MODELLED if now.modelled else method,
        idle=is_at_rest(before, now),
        outage=now.after_outage,
        processes=now.processes or (),
        instances=known_instances(before.instances, now.instances),
        tensor_ns=duration_ns * (ppm or 0) // 1_000_000,
        tensor_known_ns=0 if ppm is None else duration_ns,
    )


def _burnable_uj(duration_ns: int, now: Reading) -> int:
    return max_power_mw(now) * duration_ns // PJ_PER_UJ


def _plausible(delta_uj: int, duration_ns: int, now: Reading) -> bool:
    return delta_uj <= _burnable_uj(duration_ns + PLAUSIBLE_LAG_NS, now)


def has_restarted(before: Reading, now: Reading) -> bool:
    """Return whether the boot id or the driver's uptime proves a counter reset."""
    if before.epoch != now.epoch:
        return True
    if now.uptime_ns is None:
        return False
    born_ns, before_ns = now.t_ns - now.uptime_ns, before.t_ns
    if before.uptime_ns is None:
        return born_ns > before_ns + UPTIME_SLACK_NS
    # Begun since, and later than it had begun: a suspend that uptime leaves out is not the latter.
    is_later = born_ns - (before_ns - before.uptime_ns) > UPTIME_SLACK_NS
    return now.uptime_ns < before.uptime_ns or (is_later and born_ns >= before_ns)


def _lifetime_ns(before: Reading, now: Reading) -> int:
    """Return the longest time that a counter reset after `before` can have counted."""
    longest = now.t_ns - before.t_ns
    if now.uptime_ns is None:
        return longest
    alive = now.uptime_ns + UPTIME_SLACK_NS
    # Node time is short where the clock was wrong at boot; what the driver says is not.
    return alive if before.epoch != now.epoch else min(longest, alive)


def _integrate(before: Reading, now: Reading) -> tuple[Interval | Gap, ...]:
    """Integrate the power samples by trapezoids; holes longer than `MAX_HOLE_NS` are gaps."""
    points = _points(before, now)
    if points is None:
        return (Gap(now.meter, before.t_ns, now.t_ns, "power_unknown"),)
    parts: list[Interval | Gap] = []
    start, twice_pj = points[0].t_ns, 0
    for a, b in pairwise(points):
        if b.t_ns - a.t_ns <= (now.hole_ns or MAX_HOLE_NS):
            twice_pj += (a.power_mw + b.power_mw) * (b.t_ns - a.t_ns)
            continue
        if a.t_ns > start:
            parts.append(_integrated(before, now, start, a.t_ns, twice_pj))
        parts.append(Gap(now.meter, a.t_ns, b.t_ns, "power_unknown"))
        start, twice_pj = b.t_ns, 0
    if now.t_ns > start:
        parts.append(_integrated(before, now, start, now.t_ns, twice_pj))
    return tuple(parts)


def _points(before: Reading, now: Reading) -> list[PowerSample] | None:
    """Return the power over `[before, now]`: ends and samples between; `None` if unknown.

    Both ends use the newest sample, so that adjacent intervals agree on the power between them.
    """
    most_mw = max_power_mw(now)
    inside = [
        s for s in now.samples if before.t_ns < s.t_ns < now.t_ns and 0 <= s.power_mw <= most_mw
    ]
    last_mw = inside[-1].power_mw if inside else now.power_mw
    first_mw = before.samples[-1].power_mw if before.samples else before.power_mw
    if first_mw is None and inside:
        first_mw = inside[0].power_mw
    if first_mw is None or last_mw is None:
        return None
    return [PowerSample(before.t_ns, first_mw), *inside, PowerSample(now.t_ns, last_mw)]


def _integrated(before: Reading, now: Reading, t0_ns: int, t1_ns: int, twice_pj: int) -> Interval:
    energy_uj = twice_pj // (2 * PJ_PER_UJ)
    return _interval(before, now, t0_ns, t1_ns, energy_uj, Method.INTEGRATED)
