"""Whose the processes on the devices are, asked of the tenant sources once in a process's life."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import msgspec

from joulebook.core.devices import DeviceStatus
from joulebook.core.readings import Meter, ProcessUse, Reading
from joulebook.core.workloads import WorkloadId
from joulebook.tenants.contract import INFRASTRUCTURE, TenantSource

MAX_OWNERS = 10_000
"""Processes whose owner is remembered; far more than run on one node's GPUs at a time."""

ASK_AGAIN_S = 1.0
"""A process that nobody knew may be known a moment later, when its pod has a name."""


class Owners:
    """Asks the sources in their order; the first that answers has the last word.

    There are none where pids are not those of the host: another process has that number here.
    """

    def __init__(
        self, tenants: Sequence[TenantSource], now_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._tenants = tenants
        self._now_s = now_s
        self._known: dict[tuple[int, int], tuple[WorkloadId | None, float]] = {}
        self._seen: set[tuple[int, int]] = set()
        self._served: dict[Meter, bool] = {}

    def look(self) -> None:
        """New process lists come: forget those that were in none of the last ones."""
        if self._seen:
            self._known = {key: known for key, known in self._known.items() if key in self._seen}
            self._seen = set()

    def identified(self, reading: Reading, status: DeviceStatus | None = None) -> Reading:
        """The reading, with the owner of each process; those that serve everybody left out.

        A device that has only such on it, and shows no use, is not busy.
        """
        if reading.processes is not None:
            owned = [(process, self._owner(process)) for process in reading.processes]
            kept = tuple(
                msgspec.structs.replace(process, workload=owner)
                for process, owner in owned
                if owner != INFRASTRUCTURE
            )
            self._served[reading.meter] = bool(owned) and not kept
            reading = msgspec.structs.replace(reading, processes=kept)
        unused = status is not None and status.values.get("utilization_ratio") == 0
        if reading.busy and unused and self._served.get(reading.meter):
            reading = msgspec.structs.replace(reading, busy=False)
        return reading

    def _owner(self, process: ProcessUse) -> WorkloadId | None:
        key = (process.pid, process.started_ns)
        self._seen.add(key)
        now = self._now_s()
        owner, asked_s = self._known.get(key, (None, now - ASK_AGAIN_S))
        if owner is None and now - asked_s >= ASK_AGAIN_S:
            if len(self._known) >= MAX_OWNERS:
                self._known.clear()
            found = (source.identify(process.pid) for source in self._tenants)
            owner = next((each for each in found if each is not None), None)
            self._known[key] = (owner, now)
        return owner
