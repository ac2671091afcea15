"""A typed wrapper of NVML, with the queries that Joulebook needs.

`pynvml` (nvidia-ml-py) loads and initializes the library and handles one-time queries. Queries of
every poll go straight to the library through calls prepared once per GPU (handle and buffers
bound): the binding's own wrappers cost ten times as much. Units here are the driver's: mJ, mW,
percent, MHz, bytes, unix microseconds.
"""

from __future__ import annotations

import ctypes
import struct
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

import pynvml

from joulebook.node.sensors.nvidia.errors import (
    ABSENT,
    FUNCTION_NOT_FOUND,
    INSUFFICIENT_SIZE,
    NOT_FOUND,
    ask,
    error,
    implausible,
    maybe,
)
from joulebook.node.sensors.nvidia.fields import (
    DEFAULT_POWER_MW,
    FIELDS,
    MAX_CLOCK_MHZ,
    MAX_DEVICES,
    MAX_ENERGY_MJ,
    MAX_MEMORY_BYTES,
    MAX_POWER_MW,
    MAX_TEMPERATURE_C,
    MAX_THROTTLE_NS,
    MAX_UPTIME_S,
    PLAUSIBLE_FACTOR,
    POWERS,
    REASONS,
    FieldValues,
    values,
)

Call = Callable[[], int]
"""A function of the library with its arguments bound; returns an NVML code."""

_SAMPLE = struct.Struct("=QQ")  # nvmlSample_t: unix us, value
_TOTAL_POWER_SAMPLES = 0
_SAMPLES_FIRST, _SAMPLES_MOST = 512, 16_384

_TEMPERATURE_GPU, _CLOCK_SM, _CLOCK_MEMORY = 0, 1, 2
_MEMORY_V2 = struct.Struct("=I4xQQQQ")  # version, total, reserved, free, used
_MEMORY_V2_VERSION = 2 << 24 | _MEMORY_V2.size
_MEMORY_V1 = struct.Struct("=QQQ")  # total, free, used


class Fields(NamedTuple):
    """What one call for field values gave: mW, and ns by reason; absent if not supported."""

    power_average_mw: int | None = None
    power_instant_mw: int | None = None
    module_average_mw: int | None = None
    module_instant_mw: int | None = None
    throttle_ns: Mapping[str, int] = MappingProxyType({})


class Telemetry(NamedTuple):
    """The gauges of one GPU: percent, bytes, degrees Celsius, MHz, mW; `None`: not reported."""

    gpu_pct: int | None
    memory_pct: int | None
    encoder_pct: int | None
    decoder_pct: int | None
    memory_used_bytes: int | None
    memory_total_bytes: int | None
    temperature_c: int | None
    sm_mhz: int | None
    memory_mhz: int | None
    power_limit_mw: int | None


class Session:
    """The library, initialised; raises `SensorError` if that fails."""

    def __init__(self) -> None:
        ask(pynvml.nvmlInit)
        self._library: ctypes.CDLL = pynvml.nvmlLib
        self.driver = str(maybe(pynvml.nvmlSystemGetDriverVersion) or "")

    def function(self, *names: str) -> Callable[..., int] | None:
        """Return the first of these functions that the driver has."""
        for name in names:
            try:
                # By item, not attribute: a function object of our own, so that whatever the
                # binding sets on its own leaves ours alone.
                found: Callable[..., int] = self._library[name]
            except AttributeError:
                continue
            return found
        return None

    def prepare(self, names: tuple[str, ...], *arguments: object) -> Call:
        """Bind the first function of `names` that exists to `arguments`."""
        function = self.function(*names)
        return _absent if function is None else partial(function, *arguments)

    def device_count(self) -> int:
        """Return how many GPUs there are. Raises `SensorError`, also where that cannot be true."""
        count = int(ask(pynvml.nvmlDeviceGetCount))
        if not 0 <= count <= MAX_DEVICES:
            raise implausible("nvmlDeviceGetCount", "device_count", count)
        return count

    def close(self) -> None:
        """Close the driver. A session that the driver has already ended is not an error."""
        maybe(pynvml.nvmlShutdown)


class NvmlDevice:
    """One GPU, by NVML index: what never changes, read once, and what does, ready to be read."""

    def __init__(self, session: Session, index: int) -> None:
        handle = ask(pynvml.nvmlDeviceGetHandleByIndex, index)
        self.handle: object = handle
        self.index = index
        self.rejected: Counter[str] = Counter()
        """Figures of the driver that cannot be true, by reason."""
        self.memory_reserved_bytes: int | None = None
        """What the driver keeps for itself, as of the last `telemetry`."""
        self.uuid = str(ask(pynvml.nvmlDeviceGetUUID, handle))
        if not self.uuid.isprintable() or not self.uuid.strip():
            raise implausible("nvmlDeviceGetUUID", "uuid", self.uuid)
        self.model = str(maybe(pynvml.nvmlDeviceGetName, handle) or "")
        self.minor: int | None = maybe(pynvml.nvmlDeviceGetMinorNumber, handle)
        pci = maybe(pynvml.nvmlDeviceGetPciInfo, handle)
        self.pci = str(pci.busId) if pci else ""
        limits = maybe(pynvml.nvmlDeviceGetPowerManagementLimitConstraints, handle)
        enforced = maybe(pynvml.nvmlDeviceGetEnforcedPowerLimit, handle)
        reported = [int(mw) for mw in ((limits or (0, 0))[1], enforced or 0) if mw <= MAX_POWER_MW]
        self.highest_limit_mw: int | None = max(reported, default=0) or None
        self._prepare(session, handle)

    def _prepare(self, session: Session, handle: object) -> None:
        def getter(buffer: object, *names: str) -> Call:
            return session.prepare(names, handle, buffer)

        self._u64 = ctypes.c_ulonglong()
        self._u32 = ctypes.c_uint()
        self._period = ctypes.c_uint()
        self._two = (ctypes.c_uint * 2)()
        u32, u64 = ctypes.byref(self._u32), ctypes.byref(self._u64)
        self._energy = getter(u64, "nvmlDeviceGetTotalEnergyConsumption")
        # A 32-bit count of seconds in a buffer with room to spare, zeroed before the call.
        self._uptime = getter(u64, "nvmlDeviceGetGpuUptime_v1")
        self._power = getter(u32, "nvmlDeviceGetPowerUsage")
        self._limit = getter(u32, "nvmlDeviceGetEnforcedPowerLimit")
        self._rates = getter(self._two, "nvmlDeviceGetUtilizationRates")
        self._mig = session.prepare(
            ("nvmlDeviceGetMigMode",), handle, u32, ctypes.byref(self._period)
        )
        self._encoder, self._decoder = (
            session.prepare((name,), handle, u32, ctypes.byref(self._period))
            for name in ("nvmlDeviceGetEncoderUtilization", "nvmlDeviceGetDecoderUtilization")
        )
        self._temperature = session.prepare(
            ("nvmlDeviceGetTemperature",), handle, _TEMPERATURE_GPU, u32
        )
        self._sm_clock, self._memory_clock = (
            session.prepare(("nvmlDeviceGetClockInfo",), handle, clock, u32)
            for clock in (_CLOCK_SM, _CLOCK_MEMORY)
        )
        self._throttled: tuple[tuple[int, ...], Mapping[str, int]] = ((), {})
        self.field_values = FieldValues(
            session.function("nvmlDeviceGetFieldValues"), handle, FIELDS
        )
        self._memory = (ctypes.c_char * _MEMORY_V2.size)()
        # The older call counts what the driver keeps for itself as used.
        self._has_memory_v2 = session.function("nvmlDeviceGetMemoryInfo_v2") is not None
        self._memory_info = getter(
            self._memory, "nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetMemoryInfo"
        )
        self._grow_samples(_SAMPLES_FIRST)
        self._get_samples = session.function("nvmlDeviceGetSamples")

    def energy_mj(self) -> int:
        """Return the cumulative energy counter. Raises `SensorError`."""
        code = self._energy()
        if code:
            raise error(code, "nvmlDeviceGetTotalEnergyConsumption")
        energy_mj = self._u64.value
        if energy_mj > MAX_ENERGY_MJ:
            self.rejected["energy_implausible"] += 1
            raise implausible("nvmlDeviceGetTotalEnergyConsumption", "energy", energy_mj)
        return energy_mj

    def has_energy_counter(self) -> bool | None:
        """Return whether there is such a counter; `None` if the query fails for now."""
        code = self._energy()
        return None if code and code not in ABSENT else not code

    def uptime_s(self) -> int | None:
        """Whole seconds since the driver initialised this GPU, and its counter began at zero."""
        self._u64.value = 0
        return None if self._uptime() else self._within("uptime", self._u64.value, MAX_UPTIME_S)

    def power_mw(self) -> int:
        """Return power from the driver's oldest call. Raises `SensorError`."""
        code = self._power()
        if code:
            raise error(code, "nvmlDeviceGetPowerUsage")
        power_mw = self._within("power", self._u32.value, self.max_power_mw)
        if power_mw is None:
            raise implausible("nvmlDeviceGetPowerUsage", "power", self._u32.value)
        return power_mw

    @property
    def max_power_mw(self) -> int:
        """Return the most that it can draw for a moment."""
        limit_mw = self.highest_limit_mw
        return PLAUSIBLE_FACTOR * limit_mw if limit_mw else DEFAULT_POWER_MW

    def _within(self, what: str, value: int, most: int) -> int | None:
        """Return a figure of the driver; `None`, and counted, where it cannot be true."""
        if value <= most:
            return value
        self.rejected[f"{what}_implausible"] += 1
        return None

    def mig(self) -> bool:
        """Return whether the GPU is partitioned now."""
        return not self._mig() and self._u32.value == 1

    def fields(self) -> Fields:
        """All field values in one call, each checked by its own return code."""
        answers = self.field_values.answers()
        if not answers:
            return Fields()
        most_mw = self.max_power_mw
        average_mw, instant_mw, module_mw, module_instant_mw = [
            None if mw is None else self._within("power", mw, most_mw)
            for mw in values(answers[: 3 * POWERS])
        ]
        throttled, (known, throttle_ns) = answers[3 * POWERS :], self._throttled
        if throttled != known:
            throttle_ns = {
                reason: ns
                for reason, value in zip(REASONS, values(throttled), strict=True)
                if value is not None
                and (ns := self._within("throttle", value, MAX_THROTTLE_NS)) is not None
            }
            self._throttled = throttled, throttle_ns
        return Fields(average_mw, instant_mw, module_mw, module_instant_mw, throttle_ns)

    def telemetry(self, known: Telemetry | None = None) -> Telemetry:
        """Return all gauges; what the driver does not answer is `None`.

        If its gauges are `known`, only query whether it is at work.
        """
        gpu, memory = (None, None) if self._rates() else self._two
        gpu_pct, memory_pct, reported = self._percent(gpu), self._percent(memory), self._told
        if known is not None and gpu_pct:
            return known._replace(gpu_pct=gpu_pct, memory_pct=memory_pct)
        encoder_pct = reported(self._encoder, "utilization", 100)
        decoder_pct = reported(self._decoder, "utilization", 100)
        if known is not None:
            return Telemetry(gpu_pct, memory_pct, encoder_pct, decoder_pct, *known[4:])
        total, used = self._memory_bytes()
        return Telemetry(
            gpu_pct,
            memory_pct,
            encoder_pct,
            decoder_pct,
            used,
            total,
            reported(self._temperature, "temperature", MAX_TEMPERATURE_C),
            reported(self._sm_clock, "clock", MAX_CLOCK_MHZ),
            reported(self._memory_clock, "clock", MAX_CLOCK_MHZ),
            reported(self._limit, "power_limit", MAX_POWER_MW),
        )

    def _told(self, call: Call, what: str, most: int) -> int | None:
        """Return the value of a call that fills `_u32`."""
        return None if call() else self._within(what, self._u32.value, most)

    def _percent(self, value: int | None) -> int | None:
        return None if value is None else self._within("utilization", value, 100)

    def _memory_bytes(self) -> tuple[int | None, int | None]:
        if self._has_memory_v2:
            _MEMORY_V2.pack_into(self._memory, 0, _MEMORY_V2_VERSION, 0, 0, 0, 0)
            if self._memory_info():
                return None, None
            _, total, reserved, _, used = _MEMORY_V2.unpack_from(self._memory)
            self.memory_reserved_bytes = self._within("memory", reserved, MAX_MEMORY_BYTES)
        else:
            if self._memory_info():
                return None, None
            total, _, used = _MEMORY_V1.unpack_from(self._memory)
        if self._within("memory", max(total, used), MAX_MEMORY_BYTES) is None:
            return None, None
        return total, used

    def _grow_samples(self, room: int) -> None:
        self._room = room
        self._samples = (ctypes.c_char * (_SAMPLE.size * room))()

    def power_samples(self, after_us: int) -> list[tuple[int, int]]:
        """The driver's buffered power after unix time `after_us`: (unix us, mW), oldest first.

        Empty if nothing is new or the GPU keeps no such buffer. Raises `SensorError`.
        """
        if self._get_samples is None:
            return []
        samples = self._samples
        kind, count = ctypes.c_uint(), ctypes.c_uint(self._room)
        code = self._get_samples(
            self.handle,
            _TOTAL_POWER_SAMPLES,
            ctypes.c_ulonglong(after_us),
            ctypes.byref(kind),
            ctypes.byref(count),
            samples,
        )
        if code == NOT_FOUND or code in ABSENT:
            return []
        if code == INSUFFICIENT_SIZE or count.value == self._room:
            self._grow_samples(min(2 * self._room, _SAMPLES_MOST))
        if code:
            raise error(code, "nvmlDeviceGetSamples")
        if count.value > self._room:
            raise implausible("nvmlDeviceGetSamples", "samples", count.value)
        filled = memoryview(samples)[: count.value * _SAMPLE.size]
        # Power is an unsigned int in a union of eight bytes, of which the rest may be garbage.
        reported = [(t_us, raw & 0xFFFFFFFF) for t_us, raw in _SAMPLE.iter_unpack(filled)]
        most = self.max_power_mw
        believed = [sample for sample in reported if sample[1] <= most]
        if len(believed) < len(reported):
            self.rejected["power_implausible"] += len(reported) - len(believed)
        return believed


def _absent() -> int:
    """Replaces a function that this driver does not have."""
    return FUNCTION_NOT_FOUND
