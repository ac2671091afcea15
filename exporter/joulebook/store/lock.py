"""The lock that keeps a second daemon off a ledger."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from joulebook.errors import LedgerBusy, LedgerUnavailable


class LedgerLock:
    """Holds `<ledger>.lock` until `release`, or until the process ends, however it ends.

    A file of its own, because sqlite's locks on the ledger itself are dropped as soon as anything
    in the process closes a descriptor of that file. The pid written inside is for people only.
    Raises `LedgerBusy` when somebody else holds it, `LedgerUnavailable` when it cannot be made.
    """

    def __init__(self, ledger: Path) -> None:
        path = ledger.with_name(ledger.name + ".lock")
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            self._fd = os.open(path, flags, 0o640)
        except OSError as exc:
            raise LedgerUnavailable(f"lock of ledger {ledger}: {exc}") from exc
        try:
            self._take(ledger)
        except BaseException:
            os.close(self._fd)
            raise

    def _take(self, ledger: Path) -> None:
        try:
            # flock, not lockf: it also holds against the same process, and no close() of another
            # descriptor drops it.
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            pid = os.pread(self._fd, 20, 0).decode("ascii", "replace").strip() or "unknown"
            raise LedgerBusy(
                f"ledger {ledger} is in use by another joulebook, pid {pid}: only one may run on"
                f" a node; stop that one, or give this one another ledger.path"
            ) from exc
        except OSError as exc:
            raise LedgerUnavailable(f"lock of ledger {ledger}: {exc}") from exc
        try:
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)
        except OSError as exc:
            raise LedgerUnavailable(f"lock of ledger {ledger}: {exc}") from exc

    def release(self) -> None:
        """Let go. The file stays: to delete it would let two others lock two different files."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
