"""Rates from a CSV file, read strictly: a tariff, an invoice, an export of another tool.

    start,per_kwh,end,quality,source
    2026-01-01T00:00:00+01:00,0.31,,measured,contract 2026

`start` and the column of figures must be there: `per_kwh` or `per_mwh` (money), `grams_per_kwh`,
`pue`, or `l_per_kwh` (water). Times are ISO 8601 with their offset, in order. A row holds until its
`end`, or the next row.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path

from joulebook.core.money.rates import Point, Quality
from joulebook.errors import ConfigError, FeedWrong
from joulebook.rates.contract import Plan, Quantity, fault, figure_of, price_nano, unit_of, utc_s
from joulebook.untrusted_files import read_named_text

MAX_BYTES = 16 * 2**20

_FIGURES = {
    Quantity.PRICE: ("per_kwh", "per_mwh"),
    Quantity.CARBON: ("grams_per_kwh",),
    Quantity.PUE: ("pue",),
    Quantity.WATER_SITE: ("l_per_kwh",),
    Quantity.WATER_GRID: ("l_per_kwh",),
}
_OTHERS = ("start", "end", "quality", "source")


class CsvFile:
    """One file of one quantity. It is re-read for each query, so it may be edited."""

    def __init__(
        self, path: Path, quantity: Quantity, currency: str, every_s: float = 60.0
    ) -> None:
        self.name = path.name
        self.plan = Plan(every_s=every_s, local=True)
        self._path = path
        self._quantity = quantity
        self._currency = currency

    def fetch(self, t0_s: int, t1_s: int) -> tuple[Point, ...]:
        """Return the whole file. Raises `FeedWrong` with file, line, column and what is
        expected.
        """
        try:
            text = read_named_text(self._path, MAX_BYTES)
        except ConfigError as error:
            raise FeedWrong(str(error), reason="garbage") from None
        return tuple(self._points(text))

    def _points(self, text: str) -> Iterator[Point]:
        # Strict: a quote that is never closed would swallow the rest of the file.
        reader = csv.reader(text.splitlines(keepends=True), strict=True)
        previous: Point | None = None
        try:
            header = [name.strip() for name in next(reader, [])]
            figure = self._check(header)
            for row in reader:
                if not row:
                    continue
                line = f"line {reader.line_num}"
                if len(row) != len(header):
                    raise self._wrong(f"{line}: {len(row)} columns, expected {len(header)}")
                cells = {name: cell.strip() for name, cell in zip(header, row, strict=True)}
                point = self._point(cells, figure, line)
                if previous is not None and point.start_utc_s <= previous.start_utc_s:
                    raise self._wrong(
                        f"{line}: start: {cells['start']!r}: expected a time after the row above"
                    )
                yield point
                previous = point
        except csv.Error as error:
            raise self._wrong(f"line {reader.line_num}: {error}") from None
        if previous is None:
            raise self._wrong("no rows: expected at least one below the header")

    def _check(self, header: list[str]) -> str:
        """Return the column of figures."""
        figures = _FIGURES[self._quantity]
        found = [name for name in header if name in figures]
        if "start" not in header or len(found) != 1 or len(set(header)) != len(header):
            raise self._wrong(
                f"line 1: {','.join(header)!r:.80}: expected the columns start and "
                f"{' or '.join(figures)}, optionally end, quality, source"
            )
        for name in header:
            if name not in (*figures, *_OTHERS):
                known = ", ".join((*_OTHERS, *figures))
                raise self._wrong(f"line 1: column {name!r:.40}: expected one of {known}")
        return found[0]

    def _point(self, cells: dict[str, str], figure: str, line: str) -> Point:
        start = self._time(cells["start"], f"{line}: start")
        end = self._time(cells["end"], f"{line}: end") if cells.get("end") else None
        if end is not None and end <= start:
            raise self._wrong(f"{line}: end: {cells['end']!r}: expected a time after start")
        known = [str(quality) for quality in Quality]
        quality = cells.get("quality") or Quality.MEASURED
        if quality not in known:
            raise self._wrong(f"{line}: quality: {quality!r:.40}: expected {', '.join(known)}")
        point = Point(
            start,
            self._value(cells[figure], figure, f"{line}: {figure}"),
            unit_of(self._quantity, self._currency),
            cells.get("source") or self.name,
            Quality(quality),
            end,
        )
        if reason := fault(point, self._quantity, self._currency):
            raise self._wrong(f"{line}: {figure}: {cells[figure]!r} is {reason}")
        return point

    def _value(self, text: str, figure: str, where: str) -> int:
        try:
            # `Decimal` would take 1_000, digits of other scripts and exponents as well.
            if not re.fullmatch(r"[+-]?\d{1,15}(\.\d{1,30})?", text, re.ASCII):
                raise FeedWrong(where, reason="file")
            if self._quantity is not Quantity.PRICE:
                return figure_of(text, self._quantity, where)
            unit = f"{self._currency}/{'MWh' if figure == 'per_mwh' else 'kWh'}"
            return price_nano(text, unit, self._currency, where)
        except FeedWrong:
            raise self._wrong(f"{where}: {text!r:.40}: expected a number like 0.31") from None

    def _time(self, text: str, where: str) -> int:
        try:
            return utc_s(text)
        except ValueError:
            raise self._wrong(
                f"{where}: {text!r:.40}: expected a time with its offset, like "
                "2026-01-31T08:00:00+01:00"
            ) from None

    def _wrong(self, what: str) -> FeedWrong:
        return FeedWrong(f"{self._path}: {what}", reason="file")
