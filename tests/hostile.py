"""Names as nobody nice would give them, and what must be true of what is made of them."""

from __future__ import annotations

import unicodedata

TEXTS = {
    "controls": "a\0b\x07c\x08d\x7fe\x85f\x9bg",
    "lines": "job\r\nERROR forged\x0b\x0c\u2028\u2029\x1c\x1d\x1e",
    "escapes": "\x1b[2J\x1b]0;owned\x07\x1b[31mrm -rf\x1b[0m \x9b2Jevil",
    "directions": "abc\u202egnp.exe\u2066x\u2069\u200e\u200f\u061c",
    "invisible": "a\u200bb\u200dc\ufeffd\u00ade\u2060f\U000e0041",
    "surrogates": "\ud800x\udcffy\udfff",
    "private": "\ue000\U000f0000\U0010ffff\ufffe\uffff\ufdd0",
    "long": "x\x1b" * 70_000,
    "blank": " \t\n\u00a0\u3000" * 5_000,
}
"""By what is wrong with them."""


def is_harmless(text: str) -> bool:
    """Whether it is valid Unicode on one line, and nothing of it controls who shows it."""
    text.encode("utf-8")
    return not any(unicodedata.category(c) in _HARMFUL for c in text)


_HARMFUL = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
