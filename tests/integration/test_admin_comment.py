"""What jobs consumed in SLURM's own accounting: real slurmdbd, sacct and sacctmgr."""

from __future__ import annotations

import functools
import time
from pathlib import Path

import pytest
from tests.integration.slurm_cluster import SlurmCluster
from tests.unit.lab.collected.nodes import Node

from joulebook.core.money.amounts import Exact
from joulebook.lab.admin_comment import CommentWriter, as_object, as_text
from joulebook.lab.collected import ingest
from joulebook.lab.collected.database import connect, opened
from joulebook.lab.web.slurm import SlurmCoordinators

KWH_UJ = 3_600_000_000_000


def comment(cluster: SlurmCluster, job: str) -> str:
    return cluster.run("sacct", "-n", "-P", "-X", "--format=AdminComment", "-j", job).strip()


def accounted(cluster: SlurmCluster, job: str) -> tuple[int, int]:
    """Start and end of a job (UTC seconds), once slurmdbd has them."""
    deadline = time.monotonic() + 60
    while True:
        words = ["sacct", "-n", "-P", "-X", "--format=Start,End", "-j", job]
        cells = cluster.run("env", "SLURM_TIME_FORMAT=%s", *words).strip().split("|")
        if len(cells) == 2 and all(cell.isdecimal() for cell in cells):
            return int(cells[0]), int(cells[1])
        assert time.monotonic() < deadline, cells
        time.sleep(0.3)


def test_real_jobs(short_tmp_path: Path) -> None:
    with SlurmCluster(short_tmp_path, nodes=2, gpus_per_node=1, accounting=True) as cluster:
        plain, both, json_there, jobstats, unfinished = (
            cluster.sbatch(*options, script="exit 0")
            for options in ((), ("--nodes=2",), (), (), ())
        )
        cluster.wait_done(plain, both, json_there, jobstats, unfinished)
        times = {job: accounted(cluster, job) for job in (plain, both, json_there, jobstats)}
        for job, words in ((json_there, '{"site":{"a":[1,2]}}'), (jobstats, "JS1:H4sIAAAA")):
            cluster.run("sacctmgr", "-i", "modify", "job", "where", f"jobid={job}", "set",
                        f"admincomment='{words}'")  # fmt: skip
        there, jobstats_there = comment(cluster, json_there), comment(cluster, jobstats)
        first, second = Node("n1", "a" * 32), Node("n2", "b" * 32)
        for node, jobs in ((first, (plain, both, json_there, jobstats)), (second, (both,))):
            for job in jobs:
                start_s, end_s = times[job]
                node.label(job, "acct", "ada", "x", started_utc_ns=start_s * 10**9, complete=True,
                           ended_utc_ns=max(end_s, start_s + 1) * 10**9)  # fmt: skip
                node.burn(start_s, KWH_UJ * int(job), job, Exact(int(job), 0, 0), 3_600 * 10**9)
        # It runs still, as far as the node knows.
        first.label(unfinished, "acct", "ada", "x", started_utc_ns=times[plain][0] * 10**9)
        first.burn(times[plain][0], KWH_UJ, unfinished)
        url = f"sqlite://{short_tmp_path / 'c.db'}"
        with opened(url, create=True) as database:
            ingest.take(database, first.page(0), "t1", int(time.time()), frozenset({"t1", "t2"}))
        for words in ("account nlp", "account vision,account2", "user ada,grace account=nlp"):
            cluster.run("sacctmgr", "-i", "add", *words.split())
        cluster.run("sacctmgr", "-i", "add", "coordinator", "account=nlp", "names=ada,grace")
        known = SlurmCoordinators(cluster.env)
        known.refresh()
        assert known()["nlp"] == {"ada", "grace"}
        assert "vision" not in known()
        writer = CommentWriter(functools.partial(connect, url), cluster.env)
        writer.once()
        told = (as_object(comment(cluster, plain)) or {})["joulebook"]
        assert told == {"v": 1, "energy_kwh": float(plain), "idle_kwh": 0.0, "gpu_hours": 1.0,
                        "cost": {"eur": float(plain)}}  # fmt: skip
        # This sacctmgr spoils what others wrote in JSON: it stays as it is.
        assert comment(cluster, json_there) == there
        assert comment(cluster, jobstats) == jobstats_there
        assert comment(cluster, unfinished) == ""
        # The other node is not collected yet.
        assert comment(cluster, both) == ""
        assert writer.counts == {"written": 1, "foreign": 2}
        writer.once()
        assert writer.counts == {"written": 1, "foreign": 2}
        with opened(url, create=True) as database:
            ingest.take(database, second.page(0), "t2", int(time.time()), frozenset({"t1", "t2"}))
        writer.once()
        assert (as_object(comment(cluster, both)) or {})["joulebook"]["energy_kwh"] == 2 * float(
            both
        )
        assert writer.counts == {"written": 2, "foreign": 2}


@pytest.mark.parametrize(
    ("comment", "found"),
    [
        ("", {}),
        ("  \n", {}),
        ('{"joulebook":{"v":0}}', {"joulebook": {"v": 0}}),
        ("{`joulebook`:{`v`:0}}", {"joulebook": {"v": 0}}),
        ("JS1:H4sI", None),
        ("a note of the operator's", None),
        ("[1,2]", None),
        ("17", None),
        ("[" * 100_000, None),
        ('{"a":' + "1" * 5_000 + "}", None),
    ],
)
def test_comments_that_are_there(comment: str, found: object) -> None:
    assert as_object(comment) == found


def test_quotes_of_others_survive() -> None:
    text = as_text({"a": "it's", "joulebook": {"v": 1}})
    assert "'" not in text
    assert as_object(text) == {"a": "it's", "joulebook": {"v": 1}}
