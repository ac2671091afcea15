"""The bundled table of yearly carbon intensities by country: Joulebook's own default figure.

Its file and licence are described in `data/README.md`. Source and year stay with the value.
"""

from __future__ import annotations

import csv
import difflib
import functools
from pathlib import Path

from joulebook.core.rates import UG_PER_KWH, Point, Quality
from joulebook.errors import ConfigError
from joulebook.rates.contract import DAY_S, Plan
from joulebook.rates.plausible import grams_ug

TABLE = Path(__file__).parents[1] / "data" / "grid_carbon_intensity.csv"


class Country:
    """The mean intensity of a country (ISO 3166, two letters) in the newest year on record."""

    plan = Plan(every_s=DAY_S, local=True)

    def __init__(self, zone: str) -> None:
        """Raises `ConfigError` if the table has no such country."""
        with TABLE.open(encoding="utf-8", newline="") as file:
            rows = {row["zone"]: row for row in csv.DictReader(file)}
        row = rows.get(zone.upper())
        if row is None:
            raise ConfigError(
                f"rates.carbon.zone: {zone!r} is not in the table of countries{_hint(zone, rows)}"
            )
        self.name = _source(row)
        value = grams_ug(row["gco2e_per_kwh"], self.name)
        self._point = Point(0, value, UG_PER_KWH, self.name, Quality.DEFAULT)

    def fetch(self, t0_s: int, t1_s: int) -> tuple[Point, ...]:
        """The figure, for all time: an older or newer year is not in the table."""
        return (self._point,)


@functools.cache
def defaults() -> frozenset[str]:
    """The sources that the figures of the table are shown with, to know one again by it."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        return frozenset(_source(row) for row in csv.DictReader(file))


def _source(row: dict[str, str]) -> str:
    return f"{row['country']} {row['year']}, {row['source']}"


def _hint(zone: str, rows: dict[str, dict[str, str]]) -> str:
    country = zone.partition("-")[0].upper()  # Of a bidding zone, DE-LU.
    if country in rows:
        return f"; for {rows[country]['country']} write {country!r}"
    names = {row["country"].lower(): code for code, row in rows.items()}
    close = difflib.get_close_matches(zone.lower(), names, 1)
    return f"; did you mean {names[close[0]]!r}?" if close else ": two letters, like 'DE'"
