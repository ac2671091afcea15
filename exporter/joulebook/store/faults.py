"""What sqlite says went wrong, as an error that tells people what to do."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from joulebook.errors import LedgerCorrupt, LedgerError, LedgerUnavailable

_LATER = "; nothing is lost: booking goes on by itself once that is put right"

_UNAVAILABLE = {
    sqlite3.SQLITE_FULL: "no space left: free some on the file system of {folder}",
    sqlite3.SQLITE_BUSY: "another program has it locked: `fuser {path}` shows which",
    sqlite3.SQLITE_LOCKED: "another program has it locked: `fuser {path}` shows which",
    sqlite3.SQLITE_PROTOCOL: "another program has it locked: `fuser {path}` shows which",
    sqlite3.SQLITE_READONLY: "it cannot be written to: check the owner and mode of the file and"
    " of {folder}, and that the file system is not mounted read-only",
    sqlite3.SQLITE_PERM: "access is denied: check the owner and mode of the file and of {folder}",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened: check the owner and mode of the file and of"
    " {folder}, free space, and the limit on open files",
    sqlite3.SQLITE_IOERR: "the disk would not read or write (broken, over quota, or turned"
    " read-only): see `dmesg`, and check the file system of {folder}",
    sqlite3.SQLITE_NOMEM: "out of memory",
    sqlite3.SQLITE_INTERRUPT: "interrupted",
}
_CORRUPT = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


def corrupt(path: Path, detail: str) -> LedgerCorrupt:
    """The error for a damaged file; `detail` says what is wrong with it."""
    return LedgerCorrupt(
        f"ledger {path} is damaged ({detail}): stop joulebook, keep a copy of {path.name} with"
        f" its -wal and -shm files, then restore a backup or save what can be read with"
        f" `sqlite3 {path} .recover | sqlite3 rescued.db`; with the file moved away, joulebook"
        f" begins a new ledger"
    )


def explain(exc: Exception, path: Path, *, writing: bool = True) -> LedgerError:
    """The `LedgerError` for an exception that came out of sqlite or of encoding a value for it.

    `LedgerUnavailable` where the same call may succeed later, `LedgerCorrupt` for damage, else
    plain `LedgerError`: a value that no ledger can hold, or a file changed by other hands.
    `writing` says that it was a commit that failed, and must be told what becomes of it.
    """
    if isinstance(exc, OverflowError | UnicodeError | sqlite3.IntegrityError):
        return LedgerError(
            f"ledger {path}: a value cannot be stored, nothing was written (integers must fit"
            f" in 64 bits, text must be valid Unicode): {exc}"
        )
    code = getattr(exc, "sqlite_errorcode", None)
    if code is None:
        return LedgerError(f"ledger {path}: {exc}")
    detail = f"{exc}, {getattr(exc, 'sqlite_errorname', code)}"
    primary = code & 0xFF  # the rest of the code is detail
    if primary in _CORRUPT:
        return corrupt(path, detail)
    advice = _UNAVAILABLE.get(primary)
    if advice is None:
        return LedgerError(f"ledger {path} was refused by sqlite: {detail}")
    text = advice.format(path=path, folder=path.parent)
    return LedgerUnavailable(f"ledger {path}: {text}{_LATER if writing else ''} ({detail})")
