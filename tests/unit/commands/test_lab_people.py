"""What `joulebook lab` does of people, by the command line: tokens, links, and forgetting."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.lab.collected.test_forget import NAME, burnt, dump, take

from joulebook import cli
from joulebook.lab.collected import audit
from joulebook.lab.collected.database import opened


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A collected ledger, and a configuration that names the person, too."""
    url = f"sqlite://{tmp_path}/collected.db"
    file = tmp_path / "joulebook.toml"
    file.write_text(
        f'[collect]\nurl = "{url}"\n[lab]\nadmins = ["root", "{NAME}"]\n'
        f'[lab.coordinators]\nnlp = ["{NAME}", "grace"]\n'
    )
    with opened(url, create=True) as database:
        take(database, burnt(), 0)
        database.rows("INSERT INTO exported VALUES (202610, 1, 0, '/srv/months', '')")
    return url


def run(url: str, *arguments: str) -> int:
    file = Path(url.removeprefix("sqlite://")).with_name("joulebook.toml")
    return cli.main([*arguments, "--config", str(file)])


def test_forget_says_what_remains(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(url, "lab", "forget", NAME) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "every sum is as it was" in told
    for each in (
        "ledger of node n1", "exported months in /srv/months", "configuration: lab.admins",
        "configuration: lab.coordinators.nlp", "backups",
    ):  # fmt: skip
        assert each in told
    assert "grace" not in told
    with opened(url) as database:
        assert NAME not in repr(dump(database))
        (entry,) = audit.entries(database, 9)
    assert entry.what.endswith("was forgotten")


@pytest.mark.parametrize("words", [("forget",), ("remember", "x"), ("forget", "x", "y")])
def test_wrong_words_are_told(url: str, words: tuple[str, ...]) -> None:
    assert cli.main(["lab", *words]) == 2


def test_an_unknown_person_is_told(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(url, "lab", "forget", "nobody-here") == 2
    assert "no user 'nobody-here'" in capsys.readouterr().err
    with opened(url) as database:
        assert audit.entries(database, 9) == []


def test_tokens_are_on_the_audit_log(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(url, "lab", "--add-token", "prometheus", "--user", "grace") == 0
    secret = capsys.readouterr().out.strip()
    assert run(url, "lab", "--revoke-token", "prometheus") == 0
    assert run(url, "lab", "--revoke-token", "prometheus") == 1
    with opened(url) as database:
        told = [each.what for each in audit.entries(database, 9)]
        assert secret not in repr(dump(database))
    assert told[-1] == "token prometheus for grace"
    assert told[:-1] == ["token prometheus revoked"]
