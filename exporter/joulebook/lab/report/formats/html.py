"""One HTML page that loads nothing: to mail, to keep beside a model, to print.

Light and dark follow the reader's system. A policy in the page forbids scripts and any request,
so that even a mistake in escaping could reach nobody.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from joulebook.lab.report.document import RUN_COLUMNS, Bar, Document, StatementRow, document
from joulebook.lab.report.model import Figure, Statement
from joulebook.lab.report.wording import figure, quantity
from joulebook.metrics.page.markup import text as html_text

_CSS = Path(__file__).with_name("html.css")
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_DEFAULT = re.compile(r"\(default\)")
_SYMBOL = re.compile(r"\bE_(gpu|host|idle|it|fac|best|sweep|project)\b")
_BARS = 20


def render(statement: Statement) -> str:
    """Return the page."""
    return "\n".join(_page(statement, document(statement))) + "\n"


def escape(text: str, most: int = 1_000) -> str:
    """Text as HTML, also between the quotes of an attribute."""
    plain = _SYMBOL.sub(r"E<sub>\1</sub>", html_text(text, most))
    return plain.replace("CO2e", "CO<sub>2</sub>e")


def _plain(text: str) -> str:
    """The same where no markup may be, in the title of the page."""
    return html_text(text, 200)


def _page(statement: Statement, doc: Document) -> Iterator[str]:
    yield "<!doctype html>"
    yield '<html lang="en"><head><meta charset="utf-8">'
    yield f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield '<meta name="referrer" content="no-referrer">'
    yield f"<title>{_plain(doc.title)}</title>"
    yield f"<style>\n{_CSS.read_text(encoding='utf-8')}</style></head><body>"
    yield f"<h1>{escape(doc.title)}</h1>"
    yield f'<p class="sub">{escape(doc.subtitle)}</p>'
    yield from _cards(statement)
    yield f'<p class="said">{" ".join(map(escape, doc.paragraph))}</p>'
    yield from _chart(doc.bars)
    for section in doc.sections:
        yield f"<h2>{escape(section.title)}</h2>"
        yield '<table class="rows"><tbody>'
        yield from map(_row, section.rows)
        yield "</tbody></table>"
    if doc.runs:
        yield "<h2>Runs</h2>"
        yield from _runs(doc)
    yield "<footer>"
    for note in doc.notes:
        style = ' class="warning"' if note.startswith("Warning") else ""
        yield f"<p{style}>{escape(note)}</p>"
    yield "</footer></body></html>"


def _cards(statement: Statement) -> Iterator[str]:
    energy, carbon = statement.energy, statement.carbon
    facility = energy.facility.value is not None
    shown: list[tuple[str, Figure]] = [
        ("at the facility" if facility else "of the machines",
         energy.facility if facility else energy.it),
        ("emitted, location-based", carbon.location_based),
        *((each.kind, each.cost) for each in statement.cost),
        ("held by runs", statement.inventory.gpu_hours),
    ]  # fmt: skip
    yield '<div class="cards">'
    for label, each in shown:
        value = "not known" if each.value is None else figure(each)
        yield f'<div class="card"><b>{_marked(value)}</b><span>{escape(label)}</span></div>'
    yield "</div>"


def _marked(value: str) -> str:
    return _DEFAULT.sub('<span class="default">(default)</span>', escape(value))


def _row(row: StatementRow) -> str:
    style = ' class="part"' if row.label.startswith(" ") else ""
    return (
        f'<tr><th scope="row"{style}>{escape(row.label)}</th>'
        f'<td class="value">{_marked(row.value)}</td>'
        f'<td class="note">{escape(row.note)}</td></tr>'
    )


def _chart(bars: tuple[Bar, ...]) -> Iterator[str]:
    shown = bars[:_BARS]
    most = max((bar.kwh for bar in shown), default=0.0)
    if most <= 0:
        return
    yield "<h2>Energy by run</h2><figure>"
    for bar in shown:
        whole = 100 * bar.kwh / most
        idle = 100 * bar.idle_kwh / most
        style = "run failed" if bar.state == "failed" else "run"
        yield (
            f'<div class="{style}"><span>{escape(bar.label, 40)}</span>'
            '<svg viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
            f'<rect class="use" width="{whole:.2f}" height="10"/>'
            f'<rect class="idle" x="{whole - idle:.2f}" width="{idle:.2f}" height="10"/></svg>'
            f"<span>{quantity(bar.kwh, 'kWh')}</span></div>"
        )
    yield "<figcaption>"
    for name, style in (("in use", ""), ("held and idle", ""), ("a run that failed", "failed")):
        fill = "idle" if "idle" in name else "use"
        yield (
            f'<span class="{style}"><svg viewBox="0 0 10 10" aria-hidden="true">'
            f'<rect class="{fill}" width="10" height="10"/></svg>{name}</span>'
        )
    yield "</figcaption></figure>"


def _runs(doc: Document) -> Iterator[str]:
    yield '<div class="scroll"><table><thead><tr>'
    for n, name in enumerate(RUN_COLUMNS):
        yield f'<th scope="col"{_aligned(n)}>{escape(name)}</th>'
    yield "</tr></thead><tbody>"
    for run in doc.runs:
        cells = (f"<td{_aligned(n)}>{escape(cell, 120)}</td>" for n, cell in enumerate(run))
        yield f"<tr>{''.join(cells)}</tr>"
    yield "</tbody></table></div>"


def _aligned(column: int) -> str:
    return ' class="num"' if column > 2 else ""
