"""Terminal text: paragraph, figures, a chart of runs in bars, tables.

Nothing cuts a figure: where there is no room, columns are left out, and names take more lines.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator, Sequence

from joulebook.core.sanitize import one_line
from joulebook.lab.report.document import Bar, Document, document
from joulebook.lab.report.model import Statement
from joulebook.lab.report.tables import DataTable
from joulebook.lab.report.wording import quantity
from joulebook.terminal import Column, Screen, columns, pad, wrap

_LEAST, _MOST = 40, 110
_LABEL = 24
_BESIDE = 66
"""From this width on, values stand beside their labels, else below them."""
_BARS = 15
_BAR_WIDTH = 30
_FULL, _IDLE = "#", "."
_TEXT = 1_000
_PLAIN = Screen(io.StringIO(), {})


def render(statement: Statement, length: str = "full") -> str:
    """Return the statement for a terminal."""
    width = min(max(shutil.get_terminal_size((100, 24)).columns, _LEAST), _MOST)
    doc = document(statement)
    if length == "sentence":
        lines = wrap(one_line(doc.abstract, _TEXT), width)
    elif length == "short":
        lines = [*_paragraph(doc.short, width), "", *_table(doc.key_table, width)]
    else:
        lines = list(_lines(doc, width))
    return "\n".join(lines) + "\n"


def _paragraph(sentences: Sequence[str], width: int) -> list[str]:
    return wrap(" ".join(one_line(text, _TEXT) for text in sentences), width)


def _lines(doc: Document, width: int) -> Iterator[str]:
    title = one_line(doc.title, width)
    yield title
    yield "=" * columns(title)
    yield from wrap(one_line(doc.subtitle, _TEXT), width)
    yield ""
    yield from _paragraph(doc.paragraph, width)
    for table in doc.tables:
        yield ""
        yield from _table(table, width)
    for section in doc.sections:
        yield ""
        yield section.title
        for row in section.rows:
            indent = "    " if row.is_part else "  "
            value, note = one_line(row.value, _TEXT), one_line(row.note, _TEXT)
            head = f"{indent}{one_line(row.label)}"
            said = f"{value}  ({note})" if note else value
            if width < _BESIDE:
                yield head
                yield from wrap(said, width, f"{indent}  ")
            else:
                yield from wrap(said, width, f"{pad(head, _LABEL)}  ")
    yield from _chart(doc.bars, width)
    if doc.runs.rows:
        yield ""
        yield from _table(doc.runs, width)
    yield ""
    for note in doc.notes:
        yield from wrap(one_line(note, _TEXT), width)


def _table(table: DataTable, width: int) -> Iterator[str]:
    """The caption, the rows, and the notes."""
    yield from wrap(one_line(table.caption, _TEXT), width)
    spare = {n: len(table.spare) - at + 1 for at, n in enumerate(table.spare)}
    heads = [
        Column(title, right=n in table.right, name=n not in table.right, spare=spare.get(n, 0))
        for n, title in enumerate(table.columns)
    ]
    rows = [[one_line(cell) for cell in row] for row in table.rows]
    drawn = _PLAIN.table(heads, rows, width=width - 2)
    yield from (f"  {line}" for line in drawn)
    for note in table.notes:
        yield from wrap(one_line(note, _TEXT), width, "  ")


def _chart(bars: Sequence[Bar], width: int) -> Iterator[str]:
    shown = bars[:_BARS]
    most = max((bar.kwh for bar in shown), default=0.0)
    if most <= 0:
        return
    yield ""
    yield f"Energy by run ({_IDLE} held and idle)"
    for bar in shown:
        full = _BAR_WIDTH if width >= _BESIDE else _BAR_WIDTH // 5
        length = max(round(full * bar.kwh / most), 1)
        idle = round(length * bar.idle_kwh / bar.kwh) if bar.kwh else 0
        drawn = _FULL * (length - idle) + _IDLE * idle
        room = 20 if width >= _BESIDE else 14
        label = pad(one_line(bar.label, room), room)
        yield f"  {label}  {drawn:<{full}}  {quantity(bar.kwh, 'kWh')}"
