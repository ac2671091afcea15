"""Integer units and the only conversion factors of the project.

Everything that is booked is an integer: energy in microjoules (uJ), power in milliwatts (mW),
time in nanoseconds (ns), money in nano-units of the currency, CO2e in micrograms (ug). Floats
appear only where a figure leaves the project (a metric, a report).
"""

from __future__ import annotations

NS_PER_US = 1_000
NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000
NS_PER_HOUR = 3_600 * NS_PER_S

UJ_PER_MJ = 1_000
"""Microjoules in a millijoule, the unit of NVML's energy counter."""
UJ_PER_J = 1_000_000
UJ_PER_KWH = 3_600_000 * UJ_PER_J

MW_PER_W = 1_000
UW_PER_MW = 1_000
"""Microwatts in a milliwatt: sysfs reports power in microwatts."""

PJ_PER_UJ = 1_000_000
"""One milliwatt for one nanosecond is one picojoule, a millionth of a microjoule."""

QUARTER_NS = 900 * NS_PER_S
"""The quarter hour (UTC) in which postings are kept."""


def ns_from_s(seconds: float) -> int:
    """Seconds, as people configure them, to whole nanoseconds (rounded)."""
    return round(seconds * NS_PER_S)


def s_from_ns(duration_ns: int) -> float:
    """Nanoseconds to seconds, for display and exposition only."""
    return duration_ns / NS_PER_S


def j_from_uj(energy_uj: int) -> float:
    """Microjoules to joules, for display and exposition only."""
    return energy_uj / UJ_PER_J


def kwh_from_uj(energy_uj: int) -> float:
    """Microjoules to kilowatt-hours, for display only."""
    return energy_uj / UJ_PER_KWH
