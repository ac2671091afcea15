"""What is printed: no escape sequence gets through, tables fit, colour only where it is wanted."""

from __future__ import annotations

import io
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.commands.ledger_sample import HOSTILE

from joulebook.commands.shared.text import (
    Column,
    Screen,
    columns,
    cut,
    energy,
    exact_energy,
    gpu_hours,
    lasted,
    mean_power_w,
    moment,
    pad,
    percent,
    power,
    shorten,
    shown,
    size,
    size_of,
    table,
    wrap,
)
from joulebook.core.units_text import CO2E, ENERGY, in_column


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@given(st.text(max_size=400), st.integers(1, 80))
def test_nothing_shown_controls_a_terminal(text: str, limit: int) -> None:
    made = shown(text, limit)
    assert columns(made) <= limit
    assert not any(unicodedata.category(c)[0] == "C" for c in made)
    assert "\n" not in made and "\r" not in made
    made.encode()


def test_a_hostile_name_stays_legible() -> None:
    assert shown(HOSTILE) == "\ufffd[2J\ufffd]0;owned\ufffdrm -rf\ufffd \ufffdevil"
    assert shown("bert-größe 模型") == "bert-größe 模型"
    assert shown("\ud800x") == "\ufffdx"


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
    assert pad("7", 3, right=True) == "  7"


@given(
    st.lists(st.lists(st.text("abc模", max_size=40), min_size=4, max_size=4), max_size=6),
    st.integers(40, 160),
)
def test_a_table_fits(rows: list[list[str]], width: int) -> None:
    cols = (
        Column("NAME", least=8),
        Column("WHO", least=6, spare=1),
        Column("WHY", least=6, spare=2),
        Column("W", right=True, least=4),
    )
    lines = table(cols, rows, width)
    assert len(lines) == len(rows) + 1
    assert all(columns(line) <= width for line in lines)
    assert lines[0].startswith("NAME")


def test_a_table_leaves_spare_columns_out_and_squeezes_the_widest() -> None:
    cols = (Column("A", least=4), Column("B", right=True), Column("C", spare=1))
    rows = [["a" * 30, "12 W", "extra"]]
    assert table(cols, rows, 60)[1] == "a" * 30 + "  12 W  extra"
    assert table(cols, rows, 12)[1] == "aaa…aa  12 W"
    assert table(cols, rows, 12)[0] == "A          B"


def test_no_figure_of_a_table_is_cut() -> None:
    cols = (
        Column("WHO", least=8),
        Column("ENERGY (kWh)", right=True),
        Column("CO2e (g)", right=True),
    )
    rows = [["nlp/ada/bert-base-sweep-17", "12,345,678.901", "39,818.123456"]]
    for width in (40, 20, 1):
        assert table(cols, rows, width)[1].endswith("  12,345,678.901  39,818.123456")


def test_names_of_a_sweep_stay_apart() -> None:
    names = [shorten(f"resnet50-imagenet-sweep-lr{n}", 16) for n in range(10)]
    assert len(set(names)) == 10
    assert all(columns(name) <= 16 for name in names)
    assert shorten("abc", 3) == "abc"
    assert shorten("模型模型模型", 5) == "模型…"


def test_a_table_in_a_pipe_has_all_the_room_it_needs() -> None:
    assert Screen(io.StringIO(), {}).table_width > 1_000
    assert Screen(io.StringIO(), {"COLUMNS": "80"}).table_width == 80


@given(st.lists(st.integers(0, 10**18), min_size=1, max_size=8))
def test_one_unit_for_a_column(values: list[int]) -> None:
    unit, cells = in_column(values, ENERGY)
    per = {name: per for per, name in ENERGY}[unit]
    assert (
        len({cell.partition(".")[2] and len(cell.partition(".")[2]) for cell in cells if cell}) == 1
    )
    for value, cell in zip(values, cells, strict=True):
        number = float(cell.removeprefix("<").replace(",", ""))
        if cell.startswith("<"):
            assert 0 < value / per < number
        else:
            assert number == pytest.approx(value / per, rel=0.06, abs=1e-6)
            assert bool(number) == bool(value)


def test_units_of_a_column() -> None:
    assert in_column([14_580_000_000, 401_000_000, None], ENERGY) == ("Wh", ["4.05", "0.11", "-"])
    assert in_column([33_319_224_000], CO2E) == ("kg", ["33.3"])
    assert in_column([0, None], ENERGY) == ("J", ["0", "-"])
    assert in_column([36 * 10**14, 1], ENERGY) == ("MWh", ["1.000000", "<0.000001"])


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


def test_figures() -> None:
    assert energy(812_000_000) == "812 J"
    assert exact_energy(4_320_000_000_001) == "4,320,000.000001 J = 1.2000 kWh"
    assert exact_energy(1_500_000) == "1.500000 J = 0.0000004 kWh"
    assert power(2431.4) == "2,431 W"
    assert gpu_hours(45_000 * 10**9) == "12.50 GPU-hours"
    assert gpu_hours(30 * 10**9) == "0.0083 GPU-hours (30.0 GPU-seconds)"
    assert lasted(300_000_000) == "0.300 s"
    assert lasted(642 * 10**9) == "10 min 42 s"
    assert lasted(7509 * 10**9) == "2 h 05 min 09 s"
    assert lasted(-1) == "0.000 s"
    assert percent(1, 250) == "0.4 %"
    assert percent(1, 0) == "-"
    assert size(812) == "812 B"
    assert size(80 << 30) == "80.0 GiB"
    assert size_of(61 << 30, 80 << 30) == "61.0/80.0 GiB"
    assert moment(0) == "1970-01-01 00:00:00 UTC"
    assert moment(1e300) == "not known"
    assert mean_power_w(300_000_000, 10**9) == 300.0
    assert mean_power_w(1, 0) is None


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
