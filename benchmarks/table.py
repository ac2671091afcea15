"""What a benchmark prints: a plain table, its notes, and the same as data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

__all__ = ["Cell", "Table", "median", "quantile"]

Cell = str | int | float | None


def quantile(values: Sequence[float], q: float) -> float:
    """The value that a share `q` of the values does not exceed (the nearest one above)."""
    if not values:
        return float("nan")
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * q), len(ordered) - 1)]


@dataclass
class Table:
    """One table. The unit of a column is in its heading; `notes` are printed below."""

    title: str
    columns: Sequence[str]
    rows: list[Sequence[Cell]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, *cells: Cell) -> None:
        """Append a row."""
        self.rows.append(cells)

    def text(self) -> str:
        """The table for people."""
        lines = [list(self.columns), *([_shown(cell) for cell in row] for row in self.rows)]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.columns))]
        out = [self.title, ""]
        for number, line in enumerate(lines):
            cells = [
                cell.ljust(width) if i == 0 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            ]
            out.append("  ".join(cells).rstrip())
            if number == 0:
                out.append("  ".join("-" * width for width in widths))
        return "\n".join([*out, *(f"* {note}" for note in self.notes), ""])

    def data(self) -> dict[str, object]:
        """The table for programs."""
        rows = [dict(zip(self.columns, row, strict=True)) for row in self.rows]
        return {"title": self.title, "rows": rows, "notes": self.notes}


def _shown(cell: Cell) -> str:
    if cell is None:
        return "-"
    if isinstance(cell, float):
        digits = 3 if abs(cell) < 1 else 2 if abs(cell) < 10 else 1 if abs(cell) < 1000 else 0
        return f"{cell:.{digits}f}"
    return str(cell)
