"""Results that people uploaded, for leaderboards."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, Integer, Text

from joulebook.lab.collected.database import refuse_downgrade as downgrade

__all__ = ["downgrade", "upgrade"]

revision, down_revision = "0013", "0012"


def upgrade() -> None:
    """Add a table."""
    op.create_table(
        "lab_results",
        Column("id", Integer, primary_key=True, autoincrement=False),
        *(Column(name, Text, nullable=False) for name in ("person", "name", "text", "asked")),
        Column("made_s", BigInteger, nullable=False),
    )
