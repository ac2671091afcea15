"""`top`: from the real exposition of a view to the lines of a terminal."""

from __future__ import annotations

import io
import re

import msgspec
import pytest
from tests.unit.commands.ledger_sample import HOSTILE
from tests.unit.metrics import sample
from tests.unit.test_terminal import Terminal

from joulebook.commands.top.scrape import NodeScrape, read_board
from joulebook.commands.top.text import lines
from joulebook.core.ledger.state import Books
from joulebook.core.workloads import Labels
from joulebook.errors import InputError
from joulebook.metrics.exposition import Exposition
from joulebook.metrics.snapshot import Snapshot
from joulebook.terminal import Screen, columns

SCREEN = Screen(io.StringIO(), {})


def exposed(view: Snapshot) -> str:
    def fail(family: str, error: Exception) -> None:
        raise AssertionError(family) from error

    fine = (True, "ready")
    return Exposition(view, lambda: fine, lambda: fine, on_error=fail).metrics()[0].decode()


@pytest.fixture
def board() -> NodeScrape:
    return read_board(exposed(sample.small_view()))


def test_a_board_is_read_from_metrics(board: NodeScrape) -> None:
    assert (board.node, board.cluster) == ("node-1", "lab")
    assert [gpu.index for gpu in board.gpus] == ["0", "1"]
    assert board.power_w == pytest.approx(412.75 + 201.5, abs=1)
    labels, share = board.gpus[0].holders[0]
    assert (labels["user"], share) == ("ada", 1.0)
    first = board.workloads[0]
    assert (first.labels["workload"], first.labels["experiment"]) == ("101", "bert-base")
    assert first.power_w == pytest.approx(412.75)
    assert board.sensors == {"nvml": True, "rapl": False}
    assert board.sums.balanced
    ended = next(each for each in board.workloads if each.labels["workload"] == "99")
    assert ended.power_w is None


def test_books_that_do_not_balance_are_said_aloud() -> None:
    text = exposed(sample.small_view())
    off = re.sub(r"(joulebook_meter_energy_joules_total\{[^}]*\}) \S+", r"\1 9e9", text, count=1)
    board = read_board(off)
    assert not board.sums.balanced
    assert any("OFF BY" in line for line in lines(board, SCREEN, 100))


@pytest.mark.parametrize(
    "text", ["", "<html>hello</html>", "up 1\n", "joulebook_build_info{ 1", "a{b=} 1\n"]
)
def test_what_is_no_exposition_of_ours_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"not Joulebook|not an exposition"):
        read_board(text)


def test_the_lines(board: NodeScrape) -> None:
    made = lines(board, SCREEN, 120)
    assert made[0] == "joulebook  node-1 (lab)   614 W   2/2 GPUs held   SENSOR DOWN: rapl"
    row = next(line for line in made if line.startswith("  0  "))
    assert " ".join(row.split()) == ("0 H100 80GB HBM3 413 W 700 W 97 % 61.0/80.0 GiB 64 C 101 ada")
    row = next(line for line in made if line.startswith("101 "))
    assert row.split("  ")[-1].strip() == "1.00 h, 80 % measured"
    assert sum("measured" in line for line in made) == 1
    assert made[-1].startswith("Ledger: ") and made[-1].endswith("balanced")


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
@pytest.mark.parametrize("height", [0, 4, 10, 24, 50])
def test_the_lines_fit_every_terminal(width: int, height: int) -> None:
    board = read_board(exposed(sample.busy_view()))
    for screen in (SCREEN, Screen(Terminal(), {"TERM": "xterm"})):
        made = lines(board, screen, width, height, "What is shown is old: no daemon answers")
        assert not height or len(made) <= height
        plain = [re.sub(r"\x1b\[\d+m", "", line) for line in made]
        assert all(columns(line) <= width for line in plain)


def test_what_does_not_fit_is_counted() -> None:
    made = lines(read_board(exposed(sample.busy_view())), SCREEN, 100, 24)
    assert any(re.fullmatch(r"\.\.\. and \d+ more jobs", line) for line in made)


def test_a_node_without_anything() -> None:
    made = lines(read_board(exposed(Snapshot("bare", Books()))), SCREEN, 80)
    assert "No GPU was read." in made
    assert "No job was booked lately." in made
    assert made[0] == "joulebook  bare   -   0/0 GPUs held"


def test_hostile_names_paint_nothing() -> None:
    view = sample.small_view()
    workloads = {
        id_: msgspec.structs.replace(state, labels=Labels(HOSTILE, HOSTILE, HOSTILE), shown=HOSTILE)
        for id_, state in view.books.workloads.items()
    }
    books = msgspec.structs.replace(view.books, workloads=workloads)
    hostile = msgspec.structs.replace(view, books=books, node=HOSTILE, cluster=HOSTILE)
    for line in lines(read_board(exposed(hostile)), SCREEN, 120):
        assert "\x1b" not in line and "\x07" not in line and "\u202e" not in line
