"""One Intel GPU, by sysfs of the i915 and xe drivers.

Energy is that of hwmon, in microjoules: `card` where the driver distinguishes the board from the
package (`pkg`), else the only one. Both drivers accumulate a 32-bit register when it is read, so a
card must be polled before it wraps (Documentation/ABI/testing/ sysfs-driver-intel-i915-hwmon and
sysfs-driver-intel-xe-hwmon of the kernel).
"""

from __future__ import annotations

from pathlib import Path

from joulebook.clock import Clock
from joulebook.core.energy.readings import Component, DeviceStatus, Meter, Reading
from joulebook.errors import SensorMissing
from joulebook.node.sensors.drm.card import REMEDY, CardNumbers, scaled
from joulebook.node.sensors.sysfs import int_or_none, numbered, read_int, text_or
from joulebook.units import NS_PER_MS, UW_PER_MW

REGISTER_UJ = (1 << 32) * 15_625 // 256
"""What 32 bits of 2^-14 J hold: 262 kJ, 4.4 minutes at 1 kW."""

HEADROOM = 2
BUSY_PER_MILLE = 20
"""Less work than this is the driver's own."""


class IntelCard:
    """A card of i915 or xe."""

    def __init__(self, place: CardNumbers, clock: Clock) -> None:
        self._place = place
        self._clock = clock
        self.meter = Meter(Component.GPU, f"INTEL-{place.pci}")
        self._energy = _input(place.hwmon, "energy")
        self._gts = _residencies(place)
        self._idle: tuple[int, int] | None = None  # node time, idle ms summed over its GTs
        self._counted: tuple[int, int] | None = None
        self._watts: float | None = None
        self._use: float | None = None

    def read(self) -> Reading:
        """Energy now. Raises `SensorError`."""
        if self._energy is None:
            raise SensorMissing(
                f"{self._place.device} has no energy counter", reason="energy_unread", remedy=REMEDY
            )
        energy_uj = read_int(self._energy, REMEDY)
        t_ns = self._clock.now_ns()
        self._reckon(energy_uj, t_ns)
        return Reading(
            self.meter,
            t_ns,
            energy_uj=energy_uj,
            wrap_uj=REGISTER_UJ,
            epoch=self._clock.epoch,
            max_power_mw=self._max_mw(),
            busy=None if self._use is None else 1000 * self._use > BUSY_PER_MILLE,
        )

    def status(self, index: int, t_ns: int) -> DeviceStatus:
        """Power (from the last two polls), utilization, limits."""
        place = self._place
        hwmon = place.hwmon or place.device / "hwmon"
        values = {
            "power_watts": self._watts,
            "power_limit_watts": scaled(hwmon / "power1_max", 1_000_000),
            "utilization_ratio": self._use,
            "memory_total_bytes": _vram_bytes(place),
            "temperature_celsius": scaled(_first(hwmon, r"temp(\d+)_input"), 1_000),
            "sm_clock_hertz": _hertz(place),
        }
        return place.status(self.meter, index, t_ns, values)

    def _max_mw(self) -> int | None:
        hwmon = self._place.hwmon
        limit_uw = int_or_none(hwmon / "power1_max") if hwmon is not None else None
        return HEADROOM * limit_uw // UW_PER_MW if limit_uw else None

    def _reckon(self, energy_uj: int, t_ns: int) -> None:
        """Work out power and utilization since the last poll; neither is reported as such."""
        if self._counted is not None and t_ns > self._counted[0] and energy_uj >= self._counted[1]:
            self._watts = (energy_uj - self._counted[1]) * 1_000 / (t_ns - self._counted[0])
        self._counted = (t_ns, energy_uj)
        idle = [value for path in self._gts if (value := int_or_none(path)) is not None]
        if not idle:
            return
        # The busiest engine block counts: a card of two tiles with one at work is busy.
        idle_ms = min(idle)
        if self._idle is not None and t_ns > self._idle[0]:
            share = (idle_ms - self._idle[1]) * NS_PER_MS / (t_ns - self._idle[0])
            self._use = min(max(1.0 - share, 0.0), 1.0)
        self._idle = (t_ns, idle_ms)


def _input(hwmon: Path | None, kind: str) -> Path | None:
    """Return the counter of the board, else of the package, else the only one."""
    if hwmon is None:
        return None
    found = {text_or(hwmon / f"{kind}{n}_label"): path
             for n, path in numbered(hwmon, rf"{kind}(\d+)_input")}  # fmt: skip
    return found.get("card") or found.get("pkg") or next(iter(found.values()), None)


def _first(directory: Path, pattern: str) -> Path | None:
    return next((path for _, path in numbered(directory, pattern)), None)


def _residencies(place: CardNumbers) -> list[Path]:
    """Return where the time is counted for which the engines slept, in ms."""
    xe = [
        gt / "gtidle/idle_residency_ms"
        for _, tile in numbered(place.device, r"tile(\d+)")
        for _, gt in numbered(tile, r"gt(\d+)")
    ]
    card = place.device / "drm" / f"card{place.card}"
    i915 = [gt / "rc6_residency_ms" for _, gt in numbered(card / "gt", r"gt(\d+)")]
    return [path for path in (*xe, *i915) if path.exists()]


def _hertz(place: CardNumbers) -> float | None:
    tile = next((path for _, path in numbered(place.device, r"tile(\d+)")), None)
    mhz = int_or_none(tile / "gt0/freq0/act_freq") if tile is not None else None
    if mhz is None:
        mhz = int_or_none(place.device / "drm" / f"card{place.card}" / "gt_act_freq_mhz")
    return None if mhz is None else mhz * 1_000_000.0


def _vram_bytes(place: CardNumbers) -> float | None:
    sizes = [
        value
        for _, tile in numbered(place.device, r"tile(\d+)")
        if (value := int_or_none(tile / "physical_vram_size_bytes")) is not None
    ]
    return float(sum(sizes)) if sizes else None
