"""`joulebook release` against the daemon's side of it, and without one."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from joulebook import cli
from joulebook.commands import release
from joulebook.commands.running import daemon_pid
from joulebook.daemon.release import ReleaseDesk, request_path
from joulebook.store.lock import LedgerLock


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "ledger.db"
    monkeypatch.setenv("JOULEBOOK_LEDGER_PATH", str(path))
    monkeypatch.setattr(release, "PATIENCE_S", 0.3)
    return path


@pytest.fixture
def daemon(ledger: Path) -> Iterator[ReleaseDesk]:
    """Looks for requests as the tick loop does, only more often."""
    desk, stop = ReleaseDesk(ledger), threading.Event()

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
    daemon: ReleaseDesk,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(release, "PATIENCE_S", 10.0)
    assert cli.main(["release", "--for", "10m"]) == 0
    assert "let go of the driver until" in capsys.readouterr().out
    assert daemon.wanted()
    assert cli.main(["release", "--for", "0"]) == 0
    assert "takes hold of the driver again" in capsys.readouterr().out
    assert not request_path(ledger).exists()


def test_no_daemon_answers(ledger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["release"]) == 1
    said = capsys.readouterr().err
    assert f"no daemon runs on ledger {ledger}" in said
    assert "withdrawn" in said
    assert not request_path(ledger).exists()


def test_a_daemon_that_hangs_is_named(ledger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lock = LedgerLock(ledger)
    try:
        assert daemon_pid(ledger) == os.getpid()
        assert cli.main(["release", "--for", "1m"]) == 1
    finally:
        lock.release()
    assert f"(pid {os.getpid()}) has not answered" in capsys.readouterr().err
    assert daemon_pid(ledger) is None


def test_nothing_to_end(ledger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["release", "--for", "0"]) == 0
    assert "no release to end" in capsys.readouterr().out


def test_who_may_not_ask_is_told_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JOULEBOOK_LEDGER_PATH", str(tmp_path / "none" / "ledger.db"))
    began = time.monotonic()
    assert cli.main(["release"]) == 2
    assert time.monotonic() - began < 2
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
