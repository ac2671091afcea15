"""Basic authentication: right, wrong, unknown, changed, and what it costs."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator

import bcrypt
import pytest

from joulebook.server.auth import Passwords


def hashed(password: str) -> bytes:
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(4))


def basic(user: str, password: str) -> bytes:
    return b"Basic " + base64.b64encode(f"{user}:{password}".encode())


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Every digest that bcrypt was asked about."""
    made: list[bytes] = []
    real = bcrypt.checkpw

    def checkpw(password: bytes, digest: bytes) -> bool:
        made.append(digest)
        return real(password, digest)

    monkeypatch.setattr(bcrypt, "checkpw", checkpw)
    return made


@pytest.fixture
def guard() -> Iterator[Passwords]:
    guard = Passwords()
    yield guard
    guard.close()


USERS = {"ada": hashed("secret"), "bob": hashed("päss:word")}


def test_right_and_wrong(guard: Passwords, checks: list[bytes]) -> None:
    async def run() -> None:
        for _ in range(3):
            assert await guard.check(USERS, basic("ada", "secret"))
            assert await guard.check(USERS, basic("bob", "päss:word"))
            assert not await guard.check(USERS, basic("ada", "päss:word"))
            assert not await guard.check(USERS, basic("eve", "secret"))

    asyncio.run(run())
    # Each once, and an unknown user costs what a known one does, whatever the answer.
    assert checks == [USERS["ada"], USERS["bob"], USERS["ada"], USERS["ada"]]


def test_a_changed_password_is_asked_again(guard: Passwords, checks: list[bytes]) -> None:
    async def run() -> None:
        assert await guard.check(USERS, basic("ada", "secret"))
        changed = {"ada": hashed("other")}
        assert not await guard.check(changed, basic("ada", "secret"))
        assert await guard.check(changed, basic("ada", "other"))
        assert not await guard.check({"bob": USERS["bob"]}, basic("ada", "secret"))

    asyncio.run(run())
    assert len(checks) == 4


def test_wrong_ones_do_not_displace_right_ones(guard: Passwords, checks: list[bytes]) -> None:
    async def run() -> None:
        assert await guard.check(USERS, basic("ada", "secret"))
        for n in range(200):
            assert not await guard.check(USERS, basic("ada", f"guess{n}"))
        before = len(checks)
        assert await guard.check(USERS, basic("ada", "secret"))
        assert len(checks) == before

    asyncio.run(run())
    assert len(guard._wrong) <= 64


def test_htpasswd_hashes(guard: Passwords) -> None:
    users = {"ada": USERS["ada"].replace(b"$2b$", b"$2y$")}
    assert asyncio.run(guard.check(users, basic("ada", "secret")))


def test_passwords_longer_than_bcrypt_reads(guard: Passwords) -> None:
    users = {"ada": hashed("x" * 72)}
    assert asyncio.run(guard.check(users, basic("ada", "x" * 80)))


@pytest.mark.parametrize(
    "header",
    [
        None,
        b"",
        b"Basic",
        b"Basic !!!",
        b"Bearer abc",
        b"Basic " + base64.b64encode(b"ada"),
        b"Basic " + base64.b64encode(b"\xff\xfe:x"),
        b"Basic " + base64.b64encode(b"ada:\xff\x00"),
        b"Basic " + base64.b64encode(b"ada:" + b"x" * 5000),
    ],
)
def test_malformed(guard: Passwords, header: bytes | None) -> None:
    assert not asyncio.run(guard.check(USERS, header))
