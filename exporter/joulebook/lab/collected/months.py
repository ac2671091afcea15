"""Months as numbers of the Gregorian calendar in UTC: 202611 is November 2026."""

from __future__ import annotations

import re
from datetime import UTC, datetime

DAY_S = 86_400

QUARTERLY = ("postings", "charges", "rates_used")
"""The tables of quarter hours, of which PostgreSQL keeps each month in a partition."""


def month_of(utc_s: int) -> int:
    """Return the month of an instant."""
    when = datetime.fromtimestamp(utc_s, UTC)
    return when.year * 100 + when.month


def after(month: int) -> int:
    """Return the next month."""
    return month + 1 if month % 100 < 12 else month + 89


def before(month: int) -> int:
    """Return the month before."""
    return month - 1 if month % 100 > 1 else month - 89


def begin_s(month: int) -> int:
    """Return the UTC second at which a month begins."""
    return int(datetime(month // 100, month % 100, 1, tzinfo=UTC).timestamp())


def shown(month: int) -> str:
    """`2026-11`."""
    return f"{month // 100:04}-{month % 100:02}"


def parsed(text: str) -> int:
    """Parse a month like `2026-11`. Raises `ValueError` with what is expected."""
    match = re.fullmatch(r"(\d{4})-(0[1-9]|1[0-2])", text, re.ASCII)
    if match is None or not 1970 <= int(match[1]) < 2200:
        raise ValueError(f"{text!r}: expected a month like 2026-11")
    return int(match[1]) * 100 + int(match[2])


def day_s(text: str) -> int:
    """Parse a day like `2026-11-30` into the UTC second at which it begins. Raises `ValueError`."""
    return int(datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).timestamp())
