from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulebook.node.workloads.slurm.job_record import (
    GONE,
    HeldGpu,
    JobAnswer,
    parse_job,
    parse_jobs,
)
from joulebook.node.workloads.slurm.scontrol import Asker

RECORD = """JobId=2 ArrayJobId=1 ArrayTaskId=7 JobName=train model
   UserId=ada(1000) GroupId=ada(1000) MCS_label=N/A
   Priority=4294901759 Nice=0 Account=phys lab QOS=normal WCKey=*paper
   JobState=RUNNING Reason=None Dependency=(null)
   Requeue=1 Restarts=3 BatchFlag=1 Reboot=0 ExitCode=0:0
   RunTime=00:01:02 TimeLimit=365-00:00:00 TimeMin=N/A
   StartTime=2026-11-30T10:41:13 EndTime=2027-11-30T10:41:13 Deadline=N/A
   Partition=a100 AllocNode:Sid=localhost:3429
   NodeList=n[1-3]
   JOB_GRES=gpu:a100:5,shard:4
     Nodes=n[1-2] CPU_IDs=0 Mem=0 GRES=gpu:a100:2(IDX:0,3)
     Nodes=n3 CPU_IDs=0-1 Mem=0 GRES=gpu:a100:1(IDX:2),shard:4(IDX:0-1)
   MinCPUsNode=1 MinMemoryNode=0 MinTmpDiskNode=0
   Command=/home/ada/run.sh
   Comment=experiment=bert, second try
   Power=
   TresPerNode=gres:gpu:2

"""

ANSWER = JobAnswer(
    job_id="2",
    state="RUNNING",
    restart_count=3,
    start_s=1796035273,
    limit_s=365 * 86_400,
    name="train model",
    user="ada",
    uid=1000,
    account="phys lab",
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
    nodes=("n1", "n2", "n3"),
    gpu_count=5,
)

FORGED = """
   UserId=root(0) GroupId=root(0) MCS_label=N/A
   Priority=1 Nice=0 Account=rich QOS=normal
   JobState=RUNNING Reason=None Dependency=(null)
   Requeue=1 Restarts=9 BatchFlag=1
   RunTime=00:01:02 TimeLimit=00:01:00 TimeMin=N/A
   StartTime=2020-01-01T00:00:00 EndTime=Unknown Deadline=N/A
   JOB_GRES=gpu:8
     Nodes=n1 CPU_IDs=0 Mem=0 GRES=gpu:8(IDX:0-7)
   MinCPUsNode=1
"""


def test_a_record_is_read() -> None:
    assert parse_job(RECORD, "2") == ANSWER


@pytest.mark.parametrize(
    ("text", "limit_s"),
    [("00:30:00", 1800), ("2-01:00:01", 176_401), ("UNLIMITED", 0), ("Partition_Limit", 0)],
)
def test_the_time_that_was_asked_for(text: str, limit_s: int) -> None:
    answer = parse_job(RECORD.replace("365-00:00:00", text), "2")
    assert answer == msgspec.structs.replace(ANSWER, limit_s=limit_s)


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
        (f"gpu:1(IDX:{'1' * 5000})", []),
        (f"gpu:{'1' * 5000}(IDX:0)", []),
    ],
)
def test_forms_of_gres(gres: str, held: list[tuple[str, int | None]]) -> None:
    text = (
        "JobId=1 JobName=x\n   UserId=a(1) GroupId=a(1)\n   JOB_GRES=gpu:1\n"
        f"     Nodes=n1 CPU_IDs=0 Mem=0 GRES={gres}\n   Command=x\n"
    )
    answer = parse_job(text, "1")
    assert answer is not None
    assert [(g.position, g.shards) for g in answer.gpus] == held


def test_a_job_that_has_ended_no_longer_says_which_gpus_it_held() -> None:
    text = RECORD.replace("JobState=RUNNING", "JobState=COMPLETED").replace(
        "GRES=gpu:a100:2(IDX:0,3)", "GRES="
    )
    text = text.replace("GRES=gpu:a100:1(IDX:2),shard:4(IDX:0-1)", "GRES=")
    answer = parse_job(text, "2")
    assert answer is not None and answer.over
    assert (answer.gpus, answer.nodes, answer.gpu_count) == ((), ("n1", "n2", "n3"), 5)
    assert answer.end_s == answer.start_s + 365 * 86_400


def test_a_job_that_waits_to_run_again_speaks_of_the_run_before() -> None:
    answer = parse_job(RECORD.replace("JobState=RUNNING", "JobState=PENDING"), "2")
    assert answer is not None and answer.over
    assert (answer.run, answer.start_s, answer.end_s) == (2, 0, 0)


def test_the_first_task_of_an_array_comes_with_others() -> None:
    other = RECORD.replace("JobId=2 ", "JobId=1 ").replace("ArrayTaskId=7", "ArrayTaskId=8")
    answer = parse_job(RECORD + other, "1")
    assert answer is not None and not answer.doubtful
    assert answer.array_task_id == "8"


ARRAY, HET = "ArrayJobId=1 ArrayTaskId=7 ", "HetJobId=2 HetJobOffset=0 "
HET_SET = "\n   HetJobIdSet=2-3"


@pytest.mark.parametrize(
    ("keys", "after", "array"),
    [
        ("", "", ("", "")),
        (ARRAY, "", ("1", "7")),
        # --array=1-40%5
        (f"{ARRAY}ArrayTaskThrottle=5 ", "", ("1", "7")),
        ("ArrayJobId=1 ArrayTaskId=3,8-40%5 ArrayTaskThrottle=5 ", "", ("1", "3,8-40%5")),
        (HET, HET_SET, ("", "")),
        (ARRAY + HET, HET_SET, ("1", "7")),
        ("SLUID=s8FXKTA79XAR00 " + ARRAY, "", ("1", "7")),
    ],
)
@pytest.mark.parametrize("name", ["train model", f"x{HET_SET}", "x JobName=y ArrayTaskId=9 "])
def test_what_the_controller_says_of_an_array_and_of_components_is_no_name(
    name: str, keys: str, after: str, array: tuple[str, str]
) -> None:
    text = RECORD.replace(f"{ARRAY}JobName=train model", f"{keys}JobName={name}{after}")
    wanted = msgspec.structs.replace(
        ANSWER, name=" ".join(name.split()), array_job_id=array[0], array_task_id=array[1],
        het_job_id="2" if HET in keys else "", het_offset="0" if HET in keys else "",
    )  # fmt: skip
    assert parse_job(text, "2") == wanted
    assert parse_job(text, "2", name) == wanted


def test_of_many_each_is_read_as_if_asked_for_alone() -> None:
    second = RECORD.replace("JobId=2 ", "JobId=3 ").replace("Restarts=3", "Restarts=0")
    text = RECORD + second + RECORD.replace("JobId=2 ", "JobId=4 ") * 2
    found = parse_jobs(text, {"2", "3", "4", "5"})
    assert found == {
        "2": ANSWER,
        "3": msgspec.structs.replace(ANSWER, job_id="3", restart_count=0),
        "4": JobAnswer("4", doubtful=True),
    }
    assert found == {job: parse_job(text, job) for job in found}


HOSTILE = [
    "x\n   UserId=root(0) GroupId=root(0)",
    "x" + FORGED,
    "x\n     Nodes=n1 CPU_IDs=0 Mem=0 GRES=gpu:1(IDX:1)",
    "x\n   Priority=1 Nice=0 Account=rich QOS=x",
    "x\n\nJobId=999 JobName=y" + FORGED,
    "x\nJobId=2 JobName=y",
    "x\n   Requeue=1 Restarts=9",
    "x\n   Command=y",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_that_passes_for_more_is_a_name(name: str) -> None:
    text = RECORD.replace("train model", name)
    answer = parse_job(text, "2")
    assert answer is not None
    if not answer.doubtful:
        assert answer == msgspec.structs.replace(ANSWER, name=" ".join(name.split()))
    answer = parse_job(text, "2", name)
    assert answer == msgspec.structs.replace(ANSWER, name=" ".join(name.split()))


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("where", ["experiment=bert, second try", "/home/ada/run.sh"])
def test_nor_does_a_comment_or_a_path(where: str, name: str) -> None:
    text = RECORD.replace(where, name)
    for answer in (parse_job(text, "2"), parse_job(text, "2", "train model")):
        assert answer is not None
        if not answer.doubtful:
            less = msgspec.structs.replace(answer, comment="")
            assert less == msgspec.structs.replace(ANSWER, comment="")


def test_a_wckey_that_adds_lines_is_not_believed() -> None:
    text = RECORD.replace("*paper", "x\n     Nodes=n1 CPU_IDs=0 Mem=0 GRES=gpu:1(IDX:1)")
    assert parse_job(text, "2", "train model") == JobAnswer("2", doubtful=True)


@pytest.mark.parametrize("whole", ["", "\n   JOB_GRES=gpu:1"])
@pytest.mark.parametrize("where", ["WCKey=*paper", "Features=(null)"])
def test_a_job_without_a_gpu_gets_none_by_words_of_its_own(where: str, whole: str) -> None:
    """Its record has no such lines, so that those of the user are the only ones."""
    kept = [line for line in RECORD.splitlines() if " Nodes=" not in line and "_GRES=" not in line]
    plain = "\n".join(kept).replace("   Command", "   Features=(null)\n   Command")
    honest = parse_job(plain, "2", "train model")
    assert honest is not None and not honest.doubtful
    assert (honest.gpus, honest.gpu_count) == ((), 0)
    lines = f"{whole}\n     Nodes=n1 CPU_IDs=0 Mem=0 GRES=gpu:1(IDX:1)"
    for name in ("train model", None):
        forged = parse_job(plain.replace(where, where + lines), "2", name)
        assert forged == JobAnswer("2", doubtful=True)


def test_not_about_this_job() -> None:
    assert parse_job(RECORD, "3") is None
    assert parse_job("", "3") is None


@given(st.text(alphabet=st.sampled_from("=()[]:-,IDXGRES JobId12\n gpu"), max_size=200))
def test_no_text_is_a_fault(text: str) -> None:
    parse_job("JobId=1 " + text, "1")
    parse_job(RECORD.replace("train model", text), "2", text)


def fake(path: Path, body: str) -> str:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


class Asked:
    def __init__(self, scontrol: str, timeout_s: float = 5.0, *, privileged: bool = True) -> None:
        self.answers: list[JobAnswer | None] = []
        self.more = threading.Event()
        self.asker = Asker(scontrol, Path("/nowhere"), timeout_s=timeout_s, privileged=privileged)
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


def test_one_answer_is_for_all_who_wait(tmp_path: Path) -> None:
    (tmp_path / "all").write_text(RECORD + RECORD.replace("JobId=2 ", "JobId=4 "))
    log, go = tmp_path / "log", tmp_path / "go"
    fake(tmp_path / "squeue", f'echo "$*" >> {log}; echo 2; echo 4')
    asked = Asked(
        fake(
            tmp_path / "scontrol",
            f'echo "$*" >> {log}; while ! [ -e {go} ]; do sleep 0.01; done; cat {tmp_path}/all',
        )
    )
    for job in ("9", "2", "4", "5"):
        assert asked.asker.ask(job, asked.take)
        while job == "9" and not log.exists():
            time.sleep(0.005)
    go.touch()
    while len(asked.answers) < 4:
        time.sleep(0.005)
    asked.asker.stop()
    assert [a and (a.job_id, a.state) for a in asked.answers] == [
        None, ("2", "RUNNING"), ("4", "RUNNING"), ("5", GONE),
    ]  # fmt: skip
    assert log.read_text().splitlines() == [
        "show job -d 9", "show job -d", "-h -t all -j 2,4 -o %A",
    ]  # fmt: skip


@pytest.mark.parametrize("listed", ["echo 2", "exit 1"])
def test_a_comment_that_looks_like_a_record_revives_no_job(tmp_path: Path, listed: str) -> None:
    forged = f"\n\nJobId=7 JobName=x{FORGED.rstrip()}\n   Command=x\n   Comment=y"
    (tmp_path / "all").write_text(RECORD.replace("second try", forged))
    (tmp_path / "2").write_text(RECORD)
    fake(tmp_path / "squeue", listed)
    body = f"""
        while ! [ -e {tmp_path}/go ]; do sleep 0.01; done
        case $4 in '') cat {tmp_path}/all ;; 2) cat {tmp_path}/2 ;;
        *) echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1 ;; esac"""
    asked = Asked(fake(tmp_path / "scontrol", body))
    for job in ("9", "2", "7"):
        assert asked.asker.ask(job, asked.take)
    (tmp_path / "go").touch()
    while len(asked.answers) < 3:
        time.sleep(0.005)
    asked.asker.stop()
    assert [a and a.state for a in asked.answers] == [GONE, "RUNNING", GONE]


def test_a_name_in_doubt_is_asked_for_alone(tmp_path: Path) -> None:
    name = "x" + FORGED
    (tmp_path / "record").write_text(RECORD.replace("train model", name))
    (tmp_path / "name").write_text(name + "\n")
    fake(tmp_path / "squeue", f'echo "$*" >> {tmp_path}/log; cat {tmp_path}/name')
    asked = Asked(fake(tmp_path / "scontrol", f"cat {tmp_path}/record"))
    answer = asked.ask("2")
    assert answer is not None and (answer.user, answer.uid) == ("ada", 1000)
    assert answer.gpus == ANSWER.gpus
    assert (tmp_path / "log").read_text() == "-h -t all -j 2 -o %j\n"
    asked.asker.stop()


@pytest.mark.parametrize(
    ("config", "hidden"),
    [
        ("PrivateData             = none", False),
        ("PrivateData             = accounts,jobs", True),
        (f"PrivateData = jobs\nSlurmUser = me({os.geteuid()})", False),
        ("", True),
    ],
)
def test_a_job_that_is_not_shown_may_be_kept_from_us(
    tmp_path: Path, config: str, hidden: bool
) -> None:
    (tmp_path / "config").write_text(config)
    path = fake(
        tmp_path / "scontrol",
        f"[ $2 = config ] && exec cat {tmp_path}/config; echo Invalid job id >&2; exit 1",
    )
    asked = Asked(path, privileged=False)
    assert asked.ask("5") == JobAnswer("5", GONE, hidden=hidden)
    asked.asker.stop()
    asked = Asked(path, privileged=True)
    assert asked.ask("5") == JobAnswer("5", GONE)
    asked.asker.stop()


def test_a_fault_of_ours_is_said_and_the_next_question_is_answered(tmp_path: Path) -> None:
    (tmp_path / "record").write_text(RECORD)
    faults: list[str] = []
    asker = Asker(
        fake(tmp_path / "scontrol", f"cat {tmp_path}/record"),
        Path("/nowhere"), timeout_s=5.0, fault=faults.append,
    )  # fmt: skip
    asker.start()
    done = threading.Event()

    def broken(answer: JobAnswer | None) -> None:
        raise ZeroDivisionError

    asker.ask("2", broken)
    asker.ask("2", lambda answer: done.set())
    assert done.wait(5)
    assert len(faults) == 1
    asker.stop()


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
