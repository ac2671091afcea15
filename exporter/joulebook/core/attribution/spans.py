"""Who a process consumes for, and when: active marks, and who was there between two lists.

A mark (`experiment_span`) names an experiment for a process and its children, from entry to exit.
The owner of a listed process therefore depends on the time: its own, or that of the active mark.
Here an interval is cut at the edges of marks, so that in each piece every process has one owner;
`attribution` then splits the energy among owners as usual.

A list of processes shows who is on a device at an instant. It does not cover an outage of the
daemon, or programs that live shorter than the time between two lists. Then only those before and
after are known; if that is one workload alone, it was there in between, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise

import msgspec

from joulebook.core.attribution.claims import Claim
from joulebook.core.energy.intervals import Interval
from joulebook.core.energy.readings import ProcessSpan, ProcessUse, Reading
from joulebook.core.workloads import INFRASTRUCTURE, WorkloadId
from joulebook.units import NS_PER_MS

START_GRAIN_NS = 10 * NS_PER_MS
"""Linux reports the start of a process in hundredths of a second, floored."""

END_GRAIN_NS = 100 * NS_PER_MS
"""For so long after its end, a process may still be listed by a driver."""


def edges(readings: Iterable[Reading]) -> list[int]:
    """Return the instants at which a mark of any process in these readings begins or ends."""
    return [
        t_ns
        for reading in readings
        for process in reading.processes or ()
        for span in process.marks
        for t_ns in (span.t0_ns, span.t1_ns)
        if t_ns is not None
    ]


def pieces(interval: Interval) -> Iterator[Interval]:
    """Cut the interval at the edges of its processes' marks, each with its owner in the piece.

    The pieces span the interval and add up to its energy. In a piece covered by a mark, its process
    counts even if it ended before the list was taken. When it ended is unknown; the device's energy
    is then the mark's rather than unattributed, and no one else's busy time is reduced.
    """
    if not any(process.marks for process in interval.processes):
        yield interval
        return
    inside = {
        t_ns
        for process in interval.processes
        for span in process.marks
        for t_ns in (span.t0_ns, span.t1_ns)
        if t_ns is not None and interval.t0_ns < t_ns < interval.t1_ns
    }
    for t0_ns, t1_ns in pairwise([interval.t0_ns, *sorted(inside), interval.t1_ns]):
        piece = interval.cut(t0_ns, t1_ns)
        yield msgspec.structs.replace(
            piece, processes=tuple(_owned(p, piece) for p in interval.processes)
        )


def _owned(process: ProcessUse, piece: Interval) -> ProcessUse:
    seen_ns = process.started_ns + START_GRAIN_NS
    if any(piece.t1_ns <= span.t0_ns <= seen_ns for span in process.marks):
        # Its start only appears to be just before the mark that it was started under.
        return msgspec.structs.replace(process, ended=True)
    covered = covering(process.marks, piece.t0_ns, piece.t1_ns) or _just_left(process, piece)
    if covered is not None:
        return msgspec.structs.replace(process, workload=covered.workload, ended=False)
    return process


def _just_left(process: ProcessUse, piece: Interval) -> ProcessSpan | None:
    """Return the mark that it was started under, if that has just ended: so it has, too."""
    return next(
        (
            span
            for span in process.marks
            if span.t0_ns <= process.started_ns + START_GRAIN_NS
            and span.t1_ns is not None
            and span.t1_ns <= piece.t0_ns
            and piece.t1_ns <= span.t1_ns + END_GRAIN_NS
        ),
        None,
    )


def covering(marks: Iterable[ProcessSpan], t0_ns: int, t1_ns: int) -> ProcessSpan | None:
    """Return the mark active over `[t0, t1)`; of several the first, which is the innermost."""
    return next(
        (
            span
            for span in marks
            if span.t0_ns <= t0_ns and (span.t1_ns is None or span.t1_ns >= t1_ns)
        ),
        None,
    )


def around(
    interval: Interval, later: Iterable[Reading], claims: Iterable[Claim]
) -> WorkloadId | None:
    """Return who alone was on a device before and after an interval that nobody held.

    Through an outage it must have been one and the same process. `later` are the readings after the
    interval.
    """
    held = any(
        c.t0_ns < interval.t1_ns and (c.t1_ns is None or c.t1_ns > interval.t0_ns) for c in claims
    )
    if held or interval.instances:
        return None
    before = list(there(interval.before))
    after, after_ns = list(there(interval.processes)), interval.t1_ns
    for reading in later:
        if not after and reading.processes and not interval.outage:
            after, after_ns = list(there(reading.processes)), reading.t_ns
    owners = {_owner(process, interval.t0_ns) for process in before}
    if not before or not after or owners != {_owner(process, after_ns) for process in after}:
        return None
    same = {_key(process) for process in before} & {_key(process) for process in after}
    if len(owners) > 1 or (interval.outage and not same):
        return None
    return owners.pop()


def there(processes: Iterable[ProcessUse]) -> Iterator[ProcessUse]:
    """Leave out processes that ended, and those that serve everyone."""
    return (p for p in processes if not p.ended and p.workload != INFRASTRUCTURE)


def _owner(process: ProcessUse, t_ns: int) -> WorkloadId | None:
    span = covering(process.marks, t_ns, t_ns)
    return process.workload if span is None else span.workload


def _key(process: ProcessUse) -> tuple[int, int]:
    return process.pid, process.started_ns
