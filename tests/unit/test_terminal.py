"""What is printed: no escape sequence gets through, tables fit, colour only where it is wanted."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulebook.terminal import Column, Screen, columns, cut, pad, wrap


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("text", "width"), [("abc", 3), ("模型", 4), ("e\u0301", 1), ("", 0), ("\uff46", 2)]
)
def test_columns_count_what_a_terminal_counts(text: str, width: int) -> None:
    assert columns(text) == width


def test_cut_and_pad_by_columns() -> None:
    assert cut("模型模型", 5) == "模型…"
    assert cut("abcdef", 4) == "abc…"
    assert cut("abc", 0) == ""
    assert pad("模", 4) == "模  "
    assert pad("abc", 2) == "abc"


def table(cols: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> list[str]:
    return Screen(io.StringIO(), {}).table(cols, rows, width=width)


COLUMNS = (
    Column("NAME", name=True),
    Column("WHO", name=True, spare=1),
    Column("WHY", name=True, spare=2),
    Column("W", right=True),
)


@given(
    st.lists(st.lists(st.text("abc模", max_size=40), min_size=4, max_size=4), max_size=6),
    st.integers(1, 160),
)
def test_a_table_fits_and_no_figure_is_cut(rows: list[list[str]], width: int) -> None:
    rows = [[*names, "9" * len(last)] for *names, last in rows]
    lines = table(COLUMNS, rows, width)
    figures = max([1, *(len(row[-1]) for row in rows)])
    assert all(columns(line) <= max(width, 14 + figures) for line in lines)
    assert lines[0].startswith("NAME")
    figures_shown = [line.rpartition(" ")[2] for line in lines[1:]]
    for row in rows:
        assert not row[-1] or row[-1] in figures_shown


def test_a_table_leaves_spare_columns_out_before_it_folds_names() -> None:
    cols = (Column("A", name=True), Column("B", right=True), Column("C", spare=2))
    rows = [["a" * 30, "12 W", "extra"]]
    assert table(cols, rows, 60)[1:] == ["a" * 30 + "  12 W  extra"]
    assert table(cols, rows, 36)[1:] == ["a" * 30 + "  12 W"]
    assert table(cols, rows, 31)[1:] == ["a" * 25 + "  12 W", "a" * 5]
    assert table(cols, rows, 31)[0] == "A" + " " * 29 + "B"


def test_a_last_spare_column_goes_only_where_narrow_names_do_not_help() -> None:
    cols = (Column("A", name=True), Column("B", spare=1), Column("C", right=True))
    rows = [["a" * 30, "bbbb", "12 W"]]
    assert table(cols, rows, 26)[1:] == ["a" * 14 + "  bbbb  12 W", "a" * 14, "aa"]
    assert table(cols, rows, 23)[1:] == ["a" * 17 + "  12 W", "a" * 13]


def test_no_figure_of_a_table_is_cut() -> None:
    cols = (
        Column("WHO", name=True),
        Column("ENERGY (kWh)", right=True),
        Column("CO2e (g)", right=True),
    )
    rows = [["nlp/ada/bert-base-sweep-17", "12,345,678.901", "39,818.123456"]]
    for width in (40, 20, 1):
        assert table(cols, rows, width)[1].endswith("  12,345,678.901  39,818.123456")


def test_wide_characters_keep_their_columns() -> None:
    cols = (Column("NAME", name=True), Column("W", right=True))
    rows = [["模型模型", "1"], ["abc", "22"], ["e\u0301", "3"]]
    assert table(cols, rows, 80) == [
        "NAME       W",
        "模型模型   1",
        "abc       22",
        "e\u0301          3",
    ]
    assert table(cols, [["模" * 20, "1"]], 16)[1:] == [
        "模" * 6 + "   1",
        "模" * 6,
        "模" * 6,
        "模模",
    ]


def test_a_table_without_folds_has_a_line_for_each_row() -> None:
    cols = (Column("NAME", name=True), Column("W", right=True))
    rows = [["resnet50 imagenet sweep of learning rates", "12 W"]]
    made = Screen(io.StringIO(), {}).table(cols, rows, width=24, fold=False)
    assert made[1:] == ["resnet50 imagenet…  12 W"]


def test_rows_of_lesser_weight_are_dim_where_there_is_colour() -> None:
    screen = Screen(Terminal(), {"TERM": "xterm"})
    made = screen.table((Column("A"),), [["one"], ["two"]], dim={1})
    assert made == ["\x1b[2mA  \x1b[0m", "one", "\x1b[2mtwo\x1b[0m"]


def test_a_table_in_a_pipe_has_all_the_room_it_needs() -> None:
    assert Screen(io.StringIO(), {}).table_width > 1_000
    assert Screen(io.StringIO(), {"COLUMNS": "80"}).table_width == 80


def test_wrap_breaks_between_words() -> None:
    assert wrap("one two three", 7) == ["one two", "three"]
    assert wrap("", 7) == [""]
    assert wrap("go /a/long/path on", 6) == ["go", "/a/lon", "g/path", "on"]
    assert wrap("模型模型", 5) == ["模型", "模型"]


@given(st.text("ab 模…", max_size=80), st.integers(8, 40))
def test_wrap_loses_nothing(text: str, width: int) -> None:
    made = wrap(text, width)
    assert all(columns(line) <= width for line in made)
    assert "".join(made).replace(" ", "") == text.replace(" ", "")


@pytest.mark.parametrize(
    ("environ", "stream", "painted"),
    [
        ({"TERM": "xterm"}, Terminal(), True),
        ({"TERM": "xterm", "NO_COLOR": "1"}, Terminal(), False),
        ({"TERM": "xterm", "NO_COLOR": ""}, Terminal(), True),
        ({"TERM": "dumb"}, Terminal(), False),
        ({"TERM": "xterm"}, io.StringIO(), False),
    ],
)
def test_colour_only_where_it_is_wanted(
    environ: dict[str, str], stream: io.StringIO, painted: bool
) -> None:
    assert ("\x1b[" in Screen(stream, environ).paint("x", "red")) is painted


def test_a_pipe_is_as_wide_as_it_is_told() -> None:
    assert Screen(io.StringIO(), {"COLUMNS": "60"}).width == 60
    assert Screen(io.StringIO(), {}).width == 120
    assert Screen(io.StringIO(), {"COLUMNS": "junk"}).width == 120


def test_a_terminal_without_unicode_gets_question_marks() -> None:
    raw = io.BytesIO()
    screen = Screen(io.TextIOWrapper(raw, encoding="ascii", write_through=True), {})
    screen.say("größe…")
    assert raw.getvalue() == b"gr??e?\n"


@pytest.mark.parametrize(
    "module",
    [
        "joulebook.commands.daemon.run, joulebook.node.assembly.node",
        "joulebook.mark",
        "joulebook.commands.health",
        "joulebook.commands.job.job",
    ],
)
def test_what_lays_nothing_out_does_not_load_rich(module: str, repository: Path) -> None:
    code = f"import sys, {module}; assert 'rich' not in sys.modules"
    env = {**os.environ, "PYTHONPATH": str(repository / "exporter")}
    subprocess.run([sys.executable, "-c", code], env=env, check=True)
