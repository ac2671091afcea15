"""`joulebook release` against the daemon's side of it, and without one."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.node.stand_ins import until

from joulebook import cli
from joulebook.commands.daemon import control
from joulebook.commands.daemon.client import daemon_pid, described, lock_path
from joulebook.ledger.location import LedgerLock
from joulebook.node.release import ReleaseHandler, request_path


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "ledger.db"
    path.touch()
    lock_path(path).touch()
    monkeypatch.setenv("JOULEBOOK_LEDGER_PATH", str(path))
    monkeypatch.setattr(control, "PATIENCE_S", 0.3)
    return path


@pytest.fixture
def daemon(ledger: Path) -> Iterator[ReleaseHandler]:
    """Looks for requests as the tick loop does, only more often."""
    desk, stop = ReleaseHandler(ledger), threading.Event()

    def run() -> None:
        while not stop.wait(0.02):
            if desk.wanted():
                desk.grant()

    thread = threading.Thread(target=run)
    thread.start()
    yield desk
    stop.set()
    thread.join()


def test_the_daemon_lets_go_and_takes_hold(
    ledger: Path,
    daemon: ReleaseHandler,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(control, "PATIENCE_S", 10.0)
    assert cli.main(["release", "--for", "10m"]) == 0
    assert "released the driver until" in capsys.readouterr().out
    assert daemon.wanted()
    assert cli.main(["release", "--for", "0"]) == 0
    assert "the daemon reads the GPUs again" in capsys.readouterr().out
    assert not request_path(ledger).exists()


def test_no_daemon_answers(ledger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["release"]) == 1
    said = capsys.readouterr().err
    assert f"no daemon is running on ledger {ledger}: nobody holds {ledger}.lock" in said
    assert "withdrawn" in said
    assert not request_path(ledger).exists()


def test_a_daemon_that_hangs_is_named(ledger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lock = LedgerLock(ledger)
    try:
        assert daemon_pid(ledger) == os.getpid()
        assert cli.main(["release", "--for", "1m"]) == 1
    finally:
        lock.release()
    said = capsys.readouterr().err
    assert f"the daemon, pid {os.getpid()} (" in said
    assert "python" in said and "has not answered" in said
    assert daemon_pid(ledger) is None


def test_nothing_to_end(ledger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["release", "--for", "0"]) == 0
    assert "no release to end" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["release"], ["release", "--for", "0"]])
def test_without_ledger_or_lock_nothing_is_asked(
    ledger: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
) -> None:
    monkeypatch.setattr(control, "PATIENCE_S", 600.0)  # It would wait for ever.
    lock_path(ledger).unlink()
    assert cli.main(arguments) == 1
    assert f"no lock of a daemon at {ledger}.lock" in capsys.readouterr().err
    ledger.unlink()
    assert cli.main(arguments) == 1
    said = capsys.readouterr().err
    assert f"no ledger at {ledger}" in said and "--config" in said
    assert not request_path(ledger).exists()


def test_a_process_is_described_by_its_command_line() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input('a b')"], stdin=subprocess.PIPE)
    try:
        until(lambda: "input" in described(child.pid))
        assert described(child.pid).startswith(f"pid {child.pid} (")
        assert described(child.pid).endswith(" -c 'input('\"'\"'a b'\"'\"')')")
    finally:
        child.communicate(b"\n")
    assert described(child.pid) == f"pid {child.pid}"
    assert described(-1) == "pid -1"


def test_who_may_not_ask_is_told_why(
    ledger: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stat = Path.stat

    def denied(path: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        if path == ledger:
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, follow_symlinks=follow_symlinks)

    monkeypatch.setattr(Path, "stat", denied)
    monkeypatch.setattr(control, "PATIENCE_S", 600.0)
    assert cli.main(["release"]) == 2
    assert "run this as the daemon's user" in capsys.readouterr().err


def test_the_lock_is_found_without_being_touched(tmp_path: Path) -> None:
    ledger, proc = tmp_path / "ledger.db", tmp_path / "proc"
    proc.mkdir()
    lock = tmp_path / "ledger.db.lock"
    assert daemon_pid(ledger, proc) is None  # no lock file
    lock.touch()
    assert daemon_pid(ledger, proc) is None  # no /proc/locks
    inode = lock.stat().st_ino
    (proc / "locks").write_text(
        f"1: POSIX  ADVISORY  WRITE 11 fd:01:{inode} 0 EOF\n"
        f"2: -> FLOCK  ADVISORY  WRITE 12 fd:01:{inode} 0 EOF\n"
        f"3: FLOCK  ADVISORY  WRITE 13 fd:01:{inode}1 0 EOF\n"
        f"4: FLOCK  ADVISORY  WRITE 4711 fd:01:{inode} 0 EOF\n"
    )
    assert daemon_pid(ledger, proc) == 4711
    with lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
