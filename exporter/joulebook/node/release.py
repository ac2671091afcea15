"""`joulebook release`: asking a running daemon to let go of the driver for a while.

The request is a small file beside the ledger, so it needs no port and outlives a restart of the
daemon (a driver upgrade may well restart it). Only who may write the ledger may ask.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

import msgspec

from joulebook.errors import ConfigError
from joulebook.log import once, recovered

log = logging.getLogger(__name__)


class Request(msgspec.Struct, frozen=True):
    """Let go until `until_s` (UTC seconds). `granted` is set by the daemon once it has."""

    until_s: float
    granted: bool = False


REQUEST = msgspec.json.Decoder(Request)


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


class ReleaseHandler:
    """The daemon's side: is a release wanted now?

    A disk that fails is logged, and no more: the tick loop must not end for it.
    """

    def __init__(self, ledger: Path) -> None:
        self._path = request_path(ledger)
        self._seen: tuple[int, int, int] | None = None
        self._request: Request | None = None

    def wanted(self) -> bool:
        """Whether the driver is to be let go of now. A request whose time is over is removed."""
        try:
            stat = self._path.stat()
        except FileNotFoundError:
            self._request = self._seen = None
            return False
        except OSError as e:
            # What was asked for still holds until its time is over.
            once(log, "look", "cannot check for requests at %s: %s", self._path, e.strerror)
            return _holds(self._request)
        recovered(log, "look", "%s can be checked again", self._path)
        seen = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        if seen != self._seen:
            self._seen = seen
            self._request = _read(self._path)
        if _holds(self._request):
            return True
        self._remove()
        return False

    def grant(self) -> None:
        """Say that the driver was let go of."""
        if self._request is None or self._request.granted:
            return
        if _read(self._path) != self._request:
            return  # Asked again meanwhile, or withdrawn: the next tick sees it.
        granted = msgspec.structs.replace(self._request, granted=True)
        try:
            _write(self._path, granted)
        except OSError as e:
            once(log, "grant", "cannot confirm the release in %s: %s", self._path, e.strerror)
            return
        recovered(log, "grant", "%s can be written again", self._path)
        self._request = granted

    def _remove(self) -> None:
        if _holds(newer := _read(self._path)):
            self._request = newer  # Asked again since it was read: the next tick grants it.
            self._seen = None
            return
        try:
            self._path.unlink(missing_ok=True)
        except OSError as e:
            once(log, "remove", "cannot remove %s: %s", self._path, e.strerror)
        else:
            recovered(log, "remove", "%s was removed", self._path)


def _holds(request: Request | None) -> bool:
    return request is not None and time.time() < request.until_s


def _read(path: Path) -> Request | None:
    try:
        return REQUEST.decode(path.read_bytes())
    except (OSError, msgspec.DecodeError, RecursionError):
        return None


def _write(path: Path, request: Request) -> None:
    new = path.with_name(path.name + ".new")
    new.write_bytes(msgspec.json.encode(request))
    new.replace(path)
