"""Markdown (CommonMark with tables) for an appendix, an issue or a README."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator, Sequence
from html import escape as escape_html

from joulebook.core.sanitize import one_line
from joulebook.lab.report.document import document
from joulebook.lab.report.formats.templates import template
from joulebook.lab.report.model import Statement

_SPECIAL = re.compile(r"([\\`*_{}\[\]#!|~^$@])")
# A line that starts like one of these would be a list, a heading or a rule.
_LEADING = re.compile(r"^([-+=])")
# What some renderers make links of by themselves.
_LINK = re.compile(r"(?i)\b(https?|ftp|mailto)(?=:)|(?<![\w.])www(?=\.)")


def render(statement: Statement, length: str = "full") -> str:
    """Return the statement in Markdown."""
    page = template("statement.md.j2", escape)
    return page.render(doc=document(statement), length=length).rstrip("\n") + "\n"


def escape(text: str, most: int = 1_000) -> str:
    """Text in which nothing is markup, HTML, or a link."""
    plain = escape_html(one_line(text, most), quote=False)
    plain = _SPECIAL.sub(r"\\\1", plain)
    plain = _LINK.sub(lambda found: f"{found[0]}<!-- -->", plain)
    return _LEADING.sub(r"\\\1", plain)


def table(
    heads: Sequence[str], rows: Iterable[Sequence[str]], figures: Container[int] = ()
) -> Iterator[str]:
    """The lines of a table; `figures` are the columns that stand right."""
    rules = ("---:" if n in figures else "---" for n in range(len(heads)))
    for cells in (map(escape, heads), rules, *(map(escape, row) for row in rows)):
        yield f"| {' | '.join(cells)} |"
