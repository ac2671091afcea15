from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulebook.node.workloads.slurm.scontrol import GONE, Asker, HeldGpu, JobAnswer, parse_job

RECORD = """JobId=2 ArrayJobId=1 ArrayTaskId=7 JobName=train model
   UserId=ada(1000) GroupId=ada(1000) MCS_label=N/A
   Priority=4294901759 Nice=0 Account=nlp QOS=normal WCKey=*paper
   JobState=RUNNING Reason=None Dependency=(null)
   Requeue=1 Restarts=3 BatchFlag=1 Reboot=0 ExitCode=0:0
   Partition=a100 AllocNode:Sid=localhost:3429
   NodeList=n[1-3]
   JOB_GRES=gpu:a100:5
     Nodes=n[1-2] CPU_IDs=0 Mem=0 GRES=gpu:a100:2(IDX:0,3)
     Nodes=n3 CPU_IDs=0-1 Mem=0 GRES=gpu:a100:1(IDX:2),shard:4(IDX:0-1)
   MinCPUsNode=1 MinMemoryNode=0 MinTmpDiskNode=0
   Command=/home/ada/run.sh
   Comment=experiment=bert, second try
   Power=
   TresPerNode=gres:gpu:2

"""


def test_a_record_is_read() -> None:
    answer = parse_job(RECORD, "2")
    assert answer == JobAnswer(
        job_id="2",
        state="RUNNING",
        restart_count=3,
        name="train model",
        user="ada",
        uid=1000,
        account="nlp",
        partition="a100",
        qos="normal",
        comment="experiment=bert, second try",
        wckey="paper",
        array_job_id="1",
        array_task_id="7",
        gpus=(
            HeldGpu("n1", "0", None),
            HeldGpu("n2", "0", None),
            HeldGpu("n1", "3", None),
            HeldGpu("n2", "3", None),
            HeldGpu("n3", "2", None),
            HeldGpu("n3", "0", 2),
            HeldGpu("n3", "1", 2),
        ),
    )


@pytest.mark.parametrize(
    ("gres", "held"),
    [
        ("gpu:1(IDX:0)", [("0", None)]),
        ("gpu:a100:3(IDX:0-1,5)", [("0", None), ("1", None), ("5", None)]),
        ("shard:2(IDX:2)", [("2", 2)]),
        ("shard:a100:3(IDX:0(1/4),2(2/4))", [("0", 1), ("2", 2)]),
        ("gpu:a100:0(IDX:)", []),
        ("", []),
        ("nic:1(IDX:0)", []),
    ],
)
def test_forms_of_gres(gres: str, held: list[tuple[str, int | None]]) -> None:
    text = f"JobId=1 JobName=x\n   UserId=a(1) G=1\n     Nodes=n1 CPU_IDs=0 Mem=0 GRES={gres}\n"
    answer = parse_job(text, "1")
    assert answer is not None
    assert [(g.position, g.shards) for g in answer.gpus] == held


def test_the_first_task_of_an_array_comes_with_others() -> None:
    other = RECORD.replace("JobId=2 ", "JobId=1 ").replace("ArrayTaskId=7", "ArrayTaskId=8")
    answer = parse_job(RECORD + other, "1")
    assert answer is not None and not answer.doubtful
    assert answer.array_task_id == "8"


@pytest.mark.parametrize(
    "name",
    [
        "x\n   UserId=root(0) GroupId=root(0)",
        "x\n   Nice=0 Account=rich",
        "x\n\nJobId=999 JobName=y\n   UserId=root(0) Account=rich",
        "x\nJobId=2 JobName=y",
        "x\n   Requeue=1 Restarts=9",
    ],
)
def test_a_name_that_passes_for_more_makes_it_doubtful(name: str) -> None:
    answer = parse_job(RECORD.replace("train model", name), "2")
    assert answer == JobAnswer(job_id="2", doubtful=True)


def test_not_about_this_job() -> None:
    assert parse_job(RECORD, "3") is None
    assert parse_job("", "3") is None


@given(st.text(alphabet=st.sampled_from("=()[]:-,IDXGRES JobId12\n gpu"), max_size=200))
def test_no_text_is_a_fault(text: str) -> None:
    parse_job("JobId=1 " + text, "1")


def fake(path: Path, body: str) -> str:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


class Asked:
    def __init__(self, scontrol: str, timeout_s: float = 5.0) -> None:
        self.answers: list[JobAnswer | None] = []
        self.more = threading.Event()
        self.asker = Asker(scontrol, Path("/nowhere"), timeout_s=timeout_s)
        self.asker.start()

    def ask(self, job_id: str) -> JobAnswer | None:
        self.more.clear()
        assert self.asker.ask(job_id, self.take)
        assert self.more.wait(10)
        return self.answers[-1]

    def take(self, answer: JobAnswer | None) -> None:
        self.answers.append(answer)
        self.more.set()


def test_asking(tmp_path: Path) -> None:
    record = tmp_path / "record"
    record.write_text(RECORD)
    log = tmp_path / "log"
    asked = Asked(fake(tmp_path / "scontrol", f'echo "$*" >> {log}; cat {record}'))
    answer = asked.ask("2")
    assert answer is not None and answer.user == "ada"
    assert log.read_text() == "show job -d 2\n"
    asked.asker.stop()


@pytest.mark.parametrize(
    ("body", "state"),
    [
        ("echo slurm_load_jobs error: Invalid job id specified >&2; exit 1", GONE),
        ("echo Unable to contact slurm controller >&2; exit 1", None),
        ("exec sleep 60", None),
        ("head -c 100000 /dev/urandom", None),
    ],
)
def test_answers_that_are_none(tmp_path: Path, body: str, state: str | None) -> None:
    asked = Asked(fake(tmp_path / "scontrol", body), timeout_s=0.3)
    began = time.monotonic()
    answer = asked.ask("5")
    assert time.monotonic() - began < 50, "60 is what it would sleep"
    assert (answer.state if answer else None) == state
    asked.asker.stop()


def test_without_the_program() -> None:
    for program in ("", "/nowhere/scontrol"):
        asked = Asked(program)
        assert asked.ask("1") is None
        asked.asker.stop()


def test_a_queue_that_is_full_says_so() -> None:
    asker = Asker("", Path("/nowhere"), timeout_s=1.0)
    assert all(asker.ask(str(n), lambda _: None) for n in range(1024))
    assert not asker.ask("x", lambda _: None)
    asker.stop()
