"""Which run of a node's daemon gave the number up to which its rows are collected."""

from __future__ import annotations

from alembic import op
from sqlalchemy import Column, Text

from joulebook.lab.collected.database import refuse_downgrade as downgrade

__all__ = ["downgrade", "upgrade"]

revision, down_revision = "0016", "0015"


def upgrade() -> None:
    """Add a column."""
    op.add_column("ledgers", Column("writer", Text, nullable=False, server_default=""))
