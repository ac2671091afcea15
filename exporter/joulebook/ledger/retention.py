"""Delete old rows in small batches; the contract of a store, and the meaning of SQLite errors."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Protocol

from joulebook.clock import Anchor
from joulebook.core.ledger.state import Books, Entry
from joulebook.errors import LedgerCorrupt, LedgerError, LedgerUnavailable
from joulebook.ledger import charges
from joulebook.units import NS_PER_HOUR, NS_PER_S

_LATER = "; nothing is lost: booking resumes by itself once that is fixed"

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
    sqlite3.SQLITE_IOERR: "the disk failed to read or write (broken, over quota, or read-only): "
    "see `dmesg`, and check the file system of {folder}",
    sqlite3.SQLITE_NOMEM: "out of memory",
    sqlite3.SQLITE_INTERRUPT: "interrupted",
}
_CORRUPT = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


def corrupt(path: Path, detail: str) -> LedgerCorrupt:
    """Return the error for a damaged file; `detail` says what is wrong with it."""
    return LedgerCorrupt(
        f"ledger {path} is damaged ({detail}): stop joulebook, keep a copy of {path.name} with "
        "its -wal and -shm files, then restore a backup or save what can be read with `sqlite3 "
        f"{path} .recover | sqlite3 rescued.db`; with the file moved away, Joulebook starts a "
        "new ledger"
    )


def explain(exc: Exception, path: Path, *, writing: bool = True) -> LedgerError:
    """Return the `LedgerError` for an exception from SQLite or from encoding a value.

    `LedgerUnavailable` if the same call may succeed later, `LedgerCorrupt` for damage, else plain
    `LedgerError`: an invalid value, or a file changed by others. `writing`: a commit failed, so the
    message says what becomes of it.
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
        return LedgerError(f"ledger {path} was rejected by SQLite: {detail}")
    text = advice.format(path=path, folder=path.parent)
    return LedgerUnavailable(f"ledger {path}: {text}{_LATER if writing else ''} ({detail})")


class Store(Protocol):
    """Keeps the books of one node. Raises only `joulebook.errors.LedgerError` and its children."""

    def load(self) -> tuple[Books, Anchor | None]:
        """Return the books as last committed (empty books and no anchor: a fresh ledger)."""

    def commit(self, before: Books, after: Books, entry: Entry, anchor: Anchor) -> None:
        """Make one tick durable, whole or not at all.

        Writes what differs (by identity) between `before`, the books last loaded or committed,
        and `after`, and the entry. Raises `LedgerUnavailable` if nothing was written: the caller
        keeps what it has and tries again with the next tick.
        """

    def close(self) -> None:
        """Close the ledger."""


PERIOD_NS = NS_PER_HOUR
"""The least time between two batches."""

BATCH = 5_000
"""Rows of each table that one batch deletes at most: some ten milliseconds of work."""

_DAY_S = 86_400

_OLD_POSTINGS = "SELECT quarter_s FROM postings WHERE quarter_s < ? ORDER BY quarter_s LIMIT ?"

# The energy of what goes is kept with its meter, so that the ledger can still be balanced.
_SUMS = "SELECT sum(energy_uj), meter_id FROM postings WHERE quarter_s <= ? GROUP BY meter_id"
_CARRY = "UPDATE meters SET expired_uj = expired_uj + ? WHERE id = ?"

_DROP_POSTINGS = "DELETE FROM postings WHERE quarter_s <= ?"

_DROP_GAPS = """
DELETE FROM gaps WHERE id IN (
    SELECT id FROM gaps WHERE t1_utc_ns < ? ORDER BY t1_utc_ns LIMIT ?
)
"""

_DROP_WORKLOADS = """
DELETE FROM workloads WHERE id IN (
    SELECT id FROM workloads AS w
    WHERE touched_s < ?
      AND NOT EXISTS (
          SELECT 1 FROM postings AS p WHERE p.workload_id = w.id AND p.workload_id > 0
      )
      AND NOT EXISTS (
          SELECT 1 FROM charges AS c WHERE c.workload_id = w.id AND c.workload_id > 0
      )
    ORDER BY touched_s LIMIT ?
)
"""


def drop_old(conn: sqlite3.Connection, days: int, now_s: int) -> None:
    """Delete one batch older than `days` at `now_s` (UTC), in the caller's transaction.

    A quarter hour goes whole, so that no batch leaves half a quarter behind.
    Raises `sqlite3.Error`.
    """
    before_s = now_s - days * _DAY_S
    old = conn.execute(_OLD_POSTINGS, (before_s, BATCH)).fetchall()
    if old:
        last = old[-1]
        conn.executemany(_CARRY, conn.execute(_SUMS, last).fetchall())
        conn.execute(_DROP_POSTINGS, last)
    charges.drop_old(conn, before_s, BATCH)
    conn.execute(_DROP_GAPS, (before_s * NS_PER_S, BATCH))
    conn.execute(_DROP_WORKLOADS, (before_s, BATCH))
