"""The audit log of a lab: who changed what, when, and how that was known."""

from __future__ import annotations

from typing import NamedTuple

from joulebook.lab.collected.database import Database

COMMAND = "command"
"""How somebody is known who may write the database."""


class AuditEntry(NamedTuple):
    """A change: when (UTC seconds), by whom, how that was known (`command`, `munge`, ...)."""

    when_s: int
    who: str
    how: str
    what: str


def note(database: Database, when_s: int, who: str, how: str, what: str) -> None:
    """Add an entry, in the caller's transaction."""
    database.rows(
        "INSERT INTO lab_audit VALUES (?, ?, ?, ?, ?)",
        [last(database) + 1, when_s, who, how, what],
    )


def last(database: Database) -> int:
    """Return the number of the last entry (0: there is none)."""
    ((number,),) = database.rows("SELECT coalesce(max(id), 0) FROM lab_audit")
    return int(number)


def entries(database: Database, most: int) -> list[AuditEntry]:
    """Return the latest entries, the last one first."""
    rows = database.rows(
        "SELECT when_s, who, how, what FROM lab_audit ORDER BY id DESC LIMIT ?", [most]
    )
    return [AuditEntry(*row) for row in rows]
