"""One AMD GPU, by sysfs of the amdgpu driver: `gpu_metrics` first, else power of its hwmon.

Energy comes from the accumulator in `gpu_metrics` (MI100 and newer); a card without one has its
power integrated. The files are in Documentation/gpu/amdgpu/thermal.rst of the kernel.
"""

from __future__ import annotations

from joulebook.clock import Clock
from joulebook.core.energy.devices import DeviceStatus
from joulebook.core.energy.readings import Component, Meter, Reading
from joulebook.errors import SensorError
from joulebook.node.sensors.drm.amd_metrics import AmdSmi, Metrics, parse
from joulebook.node.sensors.drm.card import REMEDY, CardNumbers, ratio, reported, scaled
from joulebook.node.sensors.sysfs import int_or_none, read_bytes, read_int, text_or
from joulebook.units import UW_PER_MW

_PER_MILLI, _PER_MICRO = 1_000, 1_000_000
HEADROOM = 2
"""A card may draw so many times its cap for a moment."""


class AmdCard:
    """`smi` is asked where `gpu_metrics` is of a revision that is not known."""

    def __init__(self, place: CardNumbers, clock: Clock, smi: AmdSmi | None = None) -> None:
        self._place = place
        self._clock = clock
        self._smi = smi
        self._metrics = Metrics()
        serial = text_or(place.device / "unique_id")
        self.meter = Meter(Component.GPU, f"AMD-{serial}" if serial else f"AMD-{place.pci}")

    def read(self) -> Reading:
        """Energy, else power now. Raises `SensorError`."""
        self._metrics = self._table() or Metrics()
        power_mw = self._power_mw()
        energy_uj, wrap_uj = self._metrics.energy_uj, self._metrics.wrap_uj
        if energy_uj is None and self._smi is not None:
            energy_uj = self._smi.energy_uj(self._place.pci)
        if energy_uj is None and power_mw is None:
            raise SensorError(
                f"{self._place.device} tells neither energy nor power",
                reason="energy_unread",
                remedy=REMEDY,
            )
        cap_uw = self._hwmon("power1_cap")
        return Reading(
            self.meter,
            self._clock.now_ns(),
            energy_uj=energy_uj,
            power_mw=power_mw,
            wrap_uj=wrap_uj,
            epoch=self._clock.epoch,
            max_power_mw=HEADROOM * cap_uw // UW_PER_MW if cap_uw else None,
            busy=self._busy(),
            utilization_pct=self._activity(),
        )

    def status(self, index: int, t_ns: int) -> DeviceStatus:
        """Utilization, memory, temperature, clocks."""
        place, device = self._place, self._place.device
        hwmon = place.hwmon or device / "hwmon"
        power_mw = self._power_mw()
        values = {
            "power_watts": None if power_mw is None else power_mw / _PER_MILLI,
            "power_limit_watts": scaled(hwmon / "power1_cap", _PER_MICRO),
            "utilization_ratio": ratio(self._activity()),
            "memory_utilization_ratio": ratio(int_or_none(device / "mem_busy_percent")),
            "memory_used_bytes": scaled(device / "mem_info_vram_used", 1),
            "memory_total_bytes": scaled(device / "mem_info_vram_total", 1),
            "temperature_celsius": scaled(hwmon / "temp1_input", _PER_MILLI)
            or scaled(hwmon / "temp2_input", _PER_MILLI),
            "sm_clock_hertz": scaled(hwmon / "freq1_input", 1),
            "memory_clock_hertz": scaled(hwmon / "freq2_input", 1),
        }
        model = text_or(device / "product_name") or f"AMD {text_or(device / 'device')}"
        return DeviceStatus(
            self.meter,
            index,
            t_ns,
            vendor="amd",
            model=model,
            driver=place.driver,
            pci=place.pci,
            values=reported(values),
            files=place.files,
        )

    def _table(self) -> Metrics | None:
        try:
            return parse(read_bytes(self._place.device / "gpu_metrics", REMEDY))
        except SensorError:
            return None  # an older driver has none

    def _power_mw(self) -> int | None:
        for name in ("power1_average", "power1_input"):
            if (power_uw := self._hwmon(name)) is not None:
                return power_uw // UW_PER_MW
        return self._metrics.power_mw

    def _hwmon(self, name: str) -> int | None:
        return None if self._place.hwmon is None else int_or_none(self._place.hwmon / name)

    def _activity(self) -> int | None:
        percent = int_or_none(self._place.device / "gpu_busy_percent")
        return self._metrics.gfx_percent if percent is None else percent

    def _busy(self) -> bool | None:
        percent = self._activity()
        return None if percent is None else percent > 0


def readable(place: CardNumbers) -> bool:
    """Whether the card tells energy or power at all (for `joulebook doctor`)."""
    try:
        read_int(place.device / "gpu_busy_percent", REMEDY)
    except SensorError:
        return False
    return True
