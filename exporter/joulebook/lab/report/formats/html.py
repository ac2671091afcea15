"""One HTML page that loads nothing: to mail, to keep beside a model, to print.

Light and dark follow the reader's system. A policy in the page forbids scripts and any request,
so that even a mistake in escaping could reach nobody.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from joulebook.lab.report.document import Bar, document
from joulebook.lab.report.formats.templates import template
from joulebook.lab.report.model import Figure, Statement
from joulebook.lab.report.wording import figure, hosts_share, quantity
from joulebook.metrics.page.markup import text as html_text

_SYMBOL = re.compile(r"\bE_(gpu|host|idle|it|fac|best|sweep|project)\b")
_BARS = 20


def render(statement: Statement, length: str = "full") -> str:
    """Return the page."""
    doc = document(statement)
    values = {
        "doc": doc,
        "length": length,
        "title": Plain(html_text(doc.title, 200)),
        "cards": list(_cards(statement)),
        "bars": list(_bars(doc.bars[:_BARS])),
    }
    return template("statement.html.j2", _escaped).render(values).rstrip("\n") + "\n"


class Plain(str):
    """Text that is escaped already, without markup."""

    __slots__ = ()


def _escaped(text: str) -> str:
    return text if isinstance(text, Plain) else escape(text)


def escape(text: str, most: int = 1_000) -> str:
    """Text as HTML, also between the quotes of an attribute."""
    plain = _SYMBOL.sub(r"E<sub>\1</sub>", html_text(text, most))
    return plain.replace("CO2e", "CO<sub>2</sub>e").replace(" %", "&nbsp;%")


def _cards(statement: Statement) -> Iterator[tuple[str, str]]:
    energy, carbon = statement.energy, statement.carbon
    facility = energy.facility.value is not None
    where = "at the facility" if facility else "of the machines"
    hosts = hosts_share(statement)
    shown: list[tuple[str, Figure]] = [
        (f"{where}, {hosts}" if hosts else where, energy.facility if facility else energy.it),
        ("emitted, location-based", carbon.location_based),
        *((each.kind, each.cost) for each in statement.cost),
        ("held by runs", statement.inventory.gpu_hours),
    ]  # fmt: skip
    for label, each in shown:
        yield label, "not known" if each.value is None else figure(each)


def _bars(bars: tuple[Bar, ...]) -> Iterator[dict[str, object]]:
    most = max((bar.kwh for bar in bars), default=0.0)
    for bar in bars if most > 0 else ():
        whole, idle = 100 * bar.kwh / most, 100 * bar.idle_kwh / most
        yield {
            "label": bar.label,
            "failed": bar.state == "failed",
            "whole": f"{whole:.2f}",
            "used": f"{whole - idle:.2f}",
            "idle": f"{idle:.2f}",
            "value": quantity(bar.kwh, "kWh"),
        }
