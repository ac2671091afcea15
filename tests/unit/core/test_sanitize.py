"""Hostile text, in one place: whatever comes in, what goes out harms nobody."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.hostile import TEXTS, is_harmless

from joulebook.core.sanitize import (
    LABEL_CHARS,
    MAX_CHARS,
    clean,
    clean_label,
    escaped,
    one_line,
)

anything = st.text(st.characters(categories=None))


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("how", [clean_label, one_line, escaped, clean])
def test_hostile_text(text: str, how: Callable[[str], str]) -> None:
    made = how(text)
    assert is_harmless(made.replace("\n", "").replace("\t", "") if how is clean else made)


@given(anything)
def test_clean_text_is_valid_bounded_and_stays_clean(text: str) -> None:
    cleaned = clean(text)
    assert len(cleaned) <= MAX_CHARS
    assert clean(cleaned) == cleaned
    assert is_harmless(cleaned.replace("\n", "").replace("\t", ""))


@given(anything)
def test_a_label_is_bounded_and_stays_the_same(text: str) -> None:
    cleaned = clean_label(text)
    assert len(cleaned) <= LABEL_CHARS
    assert is_harmless(cleaned)
    assert clean_label(cleaned) == cleaned


@given(anything, st.integers(1, 80))
def test_one_line_is_one_line(text: str, limit: int) -> None:
    made = one_line(text, limit)
    assert len(made) <= limit
    assert is_harmless(made)


@given(anything)
def test_what_is_escaped_loses_nothing(text: str) -> None:
    made = escaped(text)
    assert is_harmless(made)
    rest = iter(made)
    assert all(c in rest for c in text if c.isprintable())


def test_ordinary_text_is_untouched() -> None:
    for text in ("bert-base", "größe \u65e5\u672c", ""):
        assert clean(text) == clean_label(text) == one_line(text) == escaped(text) == text
    assert clean("a\tb\nc\u202fd") == "a\tb\nc\u202fd"


def test_words_of_a_label_are_kept_and_control_is_not() -> None:
    assert clean_label("  bert\n\tbase\0v2 ") == "bert base v2"
    assert clean_label("a\u202eb\ufffdc\udcff") == "abc"
    assert clean_label("x" * 65536) == "x" * LABEL_CHARS
    assert clean_label("\x01" * 65536) == ""


def test_people_see_where_something_was() -> None:
    assert one_line("ab\u202ecd\n e") == "ab\ufffdcd e"
    assert one_line("\ud800x") == "\ufffdx"
    assert escaped("a\n\x1b[2J\u202e") == r"a\n\x1b[2J\u202e"


def test_long_text_says_that_it_was_cut() -> None:
    assert clean("x" * 70_000) == "x" * (MAX_CHARS - 1) + "…"
    assert one_line("y" * 70_000, 10) == "yyyyyyyyy…"
