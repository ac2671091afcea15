"""Which jobs are due for a comment, and how many writes a second slurmdbd gets."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest
from tests.unit.lab.collected.nodes import NOVEMBER_S, Node
from tests.unit.lab.web.served import filled

from joulebook.lab.admin_comment import ClusterJob, CommentWriter, due
from joulebook.lab.collected.database import connect, opened

KWH_UJ = 3_600_000_000_000
NOW_S = NOVEMBER_S + 10_000


def node(name: str, cluster: str, *jobs: str, ended: bool = True) -> Node:
    """A node of a cluster on which jobs ran for a quarter of an hour."""
    made = Node(name, name * 16, cluster)
    for job in jobs:
        made.label(job, "acct", "ada", "x", started_utc_ns=NOVEMBER_S * 10**9, complete=ended,
                   ended_utc_ns=(NOVEMBER_S + 900) * 10**9 if ended else None)  # fmt: skip
        made.burn(NOVEMBER_S, KWH_UJ, job, held_ns=900 * 10**9)
    return made


class Accounting(CommentWriter):
    """The writer, with SLURM's answers kept in memory."""

    def __init__(self, url: str, *jobs: tuple[str, str]) -> None:
        self.pauses: list[float] = []
        self.asked: list[set[str]] = []
        self.now_s = NOW_S
        super().__init__(
            functools.partial(connect, url), {}, lambda: self.now_s, self.pauses.append
        )
        self.jobs = {job: "" for job in jobs}
        self.writes: list[tuple[str, str]] = []

    def _ran(self, *words: str) -> str:
        if words[0] == "sacct":
            numbers = set(words[-1].split(","))
            self.asked.append(numbers)
            cells = [
                (number, cluster, str(NOVEMBER_S), str(NOVEMBER_S + 900), "1", comment)
                for (cluster, number), comment in self.jobs.items()
                if number in numbers
            ]
            return "".join("\x1f".join(each) + "\n" for each in cells)
        number, cluster, comment = (words[i].partition("=")[2] for i in (5, 6, 8))
        self.writes.append((cluster, number))
        self.jobs[cluster, number] = comment.strip("'")
        return ""


def test_one_number_in_two_clusters_is_two_jobs(tmp_path: Path) -> None:
    url = filled(tmp_path, node("aa", "east", "7"), node("bb", "west", "7", "8"))
    writer = Accounting(url, ("east", "7"), ("west", "7"), ("west", "8"))
    writer.once()
    assert sorted(writer.writes) == [("east", "7"), ("west", "7"), ("west", "8")]
    assert json.loads(writer.jobs["west", "7"])["joulebook"]["energy_kwh"] == 1


def test_a_number_is_of_the_cluster_that_slurm_says(tmp_path: Path) -> None:
    made = node("aa", "", "7")
    made.label("7", "acct", "ada", "x", started_utc_ns=NOVEMBER_S * 10**9, complete=True,
               ended_utc_ns=(NOVEMBER_S + 900) * 10**9, extra={"cluster": "west"})  # fmt: skip
    writer = Accounting(filled(tmp_path, made), ("east", "7"), ("west", "7"))
    writer.once()
    assert writer.writes == [("west", "7")]


def test_three_writes_a_second_at_most_and_none_again(tmp_path: Path) -> None:
    jobs = [str(number) for number in range(100, 110)]
    url = filled(tmp_path, node("aa", "lab", *jobs))
    writer = Accounting(url, *(("lab", job) for job in jobs))
    writer.once()
    assert len(writer.writes) == 10
    assert writer.pauses == [pytest.approx(1 / 3, abs=0.02)] * 10
    assert min(writer.pauses) >= 1 / 3
    writer.once()
    # A server that knows of none of this, as after a restore: the comments are there.
    with opened(url) as database, database.transaction():
        database.rows("DELETE FROM lab_commented")
    again = Accounting(url)
    again.jobs = writer.jobs
    again.once()
    assert len(writer.writes) == 10
    assert again.writes == []
    assert again.counts == {"written": 10}


def test_a_pass_asks_for_what_is_new(tmp_path: Path) -> None:
    url = filled(tmp_path, node("aa", "lab", "1", "2"), node("bb", "lab", "3", ended=False))
    writer = Accounting(url, ("lab", "1"))
    writer.once()
    assert writer.asked[0] == {"1", "2"}
    writer.now_s += 300
    writer.once()
    assert writer.asked[-1] == {"2"}, "accounting does not know it yet"
    with opened(url) as database:
        assert due(database, NOVEMBER_S + 901).ready == {}
        later = due(database, NOVEMBER_S + 901, [ClusterJob("lab", "2")])
        assert later.ready == {ClusterJob("lab", "2"): ["2"]}


def test_runs_before_the_last_one_are_summed(tmp_path: Path) -> None:
    url = filled(tmp_path, node("aa", "lab", "4711", "4711.r1", "4711.r2", "47"))
    with opened(url) as database:
        found = due(database, 0).ready
    assert sorted(found[ClusterJob("lab", "4711")]) == ["4711", "4711.r1", "4711.r2"]
    assert found[ClusterJob("lab", "47")] == ["47"]


def test_a_job_that_waits_for_a_node_is_not_written(tmp_path: Path) -> None:
    url = filled(tmp_path, node("aa", "lab", "5"), node("bb", "lab", "5", ended=False))
    writer = Accounting(url, ("lab", "5"))
    writer.once()
    assert writer.writes == []
