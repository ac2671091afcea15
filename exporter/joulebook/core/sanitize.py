"""Make untrusted strings safe to display: valid Unicode, no control characters, bounded.

Hostile names must not break a page, a label or a query.
"""

from __future__ import annotations

import re
import unicodedata

LABEL_CHARS = 128


def clean_label(text: str, limit: int = LABEL_CHARS) -> str:
    """`text` without control, format, surrogate and replacement characters, at most `limit` long.

    Runs of white space (including newlines) become one space. The result is valid UTF-8 and prints
    on one line, left to right as written.
    """
    # Sixteen times the limit is enough to fill it after cleaning; the rest of 64 KiB need not be
    # read.
    kept = "".join(
        " " if c.isspace() or c < " " else c
        for c in text[: 16 * limit]
        if c.isspace() or c < " " or (unicodedata.category(c)[0] != "C" and c != "\ufffd")
    )
    return " ".join(kept.split())[:limit].rstrip()


MAX_CHARS = 1024
"""A label value is cut here: Prometheus keeps every one of them in memory for hours."""

_UNFIT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")
# Bidirectional overrides can make text read as something else.
_MISLEADING = re.compile("[\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def clean(text: str, max_chars: int = MAX_CHARS) -> str:
    """`text` without what breaks an exposition: each unfit character becomes U+FFFD.

    Tabs and newlines stay (formats escape them); so does everything printable.
    """
    if len(text) > max_chars:
        text = text[: max_chars - 1] + "…"
    if text.isascii() and text.isprintable():
        return text
    return _UNFIT.sub("\ufffd", text)


def one_line(text: str, max_chars: int = 60) -> str:
    """`text` for a person to read on a page: cleaned, on one line, and short."""
    if len(text) > max_chars:
        text = text[: max_chars - 1] + "…"
    return _MISLEADING.sub("\ufffd", clean(" ".join(text.split())))
