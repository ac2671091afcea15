"""GPM: how busy each part of the silicon was between two samples (Hopper and newer).

NVIDIA's GPU performance monitoring keeps out no profiler, and needs no rights of an administrator:
two samples, more than 100 ms apart, give the mean of each metric between them (`nvml.h`, "GPM
functions"). The samples lie in buffers of the driver's, which are freed here.
"""

from __future__ import annotations

import ctypes
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import pynvml

from joulebook.node.sensors.nvidia.api import Session
from joulebook.node.sensors.nvidia.errors import maybe
from joulebook.units import NS_PER_MS

APART_NS = 100 * NS_PER_MS
"""Samples must be further apart than this."""

IMPLAUSIBLE = "gpm_implausible"
_HIGHEST_PERCENT = 101.0
_MOST_MIB_PER_S = 1e8
"""No link of 2026 moves 100 TB in a second."""

_FIRST_OF_TRAFFIC = 20
"""Metrics from here on are MiB/s, those before percent."""


class GpmMetric(ctypes.Structure):
    """`nvmlGpmMetric_t`."""

    _fields_ = (
        ("id", ctypes.c_uint),
        ("code", ctypes.c_int),
        ("value", ctypes.c_double),
        ("names", ctypes.c_char_p * 3),
    )


def _request(count: int) -> type[ctypes.Structure]:
    """Return `nvmlGpmMetricsGet_t` with room for so many metrics: the driver looks at no more."""
    return type(
        "GpmMetricsGet",
        (ctypes.Structure,),
        {
            "_fields_": (
                ("version", ctypes.c_uint),
                ("count", ctypes.c_uint),
                ("first", ctypes.c_void_p),
                ("second", ctypes.c_void_p),
                ("metrics", GpmMetric * count),
            )
        },
    )


class _Sample(NamedTuple):
    """The last sample, and the metrics of the last two."""

    buffer: ctypes.c_void_p
    t_ns: int
    values: tuple[float | None, ...]


class Gpm:
    """The metrics `ids` of one GPU, or of one instance of it. `close` it before the session ends.

    `take` fills a buffer of the driver's with a sample, and returns an NVML code.
    """

    def __init__(
        self,
        session: Session,
        ids: Sequence[int],
        take: Callable[[ctypes.c_void_p], int],
        refused: Counter[str],
    ) -> None:
        self._ids = tuple(ids)
        self._take = take
        self._refused = refused
        self._metrics_get = session.function("nvmlGpmMetricsGet")
        self._request = _request(len(self._ids))
        self._last: _Sample | None = None
        self._spare: ctypes.c_void_p | None = None

    @property
    def since_ns(self) -> int:
        """When the last sample was taken (0: none was)."""
        return 0 if self._last is None else self._last.t_ns

    def means(self, now_ns: int) -> tuple[float | None, ...]:
        """Return the mean of each metric since the last time; `None` if not reported."""
        last, nothing = self._last, (None,) * len(self._ids)
        if last is not None and now_ns - last.t_ns <= APART_NS:
            return last.values
        buffer, self._spare = self._spare or _allocated(), None
        if buffer is None or self._metrics_get is None or self._take(buffer):
            self._spare = buffer
            return nothing
        values: tuple[float | None, ...] = nothing
        if last is not None:
            values = self._between(last.buffer, buffer)
            self._spare = last.buffer
        self._last = _Sample(buffer, now_ns, values)
        return values

    def _between(self, first: ctypes.c_void_p, second: ctypes.c_void_p) -> tuple[float | None, ...]:
        asked = self._request(version=1, count=len(self._ids), first=first, second=second)
        for metric, id_ in zip(asked.metrics, self._ids, strict=True):
            metric.id = id_
        assert self._metrics_get is not None
        if self._metrics_get(ctypes.byref(asked)):
            return (None,) * len(self._ids)
        return tuple(self._believed(metric) for metric in asked.metrics)

    def _believed(self, metric: GpmMetric) -> float | None:
        if metric.code:
            return None
        is_traffic = metric.id >= _FIRST_OF_TRAFFIC
        value, most = float(metric.value), _MOST_MIB_PER_S if is_traffic else _HIGHEST_PERCENT
        if not math.isfinite(value) or not 0 <= value <= most:
            self._refused[IMPLAUSIBLE] += 1
            return None
        return value if is_traffic else min(value, 100.0)

    def close(self) -> None:
        """Free the samples."""
        for buffer in (self._spare, self._last.buffer if self._last else None):
            if buffer is not None:
                maybe(pynvml.nvmlGpmSampleFree, buffer)
        self._spare, self._last = None, None


def has_gpm(handle: object) -> bool:
    """Whether a GPU has it."""
    support = maybe(pynvml.nvmlGpmQueryDeviceSupport, handle)
    return support is not None and bool(support.isSupportedDevice)


def _allocated() -> ctypes.c_void_p | None:
    buffer = maybe(pynvml.nvmlGpmSampleAlloc)
    return None if buffer is None else ctypes.cast(buffer, ctypes.c_void_p)
