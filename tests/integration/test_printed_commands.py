"""Commands that README and docs print, run as printed, in a place that has what they name.

`tests/unit/test_docs.py` parses all of them. Those that change a cluster, need one, or run until
they are stopped are tried by the tests of what they do.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from tests.command_line import parsed
from tests.unit.commands.ledger_sample import write_ledger
from tests.unit.test_docs import PAGES, typed

from joulebook import cli

HERE = frozenset({"config", "job", "leaderboard", "rates", "report"})
"""What needs one ledger and nothing else: others are tried with daemons, a lab, drivers and
schedulers by the tests named for them."""

WORDS_ELSEWHERE = frozenset({"serve", "--collected", "--append", "--mlflow", "--past", "--lab"})
PLACEHOLDERS = frozenset({"URL", "FILE", "DIR", "ID", "KEY", "NAME", "RUN"})

IN_THE_LEDGER = {
    "1234": "101",
    "family": "bert-base",
    "family-dev": "sweep",
    "resnet50-sweep": "sweep",
}
"""What stands for the names of the examples; all else is as printed."""


def printed() -> Iterator[tuple[str, ...]]:
    """Yield every command once that can run on one ledger alone."""
    seen: set[tuple[str, ...]] = set()
    for page in PAGES:
        if page.name == "CHANGELOG.md":
            continue
        for word, *words in typed(page):
            command = tuple(words)
            if word != "joulebook" or not words or command in seen or command[0] not in HERE:
                continue
            if {part for each in words for part in each.split(".")} & PLACEHOLDERS:
                continue
            if command == ("leaderboard",) or not WORDS_ELSEWHERE.isdisjoint(words):
                continue
            seen.add(command)
            try:
                parsed(*words)
            except (click.MissingParameter, click.BadOptionUsage):
                continue  # Prose that names a command, or an option.
            yield tuple(IN_THE_LEDGER.get(each, each) for each in words)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a ledger, results, a model card, rates, and a program to mark."""
    folder = tmp_path_factory.mktemp("printed")
    write_ledger(folder / "ledger.db")
    (folder / "results.csv").write_text("experiment,run,metric,value\nbert-base,101,accuracy,0.9\n")
    (folder / "new.toml").write_text('[rates]\nzone = "DE"\n')
    (folder / "train.py").write_text("print('trained')\n")
    (folder / "README.md").write_text(
        "---\nmodel-index:\n- name: bert\n  results:\n  - task: {type: text-classification}\n"
        "    dataset: {name: glue, type: glue}\n    metrics: [{type: accuracy, value: 0.9}]\n---\n"
    )
    return folder


@pytest.mark.timeout(300)
def test_commands_work_as_printed(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setenv("JOULEBOOK_LEDGER_PATH", "ledger.db")
    commands = list(printed())
    assert {("leaderboard", "--demo"), ("report", "--experiment", "bert-base")} <= {*commands}
    assert len(commands) > 12
    failed = {}
    for command in commands:
        status = cli.main(command)
        said = capsys.readouterr()
        if status or not (said.out or said.err):
            failed[" ".join(command)] = said.err
    assert not failed, "\n".join(f"{name}: {why}" for name, why in failed.items())
