"""What a card is cut into, and how busy each piece was: MIG devices and GPM.

Energy and power exist for the whole card only (an exporter that repeats them on every instance
multiplies them: dcgm-exporter issue 317). What tells the instances apart is GPM, NVIDIA's GPU
performance monitoring, on Hopper and newer: two samples of one GPU instance, more than 100 ms
apart, give the share of its multiprocessors that were at work between them (`nvml.h`, "GPM
functions"). Its samples lie in buffers of the driver's, which are freed here.
"""

from __future__ import annotations

import ctypes
import math
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

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
from joulebook.units import NS_PER_MS

SM_UTIL = 2
"""The GPM metric "percentage of SMs that were busy" (NVML_GPM_METRIC_SM_UTIL)."""

APART_NS = 100 * NS_PER_MS
"""Samples must be further apart than this."""

_GONE = frozenset({meaning(NOT_FOUND).reason, meaning(INVALID_ARGUMENT).reason})

MOST_SLICES = 64
"""No card of 2026 is cut into more than seven."""

IMPLAUSIBLE = "gpm_implausible"
_HIGHEST_PERCENT = 101.0
PPM = 1_000_000


class GpmMetric(ctypes.Structure):
    """`nvmlGpmMetric_t`."""

    _fields_ = (
        ("id", ctypes.c_uint),
        ("code", ctypes.c_int),
        ("value", ctypes.c_double),
        ("names", ctypes.c_char_p * 3),
    )


class GpmMetricsGet(ctypes.Structure):
    """`nvmlGpmMetricsGet_t` with room for one metric: the driver looks at `count` of them only."""

    _fields_ = (
        ("version", ctypes.c_uint),
        ("count", ctypes.c_uint),
        ("first", ctypes.c_void_p),
        ("second", ctypes.c_void_p),
        ("metric", GpmMetric),
    )


class _Sample(NamedTuple):
    """The last GPM sample of a GPU instance, and what the two last ones came to."""

    buffer: ctypes.c_void_p
    t_ns: int
    active_ppm: int | None


class Mig:
    """The MIG devices of one card. `close` it before the session ends."""

    def __init__(self, session: Session, handle: object) -> None:
        self._handle = handle
        slices = int(maybe(pynvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0)
        self.slices: int = slices if slices <= MOST_SLICES else 0
        self.has_gpm = _has_gpm(handle)
        self._sample_get = session.function("nvmlGpmMigSampleGet")
        self._metrics_get = session.function("nvmlGpmMetricsGet")
        self._gi_slices: dict[int, int] = {}
        self._samples: dict[int, _Sample] = {}
        self._spare: ctypes.c_void_p | None = None
        self.refused: Counter[str] = Counter()

    def instances(self) -> tuple[Instance, ...]:
        """What the card is cut into now, asked again each time: instances come and go.

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
        """How busy each instance was since the last time, as far as the driver says.

        The driver tells it of a GPU instance. Where that has slices of no compute instance, all
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
        last = self._samples.get(gi)
        if last is not None and now_ns - last.t_ns <= APART_NS:
            return last.active_ppm
        buffer, self._spare = self._spare or _allocated(), None
        if buffer is None or self._sample_get is None:
            return None
        if self._sample_get(self._handle, ctypes.c_uint(gi), buffer):
            self._spare = buffer
            return None
        active_ppm = None
        if last is not None:
            active_ppm = self._between(last.buffer, buffer)
            self._spare = last.buffer
        self._samples[gi] = _Sample(buffer, now_ns, active_ppm)
        return active_ppm

    def _between(self, first: ctypes.c_void_p, second: ctypes.c_void_p) -> int | None:
        if self._metrics_get is None:
            return None
        asked = GpmMetricsGet(1, 1, first, second, GpmMetric(SM_UTIL))
        if self._metrics_get(ctypes.byref(asked)) or asked.metric.code:
            return None
        percent = float(asked.metric.value)
        if not math.isfinite(percent) or not 0 <= percent <= _HIGHEST_PERCENT:
            self.refused[IMPLAUSIBLE] += 1
            return None
        return round(min(percent, 100.0) * (PPM // 100))

    def _keep(self, wanted: Iterable[int]) -> None:
        """Free the samples of GPU instances that are gone; their ids may be given again."""
        for gi in self._samples.keys() - set(wanted):
            _free(self._samples.pop(gi).buffer)

    def close(self) -> None:
        """Free all samples."""
        self._keep(())
        if self._spare is not None:
            _free(self._spare)
            self._spare = None


def _has_gpm(handle: object) -> bool:
    support = maybe(pynvml.nvmlGpmQueryDeviceSupport, handle)
    return support is not None and bool(support.isSupportedDevice)


def _allocated() -> ctypes.c_void_p | None:
    buffer = maybe(pynvml.nvmlGpmSampleAlloc)
    return None if buffer is None else ctypes.cast(buffer, ctypes.c_void_p)


def _free(buffer: ctypes.c_void_p) -> None:
    maybe(pynvml.nvmlGpmSampleFree, buffer)
