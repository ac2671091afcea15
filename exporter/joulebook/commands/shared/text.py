"""Figures as commands print them.

Names of jobs and users come from outside and go through `sanitize.one_line` before they reach a
terminal: an escape sequence in a job name must not move the cursor, retitle a window or alter other
figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from joulebook.core import units_text
from joulebook.core.report.tally import ENOUGH
from joulebook.units import (
    MW_PER_W,
    NS_PER_HOUR,
    NS_PER_MS,
    NS_PER_S,
    PJ_PER_UJ,
    UJ_PER_J,
    kwh_from_uj,
    s_from_ns,
)

UNKNOWN = "not known"
NOTHING = "-"
LOWER_BOUND = "measured: share of the GPU-hours with known energy; below 100 %, it is a lower bound"
REPLAYED = (
    "Warning: this energy is from a recorded trace (demo or replay): it was not measured on this "
    "machine, and the jobs may be simulated."
)

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def is_partial(booked_ns: int, held_ns: int) -> bool:
    """Return whether energy is known for too little of the time for which GPUs were held."""
    return booked_ns < ENOUGH * held_ns


def energy(energy_uj: int) -> str:
    """Format energy to three digits: `812 J`, `1.44 Wh`, `12.4 kWh`."""
    return _spaced(units_text.energy(energy_uj))


def energies(values_uj: Sequence[int]) -> list[str]:
    """Format a column of energies, all in one unit."""
    return [_spaced(cell) for cell in units_text.energies(values_uj)]


def exact_energy(energy_uj: int) -> str:
    """Format energy to the microjoule, and in kWh: `4,320,000.000001 J = 1.2000 kWh`."""
    kwh = kwh_from_uj(energy_uj)
    digits = 4 if abs(energy_uj) >= 36_000 * UJ_PER_J else 7
    return f"{_spaced(units_text.exact(energy_uj))} = {kwh:,.{digits}f} kWh"


def power(power_w: float) -> str:
    """Format power: `87 W`, `2,431 W`."""
    return _spaced(units_text.watts(power_w))


def mean_power_w(energy_uj: int, held_ns: int) -> float | None:
    """Return the mean power of an energy over a time; `None` for no time."""
    return energy_uj * PJ_PER_UJ / held_ns / MW_PER_W if held_ns else None


def gpu_hours(held_ns: int) -> str:
    """Format held time: `12.50 GPU-hours`, `0.0083 GPU-hours (30.0 GPU-seconds)`."""
    hours = held_ns / NS_PER_HOUR
    if hours >= 1:
        return f"{hours:,.2f} GPU-hours"
    return f"{hours:.4f} GPU-hours ({s_from_ns(held_ns):,.1f} GPU-seconds)"


def lasted(duration_ns: int) -> str:
    """Format a duration to the second, or to the millisecond below a minute: `2 h 05 min 09 s`,
    `0.300 s`.
    """
    whole_s, rest_ns = divmod(max(duration_ns, 0), NS_PER_S)
    minutes, s = divmod(whole_s, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours:,} h {minutes:02d} min {s:02d} s"
    return f"{minutes} min {s:02d} s" if minutes else f"{s}.{rest_ns // NS_PER_MS:03d} s"


def duration(duration_ns: int) -> str:
    """Format a duration in one unit: `0.3 s`, `42 s`, `12 min`, `3.27 h`."""
    return _spaced(units_text.duration(duration_ns))


def seconds(duration_s: float) -> str:
    """Format a duration in seconds likewise."""
    return duration(round(duration_s * NS_PER_S))


def percent(part: int, whole: int) -> str:
    """Format a share: `0 %`, `0.4 %`, `37 %`; 0 and 100 only if exact."""
    return _spaced(units_text.percent(part / whole)) if whole else NOTHING


def size(count: float) -> str:
    """Format a number of bytes: `812 B`, `3.4 GiB`."""
    number, unit = _scaled(count, count)
    return f"{number} {unit}"


def size_of(part: float, whole: float) -> str:
    """Format a part of a number of bytes, in its unit: `3.4/80.0 GiB`."""
    return f"{_scaled(part, whole)[0]}/{size(whole)}"


def _scaled(count: float, like: float) -> tuple[str, str]:
    """Return a count in the unit that suits another, and that unit."""
    power = 0
    while abs(like) >= 1024 and power < len(_UNITS) - 1:
        like, count, power = like / 1024, count / 1024, power + 1
    return f"{count:.1f}" if power and abs(like) < 100 else f"{count:.0f}", _UNITS[power]


def moment(utc_s: float) -> str:
    """Format an instant: `2026-01-31 13:05:09 UTC`."""
    try:
        return datetime.fromtimestamp(utc_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, ValueError, OSError):
        return UNKNOWN


def several(count: int, one: str, many: str = "") -> str:
    """Format a number and its noun: `1 job`, `1,200 jobs`."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def _spaced(figure: str) -> str:
    # Many terminals show the narrow space of the status page as a gap or a question mark.
    return figure.replace("\u202f", " ")
