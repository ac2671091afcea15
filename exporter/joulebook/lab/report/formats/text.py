"""Terminal text: paragraph, figures, a chart of runs in bars, a table of runs."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator, Sequence

from joulebook.core.sanitize import one_line
from joulebook.lab.report.document import RUN_COLUMNS, Bar, Document, document
from joulebook.lab.report.model import Statement
from joulebook.lab.report.wording import quantity
from joulebook.terminal import Column, Screen, columns, pad, wrap

_LEAST, _MOST = 60, 110
_LABEL = 24
_BARS = 15
_BAR_WIDTH = 30
_FULL, _IDLE = "#", "."
_TEXT = 1_000
_PLAIN = Screen(io.StringIO(), {})
_COLUMNS = tuple(Column(title, right=n > 2, name=n < 3) for n, title in enumerate(RUN_COLUMNS))


def render(statement: Statement) -> str:
    """Return the statement for a terminal."""
    width = min(max(shutil.get_terminal_size((100, 24)).columns, _LEAST), _MOST)
    return "\n".join(_lines(document(statement), width)) + "\n"


def _lines(doc: Document, width: int) -> Iterator[str]:
    title = one_line(doc.title, width)
    yield title
    yield "=" * columns(title)
    yield from wrap(one_line(doc.subtitle, _TEXT), width)
    yield ""
    yield from wrap(" ".join(one_line(text, _TEXT) for text in doc.paragraph), width)
    for section in doc.sections:
        yield ""
        yield section.title
        for row in section.rows:
            indent = "    " if row.label.startswith(" ") else "  "
            value, note = one_line(row.value, _TEXT), one_line(row.note, _TEXT)
            head = pad(f"{indent}{one_line(row.label)}", _LABEL)
            yield from wrap(f"{value}  ({note})" if note else value, width, f"{head}  ")
    yield from _chart(doc.bars)
    if doc.runs:
        yield ""
        rows = [[one_line(cell) for cell in run] for run in doc.runs]
        yield from (f"  {line}" for line in _PLAIN.table(_COLUMNS, rows, width=width - 2))
    yield ""
    for note in doc.notes:
        yield from wrap(one_line(note, _TEXT), width)


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
        label = pad(one_line(bar.label, 20), 20)
        yield f"  {label}  {drawn:<{_BAR_WIDTH}}  {quantity(bar.kwh, 'kWh')}"
