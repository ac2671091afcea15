"""AMD's `gpu_metrics`: energy, power and activity out of the binary table in sysfs.

A table begins with its size and revision (struct metrics_table_header); what stands where is in
struct gpu_metrics_v1_* of drivers/gpu/drm/amd/include/kgd_pp_interface.h of the kernel. A value of
all ones means that the firmware does not tell it.

Cards whose table this version does not know are asked through AMD's own library, `amdsmi`, where
ROCm brings it; it is no dependency.
"""

from __future__ import annotations

import importlib
import logging
import math
import struct
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

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
        """The energy counter of a card; `None` if it does not tell."""
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
    """The library, where ROCm is; `None` elsewhere, and where it does not work."""
    if not rocm.exists():
        return None
    try:
        library = importlib.import_module("amdsmi")
        library.amdsmi_init()
        return AmdSmi(library)
    except Exception as error:
        _LOG.info("ROCm is here, but amdsmi cannot be used: %r", error)
        return None


_HEADER = struct.Struct("<HBB")

UJ_NUMERATOR, UJ_DENOMINATOR = 15_625, 1_024
"""The energy accumulator counts 2^-16 J, which is 15625/1024 uJ."""


class _Layout(NamedTuple):
    """Offsets in bytes: u16 of power (W) and activity (%), and the energy accumulator.

    `wide` says whether the accumulator has 64 bits.
    """

    power: int
    gfx: int
    memory: int
    energy: int
    wide: bool = True


_EARLY = _Layout(power=22, gfx=16, memory=18, energy=24)
_LAYOUTS = {
    (1, 0): _Layout(power=34, gfx=28, memory=30, energy=36, wide=False),
    (1, 1): _EARLY,
    (1, 2): _EARLY,
    (1, 3): _EARLY,
    (1, 4): _Layout(power=10, gfx=12, memory=14, energy=24),
    (1, 5): _Layout(power=10, gfx=12, memory=14, energy=88),
    (1, 6): _Layout(power=10, gfx=12, memory=14, energy=16),
    (1, 7): _Layout(power=10, gfx=12, memory=14, energy=24),
    (1, 8): _Layout(power=10, gfx=12, memory=14, energy=24),
}
"""By format and content revision. Those of APUs (2.x, 3.x) count no energy."""

WRAP_32_UJ = (1 << 32) * UJ_NUMERATOR // UJ_DENOMINATOR
"""Where the accumulator of revision 1.0 begins again: 65.5 kJ."""


class Metrics(NamedTuple):
    """What a table says; `None` is what it does not."""

    energy_uj: int | None = None
    power_mw: int | None = None
    gfx_percent: int | None = None
    memory_percent: int | None = None
    wrap_uj: int | None = None


def parse(table: bytes) -> Metrics | None:
    """The values of a table; `None` if it is cut short or of a revision that is not known."""
    if len(table) < _HEADER.size:
        return None
    size, major, minor = _HEADER.unpack_from(table)
    layout = _LAYOUTS.get((major, minor))
    if layout is None or len(table) < size or size < layout.energy + (8 if layout.wide else 4):
        return None
    power_w = _told(table, "<H", layout.power)
    counted = _told(table, "<Q" if layout.wide else "<I", layout.energy)
    return Metrics(
        # An accumulator that firmware does not keep reads as zero for ever.
        energy_uj=counted * UJ_NUMERATOR // UJ_DENOMINATOR if counted else None,
        power_mw=None if power_w is None else power_w * 1000,
        gfx_percent=_told(table, "<H", layout.gfx),
        memory_percent=_told(table, "<H", layout.memory),
        wrap_uj=None if layout.wide else WRAP_32_UJ,
    )


def _told(table: bytes, kind: str, offset: int) -> int | None:
    value: int = struct.unpack_from(kind, table, offset)[0]
    return None if value == (1 << (8 * struct.calcsize(kind))) - 1 else value
