# SPDX-License-Identifier: Apache-2.0
"""What a scenario is made of: the cards, processes and MIG devices that tests describe, and the
ctypes mirror of scenario.h, from which limits and function names are read.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path

_HEADER = (Path(__file__).parent / "scenario.h").read_text()
LIMITS = {m[1]: int(m[2], 0) for m in re.finditer(r"#define (\w+) (0x[0-9a-f]+|\d+)", _HEADER)}
FUNCTIONS: tuple[str, ...] = tuple(re.findall(r"X\((nvml\w+)\)", _HEADER))
"""The counted and failable functions, in the order of their counters."""

NO_INSTANCE = 0xFFFF_FFFF
EVENT_FIELDS: tuple[int, ...] = (*range(74, 82), 269, 270, 271)
"""The field ids of the cumulative clock-event (throttle) counters."""

_U32, _I32, _U64, _I64 = ctypes.c_uint32, ctypes.c_int32, ctypes.c_uint64, ctypes.c_int64


class Architecture(IntEnum):
    """NVML's architecture numbers."""

    VOLTA = 5
    TURING = 6
    AMPERE = 7
    ADA = 8
    HOPPER = 9


class Kind(IntEnum):
    """In which process list a process stands; add them up for several."""

    COMPUTE = 1
    GRAPHICS = 2
    MPS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One card as it is when the scenario starts. Empty or None: derived from its slot."""

    uuid: str = ""
    name: str = "NVIDIA A100-SXM4-40GB"
    pci_bus_id: str = ""
    serial: str = ""
    minor: int | None = None
    architecture: Architecture = Architecture.AMPERE
    compute_capability: tuple[int, int] = (8, 0)
    brand: int = 14
    memory_total_bytes: int = 40 << 30
    memory_used_bytes: int = 0
    memory_reserved_bytes: int = 0
    temperature_c: int = 35
    graphics_mhz: int = 1410
    sm_mhz: int = 1410
    memory_mhz: int = 1215
    video_mhz: int = 1275
    power_limit_mw: int = 400_000
    enforced_limit_mw: int = 400_000
    module_extra_mw: int = 0
    """What the module draws beside the GPU (scope 1); 0: there is no module."""
    counts_module: bool = False
    """The energy counter is that of the module, and scope GPU tells no power (GH200)."""
    power_is_average: bool = True
    """`nvmlDeviceGetPowerUsage` is a 1 s mean; False: instantaneous, and no field 185."""
    has_energy_counter: bool = True
    idle_mw: int = 50_000
    counter_base_mj: int = 5_000_000_000_000
    uptime_base_s: int = 86_400
    tick_period_ns: int = 100_000_000
    """How often the energy counter moves; 0: it never lags."""
    tick_jitter_ns: int = 10_000_000
    tick_phase_ns: int = 0
    tick_seed: int | None = None
    sample_period_ns: int = 20_000_000
    process_period_ns: int = 100_000_000
    pstate: int = NO_INSTANCE
    pcie_generation: int = NO_INSTANCE
    pcie_width: int = NO_INSTANCE
    """These are not supported where they are not given."""
    figures: Mapping[int, int] = field(default_factory=dict)
    """Values of more fields, by id (`HOPPER`, `A100`)."""
    max_instances: int = 7
    """MIG instances at most; 0: the card knows no MIG."""


A100 = Gpu(
    name="NVIDIA A100-SXM4-80GB",
    memory_reserved_bytes=600 << 20,
    memory_total_bytes=80 << 30,
    pstate=0,
    pcie_generation=4,
    pcie_width=16,
    # Memory temperature, ECC by life, PCIe replays, remapped rows, NVLink errors.
    figures={
        82: 44,
        5: 2,
        6: 0,
        94: 3,
        142: 1,
        143: 0,
        144: 0,
        145: 0,
        38: 0,
        45: 0,
        52: 0,
        59: 0,
    },
)
"""What an A100 tells of its health; it knows no GPM."""

HOPPER = Gpu(
    name="NVIDIA H100 80GB HBM3",
    memory_reserved_bytes=600 << 20,
    architecture=Architecture.HOPPER,
    compute_capability=(9, 0),
    memory_total_bytes=80 << 30,
    power_limit_mw=700_000,
    enforced_limit_mw=700_000,
    pstate=0,
    pcie_generation=5,
    pcie_width=16,
    figures={
        82: 51,
        5: 7,
        6: 1,
        94: 0,
        142: 0,
        143: 2,
        144: 1,
        145: 0,
        38: 4,
        45: 0,
        52: 5,
        59: 0,
    },
)

V100 = Gpu(
    name="Tesla V100-SXM2-16GB",
    architecture=Architecture.VOLTA,
    compute_capability=(7, 0),
    pstate=0,
    figures={82: 40, 5: 1, 6: 0, 29: 2, 30: 1, 31: 0},
    max_instances=0,
)
"""Retires pages, and remaps no rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One process on a GPU. Percentages may be garbage (above 100)."""

    pid: int
    kind: int = Kind.COMPUTE
    memory_bytes: int = 0
    gpu_instance: int = NO_INSTANCE
    compute_instance: int = NO_INSTANCE
    sm_pct: int = 0
    memory_pct: int = 0
    encoder_pct: int = 0
    decoder_pct: int = 0
    stale_us: int = 0
    """How far the timestamp of its utilisation lags behind the newest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One MIG device: a GPU instance with one compute instance."""

    uuid: str
    gpu_instance: int
    compute_instance: int = 0
    profile: str = "1g.5gb"
    gpu_slices: int = 1
    compute_slices: int = 1
    sm_count: int = 14
    memory_mib: int = 4864


class StepStruct(ctypes.Structure):
    _fields_ = [("t_ns", _I64), ("power_mw", _U64), ("energy_uj", _U64), ("remainder_pj", _U64)]


class ResetStruct(ctypes.Structure):
    _fields_ = [("t_ns", _I64), ("base_uj", _U64), ("uptime_base_s", _U64), ("rate_ppm", _U64)]


class MeterStruct(ctypes.Structure):
    _fields_ = [("rate", _U64), ("since_ns", _I64), ("total", _U64)]


class ProcessStruct(ctypes.Structure):
    _fields_ = [
        *((name, _U32) for name in ("pid", "kind")),
        ("memory_bytes", _U64),
        *((name, _U32) for name in ("gpu_instance", "compute_instance")),
        *((name, _U32) for name in ("sm_pct", "memory_pct", "encoder_pct", "decoder_pct")),
        ("stale_us", _U64),
    ]


class InstanceStruct(ctypes.Structure):
    _fields_ = [
        ("uuid", ctypes.c_char * 96),
        ("profile", ctypes.c_char * 32),
        *((name, _U32) for name in ("serial", "gpu_instance", "compute_instance")),
        *((name, _U32) for name in ("gpu_slices", "compute_slices", "sm_count")),
        ("memory_mib", _U64),
        ("sm", MeterStruct),
    ]


class FigureStruct(ctypes.Structure):
    _fields_ = [("field", _U32), ("is_32_bits", _U32), ("value", _U64)]


class GpuStruct(ctypes.Structure):
    _fields_ = [
        ("uuid", ctypes.c_char * 96),
        ("name", ctypes.c_char * 96),
        ("pci_bus_id", ctypes.c_char * 32),
        ("serial", ctypes.c_char * 32),
        *((name, _U32) for name in ("minor", "brand", "architecture", "cc_major", "cc_minor")),
        *((name, _U32) for name in ("temperature_c", "graphics_mhz", "sm_mhz", "memory_mhz")),
        *((name, _U32) for name in ("video_mhz", "gpu_pct", "memory_pct", "encoder_pct")),
        *((name, _U32) for name in ("decoder_pct", "power_limit_mw", "enforced_limit_mw")),
        *((name, _U32) for name in ("module_extra_mw", "counts_module")),
        *((name, _U32) for name in ("power_is_average", "has_energy_counter")),
        *((name, _U32) for name in ("max_instances", "mig_mode", "mig_pending", "failing_fills")),
        *((name, _U32) for name in ("reset_count", "step_count", "last_serial")),
        *((name, _U32) for name in ("pstate", "pcie_generation", "pcie_width", "xid_count")),
        ("xids", _U32 * LIMITS["MAX_XIDS"]),
        *(
            (name, _U64)
            for name in ("memory_total_bytes", "memory_used_bytes", "memory_reserved_bytes")
        ),
        *((name, _U64) for name in ("event_reasons",)),
        *((name, _I64) for name in ("tick_period_ns", "tick_jitter_ns", "tick_phase_ns")),
        *((name, _I64) for name in ("sample_period_ns", "process_period_ns")),
        ("tick_seed", _U64),
        ("gpm", MeterStruct * LIMITS["GPM_METRICS"]),
        ("figures", FigureStruct * LIMITS["MAX_FIGURES"]),
        ("events", MeterStruct * LIMITS["EVENT_COUNTERS"]),
        ("resets", ResetStruct * LIMITS["MAX_RESETS"]),
        ("instances", InstanceStruct * LIMITS["MAX_INSTANCES"]),
        ("processes", ProcessStruct * LIMITS["MAX_PROCESSES"]),
    ]


class FaultStruct(ctypes.Structure):
    _fields_ = [
        ("function", ctypes.c_char * 64),
        ("id", _U32),
        ("gpu", _I32),
        ("code", _I32),
        ("remaining", _I32),
        ("hang_ms", _I64),
    ]


class ScenarioStruct(ctypes.Structure):
    _fields_ = [
        *((name, _U32) for name in ("magic", "bytes", "gpu_count", "seq")),
        *((name, _U32) for name in ("is_virtual", "generation", "order_count")),
        ("order", _U32 * LIMITS["MAX_GPUS"]),
        ("last_fault", _U32),
        ("virtual_now_ns", _I64),
        ("wall_offset_ns", _I64),
        ("driver_version", ctypes.c_char * 80),
        ("nvml_version", ctypes.c_char * 80),
        ("calls", _U64 * LIMITS["MAX_CALLS"]),
        ("faults", FaultStruct * LIMITS["MAX_FAULTS"]),
        ("gpus", GpuStruct * LIMITS["MAX_GPUS"]),
        ("steps", (StepStruct * LIMITS["MAX_STEPS"]) * LIMITS["MAX_GPUS"]),
    ]


COPIED = (
    *("architecture", "brand", "memory_total_bytes", "memory_used_bytes", "temperature_c"),
    "memory_reserved_bytes",
    *("graphics_mhz", "sm_mhz", "memory_mhz", "video_mhz", "power_limit_mw", "enforced_limit_mw"),
    *(
        "module_extra_mw",
        "counts_module",
        "power_is_average",
        "has_energy_counter",
        "tick_period_ns",
    ),
    *("pstate", "pcie_generation", "pcie_width"),
    *("tick_jitter_ns", "tick_phase_ns", "sample_period_ns", "process_period_ns", "max_instances"),
)
