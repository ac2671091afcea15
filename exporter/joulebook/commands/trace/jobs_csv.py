"""The timetable of `joulebook replay --jobs`: which job held which GPU of a trace, and when.

    job,user,account,experiment,gpu,start_s,end_s
    101,ada,nlp,bert-base,0,2,55
    102,grace,vision,resnet50,1,4,22.5

`gpu` is an index into the trace's list of devices, or a device's name; a job on several GPUs has
one line per GPU. `start_s` and `end_s` count from the start of the trace.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import msgspec

from joulebook.core.energy.readings import Component, Meter
from joulebook.core.sanitize import clean_label
from joulebook.errors import ConfigError
from joulebook.units import ns_from_s
from joulebook.untrusted_files import read_named_text

FIELDS = ("job", "user", "account", "experiment", "gpu", "start_s", "end_s")
_OPTIONAL = {"user", "account", "experiment"}
_MOST_S = 1e9


class TraceJob(msgspec.Struct, frozen=True):
    """One line: a job on one GPU, in ns since the start of the trace."""

    id: str
    user: str
    account: str
    experiment: str
    meter: Meter
    start_ns: int
    end_ns: int


_MOST_BYTES = 64 << 20


def read_jobs(path: Path, devices: Sequence[str]) -> tuple[TraceJob, ...]:
    """Read a timetable for a trace with these devices.

    Raises `ConfigError` with file and line.
    """
    reader = csv.DictReader(io.StringIO(read_named_text(path, _MOST_BYTES), newline=""))
    try:
        missing = set(FIELDS) - _OPTIONAL - set(reader.fieldnames or ())
        if missing:
            raise ConfigError(
                f"{path}:1: no column {', '.join(sorted(missing))}; expected {','.join(FIELDS)}"
            )
        jobs = [_job(row, f"{path}:{reader.line_num}", devices) for row in reader]
    except csv.Error as error:
        raise ConfigError(f"{path}: not CSV: {error}") from None
    _refuse_overlap(path, jobs)
    return tuple(jobs)


def _job(row: Mapping[str, str | None], where: str, devices: Sequence[str]) -> TraceJob:
    def value(name: str) -> str:
        return clean_label(row.get(name) or "")

    start_s, end_s = (_seconds(value(name), name, where) for name in ("start_s", "end_s"))
    if end_s <= start_s:
        raise ConfigError(f"{where}: end_s {end_s:g} is not after start_s {start_s:g}")
    if not value("job"):
        raise ConfigError(f"{where}: job is empty")
    return TraceJob(
        value("job"),
        value("user"),
        value("account"),
        value("experiment"),
        Meter(Component.GPU, _device(value("gpu"), where, devices)),
        ns_from_s(start_s),
        ns_from_s(end_s),
    )


def _seconds(text: str, name: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < _MOST_S:
        raise ConfigError(
            f"{where}: {name} = {text!r}: expected seconds since the start of the trace"
        )
    return value


def _device(text: str, where: str, devices: Sequence[str]) -> str:
    if text in devices:
        return text
    if text.isdecimal() and len(text) < 10 and int(text) < len(devices):
        return devices[int(text)]
    last = len(devices) - 1
    raise ConfigError(f"{where}: gpu = {text!r}: expected 0 to {last}, or the name of a device")


def _refuse_overlap(path: Path, jobs: Sequence[TraceJob]) -> None:
    for a, b in pairwise(sorted(jobs, key=lambda job: (job.meter, job.start_ns))):
        if a.meter == b.meter and b.start_ns < a.end_ns:
            raise ConfigError(
                f"{path}: jobs {a.id} and {b.id} hold {a.meter.name} at the same time"
            )
