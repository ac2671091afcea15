"""The formulas of a statement beyond energy x rate: embodied CO2e, SCI, compute, uncertainty.

Figures of this module leave the project, so they are floats. Each formula has its source. Default
constants are here, too, and marked as defaults wherever they are used.
"""

from __future__ import annotations

import functools
from fnmatch import fnmatchcase
from typing import NamedTuple

from joulebook.core.energy.readings import for_model
from joulebook.core.money.rates import HOURS_PER_YEAR
from joulebook.units import NS_PER_HOUR

TERA = 10**12


class Peak(NamedTuple):
    """The peak of one GPU in one precision, in FLOP per second, and where the figure is from."""

    precision: str
    flops: int
    source: str


class _Model(NamedTuple):
    """GPUs by the driver's name, and dense TFLOP/s from the data sheet.

    `half` counts for fp16 and bf16, whose rates are the same on all of these; before Ampere there
    is no bf16. 0: the datasheet states none.
    """

    patterns: tuple[str, ...]
    source: str
    fp64: float
    fp32: float
    tf32: float
    half: float
    fp8: float = 0
    bf16: bool = True

    def peaks(self) -> tuple[Peak, ...]:
        rates = {
            "fp64": self.fp64,
            "fp32": self.fp32,
            "tf32": self.tf32,
            "fp16": self.half,
            "bf16": self.half if self.bf16 else 0,
            "fp8": self.fp8,
        }
        return tuple(
            Peak(precision, round(tflops * TERA), self.source)
            for precision, tflops in rates.items()
            if tflops
        )


_MODELS = (
    _Model(("*B200*",), "NVIDIA HGX B200 datasheet", 37, 75, 1125, 2250, 4500),
    _Model(("*GH200*",), "NVIDIA GH200 datasheet", 34, 67, 494.5, 989.5, 1979),
    _Model(("*H200 NVL*",), "NVIDIA H200 datasheet", 30, 60, 417.5, 835.5, 1670.5),
    _Model(("*H200*",), "NVIDIA H200 datasheet", 34, 67, 494.5, 989.5, 1979),
    _Model(("*H100 NVL*",), "NVIDIA H100 datasheet", 30, 60, 417.5, 835.5, 1670.5),
    _Model(("*H100 PCIe*",), "NVIDIA H100 PCIe datasheet", 26, 51, 378, 756, 1513),
    _Model(("*H100*",), "NVIDIA H100 datasheet", 34, 67, 494.5, 989.5, 1979),
    _Model(("*A100*",), "NVIDIA A100 datasheet", 9.7, 19.5, 156, 312),
    _Model(("*A30",), "NVIDIA A30 datasheet", 5.2, 10.3, 82, 165),
    _Model(("*A40",), "NVIDIA A40 datasheet", 0, 37.4, 74.8, 149.7),
    _Model(("*A10",), "NVIDIA A10 datasheet", 0, 31.2, 62.5, 125),
    _Model(("*RTX A6000*",), "NVIDIA RTX A6000 datasheet", 0, 38.7, 77.4, 154.8),
    _Model(("*L4",), "NVIDIA L4 datasheet", 0, 30.3, 60, 121, 242.5),
    _Model(("*L40",), "NVIDIA L40 datasheet", 0, 90.5, 90.5, 181, 362),
    _Model(("*L40S",), "NVIDIA L40S datasheet", 0, 91.6, 183, 362, 733),
    _Model(("*RTX 4090*",), "NVIDIA Ada whitepaper", 0, 82.6, 82.6, 165.2, 330.3),
    _Model(("*RTX 3090",), "NVIDIA GA102 whitepaper", 0, 35.6, 35.6, 71),
    _Model(("*V100-SXM*",), "NVIDIA V100 datasheet", 7.8, 15.7, 0, 125, bf16=False),
    _Model(("*V100-PCIE*",), "NVIDIA V100 datasheet", 7, 14, 0, 112, bf16=False),
    _Model(("*V100S*",), "NVIDIA V100 datasheet", 8.2, 16.4, 0, 130, bf16=False),
    _Model(("*Tesla T4", "NVIDIA T4"), "NVIDIA T4 datasheet", 0, 8.1, 0, 65, bf16=False),
    _Model(("*P100-SXM*",), "NVIDIA P100 datasheet", 5.3, 10.6, 0, 21.2, bf16=False),
    _Model(("*P100-PCIE*",), "NVIDIA P100 datasheet", 4.7, 9.3, 0, 18.7, bf16=False),
    _Model(("*MI300X*",), "AMD MI300X datasheet", 81.7, 163.4, 653.7, 1307.4, 2614.9),
    _Model(("*MI250X*",), "AMD MI250X datasheet", 47.9, 47.9, 0, 383),
    _Model(("*MI210*",), "AMD MI210 datasheet", 22.6, 22.6, 0, 181),
)
"""The first match wins. fp64 and fp32 are for the vector units, the rest for the matrix units
("tensor cores"), which training uses.
"""


@functools.cache
def peaks_of(model: str) -> tuple[Peak, ...]:
    """Return the peaks of a GPU model by its driver's name; none if unknown."""
    for known in _MODELS:
        if any(fnmatchcase(model, pattern) for pattern in known.patterns):
            return known.peaks()
    return ()


HOURS_PER_DAY = 24
PETA = 10**15

UTILIZATION = 0.33
"""Share of peak assumed if none was measured: OpenAI, "AI and Compute" (2018)."""
UTILIZATION_SOURCE = "assumed, as in OpenAI, AI and Compute, 2018"

SENSOR_PERCENT = 5.0
"""Error of NVIDIA's power readings against a meter: a gain and an offset of each card."""
SENSOR_SOURCE = "arXiv:2312.02741 (SC24)"

LIFE_YEARS = 4.0
"""Default service life of a server: 35,040 h."""
SERVER_KG = 2_500.0
"""Embodied CO2e of a GPU server without its GPUs."""
SERVER_SOURCE = "Luccioni et al., BLOOM, 2022"
SERVER_GPUS = 8


class Embodied(NamedTuple):
    """Embodied CO2e of one GPU, as a range in kg, and its source."""

    pattern: str
    low_kg: float
    high_kg: float
    source: str


EMBODIED = (
    Embodied("NVIDIA H100*", 164, 575, "NVIDIA HGX H100 PCF (1,312 kg for 8), 2025; Boavizta"),
    Embodied("NVIDIA A100*", 150, 150, "Luccioni et al., BLOOM, 2022"),
)
"""Published values; a model that matches none has no figure."""


def embodied_of(model: str, table: tuple[Embodied, ...] = EMBODIED) -> Embodied | None:
    """Return the row of a GPU model; of several matches, the most specific (`*` matches
    anything).
    """
    return for_model(model, table, lambda row: row.pattern)


class HostServer(NamedTuple):
    """What embodied CO2e is spread over: a server of `gpus` GPUs that lives for `life_years`."""

    kg: float = SERVER_KG
    gpus: int = SERVER_GPUS
    life_years: float = LIFE_YEARS


def embodied_kg(gpu_hours: float, gpu_kg: float, server: HostServer) -> float:
    """Embodied CO2e of held GPU time.

    SCI v1.1 (ISO/IEC 21031): M = TE x TiR/EL x RR/ToR, with TE of a whole server and all its
    GPUs, RR/ToR the GPUs held of all in it, and TiR/EL the time held of its life.
    """
    whole_kg = server.gpus * gpu_kg + server.kg
    return whole_kg / server.gpus * gpu_hours / (server.life_years * HOURS_PER_YEAR)


def sci(operational: float, embodied: float, units: float) -> float:
    """Software carbon intensity, (E x I + M) / R, SCI v1.1; R > 0 in functional units."""
    return (operational + embodied) / units


def pflops_days(gpu_hours: float, peak_flops: float, utilization: float) -> float:
    """Compute in PFLOP/s-days: GPUs x peak x days x utilization (OpenAI, "AI and Compute")."""
    return gpu_hours / HOURS_PER_DAY * peak_flops / PETA * utilization


def hours(held_ns: int) -> float:
    """Held time as GPU-hours."""
    return held_ns / NS_PER_HOUR


def uncertainty_percent(sensor: float, reading: float) -> float:
    """Return the uncertainty in percent: both bounds added, not their squares.

    A card that reads 3 % high does so in every run, so errors do not average out over runs; and the
    loss between ledger and source is bounded, not random.
    """
    return sensor + reading
