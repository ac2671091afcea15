"""The checks of `joulebook doctor`: results, the node, and what NVML knows of it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec

from joulebook.commands.daemon.client import daemon_pid
from joulebook.commands.shared.text import several
from joulebook.config import Config, host_name
from joulebook.core.energy.readings import Instance
from joulebook.errors import SensorError
from joulebook.ledger.query import LedgerReader
from joulebook.node.sensors.nvidia.api import NvmlDevice, Session
from joulebook.node.sensors.nvidia.mig import Mig
from joulebook.node.sensors.nvidia.processes import ProcessOnCard, ProcessReader

T = TypeVar("T")


class Status(StrEnum):
    """The result of a check; `NONE` means that it does not apply here."""

    OK = "OK"
    WARN = "WARN"
    FAIL = "FAIL"
    NONE = "-"


class Finding(NamedTuple):
    """One line of output: what was found and, if there is a problem, what to do."""

    status: Status
    found: str
    todo: str = ""


def ok(found: str) -> Finding:
    """Return a finding that all is well."""
    return Finding(Status.OK, found)


def warn(found: str, todo: str = "") -> Finding:
    """Return a warning: it works, but not as well as it could, or not as may have been intended."""
    return Finding(Status.WARN, found, todo)


def fail(found: str, todo: str = "") -> Finding:
    """Return a failure: energy is not measured, or not booked to its owner."""
    return Finding(Status.FAIL, found, todo)


def nothing(found: str) -> Finding:
    """Return a finding that the check does not apply here."""
    return Finding(Status.NONE, found)


@dataclass(frozen=True)
class Site:
    """The node, as checks see it. Tests use other roots."""

    config: Config
    config_file: Path
    config_problem: str = ""
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    root: Path = Path("/")
    """The root for /etc, /run and configured paths outside /proc and /sys."""
    sysfs: Path = Path("/sys")
    proc: Path = Path("/proc")
    hostname: str = field(default_factory=host_name)
    patience_s: float = 20.0

    def at(self, path: str | Path) -> Path:
        """Return a path of the node."""
        return self.root / str(path).lstrip("/") if self.root != Path("/") else Path(path)

    @property
    def ledger(self) -> Path:
        """Return the ledger's path."""
        return self.at(self.config.ledger.path)

    def from_ledger(self, read: Callable[[LedgerReader], T]) -> T | None:
        """What the ledger says; `None` if it cannot: the checks of the ledger say why."""
        try:
            with LedgerReader(self.ledger) as reader:
                return read(reader)
        except Exception:  # There is none yet, it is not readable, or it is damaged.
            return None

    @cached_property
    def survey(self) -> Survey:
        """Return what NVML reports; queried once."""
        return survey(self.patience_s)

    @cached_property
    def daemon(self) -> int | None:
        """Return the PID of the daemon that holds the ledger."""
        return daemon_pid(self.ledger, self.proc)


Check = Callable[[Site], Iterable[Finding]]


class Answer(msgspec.Struct, frozen=True):
    """An answer in words, or why there is none and what to do."""

    text: str = ""
    problem: str = ""
    reason: str = ""
    remedy: str = ""


class GpuSurvey(msgspec.Struct, frozen=True):
    """What one GPU reports; `None` for what it does not have."""

    index: int
    uuid: str
    model: str
    pci: str
    minor: int | None
    mig: bool
    energy: Answer
    power: Answer
    processes: Answer
    samples: Answer
    fields: tuple[str, ...]
    """Which of `average power`, `instant power`, `throttle times` it has."""
    uptime_s: int | None
    instances: tuple[Instance, ...] = ()
    """Its MIG instances."""
    slices: int = 0


class Survey(msgspec.Struct, frozen=True):
    """All GPUs, or why NVML as a whole fails; `hung` if it did not answer at all."""

    driver: str = ""
    gpus: tuple[GpuSurvey, ...] = ()
    failed: tuple[Answer, ...] = ()
    """GPUs that cannot be opened."""
    problem: Answer | None = None
    hung: bool = False


def survey(patience_s: float) -> Survey:
    """Open NVML, query every GPU once, and close it."""
    found: list[Survey] = []
    crashed: list[BaseException] = []

    def ask() -> None:
        try:
            found.append(_survey())
        except Exception as error:
            crashed.append(error)

    thread = threading.Thread(target=ask, name="survey", daemon=True)
    thread.start()
    thread.join(patience_s)
    if crashed:
        raise crashed[0]
    return found[0] if found else Survey(hung=True)


def _survey() -> Survey:
    try:
        session = Session()
    except SensorError as error:
        return Survey(problem=_problem(error))
    try:
        gpus, failed = [], []
        for index in range(session.device_count()):
            try:
                gpus.append(_gpu(session, NvmlDevice(session, index)))
            except SensorError as error:
                failed.append(_problem(error, f"GPU {index}: "))
        return Survey(session.driver, tuple(gpus), tuple(failed))
    except SensorError as error:
        return Survey(problem=_problem(error))
    finally:
        session.close()


def _gpu(session: Session, device: NvmlDevice) -> GpuSurvey:
    reader = ProcessReader(session, device)
    fields = device.fields()
    named = {
        "average power": fields.power_average_mw is not None,
        "instant power": fields.power_instant_mw is not None,
        "throttle times": bool(fields.throttle_ns),
    }
    return GpuSurvey(
        device.index,
        device.uuid,
        device.model,
        device.pci,
        device.minor,
        device.mig(),
        _answer(device.energy_mj, lambda mj: f"{mj / 3.6e9:,.3f} kWh since the driver was loaded"),
        _answer(device.power_mw, lambda mw: f"{mw / 1000:,.0f} W"),
        _answer(reader.listed, _listed),
        _answer(lambda: device.power_samples(0), lambda samples: str(len(samples) or "")),
        tuple(name for name, there in named.items() if there),
        device.uptime_s(),
        *_cut(session, device),
    )


def _cut(session: Session, device: NvmlDevice) -> tuple[tuple[Instance, ...], int]:
    if not device.mig():
        return (), 0
    mig = Mig(session, device.handle)
    try:
        return mig.instances(), mig.slices
    except SensorError:
        return (), mig.slices


def _listed(processes: Mapping[ProcessOnCard, int | None] | None) -> str:
    return "" if processes is None else several(len(processes), "process", "processes")


def _answer(question: Callable[[], T], word: Callable[[T], str]) -> Answer:
    try:
        return Answer(word(question()))
    except SensorError as error:
        return _problem(error)


def _problem(error: SensorError, prefix: str = "") -> Answer:
    return Answer("", f"{prefix}{error}", error.reason, error.remedy)
