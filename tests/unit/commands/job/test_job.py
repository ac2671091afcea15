"""Which job is meant: ids, and what is near one that is not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from joulebook import cli
from joulebook.commands.job.job import JobId, nearest, parse_id


@pytest.mark.parametrize(
    ("text", "scheduler", "name"),
    [
        ("1234", "", "1234"),
        ("1234_7", "", "1234_7"),
        ("1234.r1", "", "1234.r1"),
        ("1234_7.r2", "", "1234_7.r2"),
        ("slurm/1234", "slurm", "1234"),
        ("train-0.1a2b3c4d", "", "train-0.1a2b3c4d"),
        ("kubernetes/train-0.1a2b3c4d", "kubernetes", "train-0.1a2b3c4d"),
        ("process/user.slice/user-1000.slice", "process", "user.slice/user-1000.slice"),
    ],
)
def test_an_id(text: str, scheduler: str, name: str) -> None:
    assert parse_id(text) == JobId(scheduler, name)


@pytest.mark.parametrize(
    "text",
    ["", "abc", "12 34", "1234.batch", "-1", "1234'", "*", "12?", "1\n", "१२", "9" * 40, "\x1b[2J"],
)
def test_what_is_no_id(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert parse_id(text) is None
    assert cli.main(["job", "--", text]) == 2
    said = capsys.readouterr().err
    assert "is not a job id: expected 1234, 1234_7" in said
    assert "\x1b" not in said


def test_a_missing_ledger_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JOULEBOOK_LEDGER_PATH", str(tmp_path / "none.db"))
    assert cli.main(["job", "1"]) == 2
    assert "no ledger at" in capsys.readouterr().err


def test_near_by_number_or_by_letters() -> None:
    known = ["99", "101", "101_7", "250", "train-a.1a2b3c4d"]
    assert nearest("103", known) == ["101", "101_7", "99"]
    assert nearest("train-b.1a2b3c4d", known)[0] == "train-a.1a2b3c4d"
    assert nearest("7", ["train-a.1a2b3c4d"]) == ["train-a.1a2b3c4d"]
