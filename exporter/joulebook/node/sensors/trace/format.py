"""Traces: recorded sensor readings. One JSON object per line, gzip if the name ends in `.gz`.

    {"v":1,"kind":"joulebook-trace","devices":[{"name":"GPU-...","model":"NVIDIA A100"}],
     "source":"...","licence":"..."}
    {"t_ns":0,"gpu":0,"energy_uj":5000000000,"power_mw":78660,"values":{"utilization_ratio":0.5}}
    {"t_ns":12000000,"gpu":0,"failed":"timeout"}

`t_ns` counts from the start of the trace and rises from line to line of one device; `gpu` is a
place in `devices` (which may be a device that is no GPU: `component`). A device has an energy
counter if its first line carries `energy_uj`; then every line does that does not say `failed`, and
it never falls. Else every such line carries `power_mw`. `values` are gauges by metric name.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Annotated, Literal

import msgspec
from msgspec import Meta

from joulebook.core.energy.readings import Component
from joulebook.errors import ConfigError
from joulebook.untrusted_files import open_named

MOST_BYTES = 256 << 20
"""Of a trace, unpacked: a gzip file of a megabyte can be a gigabyte."""
_MOST_LINE = 1 << 20
_MOST_LINES = 4_000_000

VERSION = 1
KIND = "joulebook-trace"

Count = Annotated[int, Meta(ge=0)]
Text = Annotated[str, Meta(min_length=1)]


class TraceDevice(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One device of a trace: the name of its meter, and its description."""

    name: Text
    component: Component = Component.GPU
    vendor: str = ""
    model: str = ""
    driver: str = ""
    pci: str = ""
    max_power_mw: Count | None = None
    note: str = ""
    """How its values were obtained, if they are not the device's own."""


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The first line. `source` and `licence` are the origin of the values."""

    v: int
    kind: str
    devices: Annotated[tuple[TraceDevice, ...], Meta(min_length=1)]
    source: str = ""
    licence: str = ""


class TraceRecord(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False
):
    """One line: the values of one device at one instant."""

    t_ns: Count
    gpu: Count
    energy_uj: Count | None = None
    power_mw: Count | None = None
    busy: bool | None = None
    values: dict[str, float] = {}
    failed: str = ""


class _Kind(msgspec.Struct):
    kind: Literal["joulebook-trace"]
    v: Literal[1]


_KIND = msgspec.json.Decoder(_Kind)
_HEADER = msgspec.json.Decoder(Header)
_RECORD = msgspec.json.Decoder(TraceRecord)


class Trace(msgspec.Struct, frozen=True):
    """A whole trace: its header, and the records of each device in order of time."""

    header: Header
    records: tuple[tuple[TraceRecord, ...], ...]


def read_trace(path: Path) -> Trace:
    """Read a trace. Raises `ConfigError`, which names the file and the line."""
    lines = _lines(path)
    number, first = next(lines, (1, b""))
    header = _header(path, number, first)
    records: list[list[TraceRecord]] = [[] for _ in header.devices]
    for number, line in lines:
        try:
            record = _RECORD.decode(line)
        except (msgspec.MsgspecError, RecursionError) as e:
            raise _refused(path, number, str(e)) from None
        if record.gpu >= len(records):
            raise _refused(path, number, f"gpu {record.gpu}: the header has {len(records)} devices")
        own = records[record.gpu]
        problem = _problem(own, record)
        if problem:
            raise _refused(path, number, problem)
        own.append(record)
    for device, own in zip(header.devices, records, strict=True):
        if len(own) < 2 or own[0].failed:
            raise _refused(
                path, number, f"{device.name}: fewer than 2 lines, or a failed first line"
            )
    return Trace(header, tuple(map(tuple, records)))


def _header(path: Path, number: int, line: bytes) -> Header:
    try:
        # First only what tells a trace of another version from a broken one.
        _KIND.decode(line)
        header = _HEADER.decode(line)
    except (msgspec.MsgspecError, RecursionError) as e:
        raise _refused(path, number, f"no header of a trace with version {VERSION}: {e}") from None
    names = [device.name for device in header.devices]
    if len(set(names)) < len(names):
        raise _refused(path, number, "two devices have the same name")
    return header


def _problem(earlier: list[TraceRecord], record: TraceRecord) -> str:
    """Return what is wrong with a record after `earlier`; empty if nothing."""
    if earlier and record.t_ns <= earlier[-1].t_ns:
        return f"t_ns {record.t_ns} is not after {earlier[-1].t_ns}"
    if record.failed:
        return ""
    if not earlier:
        return "neither energy_uj nor power_mw" if _silent(record) else ""
    if earlier[0].energy_uj is None:
        if record.energy_uj is not None:
            return "energy_uj of a device that had none on its first line"
        return "no power_mw" if record.power_mw is None else ""
    if record.energy_uj is None:
        return "no energy_uj, which the device had on its first line"
    last = next(r.energy_uj for r in reversed(earlier) if r.energy_uj is not None)
    return f"energy_uj falls below {last}" if record.energy_uj < last else ""


def _silent(record: TraceRecord) -> bool:
    return record.energy_uj is None and record.power_mw is None


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Lines with their numbers, counted from 1."""
    number = 0
    try:
        with open_trace(path, "rb") as file:
            left = MOST_BYTES
            while line := file.readline(min(_MOST_LINE, left) + 1):
                number += 1
                left -= len(line)
                if len(line) > _MOST_LINE or left < 0 or number > _MOST_LINES:
                    raise _refused(
                        path,
                        number,
                        f"larger than a trace: more than {_MOST_LINE >> 20} MiB in a line, "
                        f"{MOST_BYTES >> 20} MiB, or {_MOST_LINES:,} lines",
                    )
                yield number, line
    except (OSError, EOFError, zlib.error) as e:
        where = f"after line {number}" if number else "at its start"
        raise ConfigError(f"{path}: cannot be read {where}: {e}") from None


def open_trace(path: Path, mode: Literal["rb", "xb"]) -> IO[bytes]:
    """Open a trace file, through gzip if its name ends in `.gz`."""
    if path.name.endswith(".gz"):
        # IO[bytes] is what a GzipFile is in all but its declared bases.
        return gzip.open(path, mode)  # type: ignore[return-value]
    return open_named(path) if mode == "rb" else path.open(mode)


def _refused(path: Path, number: int, problem: str) -> ConfigError:
    return ConfigError(f"{path}:{number}: {problem}")
