"""The line between months that are closed and those that are open."""

from __future__ import annotations

from joulebook.archive.engine import Database


def closed_to(database: Database) -> int:
    """The last month that is closed (0: none), locked until the caller's transaction ends.

    All that writes to bills begins with this, so that no month closes under anybody's hands, and
    writers come one after the other.
    """
    ((month,),) = database.rows(f"SELECT closed_to FROM closing{database.lock}")  # noqa: S608
    return int(month)
