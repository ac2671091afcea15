from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from joulebook.core.sanitize import LABEL_CHARS, clean_label


@given(st.text(st.characters(), max_size=400))
def test_what_comes_out_is_printable_bounded_and_stays_the_same(text: str) -> None:
    cleaned = clean_label(text)
    assert len(cleaned) <= LABEL_CHARS
    cleaned.encode("utf-8")
    assert all(unicodedata.category(c)[0] != "C" for c in cleaned)
    assert clean_label(cleaned) == cleaned


def test_words_are_kept_and_control_is_not() -> None:
    assert clean_label("  bert\n\tbase\0v2 ") == "bert base v2"
    assert clean_label("größe 学习") == "größe 学习"
    assert clean_label("a\u202eb\ufffdc\udcff") == "abc"


def test_64_kib_cost_no_more_than_what_is_kept() -> None:
    assert clean_label("x" * 65536) == "x" * LABEL_CHARS
    assert clean_label("\x01" * 65536) == ""
