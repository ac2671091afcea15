"""Human-readable figures for the status page."""

from __future__ import annotations

import math
from collections.abc import Sequence

from joulebook.core.money.rates import NANO, UG_PER_G
from joulebook.units import NS_PER_S, UJ_PER_J, j_from_uj, kwh_from_uj

_NARROW = "\u202f"
"""A thin space that does not break, between a number and its unit."""


def unit(number: str, name: str) -> str:
    """Return a number and its unit, which stay together."""
    return f"{number}{_NARROW}{name}"


def watts(power_w: float) -> str:
    """Power: `87 W`, `2,431 W`."""
    return unit(f"{power_w:,.0f}", "W")


def energy(energy_uj: int) -> str:
    """Energy to three digits: `812 J`, `1.44 Wh`, `12.4 kWh`."""
    kwh = kwh_from_uj(energy_uj)
    if abs(energy_uj) < 3600 * UJ_PER_J:
        return unit(_three(j_from_uj(energy_uj)), "J")
    return unit(_three(kwh), "kWh") if abs(kwh) >= 1 else unit(_three(kwh * 1000), "Wh")


def money(nano: int, currency: str) -> str:
    """Money: `1,234.50 EUR`, `0.0042 EUR`; what is less than a hundredth of a cent says so."""
    amount = nano / NANO
    if 0 < abs(amount) < 0.0001:
        return unit("under 0.0001" if amount > 0 else "over -0.0001", currency)
    if nano and abs(amount) < 0.095:
        return unit(f"{amount:.2g}", currency)
    return unit(f"{amount:,.2f}", currency)


def co2e(ug: int) -> str:
    """CO2e to three digits: `812 mg`, `1.44 g`, `12.4 kg`."""
    grams = ug / UG_PER_G
    if abs(grams) >= 1000:
        return unit(_three(grams / 1000), "kg")
    return unit(_three(grams), "g") if abs(grams) >= 1 else unit(_three(grams * 1000), "mg")


def exact(energy_uj: int) -> str:
    """Energy to the microjoule: `12,345.678901 J`."""
    sign = "-" if energy_uj < 0 else ""
    whole, micro = divmod(abs(energy_uj), UJ_PER_J)
    return unit(f"{sign}{whole:,}.{micro:06d}", "J")


def decimal(value: int, per: int) -> str:
    """Return `value / per` to nine digits, floored, without floating point."""
    sign, value = ("-", -value) if value < 0 else ("", value)
    whole, rest = divmod(value, per)
    return f"{sign}{whole}.{rest * NANO // per:09}"


ENERGY = ((10**6, "J"), (36 * 10**8, "Wh"), (36 * 10**11, "kWh"), (36 * 10**14, "MWh"))
"""Units of energy by what they are in uJ, the smallest first."""
CO2E = ((1_000, "mg"), (10**6, "g"), (10**9, "kg"), (10**12, "t"))
"""Units of CO2e by what they are in ug."""
_MOST_DECIMALS = 6


def in_column(
    values: Sequence[float | None],
    scales: Sequence[tuple[int, str]],
    *,
    decimals: int = 0,
    sign: str = "",
) -> tuple[str, list[str]]:
    """Return the unit that suits the greatest of some values, and all values in that unit.

    Figures in a column are compared visually, so all have the same unit and the same number of
    decimals, at least `decimals`. A non-zero value that would show as 0 is `<` the least that can
    be shown. With the sign `+`, all have one.
    """
    known = [abs(value) for value in values if value]
    most = max(known, default=0)
    per, unit_ = next(((p, u) for p, u in reversed(scales) if most >= p), scales[0])
    if known:
        least = min(known) / per
        wanted = max(2 - _ahead(most / per), 1 - _ahead(least), decimals)
        decimals = min(wanted, _MOST_DECIMALS)
    return unit_, ["-" if v is None else _fixed(v / per, decimals, sign) for v in values]


def energies(values_uj: Sequence[int]) -> list[str]:
    """Return a column of energies with their unit, the same for all."""
    unit_, cells = in_column(values_uj, ENERGY)
    return [unit(cell, unit_) for cell in cells]


def _ahead(number: float) -> int:
    """Return the exponent of a number's first digit."""
    return math.floor(math.log10(number))


def _fixed(number: float, decimals: int, sign: str) -> str:
    text = f"{number:{sign if number else ''},.{decimals}f}"
    if number and not float(text.replace(",", "")):
        least = f"{10**-decimals:.{decimals}f}"
        return f"<{least}" if number > 0 else f">-{least}"
    return text


def percent(share: float) -> str:
    """Return a share: `0 %`, `0.4 %`, `37 %`; never 0 or 100 unless it is exactly that."""
    if 0 < share < 0.01:
        return unit(f"{max(share, 0.001):.1%}"[:-1], "%")
    if 0.99 < share < 1:
        return unit(f"{min(share, 0.999):.1%}"[:-1], "%")
    return unit(f"{share:.0%}"[:-1], "%")


def duration(duration_ns: int) -> str:
    """Return a duration: `0.3 s`, `42 s`, `12 min`, `3.27 h`, `412 h`."""
    seconds = max(duration_ns, 0) / NS_PER_S
    if seconds < 60:
        return unit(f"{seconds:.1f}" if seconds < 9.95 else f"{int(seconds)}", "s")
    minutes = int(seconds) // 60
    return unit(str(minutes), "min") if minutes < 60 else unit(_three(seconds / 3600), "h")


def clock(utc_s: float) -> str:
    """Return the time of day: `13:05:09 UTC`."""
    minutes, second = divmod(int(utc_s) % 86_400, 60)
    return f"{minutes // 60:02}:{minutes % 60:02}:{second:02} UTC"


def _three(number: float) -> str:
    size = abs(number)
    digits = 0 if size >= 99.95 or size == 0 else 1 if size >= 9.995 else 2
    return f"{number:,.{digits}f}"
