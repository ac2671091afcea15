"""The daemon's side of a release: a disk that fails ends no tick, and nobody's request is lost."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from joulebook.node import release
from joulebook.node.release import ReleaseHandler, Request, ask, request_path

LATER_S = 4e9


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


def read(ledger: Path) -> Request | None:
    return release._read(request_path(ledger))


def test_what_cannot_be_removed_is_said_once(
    ledger: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    desk = ReleaseHandler(ledger)
    request_path(ledger).mkdir()  # unlink(2) fails, for root too
    assert not any(desk.wanted() for _ in range(3))
    assert caplog.text.count("cannot remove") == 1
    request_path(ledger).rmdir()
    ask(ledger, 1.0)
    assert not desk.wanted()
    assert "was removed (after 3 failures)" in caplog.text
    assert not request_path(ledger).exists()


def test_what_cannot_be_written_is_said_once_and_tried_again(
    ledger: Path, caplog: pytest.LogCaptureFixture
) -> None:
    desk = ReleaseHandler(ledger)
    ask(ledger, LATER_S)
    assert desk.wanted()
    blocked = request_path(ledger).with_name("ledger.db.release.new")
    blocked.mkdir()
    for _ in range(3):
        desk.grant()
    assert caplog.text.count("cannot confirm the release") == 1
    assert read(ledger) == Request(LATER_S)
    blocked.rmdir()
    desk.grant()
    assert read(ledger) == Request(LATER_S, granted=True)
    assert desk.wanted()


def test_what_cannot_be_looked_at_holds_until_its_time_is_over(
    ledger: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    desk = ReleaseHandler(ledger)
    ask(ledger, time.time() + 60)
    assert desk.wanted()

    def broken(_path: Path) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "stat", broken)
    monkeypatch.setattr(Path, "read_bytes", broken)
    assert desk.wanted() and desk.wanted()
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 61)
    assert not desk.wanted()
    monkeypatch.undo()
    assert caplog.text.count("Input/output error") == 1


def test_an_expired_request_takes_no_newer_one_with_it(
    ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = ReleaseHandler(ledger)
    ask(ledger, 1.0)
    stat = Path.stat

    def overtaken(path: Path) -> object:
        seen = stat(path)
        monkeypatch.setattr(Path, "stat", stat)
        once_read = release._load

        def read_then_asked(path: Path) -> Request | None:
            seen = once_read(path)
            monkeypatch.setattr(release, "_load", once_read)
            ask(ledger, LATER_S)
            return seen

        monkeypatch.setattr(release, "_load", read_then_asked)
        return seen

    monkeypatch.setattr(Path, "stat", overtaken)
    desk.wanted()
    assert read(ledger) == Request(LATER_S)
    assert desk.wanted()


def test_a_grant_does_not_overwrite_a_newer_request(ledger: Path) -> None:
    desk = ReleaseHandler(ledger)
    ask(ledger, LATER_S)
    assert desk.wanted()
    ask(ledger, LATER_S + 1)
    desk.grant()
    assert read(ledger) == Request(LATER_S + 1)
    assert desk.wanted()
    desk.grant()
    assert read(ledger) == Request(LATER_S + 1, granted=True)
