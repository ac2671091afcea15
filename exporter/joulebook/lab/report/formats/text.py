"""Terminal text: paragraph, figures, a chart of runs in bars, a table of runs."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator, Sequence

from joulebook.core.sanitize import one_line
from joulebook.lab.report.document import RUN_COLUMNS, Bar, Document, document
from joulebook.lab.report.model import Statement
from joulebook.lab.report.wording import quantity

_LEAST, _MOST = 60, 110
_LABEL = 24
_BARS = 15
_BAR_WIDTH = 30
_FULL, _IDLE = "#", "."


def render(statement: Statement) -> str:
    """Return the statement for a terminal."""
    width = min(max(shutil.get_terminal_size((100, 24)).columns, _LEAST), _MOST)
    return "\n".join(_lines(document(statement), width)) + "\n"


def clean(text: str, most: int = 400) -> str:
    """Return what is printed: on one line, without control and direction characters."""
    return one_line(text, most)


def _lines(doc: Document, width: int) -> Iterator[str]:
    title = clean(doc.title, width)
    yield title
    yield "=" * len(title)
    yield from textwrap.wrap(clean(doc.subtitle), width)
    yield ""
    yield from textwrap.wrap(" ".join(clean(text, 1_000) for text in doc.paragraph), width)
    for section in doc.sections:
        yield ""
        yield section.title
        for row in section.rows:
            indent = "    " if row.label.startswith(" ") else "  "
            yield from _row(f"{indent}{clean(row.label)}", clean(row.value), clean(row.note), width)
    yield from _chart(doc.bars)
    yield from _table(doc.runs)
    yield ""
    for note in doc.notes:
        yield from textwrap.wrap(clean(note, 1_000), width, subsequent_indent="  ")


def _row(label: str, value: str, note: str, width: int) -> Iterator[str]:
    reported = f"{value}  ({note})" if note else value
    hang = " " * (_LABEL + 2)
    head = f"{label:<{_LABEL}}  "
    yield from textwrap.wrap(
        head + reported, width, subsequent_indent=hang, drop_whitespace=True, break_long_words=True
    )


def _chart(bars: Sequence[Bar]) -> Iterator[str]:
    shown = bars[:_BARS]
    most = max((bar.kwh for bar in shown), default=0.0)
    if most <= 0:
        return
    yield ""
    yield f"Energy by run ({_IDLE} held and idle)"
    for bar in shown:
        length = max(round(_BAR_WIDTH * bar.kwh / most), 1)
        idle = round(length * bar.idle_kwh / bar.kwh) if bar.kwh else 0
        drawn = _FULL * (length - idle) + _IDLE * idle
        yield f"  {clean(bar.label, 20):<20}  {drawn:<{_BAR_WIDTH}}  {quantity(bar.kwh, 'kWh')}"


def _table(runs: Sequence[Sequence[str]]) -> Iterator[str]:
    if not runs:
        return
    rows = [RUN_COLUMNS, *([clean(cell, 24) for cell in run] for run in runs)]
    widths = [max(len(row[n]) for row in rows) for n in range(len(RUN_COLUMNS))]
    yield ""
    for row in rows:
        cells = [
            cell.ljust(widths[n]) if n < 3 else cell.rjust(widths[n]) for n, cell in enumerate(row)
        ]
        yield "  " + "  ".join(cells).rstrip()
