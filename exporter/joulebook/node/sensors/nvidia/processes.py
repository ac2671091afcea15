"""Who runs on a GPU: process lists and utilisation samples of NVML, made safe to bill by.

Two traps are met here. The entry of a process list changed its size without a new version: 24
bytes, but 32 in early R535 drivers (nvitop PR 79), so that a reader of the wrong kind sees pids
that do not exist. And utilisation samples come with garbage (nvtop issue 110) and with times that
differ from process to process (go-nvml issue 51).
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import NamedTuple

from joulebook.node.sensors.nvidia.api import NvmlDevice, Session
from joulebook.node.sensors.nvidia.errors import (
    ABSENT,
    INSUFFICIENT_SIZE,
    NOT_FOUND,
    error,
    implausible,
)
from joulebook.node.sensors.nvidia.fields import MAX_MEMORY_BYTES
from joulebook.units import NS_PER_US

ENTRY_SIZES = (24, 32, 40)
_ENTRY = struct.Struct("=I4xQII")  # the part of nvmlProcessInfo_t that all layouts share
_SAMPLE = struct.Struct("=I4xQI12x")  # pid, unix us, percent: SM (memory, encoder, decoder)
_UNTOUCHED = 0xA5
_FIRST_ROOM = 64
_TRIES = 4
_NO_MEMORY_FIGURE = 2**64 - 1

_LISTS = (
    "nvmlDeviceGetComputeRunningProcesses",
    "nvmlDeviceGetMPSComputeRunningProcesses",
)
_GRAPHICS = "nvmlDeviceGetGraphicsRunningProcesses"

MAX_PID = 1 << 22
"""Linux numbers no process higher (PID_MAX_LIMIT)."""

PROCESSES_IMPLAUSIBLE = "processes_implausible"
UTILIZATION_IMPLAUSIBLE = "utilization_implausible"

LOOK_BACK_US = 15_000_000
"""Drivers keep a few seconds of samples; nothing older is requested."""
PROBE_US = 30_000_000
CLOCK_SLACK_US = 1_000_000


NO_INSTANCE = 0xFFFF_FFFF
"""The id of the GPU and compute instance of a process on a card that is not cut up."""


class ProcessOnCard(NamedTuple):
    """A process on a card, or on one MIG instance of it: a process may be on several."""

    pid: int
    gi: int = NO_INSTANCE
    ci: int = NO_INSTANCE


_Entries = Mapping[ProcessOnCard, int | None]
_NOBODY: _Entries = {}


class SmSample(NamedTuple):
    """One utilisation sample: percent of the SMs since the sample before, at a unix time."""

    pid: int
    t_us: int
    sm_pct: int


class ProcessReader:
    """The process lists and utilisation samples of one GPU, each in one call."""

    def __init__(self, session: Session, device: NvmlDevice) -> None:
        self._handle = device.handle
        # v2 has the 24-byte entry, v1 has not.
        self._lists: dict[str, Callable[..., int]] = {
            name: partial(function, device.handle)
            for name in (*_LISTS, _GRAPHICS)
            if (function := session.function(f"{name}_v3", f"{name}_v2")) is not None
        }
        self.graphics: frozenset[int] = frozenset()
        """The PIDs of the last poll that are only in the list of graphics contexts."""
        self._utilisation = session.function("nvmlDeviceGetProcessUtilization")
        early_r535 = (
            session.function("nvmlDeviceGetConfComputeMemSizeInfo") is not None
            and session.function("nvmlDeviceGetRunningProcessDetailList") is None
        )
        self._usual_size = 32 if early_r535 else 24
        self._count, self._since = ctypes.c_uint(), ctypes.c_ulonglong()
        self._count_at = ctypes.byref(self._count)
        self._grow(_FIRST_ROOM)
        self._kept: dict[str, tuple[int, bytes, _Entries]] = {}
        self._lists_merged: list[tuple[str, _Entries]] = []
        self._merged: _Entries = {}
        self.rejected = device.rejected

    def listed(self) -> Mapping[ProcessOnCard, int | None] | None:
        """Memory in bytes (`None`: not reported) by place, of compute, graphics and MPS together.

        `None` if the driver has no such lists for this GPU. Raises `SensorError`.
        """
        lists = [
            (name, entries)
            for name, function in self._lists.items()
            if (entries := self._list(name, function)) is not None
        ]
        if lists != self._lists_merged:
            self._lists_merged, self._merged = lists, self._together(lists)
        return self._merged if lists else None

    def _together(self, lists: Iterable[tuple[str, _Entries]]) -> _Entries:
        merged: dict[ProcessOnCard, int | None] = {}
        self.graphics = frozenset()
        for name, entries in lists:
            if name == _GRAPHICS:
                computing = {place.pid for place in merged}
                self.graphics = frozenset({place.pid for place in entries} - computing)
            for place, memory in entries.items():
                merged[place] = max((memory, merged.get(place)), key=lambda bytes_: bytes_ or -1)
        return merged

    def _list(self, name: str, function: Callable[..., int]) -> _Entries | None:
        """One list, which is parsed again only if it differs from the last one."""
        code = self._fill(function, _UNTOUCHED)
        count = self._count.value
        if code in ABSENT:
            return None
        if code:
            raise error(code, "nvmlDeviceGetRunningProcesses")
        if count > len(self._buffer) // max(ENTRY_SIZES):
            self.rejected[PROCESSES_IMPLAUSIBLE] += 1
            raise implausible("nvmlDeviceGetRunningProcesses", "processes", count)
        if not count:
            return _NOBODY
        written, kept = bytes(self._buffer), self._kept.get(name)
        if kept is None or kept[:2] != (count, written):
            kept = self._kept[name] = count, written, self._entries(written, count)
        return kept[2]

    def _entries(self, written: bytes, count: int) -> _Entries:
        """One list. A process on several MIG instances is in it several times."""
        size = entry_size(written, count, self._usual_size)
        entries: dict[ProcessOnCard, int | None] = {}
        for i in range(count):
            pid, memory, gi, ci = _ENTRY.unpack_from(written, i * size)
            if pid > MAX_PID:
                # An entry that was never written, or is read wrongly: none can be believed.
                self.rejected[PROCESSES_IMPLAUSIBLE] += 1
                raise implausible("nvmlDeviceGetRunningProcesses", "processes", pid)
            if not pid:
                continue  # counted, but not filled
            if memory != _NO_MEMORY_FIGURE and memory > MAX_MEMORY_BYTES:
                self.rejected["memory_implausible"] += 1
                memory = _NO_MEMORY_FIGURE
            place = ProcessOnCard(pid, gi, ci)
            known = entries.get(place)
            if memory == _NO_MEMORY_FIGURE:
                entries[place] = known
            else:
                entries[place] = memory + (known or 0)
        if not entries:
            self.rejected[PROCESSES_IMPLAUSIBLE] += 1
            raise implausible("nvmlDeviceGetRunningProcesses", "processes", 0)
        return entries

    def samples(self, after_us: int) -> list[SmSample] | None:
        """Samples after unix time `after_us`; `None` if this GPU has none (as under MIG).

        A process that did nothing has no sample. Raises `SensorError`.
        """
        if self._utilisation is None:
            return None
        self._since.value = after_us
        code = self._fill(self._utilised, 0)
        if code == NOT_FOUND:
            return []
        if code in ABSENT:
            return None
        if code:
            raise error(code, "nvmlDeviceGetProcessUtilization")
        filled = memoryview(self._buffer)[: self._count.value * _SAMPLE.size]
        return [*map(SmSample._make, _SAMPLE.iter_unpack(filled))]

    def _utilised(self, count: object, buffer: object) -> int:
        assert self._utilisation is not None
        return self._utilisation(self._handle, buffer, count, self._since)

    def _fill(self, call: Callable[..., int], fill: int) -> int:
        """Call with a buffer that is large enough, or soon will be; returns the code."""
        code = INSUFFICIENT_SIZE
        for _ in range(_TRIES):
            ctypes.memset(self._buffer, fill, len(self._buffer))
            self._count.value = self._room
            code = call(self._count_at, self._buffer)
            if code != INSUFFICIENT_SIZE:
                break
            # The list may grow again until the next call: leave room.
            self._grow(max(2 * self._room, 2 * min(self._count.value, 1 << 16)))
        return code

    def _grow(self, room: int) -> None:
        self._room = room
        self._buffer = (ctypes.c_char * (max(*ENTRY_SIZES, _SAMPLE.size) * room))()


def entry_size(buffer: bytes, count: int, usual: int) -> int:
    """Return the size of one of `count` entries that the driver wrote into a buffer of 0xA5 bytes.

    It is what was written, divided by the count; `usual` where that is no known size (a driver
    that clears the rest of the buffer).
    """
    if not count:
        return usual
    written = -(-len(buffer.rstrip(bytes([_UNTOUCHED]))) // 8) * 8
    size, rest = divmod(written, count)
    return size if size in ENTRY_SIZES and not rest else usual


class SmTimes:
    """Turns utilization samples into SM time by process, whatever their times look like.

    A driver's percentage is the mean since the requested instant (nvtop issue 91). It is requested
    from the oldest of the latest samples, so that a process whose samples lag is not starved; each
    process gets its percentage of the time since its own last sample. A process without a sample
    may be idle, or lag more: for that case samples are now and then requested from further back.
    """

    def __init__(self, now_us: int) -> None:
        self._begun_us = self._after_us = self._asked_us = now_us
        self._probed_us = now_us
        self._last_us: dict[int, int] = {}
        self.refused = 0
        """Samples that cannot be true, since the beginning."""

    def after_us(self, running: Collection[int], now_us: int) -> int:
        """Return the Unix time to request samples from, given these processes."""
        oldest_us = now_us - LOOK_BACK_US
        silent = any(self._last_us.get(pid, 0) < oldest_us for pid in running)
        if silent and abs(now_us - self._probed_us) >= PROBE_US:
            self._probed_us = now_us
            self._asked_us = oldest_us
        else:
            # Within bounds also after the wall clock was set back.
            self._asked_us = min(max(self._after_us, oldest_us), now_us)
        return self._asked_us

    def take(
        self, samples: Iterable[SmSample], running: Collection[int], now_us: int
    ) -> dict[int, int | None]:
        """Return SM time in ns since the last time, by PID; `None` if the sample is implausible.

        Rejected: above 100 %, without a time, not newer than the last, or from the future.
        """
        times: dict[int, int | None] = {}
        newest: dict[int, int] = {}
        for pid, t_us, sm_pct in samples:
            if not pid:
                continue  # an entry that the driver counted but did not fill
            from_us = max(self._asked_us, self._last_us.get(pid, self._begun_us))
            if sm_pct > 100 or not from_us < t_us <= now_us + CLOCK_SLACK_US:
                # One that is no newer than the last is no news; anything else is garbage.
                self.refused += sm_pct > 100 or t_us > from_us or not t_us
                times.setdefault(pid, None)
                continue
            times[pid] = (times.get(pid) or 0) + (t_us - from_us) * NS_PER_US * sm_pct // 100
            self._last_us[pid] = newest[pid] = t_us
        self._last_us = {pid: t_us for pid, t_us in self._last_us.items() if pid in running}
        latest = [t_us for pid, t_us in newest.items() if pid in running] or list(newest.values())
        if latest:
            self._after_us = min(latest)
        return times
