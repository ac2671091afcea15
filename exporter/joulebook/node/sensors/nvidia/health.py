"""Read a GPU's health and the activity of its units, at a slower rate.

One call for all field values and three for link and state every five seconds, two for GPM with
each list of processes; Xids come as events, and cost nothing while none happens. What a GPU does
not tell is left out, never 0.
"""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import Final, NamedTuple

from joulebook.node.sensors.nvidia.api import Session, Telemetry
from joulebook.node.sensors.nvidia.fields import GPU_SCOPE, MAX_TEMPERATURE_C, FieldValues
from joulebook.node.sensors.nvidia.gpm import Gpm, has_gpm
from joulebook.units import MW_PER_W, NS_PER_S

Count = tuple[str, str]
"""The name of a counter (`joulebook_gpu_NAME_total`), and the value of its label."""

_COUNTS: Final[Mapping[int, Count]] = {
    5: ("ecc_errors", "corrected"),
    6: ("ecc_errors", "uncorrected"),
    142: ("remapped_rows", "corrected"),
    143: ("remapped_rows", "uncorrected"),
    29: ("retired_pages", "corrected"),
    30: ("retired_pages", "uncorrected"),
    38: ("nvlink_errors", "crc_flit"),
    45: ("nvlink_errors", "crc_data"),
    52: ("nvlink_errors", "replay"),
    59: ("nvlink_errors", "recovery"),
    94: ("pcie_replay", ""),
}
"""By field id (`NVML_FI_DEV_*`): what is counted over the life of the card, or since a reload."""

_GAUGES: Final[Mapping[int, str]] = {
    144: "remapped_rows_pending",
    145: "row_remapping_failed",
    31: "retired_pages_pending",
}
"""Those that are 0 or 1."""

_REMAPPED, _PAGES_PENDING = ("remapped_rows", "uncorrected"), 31

_MEMORY_TEMPERATURE = 82

_RATIOS: Final[Mapping[int, str]] = {
    1: "graphics_active_ratio",
    2: "sm_active_ratio",
    3: "sm_occupancy_ratio",
    5: "tensor_active_ratio",
    10: "dram_active_ratio",
    11: "fp64_active_ratio",
    12: "fp32_active_ratio",
    13: "fp16_active_ratio",
}
_TRAFFIC: Final[Mapping[int, Count]] = {
    20: ("pcie_bytes", "transmit"),
    21: ("pcie_bytes", "receive"),
    61: ("nvlink_bytes", "transmit"),
    60: ("nvlink_bytes", "receive"),
}
"""By id of a GPM metric."""

_MOST_COUNT = 1 << 62
_MIB = 1 << 20
HERTZ_PER_MHZ = 1_000_000

SELDOM_NS = 9 * NS_PER_S
"""Time between reads of errors, links and states."""

_MOST_STATE, _MOST_GENERATION, _MOST_LANES = 15, 9, 64


class GpuHealth(NamedTuple):
    """The values reported: gauges and counters by name, and the mean tensor activity since the
    last.
    """

    values: Mapping[str, float] = {}
    counts: Mapping[Count, int] = {}
    tensor_ppm: int | None = None


class HealthReader:
    """One GPU. `close` it before the session ends. Implausible values are counted in `refused`."""

    def __init__(self, session: Session, handle: object, refused: Counter[str]) -> None:
        self._refused = refused
        self._u32 = ctypes.c_uint()
        ids = (*_COUNTS, *_GAUGES, _MEMORY_TEMPERATURE)
        function = session.function("nvmlDeviceGetFieldValues")
        self._fields = FieldValues(function, handle, [(each, GPU_SCOPE) for each in ids])
        self._calls = [
            (name, most, session.prepare((function_name,), handle, ctypes.byref(self._u32)))
            for name, most, function_name in (
                ("performance_state", _MOST_STATE, "nvmlDeviceGetPerformanceState"),
                ("pcie_generation", _MOST_GENERATION, "nvmlDeviceGetCurrPcieLinkGeneration"),
                ("pcie_lanes", _MOST_LANES, "nvmlDeviceGetCurrPcieLinkWidth"),
            )
        ]
        self._gpm: Gpm | None = None
        sample_get = session.function("nvmlGpmSampleGet")
        if sample_get is not None and has_gpm(handle):
            metrics = (*_RATIOS, *_TRAFFIC)
            self._gpm = Gpm(session, metrics, partial(sample_get, handle), refused)
        self._moved: Counter[Count] = Counter()
        self._told = GpuHealth()
        self._told_ns: int | None = None

    def poll(self, now_ns: int) -> GpuHealth:
        """Read the activity, and every `SELDOM_NS` the rest."""
        if self._told_ns is None or now_ns - self._told_ns >= SELDOM_NS:
            self._told, self._told_ns = self._asked(), now_ns
        values = dict(self._told.values)
        tensor_ppm = self._measured(now_ns, values)
        return GpuHealth(values, {**self._told.counts, **self._moved}, tensor_ppm)

    def _asked(self) -> GpuHealth:
        values: dict[str, float] = {}
        counts: dict[Count, int] = {}
        *told, celsius = self._fields.ask()
        numbers = dict(zip((*_COUNTS, *_GAUGES), told, strict=True))
        for id_, count in _COUNTS.items():
            if (number := self._within(numbers[id_], _MOST_COUNT)) is not None:
                counts[count] = number
        if _REMAPPED in counts:
            # Since Ampere rows are remapped, and no pages retired.
            counts = {count: n for count, n in counts.items() if count[0] != "retired_pages"}
            numbers[_PAGES_PENDING] = None
        for id_, name in _GAUGES.items():
            if (number := self._within(numbers[id_], 1)) is not None:
                values[name] = number
        # A card without such a sensor says 0.
        if celsius and (number := self._within(celsius, MAX_TEMPERATURE_C)) is not None:
            values["memory_temperature_celsius"] = number
        for name, most, call in self._calls:
            # 32 is the driver's word for a state that is not known.
            if not call() and self._u32.value <= most:
                values[name] = self._u32.value
        return GpuHealth(values, counts)

    def _measured(self, now_ns: int, values: dict[str, float]) -> int | None:
        """Add the GPM metrics, as far as reported; return the tensor activity."""
        if self._gpm is None:
            return None
        since_ns = self._gpm.since_ns
        means = dict(zip((*_RATIOS, *_TRAFFIC), self._gpm.means(now_ns), strict=True))
        is_new = self._gpm.since_ns > since_ns > 0
        for id_, name in _RATIOS.items():
            if (percent := means[id_]) is not None:
                values[name] = percent / 100
        for id_, count in _TRAFFIC.items():
            if (mib_per_s := means[id_]) is not None:
                values["_".join(count)] = mib_per_s * _MIB
                if is_new:
                    moved = mib_per_s * _MIB * (now_ns - since_ns) / NS_PER_S
                    self._moved[count] += round(moved)
        tensor = values.get("tensor_active_ratio")
        return None if tensor is None or not is_new else round(tensor * 1_000_000)

    def _within(self, value: int | None, most: int) -> int | None:
        if value is not None and value > most:
            self._refused["health_implausible"] += 1
            return None
        return value

    def go_on_from(self, earlier: HealthReader) -> None:
        """Take over what the same GPU was counted in the session before."""
        self._moved = earlier._moved

    def close(self) -> None:
        """Free the samples."""
        if self._gpm is not None:
            self._gpm.close()


_XID_CRITICAL_ERROR = 8
_MOST_EVENTS = 64
"""The most per poll; the rest waits in the driver."""

_MOST_XIDS = 3
_OTHER = "other"
"""The Xids of a card are counted by so many numbers, and the rest together: their series must not
grow without bound. The log has the number of each.
"""


def xid_label(xid: int, known: Mapping[str, int]) -> str:
    """Return under which label an Xid is counted, where these are counted already."""
    label, numbers = str(xid), known.keys() - {_OTHER}
    return label if label in numbers or len(numbers) < _MOST_XIDS else _OTHER


class _Event(ctypes.Structure):
    """`nvmlEventData_t`."""

    _fields_ = (
        ("device", ctypes.c_void_p),
        ("type", ctypes.c_ulonglong),
        ("data", ctypes.c_ulonglong),
        ("gpu_instance", ctypes.c_uint),
        ("compute_instance", ctypes.c_uint),
    )


class XidEvents:
    """The Xids of all GPUs of a session, as they happen. `close` it before the session ends."""

    def __init__(self, session: Session) -> None:
        self._set = ctypes.c_void_p()
        create = session.function("nvmlEventSetCreate")
        self._register = session.function("nvmlDeviceRegisterEvents")
        self._wait = session.function("nvmlEventSetWait_v2")
        self._free = session.function("nvmlEventSetFree")
        if create is None or self._wait is None or create(ctypes.byref(self._set)):
            self._set = ctypes.c_void_p()

    def register(self, handle: object) -> bool:
        """Whether this GPU's Xids will come."""
        if not self._set or self._register is None:
            return False
        kinds = ctypes.c_ulonglong(_XID_CRITICAL_ERROR)
        return not self._register(handle, kinds, self._set)

    def happened(self) -> list[tuple[int | None, int]]:
        """Return what happened since the last time: the address of the handle, and the Xid."""
        found: list[tuple[int | None, int]] = []
        event = _Event()
        while self._set and self._wait is not None and len(found) < _MOST_EVENTS:
            if self._wait(self._set, ctypes.byref(event), ctypes.c_uint(0)):
                break
            if event.type == _XID_CRITICAL_ERROR:
                found.append((event.device, event.data))
        return found

    def close(self) -> None:
        """Free them."""
        if self._set and self._free is not None:
            self._free(self._set)
        self._set = ctypes.c_void_p()


def address(handle: object) -> int | None:
    """Return the identity of a driver handle."""
    return ctypes.cast(handle, ctypes.c_void_p).value  # type: ignore[arg-type]


def gauge_values(gauges: Telemetry, power_mw: int | None) -> dict[str, float]:
    """Gauges by metric name, in base units; what is not known is left out."""
    values: dict[str, float] = {}
    if power_mw is not None:
        values["power_watts"] = power_mw / MW_PER_W
    for (name, times, per), value in zip(_TELEMETRY, gauges, strict=True):
        if value is not None:
            values[name] = value * times / per
    return values


_TELEMETRY = (  # name, and the factor from the driver's unit as times / per; as in Telemetry
    ("utilization_ratio", 1, 100),
    ("memory_utilization_ratio", 1, 100),
    ("encoder_utilization_ratio", 1, 100),
    ("decoder_utilization_ratio", 1, 100),
    ("memory_used_bytes", 1, 1),
    ("memory_total_bytes", 1, 1),
    ("temperature_celsius", 1, 1),
    ("sm_clock_hertz", HERTZ_PER_MHZ, 1),
    ("memory_clock_hertz", HERTZ_PER_MHZ, 1),
    ("power_limit_watts", 1, MW_PER_W),
)
