"""The building blocks of the page. All that comes from outside goes through `text` or `lines`."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from joulebook.exposition.text import one_line

_NUMERIC = frozenset({"Energy", "GPU time", "Power now"})
"""The columns of figures, which are aligned to the right."""


def text(value: str, max_chars: int = 60) -> str:
    """A string from outside as HTML: cut, cleaned, on one line, escaped."""
    return escape(one_line(value, max_chars))


def lines(message: str) -> str:
    """A message of a few lines as HTML; the style sheet keeps its line breaks."""
    return "\n".join(text(line, 300) for line in message.splitlines()[:8])


def section(title: str, content: str, *, note: str = "", wide: bool = False) -> str:
    """A part of the page with its heading; all arguments are HTML."""
    name = title.lower().replace(" ", "-")
    more = f" <span>{note}</span>" if note else ""
    style = ' class="wide"' if wide else ""
    return (
        f'<section{style} aria-labelledby="{name}"><h2 id="{name}">{title}{more}</h2>\n'
        f"{content}</section>"
    )


def table(style: str, heads: Iterable[str], rows: Iterable[str], foot: str = "") -> str:
    """A table; `heads` are the names of its columns, `rows` HTML."""
    head = "".join(f'<th scope="col"{_aligned(name)}>{name}</th>' for name in heads)
    return (
        f'<table class="{style}"><thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{chr(10).join(rows)}\n</tbody>{foot}</table>\n"
    )


def _aligned(head: str) -> str:
    return ' class="num"' if head in _NUMERIC else ""
