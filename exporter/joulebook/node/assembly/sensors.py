"""Which sensor stands behind each name of the configuration, when it runs, and what it measures.

A new sensor is one file in `sensors/`, and one line in `SENSORS`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple

from joulebook.clock import Clock
from joulebook.config import Config
from joulebook.core.energy.readings import Component, Meter
from joulebook.node.sensors import estimate, hwmon, ipmi, rapl
from joulebook.node.sensors.contract import Sensor
from joulebook.node.sensors.drm import sensor
from joulebook.node.sensors.nvidia.sensor import NvmlSensor
from joulebook.node.sensors.trace.player import ReplaySensor, find_trace
from joulebook.node.workloads.host.procfs import shows_pids_of_host

PCI_DEVICES = Path("/sys/bus/pci/devices")
NVIDIA_VENDOR = "0x10de"
DISPLAY_CLASS = "0x03"
IPMI_DEVICES = (Path("/dev/ipmi0"), Path("/dev/ipmi/0"), Path("/dev/ipmidev/0"))


def enabled(value: object, is_here: Callable[[], bool]) -> bool:
    """Whether a thing is wanted: `"auto"` is where it is."""
    return is_here() if value == "auto" else bool(value)


def proc_of_driver(config: Config) -> Path | None:
    """The /proc in which pids mean what they mean to the driver; `None` if there is none here."""
    proc = Path(config.host.proc)
    said = config.tenants.processes.pid_namespace == "host"
    return proc if said or shows_pids_of_host(proc) else None


def gpu_is_here(pci: Path = PCI_DEVICES) -> bool:
    """Whether this machine has an NVIDIA GPU: one on the PCI bus, or a driver library.

    The library alone counts too: where a GPU is passed through, the bus may not show it.
    """
    for device in pci.glob("*") if pci.is_dir() else ():
        try:
            vendor = (device / "vendor").read_text().strip()
            kind = (device / "class").read_text().strip()
        except OSError:
            continue
        if vendor == NVIDIA_VENDOR and kind.startswith(DISPLAY_CLASS):
            return True
    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return False
    return True


def traces(names: str) -> list[Path]:
    """The traces of `sensors.replay.trace`: paths or names of shipped ones, comma-separated."""
    return [find_trace(name.strip()) for name in names.split(",") if name.strip()]


class SensorChoice(NamedTuple):
    """A sensor that can be chosen: how it measures, which meters are its, and how it is made."""

    kind: str
    owns: Callable[[Meter], bool]
    wanted: Callable[[Config, Path], bool]
    make: Callable[[Config, Clock], Sensor]


KERNEL_CARDS = ("AMD-", "INTEL-")
"""How the names of GPUs begin that the kernel's own files show."""


def _is_nvidia(meter: Meter) -> bool:
    return meter.component is Component.GPU and not meter.name.startswith(KERNEL_CARDS)


def _automatic(config: Config, is_here: Callable[[], object]) -> Callable[[], bool]:
    """What is found by itself: not beside a replay, which stands in for the whole machine."""
    return lambda: not config.sensors.replay.enabled and bool(is_here())


def _rapl_wanted(config: Config) -> bool:
    found = _automatic(config, lambda: rapl.zones(Path(config.sensors.rapl.root)))
    return enabled(config.sensors.rapl.enabled, found)


def _bmc_wanted(config: Config) -> bool:
    ipmi_is_here = any(path.exists() for path in IPMI_DEVICES)
    return enabled(config.sensors.ipmi.enabled, lambda: ipmi_is_here) or enabled(
        config.sensors.redfish.enabled, lambda: bool(config.sensors.redfish.url)
    )


def _hwmon_parts(config: Config) -> dict[str, bool]:
    """RAPL reads the packages better, and a BMC the node: then hwmon leaves them alone."""
    return {"cpu": not _rapl_wanted(config), "supply": not _bmc_wanted(config)}


def _covers(includes_gpus: bool) -> tuple[Component, ...]:
    return hwmon.EVERYTHING if includes_gpus else hwmon.EVERYTHING[:-1]


def _redfish(config: Config, clock: Clock) -> Sensor:
    from joulebook.node.sensors.redfish import RedfishSensor  # noqa: PLC0415 (urllib3: only for this)

    asked = config.sensors.redfish
    return RedfishSensor(
        clock,
        url=asked.url,
        credentials=Path(asked.credentials) if asked.credentials else None,
        ca_file=Path(asked.ca_file) if asked.ca_file else None,
        chassis=asked.chassis,
        every_s=asked.every_s,
        timeout_s=asked.timeout_s,
        covers=_covers(asked.includes_gpus),
    )


def _ipmi(config: Config, clock: Clock) -> Sensor:
    asked = config.sensors.ipmi
    return ipmi.IpmiSensor(
        clock,
        program=asked.program,
        every_s=asked.every_s,
        timeout_s=asked.timeout_s,
        covers=_covers(asked.includes_gpus),
    )


def _model(config: Config, clock: Clock) -> Sensor:
    asked = config.sensors.model
    return estimate.ModelSensor(
        clock,
        cpu_idle_w=asked.cpu_idle_w,
        cpu_tdp_w=asked.cpu_tdp_w,
        dram_w_per_gib=asked.dram_w_per_gib,
        proc=Path(config.host.proc),
    )


SENSORS: dict[str, SensorChoice] = {
    "nvml": SensorChoice(
        "counter",
        _is_nvidia,
        lambda config, pci: enabled(
            config.sensors.nvml.enabled, _automatic(config, lambda: gpu_is_here(pci))
        ),
        lambda config, clock: NvmlSensor(clock, proc=proc_of_driver(config)),
    ),
    "drm": SensorChoice(
        "counter",
        lambda meter: meter.component is Component.GPU and meter.name.startswith(KERNEL_CARDS),
        lambda config, _pci: enabled(
            config.sensors.drm.enabled,
            _automatic(config, lambda: sensor.metered(Path(config.sensors.drm.root))),
        ),
        lambda config, clock: sensor.DrmSensor(
            clock, Path(config.sensors.drm.root), proc=Path(config.host.proc)
        ),
    ),
    "rapl": SensorChoice(
        "counter",
        lambda meter: meter.name.startswith(("package-", "dram-")),
        lambda config, _pci: _rapl_wanted(config),
        lambda config, clock: rapl.RaplSensor(clock, Path(config.sensors.rapl.root)),
    ),
    "hwmon": SensorChoice(
        "power",
        lambda meter: (
            meter in {hwmon.NODE, hwmon.MODULES} or meter.name.startswith(("grace-", "amd-energy-"))
        ),
        lambda config, _pci: enabled(
            config.sensors.hwmon.enabled,
            _automatic(
                config,
                lambda: hwmon.sources(Path(config.sensors.hwmon.root), **_hwmon_parts(config)),
            ),
        ),
        lambda config, clock: hwmon.HwmonSensor(
            clock, Path(config.sensors.hwmon.root), **_hwmon_parts(config)
        ),
    ),
    "ipmi": SensorChoice(
        "power",
        lambda meter: meter == ipmi.METER,
        lambda config, _pci: enabled(
            config.sensors.ipmi.enabled, lambda: any(path.exists() for path in IPMI_DEVICES)
        ),
        _ipmi,
    ),
    "redfish": SensorChoice(
        "power",
        lambda meter: meter == Meter(Component.OTHER, "redfish"),
        lambda config, _pci: enabled(
            config.sensors.redfish.enabled, lambda: bool(config.sensors.redfish.url)
        ),
        _redfish,
    ),
    "model": SensorChoice(
        "modelled",
        lambda meter: meter in {estimate.CPU, estimate.DRAM},
        lambda config, _pci: config.sensors.model.enabled,
        _model,
    ),
    "replay": SensorChoice(
        "replay",
        lambda meter: meter.component is Component.GPU,
        lambda config, _pci: config.sensors.replay.enabled,
        lambda config, clock: ReplaySensor(clock, *traces(config.sensors.replay.trace)),
    ),
}

HOST_SENSORS = ("rapl", "hwmon", "model", "replay")
"""Those that may read CPU or DRAM: with one of them, who uses the host is asked for."""


def chosen(config: Config, pci: Path = PCI_DEVICES) -> dict[str, SensorChoice]:
    """The sensors that run here."""
    return {name: choice for name, choice in SENSORS.items() if choice.wanted(config, pci)}


def conflict(names: Collection[str]) -> str:
    """Why these sensors cannot run together; empty if they can."""
    if "model" in names and "rapl" in names:
        return (
            "sensors.model.enabled = true: RAPL measures the CPU of this machine, and a model "
            "beside it would count it twice; set it to false"
        )
    return ""
