"""Whose pids a /proc has, by the namespace or the kernel's own thread; and who of them lives."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from joulebook.node.workloads.host import procfs
from joulebook.node.workloads.host.procfs import ProcessStarts
from joulebook.units import NS_PER_S as SECOND


def test_the_hosts_proc_is_told_from_another_pid_namespaces(tmp_path: Path) -> None:
    assert not procfs.shows_pids_of_host(tmp_path)
    (tmp_path / "self/ns").mkdir(parents=True)
    (tmp_path / "self/ns/pid").touch()
    (tmp_path / "2").mkdir()
    (tmp_path / "2/comm").write_text("python3\n")
    assert not procfs.shows_pids_of_host(tmp_path)
    (tmp_path / "2/comm").write_text("kthreadd\n")
    assert procfs.shows_pids_of_host(tmp_path)
    assert not procfs.in_pid_namespace_of_host(tmp_path)
    inode = Path("/proc/self/ns/pid").stat().st_ino
    assert procfs.in_pid_namespace_of_host() is (inode == procfs.HOST_PID_NAMESPACE)


def test_a_process_has_another_number_in_another_proc(tmp_path: Path) -> None:
    assert procfs.own_pid() == os.getpid()
    (tmp_path / "self").symlink_to("4711")
    assert procfs.own_pid(tmp_path) == 4711
    assert procfs.own_pid(tmp_path / "none") == os.getpid()


# ---- when processes start and end ----------------------------------------------------------------


def test_when_this_process_started() -> None:
    import psutil

    started_ns = ProcessStarts().started_ns(os.getpid())
    shown_s = psutil.Process().create_time() - psutil.boot_time()
    assert started_ns / SECOND == pytest.approx(shown_s, abs=2)


def test_names_with_brackets_and_blanks_do_not_shift_the_fields(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    fields = " ".join(["S", *["0"] * 18, "250", "9"])
    (tmp_path / "7/stat").write_text(f"7 (a) b (c) {fields}")
    tick_ns = SECOND // os.sysconf("SC_CLK_TCK")
    starts = ProcessStarts(tmp_path)
    assert starts.started_ns(7) == 250 * tick_ns
    assert starts.started_ns(8) == 0
    (tmp_path / "7/stat").write_text("7 (a) S")
    assert starts.started_ns(7) == 250 * tick_ns  # remembered
    starts.keep({7})
    assert starts.started_ns(7) == 250 * tick_ns
    starts.keep({8})
    assert starts.started_ns(7) == 0


@pytest.mark.parametrize(("state", "lives"), [("Z", False), ("X", False), ("S", True)])
def test_what_the_driver_lists_of_the_dead_is_left_out(
    tmp_path: Path, state: str, lives: bool
) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7/stat").write_text(f"7 (Z) {state} 1 " + "0 " * 20)
    starts = ProcessStarts(tmp_path)
    assert starts.lives(7) is lives
    assert starts.lives(8), "nothing can be seen there: it may be hidden"
    (tmp_path / "1").mkdir()
    assert not starts.lives(8)
    assert ProcessStarts(None).lives(8)


def test_a_pid_that_is_anothers_by_now_has_another_start(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    starts, began = ProcessStarts(tmp_path), []
    for ticks in (250, 300):
        fields = " ".join(["S", *["0"] * 18, str(ticks), "9"])
        (tmp_path / "7/stat").write_text(f"7 (a) {fields}")
        assert starts.lives(7)
        began.append(starts.started_ns(7))
    assert began[0] < began[1]


class Asked(ProcessStarts):
    """One that counts how often it asks /proc."""

    asked = 0

    def _is_seen(self, pid: int) -> bool:
        self.asked += 1
        return super()._is_seen(pid)


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        yield process


def test_proc_is_asked_once_about_a_process_that_lives(child: subprocess.Popen[bytes]) -> None:
    starts = Asked()
    for _ in range(3):
        assert starts.living({child.pid, os.getpid()}) == {child.pid, os.getpid()}
    assert starts.asked == 2
    starts.keep({os.getpid()})
    assert starts.lives(child.pid)
    assert starts.asked == 3, "a pid that was not listed may be another's"


def test_a_zombie_lives_no_more_though_nobody_asked_proc(child: subprocess.Popen[bytes]) -> None:
    starts = ProcessStarts()
    assert starts.lives(child.pid)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert procfs.stat_of(child.pid) is not None, "it is not reaped yet"
    assert not starts.lives(child.pid)
    child.wait()
    assert not starts.lives(child.pid)


def test_every_process_is_asked_about_where_the_kernel_does_not_tell(
    child: subprocess.Popen[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stat = (Path("/proc") / str(child.pid) / "stat").read_bytes()
    (tmp_path / str(child.pid)).mkdir()
    (tmp_path / str(child.pid) / "stat").write_bytes(stat)
    other = Asked(tmp_path)  # there the number may be another process's
    assert other.lives(child.pid) and other.lives(child.pid)
    assert other.asked == 2
    monkeypatch.setattr(procfs, "MOST_WATCHED", 1)
    starts = Asked()
    for _ in range(3):
        assert len(starts.living([os.getpid(), child.pid])) == 2
    assert starts.asked == 1 + 3


def test_what_is_forgotten_is_closed(child: subprocess.Popen[bytes]) -> None:
    starts = ProcessStarts()
    starts.lives(os.getpid())
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    starts.lives(child.pid)
    assert len(os.listdir("/proc/self/fd")) == before + 1  # noqa: PTH208
    starts.keep({os.getpid()})
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_that_there_is_no_such_user_is_believed_for_a_minute() -> None:
    now_s, there, asked = [0.0], dict[int, str](), list[int]()

    def user_of(uid: int) -> str:
        asked.append(uid)
        return there.get(uid, "")

    names = procfs.UserNames(user_of, lambda: now_s[0])
    assert names.known(1000) is None
    assert names.look_up(1000) == names.known(1000) == "uid-1000"
    there[1000] = "ada"
    assert names.look_up(1000) == "uid-1000"
    now_s[0] = procfs.NO_USER_S
    assert names.known(1000) is None
    assert names.look_up(1000) == names.known(1000) == "ada"
    del there[1000]
    now_s[0] = 1e9
    assert names.look_up(1000) == "ada", "a name that is known stays"
    assert asked == [1000, 1000]
