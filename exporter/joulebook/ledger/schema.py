"""Opening the file: is it ours, is it sound, and does it have today's tables."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import msgspec

from joulebook.errors import LedgerError, LedgerTooNew
from joulebook.ledger import retention, state

MIGRATIONS = Path(__file__).parent / "migrations"
"""Numbered SQL files; the number of the last one applied is the file's `user_version`."""

APPLICATION_ID = 0x4A4C424B
"""`JLBK`, at offset 68 of the file, for `file(1)` and for us."""

_BUSY_S = 0.25
"""How long to wait for another program's lock; a tick has a second in total."""

_WAL_PAGES = 1_000
"""Pages of the write-ahead log after which it is copied into the ledger: 4 MB."""

_WAL_KEEP = 16 * 1024 * 1024
"""A write-ahead log that was larger (a reader held it back) is cut to this many bytes."""


def connect(path: Path, mode: str) -> sqlite3.Connection:
    """A connection to the file, which must exist; `mode` is `ro` or `rw`. It begins no
    transactions by itself. Raises `sqlite3.Error`.
    """
    conn = sqlite3.connect(
        f"file:{quote(str(path))}?mode={mode}",
        uri=True,
        timeout=_BUSY_S,
        isolation_level=None,
        check_same_thread=False,
    )
    try:
        # A ledger is data: no trigger or view that somebody planted in it may call functions.
        conn.execute("PRAGMA trusted_schema = OFF")
        conn.execute("PRAGMA cell_size_check = ON")
    except BaseException:
        conn.close()
        raise
    return conn


@contextmanager
def transaction(conn: sqlite3.Connection, path: Path, *, opening: bool = False) -> Iterator[None]:
    """One write transaction: whole, or rolled back with a `LedgerError` that says why.

    `opening`: nothing is booked yet, so nothing can go on by itself.
    """
    try:
        roll_back(conn)  # what a disk that failed did not let it do before
        conn.execute("BEGIN IMMEDIATE")
        yield
        conn.execute("COMMIT")
    except BaseException as exc:
        with suppress(sqlite3.Error):
            roll_back(conn)
        if isinstance(exc, sqlite3.Error | OverflowError | UnicodeError):
            raise retention.explain(exc, path, writing=not opening) from exc
        raise


def roll_back(conn: sqlite3.Connection) -> None:
    """End a transaction without a trace, if sqlite has not done so by itself."""
    if conn.in_transaction:
        conn.execute("ROLLBACK")


def steps(directory: Path) -> list[Path]:
    """Return the migrations in their order; the first is number 1."""
    return sorted(directory.glob("[0-9][0-9][0-9][0-9]_*.sql"))


def version(conn: sqlite3.Connection, path: Path) -> int:
    """Return the schema of the file, 0 if it is empty.

    Raises `LedgerTooNew`; `LedgerError` if it is a file of something else; `sqlite3.Error`.
    """
    known = len(steps(MIGRATIONS))
    (found,) = conn.execute("PRAGMA user_version").fetchone()
    (application_id,) = conn.execute("PRAGMA application_id").fetchone()
    empty = conn.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is None
    if application_id != APPLICATION_ID and not (empty and application_id == found == 0):
        raise LedgerError(
            f"{path} is an SQLite file, but not a Joulebook ledger: check ledger.path"
        )
    if found > known:
        raise LedgerTooNew(
            f"ledger {path} has schema {found}, but this version supports schemas up to {known}: "
            "install the newer version again, or move the ledger away to start a new one"
        )
    return int(found)


def open_ledger(path: Path) -> sqlite3.Connection:
    """Open the file for writing, check it, and bring its schema up to date.

    Raises `LedgerError` and its children; nothing is changed in a file that is not ours, too new
    or damaged.
    """
    try:
        conn = connect(path, "rw")
    except sqlite3.Error as exc:
        raise retention.explain(exc, path, writing=False) from exc
    try:
        found = version(conn, path)
        _check(conn, path)
        conn.execute("PRAGMA journal_mode = WAL")
        conn.execute("PRAGMA synchronous = FULL")
        conn.execute(f"PRAGMA wal_autocheckpoint = {_WAL_PAGES}")
        conn.execute(f"PRAGMA journal_size_limit = {_WAL_KEEP}")
        # Overwrites what is deleted only where it writes anyway.
        conn.execute("PRAGMA secure_delete = FAST")
        # A file that may only be read is opened nevertheless, and would fail at the first commit.
        conn.execute("BEGIN IMMEDIATE")
        conn.execute(f"PRAGMA user_version = {found}")
        conn.execute("ROLLBACK")
        _migrate(conn, path, found)
    except sqlite3.Error as exc:
        conn.close()
        raise retention.explain(exc, path, writing=False) from exc
    except (msgspec.MsgspecError, RecursionError) as exc:
        conn.close()
        raise retention.corrupt(path, f"the books cannot be read: {exc}") from exc
    except BaseException:
        conn.close()
        raise
    return conn


def _check(conn: sqlite3.Connection, path: Path) -> None:
    # A broken tree is better found before the first booking than in the middle of one.
    (verdict,) = conn.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise retention.corrupt(path, " ".join(str(verdict).split()))


def _migrate(conn: sqlite3.Connection, path: Path, found: int) -> None:
    migrations = steps(MIGRATIONS)
    for number, step in enumerate(migrations, start=1):
        if number <= found:
            continue
        with transaction(conn, path, opening=True):
            for statement in _statements(step.read_text()):
                conn.execute(statement)
            if number == len(migrations):
                state.rekey(conn)
            # Both live in the header of the file, and are rolled back with the rest.
            conn.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            conn.execute(f"PRAGMA user_version = {number}")


def _statements(script: str) -> Iterator[str]:
    # Not executescript: that would commit the open transaction first.
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
