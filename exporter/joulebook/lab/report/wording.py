"""Figures as a statement prints them: to four digits, with their unit, and never a bare unknown."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Sequence

from joulebook.core.sanitize import one_line
from joulebook.lab.report.model import Figure, Statement

NOT_KNOWN = "not known"
_DIGITS = 4
_MOST_NAMES = 12
_MOST_NEAR = 5
_NAME_CHARS = 60


def number(value: float) -> str:
    """Four digits that count: `0.01234`, `1.234`, `123.4`, `12,345`."""
    if not value:
        return "0"
    ahead = math.floor(math.log10(abs(value))) + 1
    if ahead < -5:
        return f"{value:.3e}"
    return f"{value:,.{max(_DIGITS - ahead, 0)}f}"


_SCALES = {
    "kWh": (
        (1e-4, 3.6e6, "J"),
        (0.1, 1e3, "Wh"),
        (1e3, 1.0, "kWh"),
        (1e6, 1e-3, "MWh"),
        (math.inf, 1e-6, "GWh"),
    ),
    "L": ((0.1, 1e3, "mL"), (1e3, 1.0, "L"), (math.inf, 1e-3, "kL")),
    "kg CO2e": ((0.1, 1e3, "g CO2e"), (1e3, 1.0, "kg CO2e"), (math.inf, 1e-3, "t CO2e")),
}
"""By unit: below which value which factor makes which unit of it."""


def quantity(value: float, unit: str, high: float | None = None) -> str:
    """A value, or a range up to `high`, in the unit of its size: `4.533 Wh`, `0.5 to 1.2 kg`."""
    per, space, rest = unit.partition(" per ")
    most = abs(value if high is None else high)
    for limit, factor, scaled in _SCALES.get(per, ()):
        if most < limit and most:
            value, unit = value * factor, f"{scaled}{space}{rest}"
            high = None if high is None else high * factor
            break
    text = number(value) if high is None or high == value else f"{number(value)} to {number(high)}"
    return f"{text} {unit}".rstrip()


def scale(value: float, unit: str) -> tuple[float, str]:
    """Return the factor and the unit that suit a value."""
    for limit, factor, scaled in _SCALES.get(unit, ()):
        if abs(value) < limit:
            return factor, scaled
    return 1.0, unit


def column(values: Sequence[float | None], unit: str) -> tuple[str, list[str]]:
    """Return one unit for a column, that of its smallest value, and its figures in it.

    Figures have as many decimals as the smallest needs for two digits.
    """
    known = [abs(value) for value in values if value]
    factor, scaled = scale(min(known, default=0.0), unit)
    least = min(known, default=1.0) * factor
    digits = min(max(1 - math.floor(math.log10(least)), 0), 6)
    if max(known, default=0.0) * factor >= 1_000:
        digits = min(digits, 1)
    return scaled, ["-" if v is None else f"{v * factor:,.{digits}f}" for v in values]


def rounded(shown: Figure, error_percent: float) -> str:
    """Return a figure in no more digits than its uncertainty allows, two at the least.

    The last digit is that of the first digit of the uncertainty, of the second if that is a 1. At
    most four digits are shown where it is not known.
    """
    if shown.value is None:
        return figure(shown)
    values = [shown.value] if shown.low is None or shown.high is None else [shown.low, shown.high]
    factor, unit = (1.0, shown.unit) if shown.unit == "%" else scale(max(values), shown.unit)
    digits = [_rounded(value * factor, error_percent) for value in values]
    text = " to ".join(dict.fromkeys(digits))
    return f"{text} {unit}".rstrip()


def _rounded(value: float, error_percent: float) -> str:
    if not value:
        return "0"
    place = math.floor(math.log10(abs(value)))
    error = abs(value) * error_percent / 100
    last = place - 3
    if error:
        first = math.floor(math.log10(error))
        last = first - 1 if error / 10.0**first < 2 else first
    last = min(max(last, place - 3), place - 1)
    return f"{round(value, -last):,.{max(-last, 0)}f}"


def significant(value: float) -> float:
    """Return a figure for a form of others in six significant digits."""
    return float(f"{value:.6g}")


def percent(value: float) -> str:
    """Return a share; `100 %` and `0 %` only where it is exactly that."""
    if value in (0, 100):
        return f"{value:.0f} %"
    if 99.95 <= value < 100:
        return "99.9 %"
    return f"{value:.1f} %" if value >= 0.05 else f"{value:.2g} %"


def figure(shown: Figure) -> str:
    """Return a figure with its unit, its range, and the mark of a default."""
    if shown.value is None:
        why = shown.unknown
        return why if why.startswith(NOT_KNOWN) else f"{NOT_KNOWN}: {why}" if why else NOT_KNOWN
    if shown.unit == "%":
        text = percent(shown.value)
    elif shown.unit == "GPUs":
        text = f"{shown.value:,.0f}"
    elif shown.low is not None:
        text = quantity(shown.low, shown.unit, shown.high)
    else:
        text = quantity(shown.value, shown.unit)
    return f"{text} (default)" if shown.default else text


def listed(names: Sequence[str]) -> str:
    """Names, the first dozen of them."""
    if not names:
        return NOT_KNOWN
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {more:,} more" if more > 0 else "")


def nearest(name: str, there: Iterable[str]) -> str:
    """Return the existing names most similar to an unknown one: `bert-base, bert (of 7)`."""
    names = sorted(set(there))
    near = difflib.get_close_matches(name, names, _MOST_NEAR, cutoff=0.5) or names[:_MOST_NEAR]
    said = ", ".join(one_line(each, _NAME_CHARS) for each in near)
    return said + (f" (of {len(names):,})" if len(names) > len(near) else "")


def sentence(text: str) -> str:
    """Return the text with a full stop, if it has none."""
    return text if text.endswith((".", "!", "?")) else f"{text}."


def span(statement: Statement) -> str:
    """Return the requested time range."""
    since = statement.since_utc or "the start of the ledger"
    return f"From {since} to {statement.until_utc or 'now'}"
