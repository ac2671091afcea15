"""Basic authentication: right, wrong, unknown, changed, and what it costs."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import bcrypt
import pytest

from joulebook.server.auth import HostNames, Passwords
from joulebook.server.worker_pool import Busy


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


@pytest.mark.parametrize("scraper_from", ["10.0.0.2", "10.0.0.66"])
def test_a_flood_shuts_nobody_out(
    guard: Passwords,
    checks: list[bytes],
    monkeypatch: pytest.MonkeyPatch,
    scraper_from: str,
) -> None:
    """24 clients at 10.0.0.66 guess without a pause, more than may wait; a scraper comes late."""
    monkeypatch.setattr("joulebook.server.auth._LINE", 16)

    async def run() -> int:
        over = False

        async def guess(client: int) -> None:
            n = 0
            while not over:
                n += 1
                with contextlib.suppress(Busy):
                    assert not await guard.check(USERS, basic("ada", f"{client}-{n}"), "10.0.0.66")
                await asyncio.sleep(0)

        flood = [asyncio.create_task(guess(client)) for client in range(24)]
        async with asyncio.timeout(120):
            while len(checks) < 20:
                await asyncio.sleep(0.001)
            before, tries, right = len(checks), 0, False
            while not right:
                tries += 1
                with contextlib.suppress(Busy):
                    right = await guard.check(USERS, basic("ada", "secret"), scraper_from)
                await asyncio.sleep(0)
        took = len(checks) - before
        over = True
        await asyncio.gather(*flood)
        # From an address of its own nothing of the flood is in the way.
        assert scraper_from == "10.0.0.66" or (tries == 1 and took < 100)
        return tries

    assert asyncio.run(run()) >= 1


def test_who_waits_in_vain_is_told(guard: Passwords, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("joulebook.server.auth._WAIT_S", 0.01)
    hangs = threading.Event()
    monkeypatch.setattr(bcrypt, "checkpw", lambda *_: hangs.wait())

    async def run() -> None:
        first = asyncio.create_task(guard.check(USERS, basic("ada", "a")))
        await asyncio.sleep(0)
        with pytest.raises(Busy, match=r"no turn in 0\.01 s"):
            await guard.check(USERS, basic("ada", "b"))
        hangs.set()
        assert await first
        assert not guard._turns._waiting

    asyncio.run(run())


def test_names_of_this_machine_are_known_and_those_of_web_pages_are_not(tmp_path: Path) -> None:
    conf = tmp_path / "resolv.conf"
    conf.write_text("# of the site\nsearch ai.uni.example cluster\nnameserver 10.0.0.1\n")
    hosts = HostNames(("gpu01", "joulebook.lab.example"), conf)
    known = [
        None, b"", b"localhost:9816", b"127.0.0.1:9816", b"10.1.2.3", b"[::1]:9816", b"[fe80::1]",
        b"gpu01:9816", b"GPU01", b"node7", b"gpu02.ai.uni.example:9816", b"gpu02.ai.uni.example.",
        b"joulebook.monitoring.svc:9816", b"joulebook.monitoring.svc.cluster.local",
        b"gpu01.internal", b"Joulebook.Lab.Example:443",
    ]  # fmt: skip
    assert [host for host in known if not hosts.has(host)] == []
    foreign = [
        b"evil.example:9816", b"rebind.evil.example", b"ai.uni.example.evil.example",
        b"xai.uni.example", b"127.0.0.1.nip.example:9816", b"gpu01.evil.example",
        b"localhost.evil.example", b"evil.example:80:9816", b"\xff\xfe.example", b"cluster.example",
    ]  # fmt: skip
    assert [host for host in foreign if hosts.has(host)] == []
    assert HostNames((), tmp_path / "none").has(b"10.0.0.1")
