"""The sensors by name in the configuration: when each runs, and what it measures.

A new sensor is one file in `sensors/`, a section in `config/sensors.py`, and one line in `SENSORS`.
What a node does not have is not imported: a daemon is counted in milliseconds and megabytes.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple

from joulebook.clock import Clock
from joulebook.config import Config
from joulebook.core.energy.readings import Component, Meter
from joulebook.node.sensors import hwmon, rapl
from joulebook.node.sensors.contract import Sensor
from joulebook.node.workloads.host.procfs import shows_pids_of_host

PCI_DEVICES = Path("/sys/bus/pci/devices")
NVIDIA_VENDOR = "0x10de"
DISPLAY_CLASS = "0x03"
IPMI_DEVICES = (Path("/dev/ipmi0"), Path("/dev/ipmi/0"), Path("/dev/ipmidev/0"))


def enabled(value: object, is_here: Callable[[], bool]) -> bool:
    """Return whether a thing is wanted: `"auto"` is where it is."""
    return is_here() if value == "auto" else bool(value)


def proc_of_driver(config: Config) -> Path | None:
    """The /proc in which pids mean what they mean to the driver; `None` if there is none here."""
    proc = Path(config.host.proc)
    said = config.tenants.processes.pid_namespace == "host"
    return proc if said or shows_pids_of_host(proc) else None


def gpu_is_here(pci: Path = PCI_DEVICES) -> bool:
    """Return whether this machine has an NVIDIA GPU: one on the PCI bus, or a driver library.

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
    from joulebook.node.sensors.trace.player import find_trace  # noqa: PLC0415

    return [find_trace(name.strip()) for name in names.split(",") if name.strip()]


def _rapl_is_here(config: Config, _pci: Path) -> bool:
    return bool(rapl.zones(Path(config.sensors.rapl.root)))


def _drm_is_here(config: Config, _pci: Path) -> bool:
    root = Path(config.sensors.drm.root)
    if next(root.glob("card*"), None) is None:
        return False
    from joulebook.node.sensors.drm.sensor import metered  # noqa: PLC0415

    return bool(metered(root))


def _hwmon_is_here(config: Config, _pci: Path) -> bool:
    return bool(hwmon.sources(Path(config.sensors.hwmon.root), **_hwmon_parts(config)))


def _ipmi_is_here(_config: Config, _pci: Path) -> bool:
    return any(path.exists() for path in IPMI_DEVICES)


def _redfish_is_here(config: Config, _pci: Path) -> bool:
    return bool(config.sensors.redfish.url)


def _never(_config: Config, _pci: Path) -> bool:
    return False


def _hwmon_parts(config: Config) -> dict[str, bool]:
    """RAPL reads packages better, a BMC the node, and NVML names GPUs: hwmon leaves them alone."""
    bmc = SENSORS["ipmi"].wanted(config) or SENSORS["redfish"].wanted(config)
    return {
        "cpu": not SENSORS["rapl"].wanted(config),
        "supply": not bmc,
        "gpu": not SENSORS["nvml"].wanted(config),
    }


def _covers(includes_gpus: bool) -> tuple[Component, ...]:
    return hwmon.EVERYTHING if includes_gpus else hwmon.EVERYTHING[:-1]


def _nvml(config: Config, clock: Clock) -> Sensor:
    from joulebook.node.sensors.nvidia.sensor import NvmlSensor  # noqa: PLC0415

    hwmon_root = Path(config.sensors.hwmon.root) if SENSORS["hwmon"].wanted(config) else None
    return NvmlSensor(clock, proc=proc_of_driver(config), hwmon=hwmon_root)


def _drm(config: Config, clock: Clock) -> Sensor:
    from joulebook.node.sensors.drm.sensor import DrmSensor  # noqa: PLC0415

    return DrmSensor(clock, Path(config.sensors.drm.root), proc=Path(config.host.proc))


def _rapl(config: Config, clock: Clock) -> Sensor:
    return rapl.RaplSensor(clock, Path(config.sensors.rapl.root))


def _hwmon(config: Config, clock: Clock) -> Sensor:
    asked = config.sensors.hwmon
    parts, covers = _hwmon_parts(config), _covers(asked.includes_gpus)
    return hwmon.HwmonSensor(clock, Path(asked.root), **parts, covers=covers)


def _redfish(config: Config, clock: Clock) -> Sensor:
    from joulebook.node.sensors.redfish import RedfishSensor  # noqa: PLC0415

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
    from joulebook.node.sensors.ipmi import IpmiSensor  # noqa: PLC0415

    asked = config.sensors.ipmi
    return IpmiSensor(
        clock,
        program=asked.program,
        every_s=asked.every_s,
        timeout_s=asked.timeout_s,
        covers=_covers(asked.includes_gpus),
    )


def _model(config: Config, clock: Clock) -> Sensor:
    from joulebook.node.sensors.estimate import ModelSensor  # noqa: PLC0415

    asked = config.sensors.model
    return ModelSensor(
        clock,
        cpu_idle_w=asked.cpu_idle_w,
        cpu_tdp_w=asked.cpu_tdp_w,
        dram_w_per_gib=asked.dram_w_per_gib,
        proc=Path(config.host.proc),
    )


def _replay(config: Config, clock: Clock) -> Sensor:
    from joulebook.node.sensors.trace.player import ReplaySensor  # noqa: PLC0415

    return ReplaySensor(clock, *traces(config.sensors.replay.trace))


class Registration(NamedTuple):
    """A sensor that can be chosen: `[sensors.NAME]`, what its `"auto"` means, and its factory."""

    name: str
    default: Callable[[Config, Path], bool]
    make: Callable[[Config, Clock], Sensor]

    def wanted(self, config: Config, pci: Path = PCI_DEVICES) -> bool:
        """Return whether it runs here.

        Sensors on "auto" do not run with a replay, which replaces the machine.
        """
        value = getattr(config.sensors, self.name).enabled
        return enabled(
            value, lambda: not config.sensors.replay.enabled and self.default(config, pci)
        )


SENSORS = {
    each.name: each
    for each in (
        Registration("nvml", lambda _config, pci: gpu_is_here(pci), _nvml),
        Registration("drm", _drm_is_here, _drm),
        Registration("rapl", _rapl_is_here, _rapl),
        Registration("hwmon", _hwmon_is_here, _hwmon),
        Registration("ipmi", _ipmi_is_here, _ipmi),
        Registration("redfish", _redfish_is_here, _redfish),
        Registration("model", _never, _model),
        Registration("replay", _never, _replay),
    )
}


def chosen(config: Config, pci: Path = PCI_DEVICES) -> dict[str, Registration]:
    """Return the sensors that run here."""
    return {name: each for name, each in SENSORS.items() if each.wanted(config, pci)}


def conflict(names: Collection[str]) -> str:
    """Why these sensors cannot run together; empty if they can."""
    if "model" in names and "rapl" in names:
        return (
            "sensors.model.enabled = true: RAPL already measures the CPU of this machine, and "
            "the model would count it twice; set it to false"
        )
    return ""


def reader_of(meter: Meter) -> str:
    """The name of the sensor that measures a whole node as `meter` (its section in the file)."""
    return meter.name if meter.name in {"ipmi", "redfish"} else "hwmon"
