"""Write sensor readings to a trace, for `joulebook record` and `replay`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO

import msgspec

from joulebook.core.energy.readings import DeviceStatus, Failure, Meter, Reading
from joulebook.errors import ConfigError
from joulebook.node.sensors.contract import PollResult
from joulebook.node.sensors.trace.format import (
    KIND,
    VERSION,
    Header,
    TraceDevice,
    TraceRecord,
    open_trace,
)


class TraceWriter:
    """Appends polls to a new trace file; a context manager.

    The devices of a trace are those of its first poll; one that comes later, or never responds, is
    left out and counted in `left_out`. Raises `ConfigError` if the file exists or cannot be
    written.
    """

    def __init__(self, path: Path, *, source: str = "", licence: str = "") -> None:
        self._path = path
        self._source = source
        self._licence = licence
        self._encoder = msgspec.json.Encoder()
        self._devices: dict[Meter, _Device] = {}
        self.left_out: set[Meter] = set()
        self.records = 0
        """Lines written after the header."""
        try:
            self._file: IO[bytes] = open_trace(path, "xb")
        except OSError as e:
            raise ConfigError(f"{path}: cannot be written: {e.strerror}") from None

    def __enter__(self) -> TraceWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def append(self, poll: PollResult) -> None:
        """Write one poll. Polls without any reading before the first are ignored."""
        try:
            if not self._devices and not self._begin(poll):
                return
            lines = list(self._lines(poll))
            self._file.writelines(self._encoder.encode(line) + b"\n" for line in lines)
            self._file.flush()
        except OSError as e:
            raise ConfigError(f"{self._path}: cannot be written: {e.strerror}") from None
        self.records += len(lines)

    def close(self) -> None:
        """End the file: a `.gz` trace can be read only then."""
        self._file.close()

    def _begin(self, poll: PollResult) -> bool:
        statuses = {status.meter: status for status in poll.statuses}
        readings = [r for r in poll.readings if r.energy_uj is not None or r.power_mw is not None]
        if not readings:
            return False
        first_ns = [s.t_ns for reading in readings for s in reading.samples]
        begun_ns = min([*first_ns, *(reading.t_ns for reading in readings)])
        self._devices = {
            reading.meter: _Device(i, reading.energy_uj is not None, begun_ns)
            for i, reading in enumerate(readings)
        }
        devices = tuple(_described(reading, statuses.get(reading.meter)) for reading in readings)
        header = Header(VERSION, KIND, devices, self._source, self._licence)
        self._file.write(self._encoder.encode(header) + b"\n")
        return True

    def _lines(self, poll: PollResult) -> Iterator[TraceRecord]:
        statuses = {status.meter: status for status in poll.statuses}
        for reading in poll.readings:
            device = self._devices.get(reading.meter)
            if device is None or device.has_counter is (reading.energy_uj is None):
                self.left_out.add(reading.meter)
            else:
                yield from device.read(reading, statuses.get(reading.meter))
        for failure in poll.failures:
            device = self._devices.get(failure.meter)
            if device is None:
                self.left_out.add(failure.meter)
            else:
                yield from device.failed(failure)


class _Device:
    """The state of writing one device."""

    def __init__(self, index: int, has_counter: bool, begun_ns: int) -> None:
        self.has_counter = has_counter
        self._index = index
        self._begun_ns = begun_ns
        self._last_ns = begun_ns - 1
        self._last_uj = 0
        self._shift_uj = 0

    def read(self, reading: Reading, status: DeviceStatus | None) -> Iterator[TraceRecord]:
        """Yield the lines of one reading: its buffered power, then itself."""
        if not self.has_counter:
            for sample in reading.samples:
                if self._is_next(sample.t_ns):
                    yield TraceRecord(self._at(sample.t_ns), self._index, power_mw=sample.power_mw)
            if reading.power_mw is None:
                return
        if not self._is_next(reading.t_ns):
            return
        yield TraceRecord(
            self._at(reading.t_ns),
            self._index,
            self._risen(reading.energy_uj),
            reading.power_mw,
            reading.busy,
            dict(status.values) if status else {},
        )

    def failed(self, failure: Failure) -> Iterator[TraceRecord]:
        """Yield the line of one failure."""
        if self._is_next(failure.t_ns):
            yield TraceRecord(self._at(failure.t_ns), self._index, failed=failure.reason)

    def _is_next(self, t_ns: int) -> bool:
        """Return whether `t_ns` is later than all that was written; lines go forward in time."""
        return t_ns > self._last_ns

    def _at(self, t_ns: int) -> int:
        self._last_ns = t_ns
        return t_ns - self._begun_ns

    def _risen(self, energy_uj: int | None) -> int | None:
        """Return the counter; where it began again it is written on from where it was."""
        if energy_uj is None:
            return None
        self._shift_uj = max(self._shift_uj, self._last_uj - energy_uj)
        self._last_uj = energy_uj + self._shift_uj
        return self._last_uj


def _described(reading: Reading, status: DeviceStatus | None) -> TraceDevice:
    meter = reading.meter
    if status is None:
        return TraceDevice(meter.name, meter.component, max_power_mw=reading.max_power_mw)
    return TraceDevice(
        meter.name,
        meter.component,
        status.vendor,
        status.model,
        status.driver,
        status.pci,
        reading.max_power_mw,
    )
