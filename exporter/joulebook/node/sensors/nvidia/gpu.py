"""One NVIDIA GPU as a meter: from what the driver answers to a reading and a status."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from joulebook.clock import Clock
from joulebook.core.energy.readings import (
    Component,
    DeviceStatus,
    Instance,
    InstanceUse,
    Meter,
    PowerSample,
    Reading,
)
from joulebook.errors import SensorError
from joulebook.node.sensors.hwmon import HwmonFiles as Socket
from joulebook.node.sensors.nvidia.api import NvmlDevice, Session, Telemetry
from joulebook.node.sensors.nvidia.health import GpuHealth, HealthReader, gauge_values
from joulebook.node.sensors.nvidia.mig import Mig
from joulebook.node.sensors.nvidia.processes import UTILIZATION_IMPLAUSIBLE, ProcessReader
from joulebook.node.sensors.nvidia.uses import ProcessUses
from joulebook.node.sensors.sysfs import text_or
from joulebook.node.workloads.host.procfs import ProcessStarts
from joulebook.units import NS_PER_MS, NS_PER_S, NS_PER_US, UJ_PER_MJ

log = logging.getLogger(__name__)

GAUGES_NS = 4500 * NS_PER_MS
"""Between reads of what nothing is booked by (memory, clocks), at scrapes 15 s apart or more."""

WALL_STEP_NS = 100 * NS_PER_MS
"""A wall clock change of more than this between two polls is a step."""


class OpenGpu:
    """One GPU, opened. `earlier` is the same GPU of the session before, if there was one."""

    def __init__(
        self,
        session: Session,
        device: NvmlDevice,
        clock: Clock,
        starts: ProcessStarts,
        sysfs: Path,
        earlier: OpenGpu | None,
    ) -> None:
        self.meter: Final = Meter(Component.GPU, device.uuid)
        self.device = device
        self._clock = clock
        self._max_power_mw = device.max_power_mw
        self._driver = session.driver
        self.is_module: bool | None = None
        """Whether power, and so the counter, is that of a superchip's whole module."""
        self.socket: Socket | None = None
        """The CPU socket of the superchip, if the counter is its module's."""
        self.rail: Socket | None = None
        """The source of a Jetson's power, which NVML does not have."""
        self._is_cut = device.mig()
        self._mig = Mig(session, device.handle)
        self._health_reader = HealthReader(session, device.handle, device.rejected)
        self._health, self._health_ns = GpuHealth(), -GAUGES_NS
        self.xids: Counter[str] = Counter()
        """How often each Xid happened, by label."""
        self.last_xid: int | None = None
        """The last of them; 0: none yet, `None`: not available."""
        self._instances: tuple[Instance, ...] | None = None
        now_ns, self._utc_offset_ns = clock.now_ns(), clock.utc_offset_ns()
        now_us = (now_ns + self._utc_offset_ns) // NS_PER_US
        self.has_counter: bool | None = None
        self._sampled_us, self._sampled_ns = now_us, now_ns
        self._uses = ProcessUses(ProcessReader(session, device), starts, clock)
        self._gauges: Telemetry | None = None
        self._gauged_ns = 0
        if earlier is not None:
            self._go_on_from(earlier)
        if self.has_counter is None:
            self.has_counter = device.has_energy_counter()
        self._runtime_status = _runtime_status(sysfs, device.pci)

    def _go_on_from(self, earlier: OpenGpu) -> None:
        # Whether a GPU has a counter is settled once: a failing counter must never look like a
        # GPU that has none, or its energy would be booked by another method unnoticed.
        self.has_counter = earlier.has_counter
        self.is_module, self.socket = earlier.is_module, earlier.socket
        self._instances = earlier._instances
        self._health_reader.go_on_from(earlier._health_reader)
        self.xids, self.last_xid = earlier.xids, earlier.last_xid
        self._mig.refused = earlier._mig.refused
        self._mig.slices = self._mig.slices or earlier._mig.slices
        self.device.rejected.update(earlier.device.rejected)
        self._sampled_us, self._sampled_ns = earlier._sampled_us, earlier._sampled_ns
        self._utc_offset_ns = earlier._utc_offset_ns
        self._uses.go_on_from(earlier._uses)

    def close(self) -> None:
        """Free the driver's resources, before its session ends."""
        self._mig.close()
        self._health_reader.close()

    def refused(self) -> Counter[str]:
        """How many figures of the driver were not believed, by reason."""
        refused, utilization = self.device.rejected, self._uses.refused
        if not (self._mig.refused or utilization):
            return refused
        return self._mig.refused + refused + Counter({UTILIZATION_IMPLAUSIBLE: utilization})

    def asleep(self) -> bool:
        """Return whether the system has powered the GPU down; any query would wake it up."""
        if self._runtime_status is None:
            return False
        try:
            return self._runtime_status.read_text().strip() in ("suspended", "suspending")
        except OSError:
            return False

    def poll_energy(self) -> Reading:
        """Return the energy counter alone. Raises `SensorError`."""
        now_ns = self._clock.now_ns
        t0_ns = now_ns()
        energy_uj = self.device.energy_mj() * UJ_PER_MJ
        return Reading(
            self.meter,
            (t0_ns + now_ns()) // 2,
            energy_uj,
            epoch=self._clock.epoch,
            max_power_mw=self._max_power_mw,
        )

    def poll(self, *, processes: bool) -> tuple[Reading, DeviceStatus]:
        """Everything. Raises `SensorError` if there is no figure for energy, nor for power."""
        device, now_ns = self.device, self._clock.now_ns
        if self.has_counter is None:
            self.has_counter = device.has_energy_counter()
        energy_uj: int | None = None
        t0_ns = now_ns()
        if self.has_counter is not False:
            energy_uj = device.energy_mj() * UJ_PER_MJ
        t_ns = (t0_ns + now_ns()) // 2
        average_mw, instant_mw, module_mw, module_instant_mw, throttle_ns = device.fields()
        if self.is_module is None and any((average_mw, instant_mw, module_mw, module_instant_mw)):
            self.is_module = average_mw is None and instant_mw is None
        if self.is_module:
            average_mw, instant_mw = module_mw, module_instant_mw
        is_mean = average_mw is not None
        if average_mw is None:
            average_mw = self._power_mw(must=energy_uj is None and instant_mw is None)
        power_mw = average_mw
        samples: tuple[PowerSample, ...] = ()
        if energy_uj is None:
            # Trapezoids need the power of the instant, not the mean of the last second.
            power_mw = average_mw if instant_mw is None else instant_mw
            t_ns = now_ns()
        if energy_uj is None or not is_mean:
            # Single instants are too rough to integrate, or to audit a counter by.
            samples = self._samples(t_ns)
        known = self._gauges if t_ns - self._gauged_ns < GAUGES_NS else None
        gauges = self._gauges = device.telemetry(known)
        if known is None:
            self._gauged_ns = t_ns
        instances = self._cut_up(t_ns) if processes else None
        uses = self._uses.poll(t_ns, gauges.gpu_pct, self._instances or ()) if processes else None
        healthy = processes and t_ns - self._health_ns >= GAUGES_NS
        if healthy:
            self._health, self._health_ns = self._health_reader.poll(t_ns), t_ns
        uptime_s = device.uptime_s()
        reading = Reading(
            self.meter,
            t_ns,
            energy_uj,
            power_mw,
            samples,
            epoch=self._clock.epoch,
            uptime_ns=None if uptime_s is None else uptime_s * NS_PER_S,
            max_power_mw=self._max_power_mw,
            busy=_is_busy(gauges, instances),
            processes=uses,
            instances=instances,
            utilization_pct=gauges.gpu_pct,
            parts=(self.socket.meter,) if self.is_module and self.socket else (),
            tensor_ppm=self._health.tensor_ppm if healthy else None,
        )
        shown_mw = instant_mw if average_mw is None else average_mw
        if self.is_module and shown_mw is not None:
            shown_mw = self._without_socket(shown_mw)
        values = {**gauge_values(gauges, shown_mw), **self._health.values}
        if device.memory_reserved_bytes:
            values["memory_reserved_bytes"] = device.memory_reserved_bytes
        return reading, self.status(t_ns, values, throttle_ns)

    def status(
        self, t_ns: int, values: Mapping[str, float], throttle_ns: Mapping[str, int]
    ) -> DeviceStatus:
        """Return who this GPU is; with empty `values` while it does not answer."""
        device = self.device
        return DeviceStatus(
            self.meter,
            device.index,
            t_ns,
            "nvidia",
            device.model,
            self._driver,
            device.pci,
            device.minor,
            self._is_cut,
            values,
            throttle_ns,
            self._instances or (),
            self._mig.slices if self._is_cut else 0,
            counts=self._counts(),
            last_xid=self.last_xid,
        )

    def _counts(self) -> dict[tuple[str, str], int]:
        xids = {("xid_errors", label): count for label, count in self.xids.items()}
        return {**self._health.counts, **xids}

    def _cut_up(self, t_ns: int) -> tuple[InstanceUse, ...] | None:
        """Return the MIG instances and their work; `None` if the query fails."""
        self._is_cut = self.device.mig()
        if not self._is_cut and self._instances == ():
            return ()
        try:
            instances = self._mig.instances() if self._is_cut else ()
        except SensorError:
            return None
        if self._instances is not None and instances != self._instances:
            what = ", ".join(f"{each.profile} {each.uuid}" for each in instances) or "none"
            log.info("GPU %s: its MIG instances are now: %s", self.meter.name, what)
            self._uses.forget()
        self._instances = instances
        return self._mig.used(instances, t_ns)

    def _without_socket(self, module_mw: int) -> int | None:
        """Return the GPU's own power, where the socket's is reported; else the module's."""
        if self.socket is None:
            return module_mw
        socket_mw = self.socket.power_mw()
        return None if socket_mw is None else max(module_mw - socket_mw, 0)

    def _power_mw(self, *, must: bool) -> int | None:
        try:
            return self.device.power_mw()
        except SensorError:
            power_mw = self.rail.power_mw() if self.rail is not None else None
            if must and power_mw is None:
                raise
            return power_mw

    def _samples(self, t_ns: int) -> tuple[PowerSample, ...]:
        """Return the driver's buffered power since the last time, in node time, up to `t_ns`."""
        offset_ns = self._clock.utc_offset_ns()
        if abs(offset_ns - self._utc_offset_ns) > WALL_STEP_NS:
            self._sampled_us = (self._sampled_ns + offset_ns) // NS_PER_US
        self._utc_offset_ns = offset_ns
        try:
            buffered = self.device.power_samples(self._sampled_us)
        except SensorError:
            return ()  # what was missed is still in the buffer at the next look
        samples: list[PowerSample] = []
        for sample_us, power_mw in buffered:
            sample_ns = sample_us * NS_PER_US - offset_ns
            # Samples from before a step of the wall clock carry its old time: they are left out.
            if self._sampled_ns < sample_ns <= t_ns:
                samples.append(PowerSample(sample_ns, power_mw))
                self._sampled_us, self._sampled_ns = sample_us, sample_ns
        return tuple(samples)


def _is_busy(gauges: Telemetry, instances: tuple[InstanceUse, ...] | None) -> bool | None:
    """Return whether any engine was at work; `None` if not reported, or not queried."""
    if gauges.gpu_pct is not None:
        return bool(gauges.gpu_pct or gauges.encoder_pct or gauges.decoder_pct)
    active = [each.active_ppm for each in instances or ()]
    if any(active):
        return True
    return None if not active or None in active else False


def pci_device(sysfs: Path, pci: str) -> Path:
    """Return where the kernel shows a PCI device, whose domain the driver writes with 8 digits."""
    domain, _, rest = pci.lower().partition(":")
    return sysfs / "bus/pci/devices" / f"{domain[-4:]}:{rest}"


def _runtime_status(sysfs: Path, pci: str) -> Path | None:
    """Return the file with the GPU's power state; `None` if it never sleeps."""
    power = pci_device(sysfs, pci) / "power"
    may_sleep = text_or(power / "control") == "auto"
    return power / "runtime_status" if may_sleep else None
