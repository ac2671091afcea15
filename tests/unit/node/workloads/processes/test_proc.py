"""What is read of a process, on processes of this machine and on such as cannot be had."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from joulebook.node.workloads.processes import proc


@pytest.fixture
def sleeper() -> Iterator[int]:
    process = subprocess.Popen(
        ["/bin/sleep", "60"],
        start_new_session=True,
        env={"WANDB_PROJECT": "bert", "WANDB_API_KEY": "secret", "EMPTY": ""},
    )
    while proc.comm_of(process.pid) != "sleep":
        time.sleep(0.01)
    yield process.pid
    process.kill()
    process.wait()


def test_whose_a_process_is(sleeper: int) -> None:
    facts = proc.facts_of(sleeper)
    assert facts is not None
    assert (facts.uid, facts.session) == (os.getuid(), sleeper)
    assert all(path.startswith("/") for path in facts.paths)
    assert proc.facts_of(2**22 + 1) is None


def test_when_it_started(sleeper: int) -> None:
    now_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    started_ns = proc.started_boottime_ns(sleeper)
    assert started_ns is not None
    assert 0 <= now_ns - started_ns < 60 * 10**9
    assert proc.started_boottime_ns(2**22 + 1) is None


def test_only_the_names_that_are_asked_for_leave_an_environment(sleeper: int) -> None:
    found = proc.environment_of(sleeper, ("WANDB_PROJECT", "EMPTY", "HOME"))
    assert found == {"WANDB_PROJECT": "bert", "EMPTY": ""}
    assert proc.environment_of(2**22 + 1, ("WANDB_PROJECT",)) == {}


def test_this_daemon_is_infrastructure() -> None:
    assert proc.is_infrastructure(os.getpid(), ())


def test_a_program_of_roots_with_the_name_is_infrastructure(sleeper: int) -> None:
    program = Path(f"/proc/{sleeper}/exe").readlink()
    assert proc.is_infrastructure(sleeper, (program.name,))
    assert not proc.is_infrastructure(sleeper, ("Xorg",))
    assert not proc.is_infrastructure(2**22 + 1, ("sleep",))


@pytest.mark.parametrize(
    ("comm", "uid", "program", "owner", "is_one"),
    [
        ("Xorg", 1000, "Xorg", 0, True),
        ("Xorg", 1000, "Xorg", 1000, False),  # his own program of that name
        ("Xorg", 1000, "python3.11", 0, False),  # a name that he gave himself
        ("Xorg", 1000, "", 1000, False),  # the file cannot be seen
        ("nvidia-persiste", 120, "", 120, True),  # `comm` has 15 characters
        ("nvidia-persiste", 0, "", 0, True),
        ("python3", 0, "python3.11", 0, False),
    ],
)
def test_nobody_gets_free_energy_by_the_name_of_his_program(
    comm: str, uid: int, program: str, owner: int, is_one: bool
) -> None:
    names = ("Xorg", "nvidia-persistenced")
    assert proc.serves_everybody(names, comm, uid, program, owner) is is_one
