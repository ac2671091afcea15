"""`joulebook release`: ask a running daemon to release the driver for a while.

The request is a small file next to the ledger, so it needs no port and survives a restart of the
daemon (as during a driver upgrade). Only users who may write the ledger may request it.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

import msgspec

from joulebook.errors import ConfigError
from joulebook.log import LogOnce
from joulebook.reloaded_file import Note, ReloadedFile

log = logging.getLogger(__name__)
_once = LogOnce(log)


class Request(msgspec.Struct, frozen=True):
    """A request to release until `until_s` (UTC seconds). The daemon sets `granted`."""

    until_s: float
    granted: bool = False


REQUEST = msgspec.json.Decoder(Request)


def request_path(ledger: Path) -> Path:
    """Return where the request for the daemon of this ledger lies."""
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
    """Wait until the daemon has released the driver; `False` if not in time."""
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
        self._file = ReloadedFile(self._load, first=None)

    def wanted(self) -> bool:
        """Return whether to release the driver now. An expired request is removed."""
        try:
            self._file.refresh()
        except OSError as e:
            # What was asked for still holds until its time is over.
            _once.failed("look", "cannot check for requests at %s: %s", self._path, e.strerror)
            return _holds(self._file.value)
        _once.recovered("look", "%s can be checked again", self._path)
        if _holds(self._file.value):
            return True
        if self._file.value is not None:
            self._remove()
        return False

    def grant(self) -> None:
        """Confirm that the driver was released."""
        request = self._file.value
        if request is None or request.granted or _read(self._path) != request:
            return  # Asked again meanwhile, or withdrawn: the next tick sees it.
        try:
            _write(self._path, msgspec.structs.replace(request, granted=True))
        except OSError as e:
            _once.failed("grant", "cannot confirm the release in %s: %s", self._path, e.strerror)
            return
        _once.recovered("grant", "%s can be written again", self._path)

    def _load(self, note: Note) -> Request | None:
        path = note(self._path)
        return _load(path)

    def _remove(self) -> None:
        if _holds(_read(self._path)):
            return  # Asked again since it was read: the next tick grants it.
        try:
            self._path.unlink(missing_ok=True)
        except OSError as e:
            _once.failed("remove", "cannot remove %s: %s", self._path, e.strerror)
        else:
            _once.recovered("remove", "%s was removed", self._path)


def _holds(request: Request | None) -> bool:
    return request is not None and time.time() < request.until_s


def _read(path: Path) -> Request | None:
    try:
        return _load(path)
    except OSError:
        return None


def _load(path: Path) -> Request | None:
    """Return the request, if there is one; what cannot be understood is over. Raises `OSError`."""
    try:
        return REQUEST.decode(path.read_bytes())
    except FileNotFoundError:
        return None
    except (IsADirectoryError, msgspec.DecodeError, RecursionError):
        return Request(until_s=0.0)


def _write(path: Path, request: Request) -> None:
    new = path.with_name(path.name + ".new")
    new.write_bytes(msgspec.json.encode(request))
    new.replace(path)
