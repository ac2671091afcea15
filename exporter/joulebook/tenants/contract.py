"""What a tenant source is: the one place where it is learnt who holds which device.

A source watches (inotify, kubelet, ...) in threads of its own and keeps its view in memory;
`holdings` only hands that view over and must return in well under a millisecond.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from joulebook.core.devices import DeviceStatus
from joulebook.core.tenancy import Claim, Evidence
from joulebook.core.workloads import WorkloadFacts, WorkloadId

Boundary = Callable[[int], None]
"""Called from any thread with the node time at which a workload may have begun or ended."""


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


class TenantSource(Protocol):
    """A source of claims. `name` is the value of the label `source`: `slurm`, `kubernetes`."""

    name: str

    def open(self, boundary: Boundary) -> None:
        """Scan what is there and begin to watch."""

    def holdings(self, devices: Sequence[DeviceStatus]) -> Holdings:
        """The view as it stands; `devices` maps indexes, minors and UUIDs to meters."""

    def settled(self) -> None:
        """What the last `holdings` handed over is durable: event files may be deleted."""

    def identify(self, pid: int) -> WorkloadId | None:
        """Whose process that is, from its cgroup; `None` if it is not one of this source's."""

    def close(self) -> None:
        """Stop watching."""
