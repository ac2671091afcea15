"""What systemd is reported, by a socket in its place."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from joulebook.node.health import ServiceManager


@pytest.fixture(params=["file", "abstract"])
def manager(request: pytest.FixtureRequest, short_tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        abstract = f"\0joulebook-test-{os.getpid()}"
        listening.bind(abstract if request.param == "abstract" else str(short_tmp_path / "notify"))
        listening.settimeout(20)
        yield listening


def environ_of(manager: socket.socket, **more: str) -> dict[str, str]:
    name = manager.getsockname()
    address = "@" + name[1:].decode() if isinstance(name, bytes) else name
    return {"NOTIFY_SOCKET": address, **more}


def test_up_alive_and_going(manager: socket.socket) -> None:
    supervisor = ServiceManager(environ_of(manager, WATCHDOG_USEC="20000"))
    with supervisor.reported(lambda: (True, "healthy")):
        assert manager.recv(100) == b"READY=1"
        assert manager.recv(100) == b"WATCHDOG=1"
        assert manager.recv(100) == b"WATCHDOG=1"
    while (said := manager.recv(100)) == b"WATCHDOG=1":
        pass
    assert said == b"STOPPING=1"


def test_a_hang_is_silence(manager: socket.socket) -> None:
    asked: list[int] = []

    def hung() -> tuple[bool, str]:
        asked.append(1)
        return False, "a sensor has been hanging for 301 s"

    with ServiceManager(environ_of(manager, WATCHDOG_USEC="2000")).reported(hung):
        assert manager.recv(100) == b"READY=1"
        while len(asked) < 3:
            pass
    assert manager.recv(100) == b"STOPPING=1"


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"NOTIFY_SOCKET": "/nowhere/at/all"},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"},
    ],
)
def test_without_a_manager_nothing_happens(environ: dict[str, str]) -> None:
    supervisor = ServiceManager(environ)
    assert supervisor.every_s == 0
    with supervisor.reported(lambda: (True, "healthy")):
        pass


def test_a_manager_that_does_not_read_holds_nothing_up(manager: socket.socket) -> None:
    supervisor = ServiceManager(environ_of(manager))
    sent = 0
    while supervisor.say("WATCHDOG=1"):
        sent += 1
    assert 0 < sent < 10_000, "what the kernel keeps, and no more"
