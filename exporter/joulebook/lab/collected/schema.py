"""The tables of the collected ledger, and the database under it, whichever it is.

Tables are created and upgraded by numbered steps. Values shared by many rows have a number, created
on first use.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from joulebook.errors import LedgerError, LedgerTooNew

Row = tuple[Any, ...]


class Database(Protocol):
    """One connection. Raises `LedgerUnavailable` where the same may work later (the database is
    down, locked, full), else `LedgerError`.
    """

    name: str
    """What people are shown: the URL without a password."""
    lock: str
    """Suffix of a SELECT that locks its rows until the transaction ends."""

    def rows(self, sql: str, values: Sequence[object] = ()) -> list[Row]:
        """Return what a question finds."""

    def many(self, sql: str, rows: Sequence[Sequence[object]]) -> None:
        """Run a statement for each row."""

    def script(self, statements: Sequence[str]) -> None:
        """Run statements without values."""

    @contextmanager
    def transaction(self, *, writes: bool = True) -> Iterator[None]:
        """All within, or nothing; a view of one instant."""

    def close(self) -> None:
        """Close it."""


MIGRATIONS = Path(__file__).parent / "migrations"
"""`NNNN_name.sql` for both engines, `NNNN_name.ENGINE.sql` where they differ."""

_PLACE = 0x4A4C424B
"""The advisory lock of PostgreSQL under which tables are made: `JLBK`."""


class Migration(NamedTuple):
    """One migration."""

    number: int
    statements: list[str]


def steps(engine: str) -> list[Migration]:
    """Return all of them for `sqlite` or `postgresql`, in order."""
    found = []
    for path in sorted(MIGRATIONS.glob("[0-9][0-9][0-9][0-9]_*.sql")):
        number, kind = int(path.name[:4]), path.name.split(".")[1]
        if kind in {"sql", engine}:
            parts = path.read_text("utf-8").split(";\n\n")
            found.append(Migration(number, [part for part in parts if part.strip()]))
    return found


def bring_up_to_date(database: Database) -> None:
    """Apply the steps that are missing, each whole or not at all."""
    found = _version(database)
    if found is None:
        _refuse_foreign(database)
    for step in steps(_engine(database)):
        if step.number <= (found or 0):
            continue
        with database.transaction():
            if database.lock:
                database.rows("SELECT pg_advisory_xact_lock(?)", [_PLACE])
            # Another collector may have been first.
            if (_version(database) or 0) >= step.number:
                continue
            if step.number == 1:
                database.script(["CREATE TABLE joulebook_schema (version INTEGER NOT NULL)"])
                database.rows("INSERT INTO joulebook_schema VALUES (0)")
            database.script(step.statements)
            database.rows("UPDATE joulebook_schema SET version = ?", [step.number])
    refuse_other(database)


def refuse_other(database: Database) -> None:
    """Raises `LedgerError` if these are not the tables of this version."""
    found, known = _version(database), steps(_engine(database))[-1].number
    if found is None:
        raise LedgerError(
            f"{database.name} is not a collected ledger: check collect.url; has `joulebook "
            "collect` run?"
        )
    if found > known:
        raise LedgerTooNew(
            f"collected ledger {database.name} has schema {found}, but this version supports "
            f"schemas up to {known}: install the newer version"
        )
    if found < known:
        raise LedgerError(
            f"collected ledger {database.name} has schema {found}, but this version needs "
            f"{known}: run `joulebook collect` of this version once"
        )


def _engine(database: Database) -> str:
    return "postgresql" if database.lock else "sqlite"


def _version(database: Database) -> int | None:
    if not _has(database, "joulebook_schema"):
        return None
    ((found,),) = database.rows("SELECT version FROM joulebook_schema")
    return int(found)


def _refuse_foreign(database: Database) -> None:
    # A node's own ledger has a table of that name, too.
    for table in ("ledger", "ledgers", "postings", "workloads"):
        if _has(database, table):
            raise LedgerError(
                f"{database.name} has a table {table} that is not part of a collected ledger: "
                "use a separate file or database for collect.url"
            )


def _has(database: Database, table: str) -> bool:
    if database.lock:
        return database.rows("SELECT to_regclass(?)", [table])[0][0] is not None
    return bool(database.rows("SELECT 1 FROM sqlite_master WHERE name = ?", [table]))


_AT_ONCE = 50


class BilledOwner(NamedTuple):
    """The recipient of a bill: an experiment, or a remainder (`""`: none)."""

    remainder: str = ""
    account: str = ""
    person: str = ""
    experiment: str = ""

    def __str__(self) -> str:
        if self.remainder:
            return f"({self.remainder})"
        return "/".join((self.account or "(none)", self.person, self.experiment))


HOW = ("hows", ("remainder", "method", "evidence"))
KIND = ("kinds", ("remainder", "item", "currency"))
RATE = ("rates", ("quantity", "value", "unit", "source", "quality"))
OWNER = ("owners", BilledOwner._fields)

Table = tuple[str, tuple[str, ...]]


def known(
    database: Database, table: Table, wanted: Iterable[tuple[object, ...]]
) -> dict[tuple[object, ...], int]:
    """Return the numbers of existing values."""
    name, columns = table
    rows = sorted(set(wanted), key=repr)
    found: dict[tuple[object, ...], int] = {}
    one = f"({', '.join('?' * len(columns))})"
    for start in range(0, len(rows), _AT_ONCE):
        some = rows[start : start + _AT_ONCE]
        matching = database.rows(
            f"SELECT id, {', '.join(columns)} FROM {name} WHERE ({', '.join(columns)}) IN "  # noqa: S608
            f"(VALUES {', '.join([one] * len(some))})",
            [value for row in some for value in row],
        )
        found |= {tuple(values): number for number, *values in matching}
    return found


def numbered(
    database: Database,
    table: Table,
    wanted: Iterable[tuple[object, ...]],
    more: tuple[tuple[str, ...], dict[tuple[object, ...], tuple[object, ...]]] = ((), {}),
) -> dict[tuple[object, ...], int]:
    """The numbers of all of them; in the caller's transaction, which holds the lock on `closing`.

    `more` are further columns, and their values for those that are new.
    """
    rows = set(wanted)
    found = known(database, table, rows)
    new = sorted(rows - found.keys(), key=repr)
    if new:
        name, columns = table
        extra, values = more
        every = ("id", *columns, *extra)
        ((last,),) = database.rows(f"SELECT coalesce(max(id), 0) FROM {name}")  # noqa: S608
        database.many(
            f"INSERT INTO {name} ({', '.join(every)}) VALUES ({', '.join('?' * len(every))})",  # noqa: S608
            [(last + i, *row, *values.get(row, ())) for i, row in enumerate(new, start=1)],
        )
        found |= {row: last + i for i, row in enumerate(new, start=1)}
    return found
