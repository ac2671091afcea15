"""AMD's own library, for cards whose `gpu_metrics` this version does not know.

`amdsmi` comes with ROCm and is no dependency: it is imported only where ROCm is, and even then it
may fail in its own ways (it raises KeyError without its environment).
"""

from __future__ import annotations

import importlib
import logging
import math
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

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
            told = self._smi.amdsmi_get_energy_count(handle)
            counted = int(told.get("energy_accumulator", told.get("power")))
            resolution_uj = Fraction(told["counter_resolution"])  # a float: taken as it is
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
