"""The tables of version 0.1, which had no Alembic: nothing to do."""

from __future__ import annotations

from joulebook.lab.collected.database import refuse_downgrade as downgrade

__all__ = ["downgrade", "upgrade"]

revision, down_revision = "0004", None


def upgrade() -> None:
    """Take the tables as they are."""
