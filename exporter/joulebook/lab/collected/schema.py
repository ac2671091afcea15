"""The tables of the collected ledger: made and brought up to date by numbered steps."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from joulebook.errors import LedgerError, LedgerTooNew
from joulebook.lab.collected.contract import Database

MIGRATIONS = Path(__file__).parent / "migrations"
"""`NNNN_name.sql` for both engines, `NNNN_name.ENGINE.sql` where they differ."""

_PLACE = 0x4A4C424B
"""The advisory lock of PostgreSQL under which tables are made: `JLBK`."""


class Migration(NamedTuple):
    """One migration."""

    number: int
    statements: list[str]


def steps(engine: str) -> list[Migration]:
    """All of them for `sqlite` or `postgresql`, in order."""
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
            f"{database.name} holds no collected ledger: is collect.url right, and has "
            "`joulebook collect` run?"
        )
    if found > known:
        raise LedgerTooNew(
            f"collected ledger {database.name} has schema {found}, and this joulebook knows "
            f"schemas up to {known}: install the newer joulebook"
        )
    if found < known:
        raise LedgerError(
            f"collected ledger {database.name} has schema {found}, and this joulebook needs "
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
                f"{database.name} has a table {table} that is not of a collected ledger: give "
                "collect.url a file or database of its own"
            )


def _has(database: Database, table: str) -> bool:
    if database.lock:
        return database.rows("SELECT to_regclass(?)", [table])[0][0] is not None
    return bool(database.rows("SELECT 1 FROM sqlite_master WHERE name = ?", [table]))
