"""The state of one meter: record readings, count gaps, prepare intervals for booking.

Nothing here knows about workloads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import msgspec

from joulebook.core.energy import audit as auditing
from joulebook.core.energy.audit import Audit, Verdict
from joulebook.core.energy.intervals import (
    between,
    confirm,
    energy_uj,
    has_restarted,
    judge,
)
from joulebook.core.energy.power import (
    MAX_HOLE_NS,
    STALL_NS,
    counted_uj,
    drawn_uj,
    is_believable,
    is_doubted,
    is_off,
    is_sound,
    summed,
)
from joulebook.core.energy.readings import Break, Failure, Meter, ProcessUse, Reading, joined
from joulebook.core.evidence import Gap
from joulebook.units import NS_PER_S


# The order of its fields is the format of the ledger on disk: new ones go last.
class MeterState(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One meter: the booked edge, and what was read after it.

    Attributes:
        base: The reading up to which all energy is booked.
        pending: The readings after it, in order.
        booked_uj: Energy booked since the ledger began, calibrated.
        read_uj: That plus what is pending.
        suspect: An implausible reading that the next one will confirm or refute.
        gap_to_ns: The instant up to which lost time is counted.
        gap_from_ns: Start of the open gap.
        gap_reason: Its reason (`""`: no gap is open).
        tick_ns: The learned period of the counter (0: not yet).
        idle_mw: Mean power while idle.
        resumed: Set from a restart of the daemon until the meter is read again.

    """

    meter: Meter
    base: Reading
    pending: tuple[Reading, ...] = ()
    suspect: Reading | None = None
    booked_uj: int = 0
    read_uj: int = 0
    gap_to_ns: int = 0
    gap_from_ns: int = 0
    gap_reason: str = ""
    tick_ns: int = 0
    idle_mw: int | None = None
    resumed: bool = False
    held: tuple[Reading, ...] = ()
    """Readings since the counter is in doubt, which wait until it is trusted or given up."""
    stalled: bool = False
    """Whether the counter was given up: its energy is booked by power."""
    rest_mw: int = 0
    rest_ns: int = 0
    """How long it has been steadily at rest above the floor."""
    audit: Audit = Audit()
    """Its counter against its power."""
    unread_ns: int = 0
    """Up to when held time was charged while the device could not be read (0: never)."""
    listed: tuple[ProcessUse, ...] | None = None
    """The processes of readings that did not count, reported with the next one that does."""
    calibration_uj: int = 0
    """What calibration added to the booked energy; pending energy is as read."""
    shown_uj: int = 0
    """The most ever exposed, if calibration reduced it."""

    @property
    def last(self) -> Reading:
        """The newest reading that counts."""
        return self.pending[-1] if self.pending else self.base

    @property
    def newest(self) -> Reading:
        """The newest reading."""
        return self.held[-1] if self.held else self.last

    @property
    def exposed_uj(self) -> int:
        """Its counter as it is shown: what is read, and never less than before."""
        return max(self.read_uj, self.shown_uj)

    @property
    def shown_audit(self) -> Audit:
        """Return the audit for display: a counter that was given up is wrong."""
        if self.stalled:
            return Audit(verdict=Verdict.WRONG)
        return msgspec.structs.replace(self.audit, since=None, blocks=(), learnt={})


IMPLAUSIBLE = "implausible"
DAEMON_DOWN = "daemon_down"
ENERGY_UNREAD = "energy_unread"

FALLBACK_NS = 60 * NS_PER_S
"""A counter that is missing for this long is given up, and power is integrated instead."""


class MeterUpdate(NamedTuple):
    """A meter after readings were recorded, the gaps that ended, and time newly lost by reason."""

    state: MeterState
    gaps: tuple[Gap, ...] = ()
    lost_ns: tuple[tuple[str, int], ...] = ()

    def then(self, step: Callable[..., MeterUpdate], *more: Reading) -> MeterUpdate:
        """This, and what the next step gave."""
        later = step(self.state, *more)
        return MeterUpdate(later.state, self.gaps + later.gaps, self.lost_ns + later.lost_ns)


def begin(reading: Reading) -> MeterState:
    """Start a meter at its first reading; its counter's past value is not booked."""
    return MeterState(reading.meter, summed(reading, reading), gap_to_ns=reading.t_ns)


def begin_unread(failure: Failure) -> MeterState:
    """Start the meter of a device that is present but could not be read so far."""
    nothing = Reading(failure.meter, failure.t_ns)
    return MeterState(
        failure.meter,
        nothing,
        gap_to_ns=failure.t_ns,
        gap_from_ns=failure.t_ns,
        gap_reason=failure.reason,
    )


def resume(state: MeterState) -> MeterState:
    """Resume a meter after the daemon was down."""
    return msgspec.structs.replace(state, resumed=True)


def take(state: MeterState, reading: Reading) -> MeterUpdate:
    """Record one reading. One that is not newer than the last changes nothing."""
    if reading.t_ns <= state.newest.t_ns:
        return MeterUpdate(state)
    taken = _take(state, reading)
    if taken.state.newest.t_ns < reading.t_ns:
        return taken._replace(state=_note(taken.state, reading))
    return taken


def _note(state: MeterState, reading: Reading) -> MeterState:
    """Keep the processes of a reading that does not count."""
    return msgspec.structs.replace(state, listed=joined(state.listed, reading.processes))


def _take(state: MeterState, reading: Reading) -> MeterUpdate:
    if not is_believable(reading):
        return lose(state, Failure(reading.meter, reading.t_ns, IMPLAUSIBLE))
    reading = summed(state.newest, reading, anew=state.resumed)
    if reading.power_mw is None and _is_unread(state.last, reading):
        return lose(state, Failure(reading.meter, reading.t_ns, ENERGY_UNREAD))
    if state.stalled and not has_restarted(state.last, reading):
        return _by_power(state, reading)
    if is_doubted(state.last, reading):
        return _doubt(state, reading)
    if state.held:
        return _believe(state, reading)
    return _count(state, reading)


def _doubt(state: MeterState, reading: Reading) -> MeterUpdate:
    """Hold a reading back; if the counter is in doubt for too long, use power instead."""
    waits_ns = reading.t_ns - state.last.t_ns
    taken = MeterUpdate(msgspec.structs.replace(state, held=(*state.held, reading)))
    if reading.energy_uj is None:
        taken = lose(taken.state, Failure(reading.meter, reading.t_ns, ENERGY_UNREAD))
    return taken if waits_ns < FALLBACK_NS else taken.then(_give_up, reading)


def _give_up(state: MeterState, reading: Reading) -> MeterUpdate:
    """Book by power from the last step of the counter on, until `reading` at most."""
    taken = MeterUpdate(msgspec.structs.replace(state, held=(), stalled=True))
    for each in state.held:
        taken = _noted(taken.then(_by_power, each), each, reading)
    return taken


def _noted(taken: MeterUpdate, each: Reading, newest: Reading) -> MeterUpdate:
    """Keep the processes of a held reading that did not count; `take` does so for the newest."""
    if each is newest or taken.state.newest.t_ns >= each.t_ns:
        return taken
    return taken._replace(state=_note(taken.state, each))


def _believe(state: MeterState, reading: Reading) -> MeterUpdate:
    """Trust the counter again: it advances, or power is no longer known.

    Its own steps count if it caught up, or never stood still (power may be a mean of the last
    second). Otherwise it lost what was consumed meanwhile, and power gives that.
    """
    held, late = state.held, state.held[-1]
    stood_long = reading.t_ns - state.last.t_ns >= STALL_NS
    if not has_restarted(state.last, reading):
        late = msgspec.structs.replace(reading, t_ns=late.t_ns, by_power=late.by_power)
    if stood_long and drawn_uj(state.last, reading) is None and is_doubted(state.last, late):
        return _give_up(state, reading).then(_take, reading)
    stood_still = any(each.energy_uj == state.last.energy_uj for each in held)
    if stood_long and stood_still and is_off(state.last, reading):
        return _give_up(state, reading).then(_take, reading)
    taken = MeterUpdate(msgspec.structs.replace(state, held=()))
    for each in (*held, reading):
        if each is reading or each.energy_uj not in {None, taken.state.last.energy_uj}:
            taken = taken.then(_count, each)
        taken = _noted(taken, each, reading)
    return taken


def _by_power(state: MeterState, reading: Reading) -> MeterUpdate:
    """Book the time up to a reading by power; from there on the counter may be sound again."""
    last = state.last
    known, now = last.by_power, reading.by_power
    if known is not None and now is not None and now.t_ns <= known.t_ns:
        if reading.t_ns - known.t_ns <= MAX_HOLE_NS:
            return MeterUpdate(state)  # it has no power: the next one does
        return lose(state, Failure(reading.meter, reading.t_ns, Break.STALLED.value))
    taken = _append(state, msgspec.structs.replace(reading, breaks=Break.STALLED))
    stalled = not is_sound(last, reading)
    return taken._replace(state=msgspec.structs.replace(taken.state, stalled=stalled))


def _count(state: MeterState, reading: Reading) -> MeterUpdate:
    """Record a reading whose counter is trusted, as far as it is plausible."""
    last = state.last
    state = msgspec.structs.replace(state, stalled=False) if state.stalled else state
    verdict = judge(last, reading)
    suspect = state.suspect
    if verdict is not None:
        return _append(state, msgspec.structs.replace(reading, breaks=verdict))
    if suspect is None or reading.t_ns <= suspect.t_ns or judge(suspect, reading) is None:
        if reading.power_mw is not None and reading.t_ns - last.t_ns >= FALLBACK_NS:
            # It is no jump but a wrong unit: that time is lost, and power tells from here on.
            taken = _append(state, msgspec.structs.replace(reading, breaks=Break.IMPLAUSIBLE))
            return taken._replace(state=msgspec.structs.replace(taken.state, stalled=True))
        failed = lose(state, Failure(reading.meter, reading.t_ns, IMPLAUSIBLE))
        suspect = msgspec.structs.replace(reading, processes=None, after_outage=state.resumed)
        return failed._replace(state=msgspec.structs.replace(failed.state, suspect=suspect))
    jump = msgspec.structs.replace(suspect, breaks=confirm(last, suspect))
    # An outage since then is one before this reading, not before the jump.
    is_due = state.resumed and not suspect.after_outage
    jumped = _append(msgspec.structs.replace(state, resumed=suspect.after_outage), jump)
    state = msgspec.structs.replace(jumped.state, resumed=is_due)
    return jumped._replace(state=state).then(_take, reading)


def lose(state: MeterState, failure: Failure) -> MeterUpdate:
    """Record that the meter was not read: the time since it was last read or lost is lost."""
    if failure.t_ns <= state.gap_to_ns:
        return MeterUpdate(state)
    gaps: tuple[Gap, ...] = ()
    begun_ns = state.gap_from_ns
    if state.gap_reason != failure.reason:
        gaps = _open_gap(state)
        begun_ns = state.gap_to_ns
    lost_ns = failure.t_ns - state.gap_to_ns
    state = msgspec.structs.replace(
        state, gap_to_ns=failure.t_ns, gap_from_ns=begun_ns, gap_reason=failure.reason
    )
    return MeterUpdate(state, gaps, ((failure.reason, lost_ns),))


def _is_unread(last: Reading, reading: Reading) -> bool:
    """Return whether a meter with a counter did not report it; the next reading makes up for it."""
    if last.energy_uj is None or reading.energy_uj is not None:
        return False
    return reading.t_ns - last.t_ns <= FALLBACK_NS and reading.epoch == last.epoch


def _append(state: MeterState, reading: Reading) -> MeterUpdate:
    """Add a judged reading; it ends an open gap, and may bring one of its own."""
    reading = msgspec.structs.replace(
        reading,
        after_outage=state.resumed,
        processes=joined(state.listed, reading.processes),
    )
    lost: list[tuple[str, int]] = []
    gaps: list[Gap] = []
    # A hung call may end with a reading made before the hang was noticed.
    watched_ns = max(reading.t_ns, state.gap_to_ns)
    if state.gap_reason:
        lost.append((state.gap_reason, watched_ns - state.gap_to_ns))
        gaps.append(Gap(state.meter, state.gap_from_ns, watched_ns, state.gap_reason))
    elif reading.after_outage:
        lost.append((DAEMON_DOWN, watched_ns - state.gap_to_ns))
        gaps.append(Gap(state.meter, state.gap_to_ns, reading.t_ns, DAEMON_DOWN))
    counted = counted_uj(state.last, reading) if reading.breaks is Break.NONE else None
    parts = between(state.last, reading) if counted is None else ()
    audited = auditing.interrupted(state.audit, anew=reading.breaks is not Break.NONE)
    if reading.breaks is Break.NONE and not reading.after_outage:
        audited = auditing.heard(state.audit, reading)
    if not gaps:
        for part in parts:
            if isinstance(part, Gap):
                lost.append((part.reason, part.t1_ns - part.t0_ns))
                gaps.append(part)
    return MeterUpdate(
        msgspec.structs.replace(
            state,
            pending=(*state.pending, reading),
            suspect=None,
            read_uj=state.read_uj + (counted or energy_uj(parts)),
            gap_to_ns=watched_ns,
            gap_from_ns=0,
            gap_reason="",
            resumed=False,
            audit=audited,
            listed=None,
        ),
        tuple(gaps),
        tuple(lost),
    )


def _open_gap(state: MeterState) -> tuple[Gap, ...]:
    if not state.gap_reason:
        return ()
    return (Gap(state.meter, state.gap_from_ns, state.gap_to_ns, state.gap_reason),)
