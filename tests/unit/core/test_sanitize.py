from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from joulebook.core.sanitize import MAX_CHARS, clean, one_line

anything = st.text(st.characters(categories=None))


@given(anything)
def test_clean_text_is_valid_bounded_and_stays_clean(text: str) -> None:
    cleaned = clean(text)
    cleaned.encode("utf-8")
    assert len(cleaned) <= MAX_CHARS
    assert clean(cleaned) == cleaned
    assert all(char >= " " or char in "\t\n" for char in cleaned)


@given(anything)
def test_one_line_is_one_line(text: str) -> None:
    shown = one_line(text, 20)
    assert len(shown) <= 20
    assert not set("\n\r\t\x85\u2028") & set(shown)
    shown.encode("utf-8")


def test_ordinary_text_is_untouched() -> None:
    for text in ("bert-base", "größe \u65e5\u672c", "a\tb\nc", ""):
        assert clean(text) == text


def test_long_text_says_that_it_was_cut() -> None:
    assert clean("x" * 70_000) == "x" * (MAX_CHARS - 1) + "…"
    assert one_line("y" * 70_000, 10) == "yyyyyyyyy…"
    assert one_line("ab\u202ecd") == "ab\ufffdcd"
