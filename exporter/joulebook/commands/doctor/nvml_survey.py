"""Survey what NVML reports on this node, once, in a thread that may hang without us."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TypeVar

import msgspec

from joulebook.commands.shared.text import several
from joulebook.core.energy.readings import Instance
from joulebook.errors import SensorError
from joulebook.node.sensors.nvidia.api import NvmlDevice, Session
from joulebook.node.sensors.nvidia.mig import Mig
from joulebook.node.sensors.nvidia.processes import ProcessOnCard, ProcessReader

T = TypeVar("T")


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
