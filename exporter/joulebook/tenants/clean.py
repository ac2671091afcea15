"""Text from outside made fit for a label: hostile names must not break a page or a query."""

from __future__ import annotations

import unicodedata

LABEL_CHARS = 128


def clean_label(text: str, limit: int = LABEL_CHARS) -> str:
    """`text` without control, format, surrogate and replacement characters, at most `limit` long.

    Runs of white space (newlines among them) become one space. What comes out is valid UTF-8 and
    prints in one line, left to right as written.
    """
    # Sixteen times the limit is enough to fill it with what is left after cleaning; the rest of
    # 64 KiB need not be looked at.
    kept = "".join(
        " " if c.isspace() or c < " " else c
        for c in text[: 16 * limit]
        if c.isspace() or c < " " or (unicodedata.category(c)[0] != "C" and c != "\ufffd")
    )
    return " ".join(kept.split())[:limit].rstrip()
