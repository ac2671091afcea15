"""Who was on a device between two process lists that do not tell: the one who was at both.

A list tells who is on a device at an instant. Of an outage of the daemon, and of programs that
live shorter than the time between two lists, nobody tells. What is known then is who was there
before and after; if that is one workload and nobody else, it was there in between too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from joulebook.core.attribution.claims import Claim
from joulebook.core.attribution.spans import covering
from joulebook.core.energy.intervals import Interval
from joulebook.core.energy.readings import ProcessUse, Reading
from joulebook.core.workloads import INFRASTRUCTURE, WorkloadId


def around(
    interval: Interval, later: Iterable[Reading], claims: Iterable[Claim]
) -> WorkloadId | None:
    """Return who alone was on a device before and after an interval that nobody held.

    Through an outage one and the same process must have been. `later` are the readings after the
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
    """Leave out who is gone, and who serves everybody."""
    return (p for p in processes if not p.ended and p.workload != INFRASTRUCTURE)


def _owner(process: ProcessUse, t_ns: int) -> WorkloadId | None:
    span = covering(process.marks, t_ns, t_ns)
    return process.workload if span is None else span.workload


def _key(process: ProcessUse) -> tuple[int, int]:
    return process.pid, process.started_ns
