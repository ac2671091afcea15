"""The formulas of a statement beyond energy x rate: embodied CO2e, SCI, compute, uncertainty.

Figures of this module leave the project, so they are floats. Sources stand with each formula; the
constants that may be used without a setting of the site are here too, and each is shown as a
default wherever it is used.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from joulebook.core.rates import HOURS_PER_YEAR
from joulebook.units import NS_PER_HOUR

HOURS_PER_DAY = 24
PETA = 10**15

UTILIZATION = 0.33
"""Share of peak that is assumed where none was measured: OpenAI, "AI and Compute" (2018)."""
UTILIZATION_SOURCE = "assumed, as in OpenAI, AI and Compute, 2018"

SENSOR_PERCENT = 5.0
"""Error of NVIDIA's power readings against a meter: a gain and an offset of each card."""
SENSOR_SOURCE = "arXiv:2312.02741 (SC24)"

LIFE_YEARS = 4.0
"""Service life of a server where the site does not say: 35,040 h."""
SERVER_KG = 2_500.0
"""Embodied CO2e of a GPU server without its GPUs."""
SERVER_SOURCE = "Luccioni et al., BLOOM, 2022"
SERVER_GPUS = 8


class Embodied(NamedTuple):
    """Embodied CO2e of one GPU, as a range in kg, and who says so."""

    pattern: str
    low_kg: float
    high_kg: float
    source: str


EMBODIED = (
    Embodied("NVIDIA H100*", 164, 575, "NVIDIA HGX H100 PCF (1,312 kg for 8), 2025; Boavizta"),
    Embodied("NVIDIA A100*", 150, 150, "Luccioni et al., BLOOM, 2022"),
)
"""What is published; a model that fits none of them has no figure, and none is guessed."""


def embodied_of(model: str, table: tuple[Embodied, ...] = EMBODIED) -> Embodied | None:
    """The row of a GPU model; of several that fit, the most specific (`*` is anything)."""
    fits = [row for row in table if _fits(row.pattern, model)]
    return max(fits, key=lambda row: (len(row.pattern.replace("*", "")), row.pattern), default=None)


def _fits(pattern: str, model: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), model) is not None


class Server(NamedTuple):
    """What embodied CO2e is spread over: a server of `gpus` GPUs that lives for `life_years`."""

    kg: float = SERVER_KG
    gpus: int = SERVER_GPUS
    life_years: float = LIFE_YEARS


def embodied_kg(gpu_hours: float, gpu_kg: float, server: Server) -> float:
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
    """The half-width of what is known, in percent: both bounds added, not their squares.

    A card that reads 3 % high does so in every run, so nothing averages out over runs; and what
    is lost between ledger and source is bounded, not random.
    """
    return sensor + reading
