"""Snapshots of the host: CPU and memory used by each workload and the whole node.

They are kept as long as energy of their time is still to be booked: after a crash, the kernel's own
counters then show who used the CPU meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from joulebook.core.workloads import WorkloadId

IDLE_MILLI = 100
IDLE_PER_MILLE = 5
"""A node with less than 0.1 + 0.5 % of its cores at work is idle (the daemon itself is work)."""

KEPT = 1024
"""The most snapshots kept while a meter has no readings: the oldest, and the newest."""


# The order of its fields is the format of the ledger on disk: new ones go last.
class Use(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What one workload has used up to a snapshot.

    Attributes:
        cpu_ns: CPU time since it began.
        memory_bytes: Resident memory now, without page cache.
        cores_milli: Its allocation in thousandths of a logical CPU (0: unknown).
        since_ns: When it began (0: unknown).

    """

    workload: WorkloadId
    cpu_ns: int
    memory_bytes: int = 0
    cores_milli: int = 0
    since_ns: int = 0


# The order of its fields is the format of the ledger on disk: new ones go last.
class HostSnapshot(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Who has used what of the host at one instant.

    Attributes:
        cores: Logical CPUs.
        busy_ns: CPU time of the whole node since boot.
        resident_bytes: Memory in use, without page cache.
        installed_bytes: Installed memory.

    """

    t_ns: int
    cores: int = 0
    busy_ns: int = 0
    resident_bytes: int = 0
    installed_bytes: int = 0
    uses: tuple[Use, ...] = ()


def is_busy(known: Mapping[int, HostSnapshot], news: Sequence[HostSnapshot]) -> bool | None:
    """Return whether the node was busy from the last known snapshot to the newest one."""
    if not known or not news:
        return None
    before, now = known[max(known)], max(news, key=lambda snapshot: snapshot.t_ns)
    idle_milli = IDLE_MILLI + now.cores * IDLE_PER_MILLE
    return 1000 * (now.busy_ns - before.busy_ns) > idle_milli * (now.t_ns - before.t_ns)


def kept(
    known: Mapping[int, HostSnapshot], news: Iterable[HostSnapshot], needed_ns: int
) -> Mapping[int, HostSnapshot]:
    """Return the snapshots by time, as far back as energy is still to be booked.

    That is, from the last one at or before `needed_ns`. The mapping keeps its identity if nothing
    changes.
    """
    found = dict(sorted(known.items()))
    for snapshot in sorted(news, key=lambda snapshot: snapshot.t_ns):
        if not found or snapshot.t_ns > next(reversed(found)):
            found[snapshot.t_ns] = snapshot
    times = list(found)
    times = times[max((i for i, t_ns in enumerate(times) if t_ns <= needed_ns), default=0) :]
    if len(times) > KEPT:
        times = [times[0], *times[1 - KEPT :]]
    if len(times) == len(known) == len(found):
        return known
    return {t_ns: found[t_ns] for t_ns in times}
