"""Bills on pages and in the API: as `joulebook bill` has them, changed by administrators only."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from tests.unit.lab.collected.nodes import DECEMBER_S, NOVEMBER_S, OCTOBER_S, Node
from tests.unit.lab.web.served import NOW_S, bearer, filled, served, uj

from joulebook import cli
from joulebook.core.money.amounts import Exact
from joulebook.lab.collected.database import opened
from joulebook.lab.web.grants import GrantKind, Grants
from joulebook.units import NS_PER_HOUR

HOSTILE = '<script>alert("x")</script>\r\nSet-Cookie: a=b\u202e'
MOVE = {"from": "nlp/ada/bert", "to": "vision", "cost": "0.25", "why": "GPU fell off the bus"}


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A ledger with October, which is over and collected, and November."""
    made = Node("n1", "a" * 32, "lab")
    for job, account, user, experiment in (
        ("101", "nlp", "ada", "bert"), ("102", "nlp", "grace", "secret-project"),
        ("103", "vision", "bob", "vit"),
    ):  # fmt: skip
        made.label(job, account, user, experiment, named=True)
    for begin_s in (OCTOBER_S, NOVEMBER_S):
        for job, kwh in (("101", 1), ("102", 2), ("103", 4), ("", 8)):
            made.burn(begin_s + 3600, uj(kwh), job, Exact(kwh, 0, 0), NS_PER_HOUR)
    return filled(tmp_path, made)


@pytest.fixture
def client(url: str) -> Iterator[TestClient]:
    with served(url, admins=("root",)) as made:
        yield made


def session(url: str, user: str) -> Mapping[str, str]:
    """The cookie of a browser."""
    with opened(url) as database:
        secret = Grants(database, lambda: NOW_S).make(GrantKind.SESSION, user, "munge", 3600)
    return {"Cookie": f"joulebook-session={secret}"}


def form(client: TestClient, cookie: Mapping[str, str], month: str = "2026-10") -> dict[str, str]:
    """What the hidden field of a page's form holds."""
    found = re.search('name="form" value="([0-9a-f]{64})"',
                      client.get(f"/bills/{month}", headers=cookie).text)  # fmt: skip
    assert found is not None
    return {"form": found[1]}


def contents(url: str) -> list[object]:
    """All that bills are made of, and the audit log."""
    tables = "periods", "closing", "corrections", "transfers", "owners", "lab_audit"
    with opened(url) as database:
        return [sorted(database.rows(f"SELECT * FROM {table}"), key=str) for table in tables]


@pytest.mark.parametrize("form_", ["json", "csv"])
def test_a_bill_is_the_one_that_the_command_writes(
    client: TestClient, url: str, form_: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    root = bearer(url, "root")
    assert client.post("/api/v1/bills/2026-11/corrections", headers=root, data=MOVE).is_success
    monkeypatch.setenv("JOULEBOOK_COLLECT_URL", url)
    for month in ("2026-10", "2026-11"):
        assert cli.main(["bill", "show", month, "--format", form_]) == 0
        told = client.get(f"/api/v1/bills/{month}", params={"format": form_}, headers=root).text
        assert told.rstrip("\n") == capsys.readouterr().out.rstrip("\n")
        assert "kwh" in told


def test_a_user_sees_own_lines_and_the_totals_of_accounts(client: TestClient, url: str) -> None:
    ada = bearer(url, "ada")
    bill = client.get("/api/v1/bills/2026-11", headers=ada).json()
    assert [(line["user"], line["energy_uj"]) for line in bill["lines"]] == [("ada", uj(1))]
    told = client.get("/bills/2026-11", headers=ada).text
    assert "bert" in told
    assert "3.00" in told, "the total of nlp"
    for name in ("grace", "secret-project", "vision", "bob", "unallocated", "Correct"):
        assert name not in told
    (month, _) = client.get("/api/v1/bills", headers=ada).json()
    assert (month["month"], month["figures"]["energy_uj"]) == ("2026-11", uj(1))
    refused = client.get("/api/v1/bills/2026-11?account=vision", headers=ada)
    assert (refused.status_code, "nothing of yours" in refused.text) == (404, True)


def test_a_correction_is_seen_by_whom_it_is_about(client: TestClient, url: str) -> None:
    root = bearer(url, "root")
    done = client.post("/api/v1/bills/open/corrections", headers=root, data=MOVE)
    assert done.json() == {"correction": 1, "month": "2026-11"}
    told = client.get("/bills/2026-11", headers=bearer(url, "ada")).text
    assert "GPU fell off the bus" in told
    assert "correction 1" in told
    assert "vision" not in told
    assert "GPU fell" not in client.get("/bills/2026-11", headers=bearer(url, "grace")).text


def test_an_administrator_closes_and_corrects_on_the_page(client: TestClient, url: str) -> None:
    root = session(url, "root")
    assert client.get("/bills/2026-10", headers=root).text.count("<form") == 3
    token = form(client, root)
    client.follow_redirects = False  # It would leave the cookie behind.
    assert client.post("/bills/2026-09/close", headers=root, data=token).status_code == 303
    done = client.post("/bills/2026-10/close", headers=root, data=token)
    assert (done.status_code, done.headers["location"]) == (303, "/bills/2026-10")
    told = client.get("/bills/2026-10", headers=root).text
    assert "Closed on 2026-11-21" in told
    assert "UTC by root" in told
    again = client.post("/bills/2026-10/close", headers=root, data=token)
    assert (again.status_code, "already closed" in again.text) == (409, True)
    late = client.post("/bills/2026-10/corrections", headers=root, data=token | MOVE)
    assert (late.status_code, "2026-10 is closed permanently" in late.text) == (409, True)
    done = client.post("/bills/open/corrections", headers=root, data=token | MOVE)
    assert done.headers["location"] == "/bills/2026-11"
    assert "GPU fell off the bus" in client.get("/bills/2026-11", headers=root).text
    with opened(url) as database:
        audit = database.rows("SELECT who, how, what FROM lab_audit ORDER BY id")
    assert [tuple(row) for row in audit] == [
        ("root", "munge", "closed 2026-09"), ("root", "munge", "closed 2026-10"),
        ("root", "munge", "correction 1 in 2026-11: from nlp/ada/bert to vision//"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "data", "status", "said"),
    [
        ("/bills/2026-11/close", {}, 400, "2026-11 is not over"),
        ("/bills/2026-13/close", {}, 422, "month"),
        ("/bills/2026-10/close", {"anyway": "perhaps"}, 400, "expected yes"),
        ("/bills/2026-10/close", {"month": "2026-09"}, 400, "unknown field"),
        ("/bills/2027-01/corrections", MOVE, 400, "has not begun"),
        ("/bills/open/corrections", MOVE | {"to": "nlpp"}, 400, "nothing was ever booked to it"),
        ("/bills/open/corrections", MOVE | {"to": HOSTILE}, 400, "nothing was ever booked"),
        ("/bills/open/corrections", MOVE | {"why": " "}, 400, "an author and a reason"),
        ("/bills/open/corrections", MOVE | {"cost": HOSTILE}, 400, "expected an amount"),
        ("/bills/open/corrections", MOVE | {"cost": "-1"}, 400, "expected an amount"),
        ("/bills/open/corrections", MOVE | {"cost": ""}, 400, "nothing to correct"),
        ("/bills/open/corrections", MOVE | {"currency": "DOGE"}, 400, "EUR is billed"),
        ("/bills/open/corrections", MOVE | {"item": HOSTILE}, 400, "electricity or hardware"),
        ("/bills/open/corrections", MOVE | {"to": MOVE["from"]}, 400, "two different owners"),
        ("/bills/open/corrections", MOVE | {"why": "x" * 2_000_000}, 413, "at most"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_and_changes_nothing(
    client: TestClient, url: str, path: str, data: dict[str, str], status: int, said: str
) -> None:
    root = session(url, "root")
    token, before = form(client, root), contents(url)
    for prefix, headers, fields in (
        ("", root, token | data),
        ("/api/v1", bearer(url, "root"), data),
    ):
        answer = client.post(prefix + path, headers=headers, data=fields)
        assert (answer.status_code, said in answer.text) == (status, True), answer.text
        assert prefix or "<script>alert" not in answer.text
        assert "a" not in answer.cookies
    assert contents(url) == before


def test_nobody_else_changes_anything(client: TestClient, url: str) -> None:
    root, ada = session(url, "root"), session(url, "ada")
    token, before = form(client, root), contents(url)
    path = "/bills/open/corrections"
    # Another site's page has the cookie, at most, but not what is in the form.
    for headers, data in (
        (root, MOVE), (root, MOVE | {"form": "0" * 64}), (ada, token | MOVE), (ada, MOVE),
        ({**root, "Sec-Fetch-Site": "cross-site"}, token | MOVE),
        ({**bearer(url, "root"), "Cookie": root["Cookie"]}, MOVE),
    ):  # fmt: skip
        assert client.post(path, headers=headers, data=data).status_code == 403
    assert client.post("/api/v1" + path, headers=bearer(url, "ada"), data=MOVE).status_code == 403
    assert client.post(path, data=MOVE).status_code == 401
    assert client.post("/bills/2026-10/close", headers=bearer(url, "ada")).status_code in {400, 403}
    body = {"Content-Type": "text/plain"}
    plain = client.post("/api/v1" + path, headers={**bearer(url, "root"), **body}, content="from=a")
    assert (plain.status_code, "Content-Type" in plain.text) == (400, True)
    twice = {"Content-Type": "application/x-www-form-urlencoded"}
    doubled = client.post(
        "/api/v1" + path, headers={**bearer(url, "root"), **twice}, content="from=nlp&from=vision"
    )
    assert (doubled.status_code, "once" in doubled.text) == (400, True)
    assert contents(url) == before


def test_a_month_that_nodes_have_not_reported_is_closed_only_on_purpose(
    tmp_path: Path,
) -> None:
    made = Node("n1", "a" * 32, "lab")
    made.label("101", "nlp", "ada", "bert")
    made.burn(OCTOBER_S + 3600, uj(1), "101", held_ns=NS_PER_HOUR)
    url = filled(tmp_path, made)
    with served(url, admins=("root",)) as client:
        root = bearer(url, "root")
        late = client.post("/api/v1/bills/2026-10/close", headers=root, data={"anyway": ""})
        assert (late.status_code, "(n1)" in late.text) == (409, True)
        assert "Not all reported yet: n1" in client.get("/bills/2026-10", headers=root).text
        done = client.post("/api/v1/bills/2026-10/close", headers=root, data={"anyway": "yes"})
        assert done.json() == {"month": "2026-10", "closed_by": "root"}


def test_lists_come_in_parts_and_as_csv(client: TestClient, url: str) -> None:
    root = bearer(url, "root")
    days = {"since": "2026-10-01", "until": "2026-12-01"}
    for path, count, further in (
        ("months", 2, {}), ("bills", 2, {}), ("nodes", 1, {}), ("jobs", 3, days),
        ("months/2026-11", 4, {}), ("months/2026-11", 4, {"by": "user"}),
        ("months/2026-11", 2, {"by": "lab"}),
    ):  # fmt: skip
        asked = {"limit": "1", **further}
        rows, after = list[str](), "begin"
        while after:
            more = {"after": after} if rows else {}
            answer = client.get(
                f"/api/v1/{path}", params=asked | more | {"format": "csv"}, headers=root
            )
            assert answer.status_code == 200, answer.text
            assert answer.headers["content-type"].startswith("text/csv")
            head, *found = answer.text.splitlines()
            assert "," in head
            rows += found
            after = answer.headers.get("X-Next", "")
        assert len(rows) == len({*rows}) == count
        assert client.get(f"/api/v1/{path}", params=asked, headers=root).json()
        wrong = client.get(f"/api/v1/{path}", params=asked | {"after": HOSTILE}, headers=root)
        assert (wrong.status_code, "not in this list" in wrong.text) == (400, True)


def test_december_is_no_month_of_bills_yet(client: TestClient, url: str) -> None:
    assert NOW_S < DECEMBER_S
    told = client.get("/bills/2026-12", headers=bearer(url, "root")).text
    assert "Nothing was billed in this month" in told
    assert "Close 2026-12" not in told
