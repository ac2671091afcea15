"""The contract of workload sources, which find out who holds which device.

A source watches (inotify, kubelet, ...) in its own threads and keeps its view in memory; `holdings`
only returns that view, in well under a millisecond. What it cannot use it rejects (`Rejections`).
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import msgspec

from joulebook.core.attribution.claims import Claim, Evidence
from joulebook.core.energy.readings import DeviceStatus
from joulebook.core.workloads import WorkloadFacts, WorkloadId
from joulebook.errors import InputError
from joulebook.log import LogOnce


def joined(claims: Iterable[Claim]) -> tuple[Claim, ...]:
    """Claims of one key as one: the instances of a card that one job was given together."""
    by_key: dict[object, Claim] = {}
    for claim in claims:
        before = by_key.get(claim.key)
        if before is not None and before.of == claim.of:
            parts = min(before.parts + claim.parts, claim.of)
            by_key[claim.key] = msgspec.structs.replace(claim, parts=parts)
        else:
            by_key[claim.key] = claim
    return tuple(by_key.values())


Boundary = Callable[[int], None]
"""Called from any thread with the node time at which a workload may have begun or ended."""


class Before(msgspec.Struct, frozen=True, gc=False):
    """What the ledger held when the daemon stopped.

    A source continues from it: holders in the ledger continue as long as they are provably alive,
    whichever source is unavailable meanwhile.

    Attributes:
        facts: Of every workload that had not ended.
        claims: Those that were open.
        last_ns: Node time of its last tick; 0: there was none.

    """

    facts: tuple[WorkloadFacts, ...] = ()
    claims: tuple[Claim, ...] = ()
    last_ns: int = 0


NOTHING_HELD = Before()
"""For a ledger that is new, or has no holders."""


class Holdings(msgspec.Struct, frozen=True, gc=False):
    """All that a source knows now.

    `claims` lists every open claim, and every closed one until `settled` was called after it was
    handed over. `complete` names the evidence for which the list is whole: an open claim of such
    evidence that is on record but not listed here has ended unseen. A source that has not
    scanned yet, or cannot at the moment, leaves its evidence out. `facts` lists workloads
    about which anything is new. `rejected` counts refused inputs by reason since the start.
    """

    claims: tuple[Claim, ...] = ()
    complete: frozenset[Evidence] = frozenset()
    facts: tuple[WorkloadFacts, ...] = ()
    rejected: dict[str, int] = {}


class UsageGroup(msgspec.Struct, frozen=True, gc=False):
    """Where the kernel counts what one workload uses of the host.

    `directories` are the workload's own cgroup directories, none below another: one on cgroup v2,
    one in each hierarchy on v1 (those without counters of CPU time or memory do no harm).
    `outlived_by` says how many levels up the directory is that is still there after it (0: none
    is): what that one has counted tells the CPU time of a workload that came and went unseen.
    `pids` are processes of the workload outside these directories. `cores_milli` is what it was
    allocated, in thousandths of a logical CPU (0: read from the cgroup where that says it).
    `since_ns` is the node time of its begin (0: not known). `workload` is `None` while nobody
    knows whose the directories are.
    """

    workload: WorkloadId | None
    directories: tuple[Path, ...] = ()
    outlived_by: int = 0
    pids: tuple[int, ...] = ()
    cores_milli: int = 0
    since_ns: int = 0


@runtime_checkable
class CountsHostUsage(Protocol):
    """A workload source that also knows where the kernel counts CPU time and memory.

    Such a source has its workloads booked with the energy of CPU and DRAM too.
    """

    def groups(self) -> Sequence[UsageGroup]:
        """One group for each workload that runs now, from memory, as fast as `holdings`.

        Called at each tick and, from any thread, right after each boundary.
        """


class WorkloadSource(Protocol):
    """A source of claims. `name` is the value of the label `source`: `slurm`, `kubernetes`."""

    name: str

    def open(self, boundary: Boundary, before: Before = NOTHING_HELD) -> None:
        """Scan what exists and start watching; `before` is from the ledger."""

    def holdings(self, devices: Sequence[DeviceStatus]) -> Holdings:
        """Return the current view; `devices` maps indexes, minors and UUIDs to meters."""

    def settled(self) -> None:
        """Confirm that the last `holdings` are durable: event files may be deleted."""

    def identify(self, pid: int) -> WorkloadId | None:
        """Return the owner of a process by its cgroup; `None` if it is not this source's.

        `INFRASTRUCTURE` if it never belongs to a workload: then no other source is queried, and the
        process is ignored.
        """

    def close(self) -> None:
        """Stop watching."""


FAULT = "fault"
"""The reason under which errors of our own are counted."""

_LOG = logging.getLogger(__name__)


class Rejections:
    """Call it with an error that was caught."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._once = LogOnce(_LOG)

    def __call__(self, error: InputError) -> None:
        """Count it, and log it unless the same was logged (its message names file or job)."""
        self.count(error.reason)
        said = "rejected: %s (%s; the same again: only counted)"
        self._once.failed(error.reason, said, error, error.reason, reason=str(error))

    def count(self, reason: str) -> None:
        """Count an input that is logged elsewhere."""
        with self._lock:
            self._counts[reason] += 1

    def fault(self, what: str) -> None:
        """An exception that is a fault of ours, and being handled: count it as `fault`.

        `what` is what failed and its consequence. The traceback is logged once.
        """
        self.count(FAULT)
        self._once.fault(what)

    def counts(self) -> dict[str, int]:
        """Return how many of each reason since the start."""
        with self._lock:
            return dict(self._counts)
