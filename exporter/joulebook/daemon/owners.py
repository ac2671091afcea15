"""Whose the processes on devices are: each tenant source is asked in turn, the first answer counts.

A process is asked about once, as long as it stays on the device, unless nobody knows it yet: a
pod's process may be there before the kubelet tells of the pod.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from joulebook.core.devices import DeviceStatus
from joulebook.core.readings import Meter, ProcessUse, Reading
from joulebook.core.workloads import INFRASTRUCTURE, WorkloadId

Identify = Callable[[int], WorkloadId | None]

MOST = 10_000
"""Processes whose owner is remembered; far more than run on one node's GPUs at a time."""


class Owners:
    """`identify` are the sources' answers to "whose process is that?", the best first.

    None at all where pids are not those of the host: another process has that number here.
    """

    def __init__(self, identify: Sequence[Identify]) -> None:
        self._identify = identify
        self._known: dict[tuple[int, int], WorkloadId] = {}
        self._seen: set[tuple[int, int]] = set()
        self._served: dict[Meter, bool] = {}

    def look(self) -> None:
        """New process lists come: forget those that were in none of the last ones."""
        if self._seen:
            self._known = {key: who for key, who in self._known.items() if key in self._seen}
            self._seen = set()

    def named(self, reading: Reading, status: DeviceStatus | None = None) -> Reading:
        """The reading, each process with its owner, and none that is infrastructure.

        A device that has only infrastructure on it, and shows no use, is not busy.
        """
        if reading.processes is not None:
            owned = [self._owned(process) for process in reading.processes]
            kept = tuple(each for each in owned if each.workload != INFRASTRUCTURE)
            self._served[reading.meter] = bool(owned) and not kept
            reading = msgspec.structs.replace(reading, processes=kept)
        unused = status is not None and status.values.get("utilization_ratio") == 0
        if reading.busy and unused and self._served.get(reading.meter):
            reading = msgspec.structs.replace(reading, busy=False)
        return reading

    def _owned(self, process: ProcessUse) -> ProcessUse:
        key = (process.pid, process.started_ns)
        self._seen.add(key)
        owner = self._known.get(key)
        if owner is None:
            found = (identify(process.pid) for identify in self._identify)
            owner = next((each for each in found if each is not None), None)
            if owner is not None and len(self._known) < MOST:
                self._known[key] = owner
        return msgspec.structs.replace(process, workload=owner)
