"""Which row of accounting is which run: what sacct of SLURM 22.05 said of real jobs, word for word.

Times are `SLURM_TIME_FORMAT=%s`; runs and what was done to them are named in each test.
"""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from joulebook.core.report.dataset import ReportWorkload
from joulebook.core.report.run_roles import State
from joulebook.core.workloads import WorkloadId
from joulebook.lab.report import sacct
from joulebook.units import NS_PER_S


def run(name: str, began_s: float | None = None, cluster: str = "") -> ReportWorkload:
    began_ns = None if began_s is None else int(began_s * NS_PER_S)
    extra = {"cluster": cluster} if cluster else {}
    return ReportWorkload(WorkloadId("slurm", name), started_utc_ns=began_ns, extra=extra)


def ask(tmp_path: Path, said: str, *runs: ReportWorkload) -> dict[str, State]:
    program = tmp_path / "sacct"
    program.write_text(f"#!/bin/sh\nprintf %s {shlex.quote(said)}\n")
    program.chmod(0o755)
    found, _ = sacct.ask(runs, str(program))
    return {key.workload: state for key, state in found.items()}


REQUEUED_TWICE = """\
2|2|lab|1795545976|1795545976|1795545979|REQUEUED
5_2|8|lab|1795545976|1795545977|1795545979|REQUEUED
2|2|lab|1795545981|1795545986|1795545993|REQUEUED
5_2|8|lab|1795545981|1795545992|1795545992|COMPLETED
2|2|lab|1795545995|1795546000|1795546000|FAILED
"""


@pytest.mark.parametrize("backwards", [False, True])
def test_the_runs_of_a_requeued_job_in_whatever_order(tmp_path: Path, backwards: bool) -> None:
    lines = REQUEUED_TWICE.splitlines(keepends=True)
    said = "".join(reversed(lines) if backwards else lines)
    runs = [run(name) for name in ("2", "2.r1", "2.r2", "2.r3", "5_2", "8.r1")]
    assert ask(tmp_path, said, *runs) == {
        "2": State.FAILED,
        "2.r1": State.FAILED,
        "2.r2": State.FAILED,
        "5_2": State.FAILED,
        "8.r1": State.COMPLETED,
    }


def test_a_run_that_failed_at_its_launch_and_the_one_that_was_cancelled_before_it_began(
    tmp_path: Path,
) -> None:
    # Its Prolog failed and SLURM put it back; then it was put back by hand and cancelled.
    said = """\
9|9|lab|1795546000|1795546000|1795546000|REQUEUED
9|9|lab|1795546001|1795546011|1795546012|COMPLETED
10|10|lab|1795546011|1795546012|1795546012|REQUEUED
10|10|lab|1795546013|1795546013|1795546013|CANCELLED by 0
"""
    runs = [run("9", 1795546000.4), run("9.r1", 1795546011.2), run("10", 1795546012.3)]
    assert ask(tmp_path, said, *runs) == {
        "9": State.FAILED,
        "9.r1": State.COMPLETED,
        "10": State.FAILED,
    }


def test_a_job_that_gave_a_node_back_is_one_run(tmp_path: Path) -> None:
    said = """\
1|1|lab|1795546127|1795546127|1795546129|RESIZING
1|1|lab|1795546129|1795546127|1795546132|COMPLETED
"""
    assert ask(tmp_path, said, run("1")) == {"1": State.COMPLETED}
    assert ask(tmp_path, said, run("1", 1795546127.3)) == {"1": State.COMPLETED}


def test_a_node_that_failed_under_a_job_and_a_heterogeneous_one(tmp_path: Path) -> None:
    said = """\
2|2|lab|1795546134|1795546135|1795546136|NODE_FAIL
3+0|3|lab|1795545976|1795545977|1795545978|COMPLETED
3+1|4|lab|1795545976|1795545977|1795545978|CANCELLED by 1000
2|2|lab|1795546136|1795546146|Unknown|RUNNING
"""
    runs = [run(name) for name in ("2", "2.r1", "3", "4")]
    assert ask(tmp_path, said, *runs) == {
        "2": State.FAILED,
        "2.r1": State.RUNNING,
        "3": State.COMPLETED,
        "4": State.CANCELLED,
    }
    shown = [run(name) for name in ("3+0", "3+1")]
    assert ask(tmp_path, said, *shown) == {"3+0": State.COMPLETED, "3+1": State.CANCELLED}


def test_a_number_that_was_given_before_is_told_by_time_and_cluster(tmp_path: Path) -> None:
    said = """\
7|7|lab|1595545976|1595545977|1595545978|FAILED
7|7|lab|1795545976|1795545977|1795545999|COMPLETED
7|7|other|1795545970|1795545971|Unknown|RUNNING
"""
    assert ask(tmp_path, said, run("7", 1795545977.2, "lab")) == {"7": State.COMPLETED}
    assert ask(tmp_path, said, run("7", 1795545980, "Other")) == {"7": State.RUNNING}
    assert ask(tmp_path, said, run("7", 1795545977.2, "third")) == {}


def test_what_is_no_row_is_no_answer(tmp_path: Path) -> None:
    said = "7|7|COMPLETED\n\n|||||||\n7|7|lab|soon|Unknown|None|COMPLETED|x\n8|8|lab|Unknown||NEW"
    assert ask(tmp_path, said, run("7"), run("8", 1.0)) == {}
