"""What each command says of itself, and the commands that need nothing but themselves."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from tests.command_line import parsed

from joulebook import cli

LINES = {
    "release": ["--for TIME", "0 ends a release"],
    "top": ["--once", "--url URL", "--user NAME", "JOULEBOOK_PASSWORD", "--ca FILE", "--insecure"],
    "job": ["ID", "1234_7", "--json"],
    "doctor": ["what this node can and cannot measure, why, and what to do"],
    "record": ["TRACE", "--for TIME", "--every TIME", "default: 0.1s"],
    "replay": ["TRACE", "--jobs FILE", "job,user,account,experiment,gpu,start_s,end_s"],
    "config": ["effective configuration"],
}


@pytest.mark.parametrize("command", LINES)
def test_help(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.main([command, "--help"]) == 0
    said = capsys.readouterr().out
    assert all(len(line) <= 80 for line in said.splitlines())
    for line in LINES[command]:
        assert line in said


def test_every_command_stands_under_one_heading(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.main(["--help"]) == 0
    said = capsys.readouterr().out
    assert cli.main([]) == 0
    assert capsys.readouterr().out == said
    assert all(len(line) <= 80 for line in said.splitlines())
    _, *listed = re.split(r"(?m)^The daemon of a node:$", said)
    assert re.findall(r"(?m)^  (\w+) ", listed[0])[: len(cli.COMMANDS)] == list(cli.COMMANDS)
    modules = (Path(cli.__file__).parent / "commands").rglob("*.py")
    answers = sum(len(re.findall(r"(?m)^@command\(", path.read_text())) for path in modules)
    assert answers == len(cli.COMMANDS) - 1, "none is left out; mark is a program of its own"


@pytest.mark.parametrize(
    "wrong", [["release", "--for", "soon"], ["record", "x", "--every", "-1"], ["job"], ["top", "x"]]
)
def test_wrong_use_is_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(wrong) == 2
    assert "Usage: joulebook" in capsys.readouterr().err


def test_config_prints_what_is_in_force(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "joulebook.toml"
    file.write_text("[node]\nname = 'n7'\n[privacy]\nusers = 'none'\n")
    monkeypatch.setenv("JOULEBOOK_DAEMON_SETTLE_S", "5")
    assert cli.main(["--config", str(file), "config"]) == 0
    said = capsys.readouterr()
    values = tomllib.loads(said.out)
    assert values["node"]["name"] == "n7"
    assert values["daemon"]["settle_s"] == 5
    assert said.err == ""


def test_config_is_taken_before_and_behind_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, last = tmp_path / "first.toml", tmp_path / "last.toml"
    first.write_text("[node]\nname = 'first'\n")
    last.write_text("[node]\nname = 'last'\n")
    for arguments, name in (
        (["--config", str(first), "config"], "first"),
        (["config", "--config", str(last)], "last"),
        (["--config", str(first), "config", "--config", str(last)], "last"),
    ):
        assert cli.main(arguments) == 0
        assert tomllib.loads(capsys.readouterr().out)["node"]["name"] == name
    # What `make run ARGS="--config FILE"` makes of it, with a card and without.
    assert parsed("run", "--config", str(last)).config == last
    demo = parsed("run", "--demo", "--config", str(last))
    assert (demo.config, demo.demo) == (last, "auto")
    assert parsed("run").config is None


def test_config_that_is_wrong_names_the_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "joulebook.toml"
    file.write_text("[node]\nnam = 'n7'\n")
    assert cli.main(["--config", str(file), "config"]) == 2
    assert "did you mean node.name?" in capsys.readouterr().err


def test_record_refuses_to_overwrite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = tmp_path / "t.jsonl"
    trace.write_text("precious")
    assert cli.main(["record", str(trace)]) == 2
    assert "will not be overwritten" in capsys.readouterr().err
    assert trace.read_text() == "precious"


def test_top_says_what_to_do_without_a_daemon(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["top", "--once", "--url", "http://127.0.0.1:1"]) == 1
    said = capsys.readouterr().err
    assert "no daemon answers at http://127.0.0.1:1" in said
    assert "joulebook doctor" in said


@pytest.mark.parametrize(
    ("command", "right"),
    [
        (["bill", "2026-10"], "joulebook bill show 2026-10"),
        (["leaderboard", "--demo", "--metric", "loss"], "it would ignore --metric"),
        (["leaderboard", "--demo", "results.csv"], "it would ignore FILE"),
        (["leaderboard", "--gpu", "a40"], "use it with --demo"),
    ],
)
def test_what_would_be_ignored_or_misread_is_refused(
    command: list[str], right: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(command) == 2
    assert right in capsys.readouterr().err
