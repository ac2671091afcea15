"""What people are sent: figures of the bill, once, and nothing of anybody else."""

from __future__ import annotations

import email
import email.policy
import functools
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.unit.lab.collected.nodes import DECEMBER_S, NOVEMBER_S, Node
from tests.unit.lab.web.served import filled, node

from joulebook.cli import main
from joulebook.config import Config, load
from joulebook.config.lab import Collect
from joulebook.config.lab_server import LabSection, NoticeSection
from joulebook.core.units_text import decimal
from joulebook.errors import ConfigError, InputError
from joulebook.lab.collected import bills
from joulebook.lab.collected.database import connect, opened
from joulebook.lab.figures import figures
from joulebook.lab.notices import send
from joulebook.lab.notices.compose import Notice
from joulebook.lab.notices.send import NoticeSender, as_mail
from joulebook.units import NS_PER_HOUR, UJ_PER_KWH

NOW_S = DECEMBER_S + 2 * 86_400


def sender(url: str, *, now_s: int = NOW_S, idle: float = 0.0, **to: Sequence[str]) -> NoticeSender:
    """A sender with destinations of users, and of the account that begins with `of_`."""
    notices = NoticeSection(
        users={name: tuple(each) for name, each in to.items() if not name.startswith("of_")},
        accounts={name[3:]: tuple(each) for name, each in to.items() if name.startswith("of_")},
        idle_gpu_hours=idle,
        smtp="127.0.0.1:25",
        sender="joulebook@example.org",
    )
    config = Config(collect=Collect(url=url), lab=LabSection(notices=notices))
    return NoticeSender(config, functools.partial(connect, url), lambda: now_s)


def closed(folder: Path, *nodes: Node) -> str:
    """A collected ledger whose November is closed."""
    url = filled(folder, *nodes)
    with opened(url) as database:
        bills.close(database, 202611, "root", NOW_S - 86_400)
    return url


def test_a_statement_has_the_bill_of_a_closed_month_to_the_unit(tmp_path: Path) -> None:
    url = closed(tmp_path)
    ada, nlp = sender(url, ada=["ada@example.org"], of_nlp=["pi@example.org"]).pending()
    with opened(url) as database:
        every = bills.bill(database, 202611).lines
    for notice, lines in (
        (ada, [line for line in every if line.owner.person == "ada"]),
        (nlp, [line for line in every if line.owner.account == "nlp"]),
    ):
        amount, charges = bills.total(lines)
        told = figures({"all": amount}, charges)
        for text in (notice.text, notice.html):
            assert f"{decimal(amount.energy_uj, UJ_PER_KWH)} kWh" in text
            assert f"{decimal(amount.held_ns, NS_PER_HOUR)} GPU-hours" in text
            assert f"{told.cost['EUR']} EUR" in text
    assert "2026-11" in ada.subject
    assert "bert" in ada.text
    # Totals name nobody, neither people nor what they work on.
    for word in ("ada", "grace", "bert", "secret-project"):
        assert word not in nlp.text + nlp.html + nlp.subject
    assert "secret-project" not in ada.text + ada.html


def test_an_open_month_is_not_sent_and_one_closed_long_ago_neither(tmp_path: Path) -> None:
    url = filled(tmp_path)
    assert sender(url, ada=["ada@example.org"]).pending() == []
    with opened(url) as database:
        bills.close(database, 202611, "root", NOW_S)
    assert len(sender(url, ada=["ada@example.org"]).pending()) == 1
    assert sender(url, ada=["ada@example.org"], now_s=NOW_S + 11 * 86_400).pending() == []
    assert sender(url, nobody=["nobody@example.org"]).pending() == []


def idling() -> Node:
    """A node on which ada's job held a GPU for two hours and did nothing in half of them."""
    made = node()
    job = made.workloads["101"].id
    for key, row in list(made.postings.items()):
        if key[1] == job:
            made.postings[key] = type(row)(
                **{name: getattr(row, name) for name in row.__struct_fields__}
                | {"held_ns": 2 * NS_PER_HOUR, "idle_ns": NS_PER_HOUR, "idle_uj": 77}
            )
    return made


def test_a_day_on_which_much_was_idle_is_told_once_it_is_over(tmp_path: Path) -> None:
    url = filled(tmp_path, idling())
    after_s = NOVEMBER_S + 86_400 + 6 * 3_600
    (notice,) = sender(url, ada=["a@b.c"], grace=["g@b.c"], idle=1.0, now_s=after_s).pending()
    assert "ada" in notice.subject
    assert "idle on 2026-11-01" in notice.subject
    assert "1.000000000 GPU-hours" in notice.text
    assert "101" in notice.text
    assert sender(url, ada=["a@b.c"], idle=1.0, now_s=after_s - 1).pending() == []
    assert sender(url, ada=["a@b.c"], idle=1.01, now_s=after_s).pending() == []
    (of,) = sender(url, of_nlp=["a@b.c"], idle=1.0, now_s=after_s).pending()
    assert "101" not in of.text
    assert "ada" not in of.text


HOSTILE = "x\r\nBcc: all@example.org\r\n\r\n<script>alert(1)</script><!channel>&\x1b[31m"


def test_hostile_names_neither_reach_a_header_nor_a_tag(tmp_path: Path) -> None:
    made = Node("n1", "a" * 32, "lab")
    made.label("1", HOSTILE, "ada", HOSTILE, named=True)
    made.burn(NOVEMBER_S, 7_000_000, "1")
    settings = NoticeSection(
        users={"ada": ("ada@example.org",)}, accounts={HOSTILE: ("pi@example.org",)},
        sender="joulebook@example.org", smtp="127.0.0.1:25",
    )  # fmt: skip
    url = closed(tmp_path, made)
    with opened(url) as database:
        ((account,),) = database.rows("SELECT account FROM owners WHERE account <> ''")
    settings = NoticeSection(
        users=settings.users, accounts={account: ("pi@example.org",)}, sender=settings.sender,
        smtp=settings.smtp,
    )  # fmt: skip
    config = Config(collect=Collect(url=url), lab=LabSection(notices=settings))
    pending = NoticeSender(config, functools.partial(connect, url), lambda: NOW_S).pending()
    assert len(pending) == 2
    for notice in pending:
        raw = as_mail(settings, notice, "ada@example.org").as_bytes()
        read = email.message_from_bytes(raw, policy=email.policy.default)
        assert read["Bcc"] is None
        assert read["Subject"].split() == notice.subject.split()
        assert "\x1b" not in notice.text + notice.html
        assert "<script" not in notice.html


def test_each_goes_out_once_whatever_restarts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = closed(tmp_path)
    gone: list[str] = []
    refusing = {"grace@example.org"}

    def deliver(_settings: object, _web: object, notice: Notice, to: str) -> None:
        if to in refusing:
            raise InputError("mail: 451 later", reason="refused")
        gone.append(to)

    monkeypatch.setattr(send, "deliver", deliver)
    made = functools.partial(
        sender, url, ada=["ada@example.org", "https://hooks.example.org/x"],
        grace=["grace@example.org"],
    )  # fmt: skip
    assert made().once() == 2
    # Another server, or the same one later.
    assert made().once() == 0
    assert [notice.to for notice in made().pending()] == [("grace@example.org",)]
    refusing.clear()
    assert made().once() == 1
    assert made().once() == 0
    assert sorted(gone) == ["ada@example.org", "grace@example.org", "https://hooks.example.org/x"]


def test_a_dry_run_prints_what_would_go_out_and_sends_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.time", lambda: float(NOW_S))
    url = closed(tmp_path)
    file = tmp_path / "joulebook.toml"
    file.write_text(
        f'[collect]\nurl = "{url}"\n[lab.notices]\nsmtp = "127.0.0.1:1"\n'
        'sender = "joulebook@example.org"\nusers = { ada = ["ada@example.org"] }\n'
    )
    assert main(["lab", "--config", str(file), "--notices"]) == 0
    said = capsys.readouterr().out
    assert "to ada@example.org: Energy statement 2026-11 of ada" in said
    assert said.endswith("1 to send\n")
    assert main(["lab", "--config", str(file), "--notices"]) == 0
    assert capsys.readouterr().out == said


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ('users = { ada = ["ada"] }', "expected a mail address"),
        ('users = { ada = ["a@b.c\\nBcc: d@e.f"] }', "expected a mail address"),
        ('users = { ada = ["http://hooks.example.org"] }', "expected a mail address"),
        ('users = { ada = ["a@b.c"] }', "expected host:port of a mail server"),
        ('users = { ada = ["a@b.c"] }\nsmtp = "m:25"', "lab.notices.sender"),
        ('smtp_user = "x"', "expected together with"),
        ("idle_gpu_hours = -1", "idle_gpu_hours"),
    ],
)
def test_wrong_settings_are_said(tmp_path: Path, text: str, wrong: str) -> None:
    file = tmp_path / "joulebook.toml"
    file.write_text(f"[lab.notices]\n{text}\n")
    with pytest.raises(ConfigError, match=re.escape(wrong)):
        load(file, {})
