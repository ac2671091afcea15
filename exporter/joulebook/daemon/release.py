"""`joulebook release`: asking a running daemon to let go of the driver for a while.

The request is a small file beside the ledger, so it needs no port and outlives a restart of the
daemon (a driver upgrade may well restart it). Only who may write the ledger may ask.
"""

from __future__ import annotations

import time
from pathlib import Path

import msgspec

from joulebook.errors import ConfigError


class Request(msgspec.Struct, frozen=True):
    """Let go until `until_s` (UTC seconds). `granted` is set by the daemon once it has."""

    until_s: float
    granted: bool = False


def request_path(ledger: Path) -> Path:
    """Where the request for the daemon of this ledger lies."""
    return ledger.with_name(ledger.name + ".release")


def ask(ledger: Path, until_s: float) -> None:
    """Write a request. Raises `ConfigError` if this user may not."""
    path = request_path(ledger)
    try:
        _write(path, Request(until_s))
    except OSError as e:
        raise ConfigError(
            f"cannot write {path}: {e.strerror}; run this as the daemon's user"
        ) from e


def granted(ledger: Path, patience_s: float) -> bool:
    """Wait until the daemon has let go; `False` if it has not in time."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        request = _read(request_path(ledger))
        if request is None or request.granted:
            return True
        time.sleep(0.1)
    return False


class ReleaseDesk:
    """The daemon's side: is a release wanted now?"""

    def __init__(self, ledger: Path) -> None:
        self._path = request_path(ledger)
        self._seen: tuple[int, int] | None = None
        self._request: Request | None = None

    def wanted(self) -> bool:
        """Whether the driver is to be let go of now. A request whose time is over is removed."""
        try:
            stat = self._path.stat()
        except OSError:
            self._request = self._seen = None
            return False
        if (stat.st_mtime_ns, stat.st_size) != self._seen:
            self._seen = (stat.st_mtime_ns, stat.st_size)
            self._request = _read(self._path)
        if self._request is None or time.time() >= self._request.until_s:
            self._path.unlink(missing_ok=True)
            return False
        return True

    def grant(self) -> None:
        """Say that the driver was let go of."""
        if self._request is not None and not self._request.granted:
            self._request = msgspec.structs.replace(self._request, granted=True)
            _write(self._path, self._request)


def _read(path: Path) -> Request | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Request)
    except (OSError, msgspec.DecodeError):
        return None


def _write(path: Path, request: Request) -> None:
    new = path.with_name(path.name + ".new")
    new.write_bytes(msgspec.json.encode(request))
    new.replace(path)
