"""`job`, `report`, `leaderboard`, `bill` at the lab server: the file's figures, to the unit."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from tests.unit.lab.web.served import NOW_S, application, bearer, filled, node

from joulebook import cli

RESULTS = "experiment,run,metric,value\nbert,101,accuracy,91\nvit,103,accuracy,80\n"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    return filled(tmp_path_factory.mktemp("ledger"), node())


@pytest.fixture(scope="module")
def lab(url: str) -> Iterator[str]:
    """The address of a lab server."""
    with application(url, admins=("root",)) as app:
        server = uvicorn.Server(
            uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, lifespan="off")
        )
        thread = threading.Thread(target=server.run)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
        server.should_exit = True
        thread.join()


@pytest.fixture
def say(
    url: str,
    lab: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Any:
    """Run a command as a user with a token, and return its output, its messages and its status."""
    monkeypatch.setattr(time, "time", lambda: float(NOW_S))
    (tmp_path / "results.csv").write_text(RESULTS)
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("JOULEBOOK_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("JOULEBOOK_LEDGER_PATH", str(tmp_path / "none.db"))
    monkeypatch.setenv("JOULEBOOK_LAB_URL", lab)

    def run(user: str, *words: str) -> tuple[str, str, int]:
        token = tmp_path / f"token-{user}"
        token.write_text(bearer(url, user)["Authorization"].partition(" ")[2])
        token.chmod(0o600)
        monkeypatch.setenv("JOULEBOOK_LAB_TOKEN_FILE", str(token))
        status = cli.main(list(words))
        done = capsys.readouterr()
        return done.out, done.err, status

    return run


SAME = (
    ("job", "101"),
    ("job", "102", "--json"),
    ("job", "103", "--summary"),
    ("report",),
    ("report", "--by", "user", "--json"),
    ("report", "--since", "2026-11-01", "--until", "2026-12-01"),
    ("report", "--experiment", "bert"),
    ("report", "--experiment", "bert", "--format", "json"),
    ("report", "--format", "csv"),
    ("leaderboard", "results.csv"),
    ("leaderboard", "results.csv", "--format", "json"),
)
BILLS = (
    ("bill", "show", "2026-11"),
    ("bill", "show", "2026-11", "--format", "json"),
    ("bill", "show", "2026-11", "--format", "csv"),
    ("bill", "show", "2026-11", "--format", "focus"),
    ("bill", "show", "2026-11", "--account", "nlp"),
    ("bill", "list"),
)


@pytest.mark.parametrize("words", SAME + BILLS, ids=" ".join)
def test_an_administrator_gets_what_the_file_says(
    say: Any, url: str, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    there = say("root", *words, "--lab")
    assert there[2] == 0, there[1]
    monkeypatch.delenv("JOULEBOOK_LAB_URL")
    monkeypatch.setenv("JOULEBOOK_COLLECT_URL", url)
    here = say("root", *words)
    assert there[0] == here[0]
    assert "kWh" in here[0] or "kwh" in here[0].lower()


def test_a_user_needs_no_file_and_no_option(say: Any, lab: str) -> None:
    out, err, status = say("ada", "job", "101")
    assert status == 0, err
    assert "1.00 EUR" in out
    assert f"asking {lab}" in err
    out, err, status = say("ada", "job", "102")
    assert status == 1
    assert "not in the lab server" in err
    out, _, _ = say("ada", "report", "--json")
    assert "bert" in out
    assert "secret-project" not in out
    out, _, _ = say("ada", "bill", "show", "2026-11", "--format", "csv")
    assert "bert" in out
    assert "grace" not in out
    assert "vision" not in out


def test_what_the_server_refuses_is_said_and_changes_nothing(say: Any) -> None:
    move = ("--from", "nlp/ada/bert", "--to", "vision", "--cost", "1", "--why", "x", "--lab")
    out, err, status = say("ada", "bill", "correct", *move)
    assert (out, status) == ("", 2)
    assert "only administrators change bills" in err
    _, err, status = say("root", "bill", "close", "2026-11", "--lab")
    assert status == 2
    assert "is not over" in err
    _, err, status = say("root", "bill", "show", "2026-11", "--account", "nlpp", "--lab")
    assert status == 2
    assert "nlpp" in err
    assert "Correction" not in say("root", "bill", "show", "2026-11", "--lab")[0]
    _, err, status = say("ada", "job", "101", "--lab", "http://127.0.0.1:9")
    assert status == 2
    assert "http://127.0.0.1:9: cannot be reached" in err
    _, err, status = say("ada", "report", "--lab", "--collected", "sqlite:///x")
    assert status == 2
    assert "use only one of them" in err


def test_a_correction_at_the_lab_is_the_same_entry(say: Any) -> None:
    move = ("--from", "nlp/ada/bert", "--to", "vision", "--cost", "0.25", "--why", "moved")
    out, err, status = say("root", "bill", "correct", *move, "--lab")
    assert (out.strip(), status) == ("correction 1 in the bill of 2026-11: moved", 0), err
    out, _, _ = say("root", "bill", "show", "2026-11", "--lab")
    assert "Correction 1 (correction)" in out
    assert "root: moved" in out


def test_advice_is_that_of_the_file(say: Any, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    at_lab, _, status = say("root", "advise", "2026-11", "--json", "--lab")
    monkeypatch.setenv("JOULEBOOK_COLLECT_URL", url)
    assert (at_lab, status) == (say("root", "advise", "2026-11", "--json")[0], 0)
    assert '"missing"' in at_lab
