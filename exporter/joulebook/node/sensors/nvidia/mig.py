"""What a card is cut into, and how busy each piece was: MIG devices and GPM.

Energy and power exist for the whole card only (an exporter that repeats them on every instance
multiplies them: dcgm-exporter issue 317). The instances are distinguished by GPM (`gpm`): the share
of the multiprocessors of each GPU instance that were at work.
"""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Iterable
from functools import partial

import pynvml

from joulebook.core.energy.readings import Instance, InstanceUse
from joulebook.errors import SensorError
from joulebook.node.sensors.nvidia.api import Session
from joulebook.node.sensors.nvidia.errors import (
    INVALID_ARGUMENT,
    NOT_FOUND,
    ask,
    error,
    maybe,
    meaning,
)
from joulebook.node.sensors.nvidia.gpm import Gpm, has_gpm

SM_UTIL = 2
"""The GPM metric "percentage of SMs that were busy" (NVML_GPM_METRIC_SM_UTIL)."""

_GONE = frozenset({meaning(NOT_FOUND).reason, meaning(INVALID_ARGUMENT).reason})

MOST_SLICES = 64
"""No card of 2026 is cut into more than seven."""

PPM = 1_000_000


class Mig:
    """The MIG devices of one card. `close` it before the session ends."""

    def __init__(self, session: Session, handle: object) -> None:
        self._session = session
        self._handle = handle
        slices = int(maybe(pynvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0)
        self.slices: int = slices if slices <= MOST_SLICES else 0
        self.has_gpm = has_gpm(handle)
        self._sample_get = session.function("nvmlGpmMigSampleGet")
        self._gi_slices: dict[int, int] = {}
        self._gpms: dict[int, Gpm] = {}
        self.refused: Counter[str] = Counter()

    def instances(self) -> tuple[Instance, ...]:
        """Return the card's current MIG instances, queried each time, since they come and go.

        Raises `SensorError` if the driver fails as a whole.
        """
        found: list[Instance] = []
        for index in range(self.slices):
            try:
                found.append(self._instance(index))
            except SensorError as e:
                # One that is not there, or is destroyed while it is asked about, is left out.
                if e.reason not in _GONE:
                    raise
        return tuple(found)

    def _instance(self, index: int) -> Instance:
        handle = ask(pynvml.nvmlDeviceGetMigDeviceHandleByIndex, self._handle, index)
        attributes = ask(pynvml.nvmlDeviceGetAttributes_v2, handle)
        if not 0 < attributes.computeInstanceSliceCount <= MOST_SLICES:
            self.refused["mig_implausible"] += 1
            raise error(NOT_FOUND, "nvmlDeviceGetAttributes")
        gi = int(ask(pynvml.nvmlDeviceGetGpuInstanceId, handle))
        self._gi_slices[gi] = int(attributes.gpuInstanceSliceCount)
        return Instance(
            str(ask(pynvml.nvmlDeviceGetUUID, handle)),
            gi,
            int(ask(pynvml.nvmlDeviceGetComputeInstanceId, handle)),
            int(attributes.computeInstanceSliceCount),
            str(maybe(pynvml.nvmlDeviceGetName, handle) or "").rpartition(" ")[2],
        )

    def used(self, instances: Iterable[Instance], now_ns: int) -> tuple[InstanceUse, ...]:
        """Return how busy each instance was since the last time, as far as reported.

        The driver reports it per GPU instance. If that has slices without a compute instance, all
        of its work was done on the others.
        """
        instances = tuple(instances)
        of = max(self.slices, sum(each.slices for each in instances))
        taken: Counter[int] = Counter()
        for each in instances:
            taken[each.gi] += each.slices
        self._keep(taken)
        active: dict[int, int | None] = {}
        for gi, slices in taken.items() if self.has_gpm else ():
            active_ppm = self._active_ppm(gi, now_ns)
            if active_ppm is not None and slices:
                all_ppm = active_ppm * self._gi_slices.get(gi, slices) // slices
                active_ppm = min(all_ppm, PPM)
            active[gi] = active_ppm
        return tuple(
            InstanceUse(each.uuid, each.slices, of, active.get(each.gi)) for each in instances
        )

    def _active_ppm(self, gi: int, now_ns: int) -> int | None:
        gpm = self._gpms.get(gi)
        if gpm is None:
            if self._sample_get is None:
                return None
            take = partial(self._sample_get, self._handle, ctypes.c_uint(gi))
            gpm = self._gpms[gi] = Gpm(self._session, (SM_UTIL,), take, self.refused)
        (percent,) = gpm.means(now_ns)
        return None if percent is None else round(percent * (PPM // 100))

    def _keep(self, wanted: Iterable[int]) -> None:
        """Free the samples of GPU instances that are gone; their ids may be given again."""
        for gi in self._gpms.keys() - set(wanted):
            self._gpms.pop(gi).close()

    def close(self) -> None:
        """Free all samples."""
        self._keep(())
