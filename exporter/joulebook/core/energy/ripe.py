"""Take the intervals of a meter that are due to be booked, and judge which are idle."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

import msgspec

from joulebook.core.energy import idle
from joulebook.core.energy.counter_steps import Knot, bent, knots, learnt
from joulebook.core.energy.intervals import (
    Interval,
    between,
    energy_uj,
    known_instances,
    unread,
)
from joulebook.core.energy.meter import MeterState
from joulebook.core.energy.readings import Component, ProcessUse, Reading
from joulebook.core.evidence import Gap, Method
from joulebook.units import NS_PER_S, PJ_PER_UJ

UNREAD_NS = 60 * NS_PER_S
"""A device that cannot be read for this long is charged by held time alone."""

BURST_STEPS = 3
"""The steps of a burst that wait for one another (a faster counter must not wait for ever)."""


def ripe(
    state: MeterState, horizon_ns: int, edges: Iterable[int] = ()
) -> tuple[MeterState, tuple[Interval, ...]]:
    """Take out the intervals before `horizon_ns`, as far as readings bound them.

    The new `base` is the last point of the energy curve before the horizon. `booked_uj` grows by
    the energy of the intervals: `read_uj - booked_uj` is what is still pending.
    """
    if not state.pending or state.pending[0].t_ns > horizon_ns:
        return _unread(state, horizon_ns)
    points = knots(state.base, state.pending, state.tick_ns)
    due = _due(points, state.pending, horizon_ns)
    if not due:
        return state, ()
    taken = points[due - 1].index
    # Only the counter of held-back readings is in doubt, not their processes.
    reported = _told(state.base, (*state.pending, *state.held))
    lists = [r for r in (state.base, *state.pending) if r.processes is not None]
    intervals: list[Interval] = []
    base = state.base
    for knot in bent(state.base, points, edges):
        if knot.index > taken:
            break
        reading = msgspec.structs.replace(
            knot.reading,
            busy=reported[knot.index].busy,
            processes=reported[knot.index].processes,
            instances=reported[knot.index].instances,
            tensor_ppm=reported[knot.index].tensor_ppm,
        )
        before = _last_listed(lists, base.t_ns)
        parts = [
            unread(base, reading, part) if isinstance(part, Gap) else part
            for part in between(base, reading)
            if isinstance(part, Interval) or state.meter.component is Component.GPU
        ]
        intervals.extend(msgspec.structs.replace(part, before=before) for part in parts)
        base = reading
    state = msgspec.structs.replace(
        state,
        base=msgspec.structs.replace(
            base, samples=base.samples[-1:], processes=_last_listed(lists, base.t_ns)
        ),
        pending=state.pending[taken + 1 :],
        booked_uj=state.booked_uj + energy_uj(intervals),
        tick_ns=learnt(points[:due], state.tick_ns),
    )
    return _judged(state, list(_charged(state, intervals)))


def _unread(state: MeterState, horizon_ns: int) -> tuple[MeterState, tuple[Interval, ...]]:
    """Return the held time of a device that cannot be read, minute by minute, without energy."""
    t0_ns = max(state.base.t_ns, state.unread_ns)
    is_gone = state.gap_reason and not state.pending and not state.held
    if not is_gone or state.meter.component is not Component.GPU or horizon_ns - t0_ns < UNREAD_NS:
        return state, ()
    state = msgspec.structs.replace(state, unread_ns=horizon_ns)
    return state, (Interval(state.meter, t0_ns, horizon_ns, 0, Method.INTEGRATED, unread=True),)


def _charged(state: MeterState, intervals: Iterable[Interval]) -> Iterator[Interval]:
    """Return the intervals, marked where held time was charged already."""
    for each in intervals:
        charged_ns = min(max(each.t0_ns, state.unread_ns), each.t1_ns)
        if each.t0_ns < charged_ns and not each.unread:
            before = each.cut(each.t0_ns, charged_ns)
            yield msgspec.structs.replace(before, charged=True)
        if charged_ns < each.t1_ns:
            yield each.cut(charged_ns, each.t1_ns)


def _judged(
    state: MeterState, intervals: Sequence[Interval]
) -> tuple[MeterState, tuple[Interval, ...]]:
    """Judge which intervals are idle by the known floor, and learn the floor from them."""
    floor = idle.Floor(state.idle_mw, state.rest_mw, state.rest_ns)
    judged = tuple(
        msgspec.structs.replace(each, idle=False)
        if each.idle and not idle.is_idle(each, floor) and each.meter.component is Component.GPU
        else each
        for each in intervals
    )
    known = (each for each in intervals if each.remainder is None and not each.unread)
    floor = idle.learnt(floor, known)
    state = msgspec.structs.replace(
        state, idle_mw=floor.idle_mw, rest_mw=floor.rest_mw, rest_ns=floor.rest_ns
    )
    return state, judged


def _last_listed(lists: Sequence[Reading], t_ns: int) -> tuple[ProcessUse, ...]:
    """Return who was on the device at the last reading up to `t_ns` with processes."""
    return next((r.processes or () for r in reversed(lists) if r.t_ns <= t_ns), ())


def drawn_mw(state: MeterState) -> int | None:
    """Return the mean power over the seconds read but not booked yet; `None`: unknown."""
    readings = () if state.gap_reason else (state.base, *state.pending)
    parts = [part for pair in pairwise(readings) for part in between(*pair)]
    duration_ns = sum(part.t1_ns - part.t0_ns for part in parts)
    if not duration_ns or any(isinstance(part, Gap) for part in parts):
        return None
    return energy_uj(parts) * PJ_PER_UJ // duration_ns


def _due(points: Sequence[Knot], pending: Sequence[Reading], horizon_ns: int) -> int:
    """Return how many of the points to book.

    Not up to a burst of observed steps, nor into one: the step that contains its boundary is split
    by the rates before and after it.
    """
    due = sum(pending[knot.index].t_ns <= horizon_ns for knot in points)
    for _ in range(BURST_STEPS):
        if 0 < due < len(points) and points[due].sharp:
            due -= 1
    return due


def _told(base: Reading, pending: Sequence[Reading]) -> list[Reading]:
    """Return what is known of the activity at each pending reading.

    A burst does not query it, and process lists are read less often: the next reading with a list
    represents the time before it. If there is none yet, the device counts as busy as it last was;
    but who was on it then says nothing about now. MIG instances that disappeared between two
    readings count as present until the second.
    """
    reported: list[Reading] = []
    busy, processes, instances, tensor_ppm = None, None, None, None
    for reading in reversed(pending):
        busy = busy if reading.busy is None else reading.busy
        processes = processes if reading.processes is None else reading.processes
        instances = instances if reading.instances is None else reading.instances
        tensor_ppm = tensor_ppm if reading.tensor_ppm is None else reading.tensor_ppm
        reported.append(
            msgspec.structs.replace(
                reading,
                busy=base.busy if busy is None else busy,
                processes=processes,
                instances=instances,
                tensor_ppm=tensor_ppm,
            )
        )
    reported.reverse()
    seen = base.instances
    for i, reading in enumerate(pending):
        if reading.instances is not None:
            seen = reading.instances
        elif seen is not None:
            there = known_instances(seen, reported[i].instances or ())
            reported[i] = msgspec.structs.replace(reported[i], instances=there)
    return reported
