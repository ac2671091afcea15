"""Make strings from outside fit: valid Unicode, no control characters, bounded.

Unfit is what Unicode calls control, format (bidirectional overrides, zero widths), surrogate,
private and unassigned, and all that ends a line. Hostile names must break neither a terminal, a
page, a log or a label, nor make them read as something that they do not say.

`clean_label` is for what is kept, `clean` for metrics, `one_line` for people, `escaped` for logs.
What a format escapes besides (quotes, markup, formulas) is that format's.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

LABEL_CHARS = 128

MAX_CHARS = 1024
"""A label value is cut here: Prometheus keeps every one of them in memory for hours."""

_REPLACEMENT = "\ufffd"
_CUT = "…"

_AHEAD = 16
"""So many times the limit is enough to fill it with what is left after cleaning."""


def _is_fit(c: str) -> bool:
    return c.isprintable() or unicodedata.category(c) == "Zs"


def _replaced(text: str, by: Callable[[str], str], keep: str = "") -> str:
    if text.isprintable():
        return text
    return "".join(c if c in keep or _is_fit(c) else by(c) for c in text)


def clean_label(text: str, limit: int = LABEL_CHARS) -> str:
    """`text` without unfit and replacement characters, at most `limit` long.

    Runs of white space (newlines among them) become one space. What comes out is valid UTF-8 and
    prints in one line, left to right as written.
    """
    if (
        text.isprintable() and _REPLACEMENT not in text
    ):  # most are, at a start with thousands of them
        return " ".join(text[: _AHEAD * limit].split())[:limit].rstrip()
    spaced = "".join(" " if c < " " or c.isspace() else c for c in text[: _AHEAD * limit])
    kept = _replaced(spaced, lambda _: "").replace(_REPLACEMENT, "")
    return " ".join(kept.split())[:limit].rstrip()


def clean(text: str, max_chars: int = MAX_CHARS) -> str:
    """`text` without what breaks an exposition: each unfit character becomes U+FFFD.

    Tabs and newlines stay (formats escape them); so does everything printable.
    """
    if len(text) > max_chars:
        text = text[: max_chars - 1] + _CUT
    return _replaced(text, lambda _: _REPLACEMENT, keep="\t\n")


def one_line(text: str, max_chars: int = 200) -> str:
    """`text` for a person to read: on one line, short, each unfit character as U+FFFD."""
    text = " ".join(text[: _AHEAD * max_chars].split())
    if len(text) > max_chars:
        text = text[: max_chars - 1].rstrip() + _CUT
    return _replaced(text, lambda _: _REPLACEMENT)


def escaped(text: str) -> str:
    r"""`text` on one line, unfit characters as in a literal of Python (`\n`, `\x1b`)."""
    return _replaced(text, lambda c: ascii(c)[1:-1])
