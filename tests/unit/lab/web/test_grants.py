"""Nonces, links, sessions and tokens: how long they are good, how often, and what is kept."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from starlette.testclient import TestClient
from tests.unit.lab.collected.test_forget import dump
from tests.unit.lab.web.served import NOW_S, application, filled, served

from joulebook.errors import InputError
from joulebook.lab.collected.database import Database, connect
from joulebook.lab.web import grants as made_of
from joulebook.lab.web.grants import LINK_S, NONCE_S, SESSION_S, GrantKind, Grants, Throttle


class Clock:
    """UTC seconds, as a test sets them."""

    now_s = float(NOW_S)

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def url(tmp_path: Path) -> str:
    return filled(tmp_path)


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    with connect(url) as database:
        yield database


def test_a_nonce_is_good_once_for_a_minute_on_every_server(
    url: str, database: Database, clock: Clock
) -> None:
    assert (NONCE_S, LINK_S, SESSION_S) == (60, 300, 12 * 3600)
    grants = Grants(database, clock)
    first, late = grants.nonce(), grants.nonce()
    with connect(url) as other:
        assert Grants(other, clock).use_nonce(first)
    assert not grants.use_nonce(first)
    clock.now_s += 60
    assert not grants.use_nonce(late)
    assert not grants.use_nonce("")
    assert grants.nonce()
    assert database.rows("SELECT count(1) FROM lab_nonces") == [(1,)], "old ones are cleared away"


def test_nonces_are_so_many_at_once(
    database: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(made_of, "_MOST_NONCES", 3)
    grants = Grants(database, clock)
    for _ in range(3):
        grants.nonce()
    with pytest.raises(InputError) as told:
        grants.nonce()
    assert told.value.reason == "busy"
    clock.now_s += 60
    assert grants.nonce()


@pytest.mark.parametrize(
    ("kind", "good_s"), [(GrantKind.LINK, LINK_S), (GrantKind.SESSION, SESSION_S)]
)
def test_secrets_end(database: Database, clock: Clock, kind: GrantKind, good_s: int) -> None:
    grants = Grants(database, clock)
    secret = grants.make(kind, "ada", "munge", good_s, accounts={"nlp"})
    clock.now_s += good_s - 1
    found = grants.of(secret, kind)
    assert found is not None
    assert found[:2] == ("ada", "munge")
    assert found.accounts == {"nlp"}
    assert not [each for each in GrantKind if each != kind and grants.of(secret, each)]
    clock.now_s += 1
    assert grants.of(secret, kind) is None
    assert grants.redeem(secret, kind) is None
    assert secret not in repr(dump(database)), "only its SHA-256 is kept"


def test_a_link_opens_one_session_and_its_secret_is_in_no_log(
    url: str, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    secret = Grants(database, lambda: NOW_S).make(GrantKind.LINK, "ada", "munge", LINK_S)
    path = f"/enter/{secret}"
    with served(url) as client:
        for _ in range(2):
            looked = client.get(path)
            assert looked.status_code == 200, "looking uses nothing up"
            assert looked.headers["Referrer-Policy"] == "no-referrer"
            assert looked.headers["Cache-Control"] == "no-store"
            assert not looked.cookies
        # A page of somebody else's cannot press the button.
        assert client.post(path, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
        entered = client.post(path, follow_redirects=False)
        assert entered.status_code == 303
        assert secret not in entered.headers["Location"]
        cookie = entered.headers["Set-Cookie"]
        assert all(word in cookie for word in ("HttpOnly", "SameSite=lax", "Max-Age=43200"))
        assert client.get("/api/v1/whoami").json()["user"] == "ada"
        client.cookies.clear()
        again = client.post(path)
        assert (again.status_code, "used, or is older" in again.text) == (403, True)
        assert client.get(path).status_code == 403
    # What a client asks for is in the client's own log only.
    ours = [each for each in caplog.records if each.name.startswith(("joulebook", "uvicorn"))]
    assert secret not in "".join(each.getMessage() for each in ours)


def test_a_throttle_forgets_after_a_minute() -> None:
    clock = Clock()
    throttle = Throttle(3, clock)
    assert [throttle.allows("a") for _ in range(5)] == [True] * 3 + [False] * 2
    assert throttle.allows("b")
    clock.now_s += 60
    assert throttle.allows("a")
    for n in range(5000):
        throttle.allows(f"x{n}")
    assert len(throttle._seen) <= 1024


def test_reads_and_changes_are_limited(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("joulebook.lab.web.app._QUESTIONS", 4)
    monkeypatch.setattr("joulebook.lab.web.app._CHANGES", 2)
    with served(url) as client:
        statuses = [client.get("/api/v1/whoami").status_code for _ in range(6)]
        assert statuses == [200] * 4 + [429] * 2
        # Somebody with a secret of their own is not held up by others of the same address.
        headers = {"Authorization": "Bearer mine"}
        assert client.get("/api/v1/whoami", headers=headers).status_code == 401
        statuses = [client.post("/api/v1/link").status_code for _ in range(3)]
        assert statuses == [401, 401, 429]
        assert client.post("/api/v1/link", headers=headers).status_code == 429
        assert client.post("/api/v1/link").headers["Retry-After"] == "60"


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_cookie_of_https_goes_there_only(url: str, database: Database, scheme: str) -> None:
    secret = Grants(database, lambda: NOW_S).make(GrantKind.LINK, "ada", "munge", LINK_S)
    with application(url) as app:
        app.state.lab = msgspec.structs.replace(app.state.lab, url=f"{scheme}://testserver")
        client = TestClient(app, follow_redirects=False)
        cookie = client.post(f"/enter/{secret}").headers["Set-Cookie"]
    assert ("Secure" in cookie) == (scheme == "https")
