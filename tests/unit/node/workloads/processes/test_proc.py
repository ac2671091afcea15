"""What is read of a process, on processes of this machine and on such as cannot be had."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from joulebook.node.workloads.host.procfs import is_gone, stat_of, uid_of, user_name
from joulebook.node.workloads.processes import proc
from joulebook.node.workloads.processes.owners import Facts, ProcessRun

NONE = 2**22 + 1
"""A pid that no process has."""


def known(group: int) -> ProcessRun | None:
    return None


def until(done: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not done():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def sleeper() -> Iterator[int]:
    process = subprocess.Popen(
        ["/bin/sleep", "600"],
        start_new_session=True,
        env={"WANDB_PROJECT": "bert", "WANDB_API_KEY": "secret", "EMPTY": ""},
    )
    until(lambda: (stat := stat_of(process.pid)) is not None and stat.comm == "sleep")
    yield process.pid
    process.kill()
    process.wait()


def test_whose_a_process_is(sleeper: int) -> None:
    facts = proc.facts_of(sleeper)
    assert facts is not None
    assert facts.uid == uid_of(sleeper) == os.getuid()
    assert all(path.startswith("/") for path in facts.paths)
    assert proc.facts_of(NONE) is None
    assert user_name(os.getuid()) and user_name(2**31 - 7) == ""


def test_what_its_stat_says(sleeper: int) -> None:
    stat = stat_of(sleeper)
    assert stat is not None
    assert (stat.parent, stat.group, stat.session) == (os.getpid(), sleeper, sleeper)
    assert (stat.terminal, stat.is_over) == (0, False)
    now_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    assert 0 <= now_ns - stat.started_boottime_ns < 600 * 10**9
    assert stat_of(NONE) is None and uid_of(NONE) is None
    assert is_gone(NONE) and not is_gone(sleeper)


def test_a_zombie_is_over_and_what_is_hidden_is_not_gone(tmp_path: Path) -> None:
    process = subprocess.Popen(["/bin/true"])
    until(lambda: (stat := stat_of(process.pid)) is not None and stat.is_over)
    process.wait()
    until(lambda: is_gone(process.pid))
    assert not is_gone(7, tmp_path), "a /proc with hidepid, where not even init can be seen"


@pytest.mark.parametrize(("threads", "is_over"), [(1, True), (2, False)])
def test_a_process_whose_first_thread_ended_lives(
    tmp_path: Path, threads: int, is_over: bool
) -> None:
    (tmp_path / "9").mkdir()
    rest = " ".join(["1", "9", "9", "0", *["0"] * 12, str(threads), "0", "77", "0"])
    (tmp_path / "9/stat").write_text(f"9 (a ) (b) Z {rest}\n")
    stat = stat_of(9, tmp_path)
    assert stat is not None
    assert (stat.comm, stat.ticks, stat.is_over) == ("a ) (b", 77, is_over)


@pytest.mark.parametrize("content", ["", "9", "9 (a)", "9 (a) Z x y", "9 (a) Z 1 2 3"])
def test_a_stat_that_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "9").mkdir()
    (tmp_path / "9/stat").write_text(content)
    assert stat_of(9, tmp_path) is None


def test_only_the_names_that_are_asked_for_leave_an_environment(sleeper: int) -> None:
    assert proc.names_of(sleeper, ("WANDB_PROJECT", "EMPTY", "HOME"), 0) == {
        "WANDB_PROJECT": "bert"
    }
    assert proc.names_of(sleeper, ("HOME",), 0) == {}
    assert proc.names_of(NONE, ("WANDB_PROJECT",), 0) is None


def test_a_program_that_overwrote_its_environment_has_the_names_of_its_launcher() -> None:
    code = (
        "import os, subprocess, sys\n"
        "env = {k: v for k, v in os.environ.items() if k != 'WANDB_PROJECT'}\n"
        "child = subprocess.Popen(['/bin/sleep', '600'], env=env, start_new_session=True)\n"
        "print(child.pid, flush=True)\n"
        "child.wait()\n"
    )
    launcher = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True,
        env={"WANDB_PROJECT": "bert"},
    )  # fmt: skip
    assert launcher.stdout is not None
    child = int(launcher.stdout.readline())
    try:
        assert proc.names_of(child, ("WANDB_PROJECT",), launcher.pid) == {"WANDB_PROJECT": "bert"}
        assert proc.names_of(child, ("WANDB_PROJECT",), 0) == {}
        # It is also a part of its launcher's run, though in a session of its own.
        run = proc.run_of(child, os.getuid(), known)
        assert run == proc.run_of(launcher.pid, os.getuid(), known)
        assert run is not None and run.pid != child
        assert proc.run_of(child, os.getuid() + 1, known) == ProcessRun(child, _ticks(child))
    finally:
        os.kill(child, 9)
        launcher.communicate()


def _ticks(pid: int) -> int:
    stat = stat_of(pid)
    assert stat is not None
    return stat.ticks


def test_a_run_is_known_after_its_leader_ended() -> None:
    shell = subprocess.Popen(
        ["/bin/sh", "-c", "/bin/sleep 600 >/dev/null & echo $!"], stdout=subprocess.PIPE, text=True,
        process_group=0,
    )  # fmt: skip
    leader = ProcessRun(shell.pid, 4711)
    assert shell.stdout is not None
    child = int(shell.stdout.readline())
    shell.stdout.close()
    shell.wait()
    try:
        assert proc.run_of(child, os.getuid(), {shell.pid: leader}.get) == leader
        assert proc.run_of(child, os.getuid(), known) == ProcessRun(shell.pid, _ticks(child))
        assert not proc.group_is_gone(shell.pid, 4711)
    finally:
        os.kill(child, 9)
    until(lambda: proc.group_is_gone(shell.pid, 4711))
    assert proc.run_of(NONE, 0, known) is None


@pytest.mark.parametrize("how", ["set -m;", "set -m; /usr/bin/setsid -w"])
def test_commands_of_a_script_with_job_control_are_of_its_run(how: str) -> None:
    script = f"for i in 1 2; do {how} /bin/sh -c 'echo $$; exec sleep 600' & done; wait"
    shell = subprocess.Popen(
        ["/bin/bash", "-c", script], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert shell.stdout is not None
    children = [int(shell.stdout.readline()) for _ in range(2)]
    try:
        groups = {os.getpgid(child) for child in children}
        assert len(groups) == 2
        assert shell.pid not in groups
        runs = {proc.run_of(pid, os.getuid(), known) for pid in (*children, shell.pid)}
        assert len(runs) == 1
    finally:
        for child in children:
            os.kill(child, 9)
        shell.communicate()


def test_a_group_whose_number_is_anothers_is_gone(sleeper: int) -> None:
    assert not proc.group_is_gone(sleeper, _ticks(sleeper))
    assert proc.group_is_gone(sleeper, _ticks(sleeper) - 1)


CONTAINER = f"/system.slice/docker-{'ab' * 32}.scope"


@pytest.mark.parametrize(
    ("uid", "path", "is_one"),
    [
        (0, "/", True),
        (120, "/system.slice/gdm.service", True),
        (0, "/user.slice/user-1000.slice/session-1.scope", True),
        # His own program of that name, or root's with something of his loaded into it.
        (1000, "/system.slice/gdm.service", False),
        (1000, "/user.slice/user-1000.slice/session-1.scope", False),
        (0, CONTAINER, False),  # root in a container is anybody
    ],
)
def test_nobody_gets_free_energy_by_the_name_of_his_program(
    sleeper: int, uid: int, path: str, is_one: bool
) -> None:
    facts = Facts((path,), uid)
    assert proc.is_infrastructure(sleeper, ("sleep",), facts) is is_one
    assert not proc.is_infrastructure(sleeper, ("Xorg",), facts)
    assert not proc.is_infrastructure(NONE, ("sleep",), facts)


def test_this_daemon_is_infrastructure() -> None:
    assert proc.is_infrastructure(os.getpid(), (), Facts(("/",), 1000))


def test_comm_has_15_characters() -> None:
    assert proc.serves("nvidia-persiste", ("Xorg", "nvidia-persistenced"))
    assert not proc.serves("nvidia-pers", ("nvidia-persistenced",))
