"""One AMD GPU, by sysfs of the amdgpu driver: `gpu_metrics` first, else power of its hwmon.

Energy comes from the accumulator in `gpu_metrics` (MI100 and newer); a card without one has its
power integrated. The files are in Documentation/gpu/amdgpu/thermal.rst of the kernel.

A table of `gpu_metrics` begins with its size and revision (struct metrics_table_header); what
stands where is in struct gpu_metrics_v1_* of drivers/gpu/drm/amd/include/kgd_pp_interface.h. A
value of all ones means that the firmware does not report it. Cards with an unknown table are read
through AMD's own library, `amdsmi`, if ROCm is installed; it is not a dependency.
"""

from __future__ import annotations

import importlib
import logging
import math
import re
import struct
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import msgspec

from joulebook.clock import Clock
from joulebook.core.energy.readings import Component, DeviceStatus, Meter, Reading
from joulebook.errors import SensorError
from joulebook.node.sensors.drm.card import REMEDY, CardNumbers, ratio, scaled
from joulebook.node.sensors.sysfs import int_or_none, read_bytes, text_or
from joulebook.units import NS_PER_S, UW_PER_MW

_PER_MILLI, _PER_MICRO = 1_000, 1_000_000
HEADROOM = 2
"""A card may draw so many times its cap for a moment."""


RAS_NS = 60 * NS_PER_S
_RAS = re.compile(r"^(ue|ce): *(\d{1,18})$", re.MULTILINE)
_RAS_KINDS = {"ce": "corrected", "ue": "uncorrected"}


def _ras(folder: Path) -> dict[tuple[str, str], int]:
    """Errors of all blocks of a card (`*_err_count`); none where the kernel counts none."""
    counts: dict[tuple[str, str], int] = {}
    for path in sorted(folder.glob("*_err_count")):
        for kind, number in _RAS.findall(text_or(path)):
            key = ("ecc_errors", _RAS_KINDS[kind])
            counts[key] = counts.get(key, 0) + int(number)
    return counts


class AmdCard:
    """`smi` is used if `gpu_metrics` has an unknown revision."""

    def __init__(self, place: CardNumbers, clock: Clock, smi: AmdSmi | None = None) -> None:
        self._place = place
        self._clock = clock
        self._smi = smi
        self._metrics = Metrics()
        self._ras_ns: int | None = None
        self._ras: Mapping[tuple[str, str], int] = {}
        self.read_ns = 0
        serial = text_or(place.device / "unique_id")
        self.meter = Meter(Component.GPU, f"AMD-{serial}" if serial else f"AMD-{place.pci}")

    def partition(self, number: int) -> int | None:
        """Return the activity of one of its partitions, in percent, at the last reading."""
        told = self._metrics.partition_percent
        return told[number] if number < len(told) else None

    def read(self) -> Reading:
        """Energy, else power now. Raises `SensorError`."""
        self._metrics = self._table() or Metrics()
        power_mw = self._power_mw()
        energy_uj, wrap_uj = self._metrics.energy_uj, self._metrics.wrap_uj
        if energy_uj is None and self._smi is not None:
            energy_uj = self._smi.energy_uj(self._place.pci)
        if energy_uj is None and power_mw is None:
            raise SensorError(
                f"{self._place.device} reports neither energy nor power",
                reason="energy_unread",
                remedy=REMEDY,
            )
        cap_uw = self._hwmon("power1_cap")
        self.read_ns = self._clock.now_ns()
        return Reading(
            self.meter,
            self.read_ns,
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
        status = place.status(self.meter, index, t_ns, values)
        return msgspec.structs.replace(status, counts=self._errors(t_ns))

    def _errors(self, t_ns: int) -> Mapping[tuple[str, str], int]:
        """What RAS counted; the driver asks the hardware for it, so it is asked seldom."""
        if self._ras_ns is None or t_ns - self._ras_ns >= RAS_NS:
            self._ras_ns, self._ras = t_ns, _ras(self._place.device / "ras")
        return self._ras

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
        """Return the activity of the card, or of its first partition."""
        if self._metrics.partition_percent:
            return self._metrics.partition_percent[0]
        percent = int_or_none(self._place.device / "gpu_busy_percent")
        return self._metrics.gfx_percent if percent is None else percent

    def _busy(self) -> bool | None:
        percent = self._activity()
        return None if percent is None else percent > 0


class AmdPartition:
    """A partition of a card, which has no energy of its own: that is the card's."""

    def __init__(self, place: CardNumbers, card: AmdCard, number: int) -> None:
        self._place, self._card, self._number = place, card, number
        self.meter = Meter(Component.GPU, f"{card.meter.name}-{number}")

    def read(self) -> Reading:
        """Return whether it is at work; read after its card."""
        percent = self._card.partition(self._number)
        return Reading(
            self.meter,
            self._card.read_ns,
            power_mw=0,
            busy=None if percent is None else percent > 0,
            utilization_pct=percent,
        )

    def status(self, index: int, t_ns: int) -> DeviceStatus:
        """Return who it is, and its utilization."""
        values = {"utilization_ratio": ratio(self._card.partition(self._number))}
        return self._place.status(self.meter, index, t_ns, values)


_LOG = logging.getLogger(__name__)

ROCM = Path("/opt/rocm")


class AmdSmi:
    """The energy counters of all cards, by PCI address."""

    def __init__(self, library: ModuleType) -> None:
        self._smi = library
        self._handles: dict[str, Any] = {
            str(library.amdsmi_get_gpu_device_bdf(handle)).lower(): handle
            for handle in library.amdsmi_get_processor_handles()
        }

    def energy_uj(self, pci: str) -> int | None:
        """Return the energy counter of a card; `None` if it has none."""
        handle = self._handles.get(pci.lower())
        if handle is None:
            return None
        try:
            reported = self._smi.amdsmi_get_energy_count(handle)
            counted = int(reported.get("energy_accumulator", reported.get("power")))
            resolution_uj = Fraction(reported["counter_resolution"])  # a float: taken as it is
        except Exception as error:  # its own exceptions, which are only there with it
            _LOG.debug("amdsmi: %s: %r", pci, error)
            return None
        return math.floor(counted * resolution_uj)


def load(rocm: Path = ROCM) -> AmdSmi | None:
    """Return the library, where ROCm is; `None` elsewhere, and where it does not work."""
    if not rocm.exists():
        return None
    try:
        library = importlib.import_module("amdsmi")
        library.amdsmi_init()
        return AmdSmi(library)
    except Exception as error:
        _LOG.info("ROCm is installed, but amdsmi does not work: %r", error)
        return None


_HEADER = struct.Struct("<HBB")

UJ_NUMERATOR, UJ_DENOMINATOR = 15_625, 1_024
"""The energy accumulator counts 2^-16 J, which is 15625/1024 uJ."""


class _Layout(NamedTuple):
    """Offsets in bytes: u16 of power (W) and activity (%), and the energy accumulator.

    `wide`: whether the accumulator has 64 bits. `partitions`: the statistics of each partition,
    which begin with u32 activities (%) of its up to eight dies; their number is 6 bytes before.
    """

    power: int
    gfx: int
    energy: int
    wide: bool = True
    partitions: int = 0


_EARLY = _Layout(power=22, gfx=16, energy=24)
_LAYOUTS = {
    (1, 0): _Layout(power=34, gfx=28, energy=36, wide=False),
    (1, 1): _EARLY,
    (1, 2): _EARLY,
    (1, 3): _EARLY,
    (1, 4): _Layout(power=10, gfx=12, energy=24),
    (1, 5): _Layout(power=10, gfx=12, energy=88),
    (1, 6): _Layout(power=10, gfx=12, energy=16, partitions=312),
    (1, 7): _Layout(power=10, gfx=12, energy=24, partitions=344),
    (1, 8): _Layout(power=10, gfx=12, energy=24, partitions=344),
}
"""By format and content revision. Those of APUs (2.x, 3.x) count no energy."""

_EARLY_6_BYTES = 384
"""Revision 1.6 as Linux 6.12 has it, laid out like 1.5: without partitions."""

_MOST_PARTITIONS, _MOST_DIES = 8, 8
_TAIL_BYTES = 8
"""What follows the statistics of partitions, which fill the rest of their table."""

WRAP_32_UJ = (1 << 32) * UJ_NUMERATOR // UJ_DENOMINATOR
"""Where the accumulator of revision 1.0 begins again: 65.5 kJ."""


class Metrics(NamedTuple):
    """The values of a table; `None` if not reported."""

    energy_uj: int | None = None
    power_mw: int | None = None
    gfx_percent: int | None = None
    wrap_uj: int | None = None
    partition_percent: tuple[int | None, ...] = ()


def parse(table: bytes) -> Metrics | None:
    """The values of a table; `None` if it is cut short or of a revision that is not known."""
    if len(table) < _HEADER.size:
        return None
    size, major, minor = _HEADER.unpack_from(table)
    is_early = (major, minor) == (1, 6) and size <= _EARLY_6_BYTES
    layout = _LAYOUTS.get((1, 5) if is_early else (major, minor))
    if layout is None or len(table) < size or size < layout.energy + (8 if layout.wide else 4):
        return None
    power_w = _told(table, "<H", layout.power)
    counted = _told(table, "<Q" if layout.wide else "<I", layout.energy)
    return Metrics(
        # An accumulator that firmware does not keep reads as zero for ever.
        energy_uj=counted * UJ_NUMERATOR // UJ_DENOMINATOR if counted else None,
        power_mw=None if power_w is None else power_w * 1000,
        gfx_percent=_told(table, "<H", layout.gfx),
        wrap_uj=None if layout.wide else WRAP_32_UJ,
        partition_percent=_partitions(table[:size], layout.partitions),
    )


def _partitions(table: bytes, begin: int) -> tuple[int | None, ...]:
    """Return the mean activity of the dies of each partition; none where there is only one."""
    stride = (len(table) - _TAIL_BYTES - begin) // _MOST_PARTITIONS
    if not begin or stride < 4 * _MOST_DIES:
        return ()
    count = _told(table, "<H", begin - 6) or 0
    if not 1 < count <= _MOST_PARTITIONS:
        return ()
    found: list[int | None] = []
    for place in range(begin, begin + count * stride, stride):
        told = [_told(table, "<I", place + 4 * die) for die in range(_MOST_DIES)]
        percents = [percent for percent in told if percent is not None and percent <= 100]
        found.append(round(sum(percents) / len(percents)) if percents else None)
    return tuple(found)


def _told(table: bytes, kind: str, offset: int) -> int | None:
    value: int = struct.unpack_from(kind, table, offset)[0]
    return None if value == (1 << (8 * struct.calcsize(kind))) - 1 else value
