"""Files that options name, as nobody nice would give them: one line that names the file, no trace.

Every option of every command that takes a file is tried; a new one is found by itself.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import click
import pytest
from tests.unit.lab.report.worked import write_worked

from joulebook import cli
from joulebook.errors import ConfigError
from joulebook.lab.report import rows
from joulebook.untrusted_files import read_named, read_named_text

DEEP = b'{"a":' * 100_000


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


KINDS: dict[str, Callable[[Path], object]] = {
    "directory": lambda path: path.mkdir(),
    "loop": lambda path: path.symlink_to(path.name),
    "dangling": lambda path: path.symlink_to("nowhere"),
    "pipe": os.mkfifo,
    "empty": Path.touch,
    "binary": lambda path: path.write_bytes(bytes(range(256)) * 20),
    "nul": lambda path: path.write_bytes(bytes(5_000)),
    "deep": lambda path: path.write_bytes(DEEP),
    "number": lambda path: path.write_bytes(b'{"v": ' + b"9" * 5_000 + b"}"),
    "toml": lambda path: path.write_bytes(b"v = " + b"9" * 5_000),
    "huge": sparse,
    "missing": lambda path: None,
    "escape\x1b[2J": lambda path: None,
}
WRITTEN = {"output", "rows", "plot", "sign", "trace"}
"""Where something is written: what is there is replaced, or kept."""

WORDS = {
    "calibrate": ["a100", "meter.csv", "--gpu", "0"],
    "replay": ["a100"],
    "record": ["made.jsonl"],
    "verify": ["statement.json"],
    "hooks": ["install"],
    "mlflow": ["http://127.0.0.1:9"],
    "leaderboard": ["results.csv"],
    "report": ["--experiment", "bert-base"],
    "verify key": ["statement.json", "--signature", "statement.json"],
    "report sign": ["--experiment", "bert-base", "--output", "made.json"],
}
"""What each command needs besides."""

ASKED_FIRST = {"top", "mlflow", "doctor", "record", "collect"}
"""Commands that have something else to complain of: there is no daemon, server or GPU."""


class Place(NamedTuple):
    """An option or an argument that names a file."""

    command: str
    option: str
    """Empty: an argument."""
    at: int
    name: str


def places() -> Iterator[Place]:
    context = click.Context(cli.top)
    for name in cli.COMMANDS:
        command = cli.top.get_command(context, name)
        assert command is not None
        arguments = [each for each in command.params if isinstance(each, click.Argument)]
        for each in command.params:
            if not isinstance(each.type, click.Path) or (
                each.name == "config" and name != "config"
            ):
                continue
            at = arguments.index(each) if isinstance(each, click.Argument) else -1
            yield Place(name, each.opts[0] if at < 0 else "", at, str(each.name))


def words_of(place: Place) -> list[str]:
    return list(WORDS.get(f"{place.command} {place.name}") or WORDS.get(place.command, []))


PLACES = list(places())


def test_the_files_of_all_commands_are_found() -> None:
    assert len(PLACES) > 20
    assert {"verify", "report", "calibrate", "leaderboard"} <= {each.command for each in PLACES}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_worked(tmp_path / "ledger.db")
    monkeypatch.setenv("JOULEBOOK_LEDGER_PATH", str(tmp_path / "ledger.db"))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setattr(rows, "MOST_BYTES", 1 << 20)
    (tmp_path / "meter.csv").write_text("t_s,watts\n0,70\n1,70\n")
    (tmp_path / "results.csv").write_text("experiment,run,metric,value,kwh\nbert,1,f1,90,1\n")
    words = ["report", "--experiment", "bert-base", "--format", "json"]
    assert cli.main([*words, "--output", "statement.json"]) == 0
    return tmp_path


@pytest.mark.parametrize("place", PLACES, ids=lambda each: f"{each.command} {each.name}")
def test_a_file_that_is_none(here: Path, place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    for kind, make in KINDS.items():
        path = here / kind
        make(path)
        words = words_of(place)
        if place.option:
            words += [place.option, path.name]
        else:
            words[place.at] = path.name
        before = kind == "directory" or not path.is_file()
        capsys.readouterr()
        status = cli.main([place.command, *words])
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        assert "\x1b" not in said.err, kind
        assert before or path.name in WRITTEN or path.exists()
        if status and place.command not in ASKED_FIRST:
            assert kind.replace("\x1b", "\ufffd") in said.err + said.out, (kind, said.err)
        for left in here.glob(f".{kind}*"):
            pytest.fail(f"{left} is left")


def test_a_name_that_is_too_long(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "file").touch()
    for place in PLACES:
        for name in ("x" * 300, "file/x"):
            words = words_of(place)
            if place.option:
                words += [place.option, name]
            else:
                words[place.at] = name
            status = cli.main([place.command, *words])
            said = capsys.readouterr().err
            assert not status or place.command in ASKED_FIRST or name[:20] in said, (place, said)


def test_a_device_or_pipe_is_written_to_and_not_replaced(here: Path) -> None:
    """As `--output /dev/stdout` is, which root could replace for all."""
    os.mkfifo("fifo")
    reader = os.open("fifo", os.O_RDONLY | os.O_NONBLOCK)
    found: list[bytes] = []
    os.set_blocking(reader, True)

    def read() -> None:
        while part := os.read(reader, 65_536):
            found.append(part)

    words = ["report", "--experiment", "bert-base", "--format", "json", "--output"]
    keeps_open = os.open("fifo", os.O_WRONLY)
    thread = threading.Thread(target=read)
    thread.start()
    try:
        assert cli.main([*words, "fifo"]) == 0
    finally:
        os.close(keeps_open)
        thread.join()
        os.close(reader)
    assert stat.S_ISFIFO(Path("fifo").stat().st_mode)
    assert b'"experiment"' in b"".join(found)


def test_a_link_stays_a_link(here: Path) -> None:
    Path("link").symlink_to("target.json")
    words = ["report", "--experiment", "bert-base", "--format", "json", "--output"]
    assert cli.main([*words, "link"]) == 0
    assert Path("link").is_symlink()
    assert Path("target.json").read_text().startswith("{")
    Path("draft").symlink_to("other")
    Path(f".new.json.{os.getpid()}").symlink_to("other")
    assert cli.main([*words, "new.json"]) == 2  # nobody leads the draft elsewhere
    assert not Path("other").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_reading_ends(tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    KINDS[kind](path)
    try:
        assert len(read_named_text(path, 1 << 20)) <= 1 << 20
    except ConfigError as error:
        assert kind in str(error)


def test_no_more_is_read_than_wanted(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="/dev/zero: larger than 1000 bytes"):
        read_named(Path("/dev/zero"), 1_000)
    with pytest.raises(ConfigError, match="embedded null byte"):
        read_named(Path("a\0b"), 1_000)


def test_arguments_that_are_no_text(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (
        ["leaderboard", "results.csv", "--mlflow", "\udcff"],
        ["report", "--experiment", "\udcff"],
        ["job", "\udcff"],
    ):
        assert cli.main(words) in {1, 2}, words
        assert "joulebook" in capsys.readouterr().err, words
