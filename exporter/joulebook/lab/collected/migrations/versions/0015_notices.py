"""What people were sent, and the order in which jobs ended."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, PrimaryKeyConstraint, Text

from joulebook.lab.collected.database import refuse_downgrade as downgrade

__all__ = ["downgrade", "upgrade"]

revision, down_revision = "0015", "0014"


def upgrade() -> None:
    """Add a table and an index."""
    op.create_index("facts_by_end", "facts", ["ended_utc_ns"])
    op.create_table(
        "lab_sent",
        Column("kind", Text, nullable=False),
        Column("period", BigInteger, nullable=False),
        Column("person", Text, nullable=False),
        Column("account", Text, nullable=False),
        Column("destination", Text, nullable=False),
        Column("made_s", BigInteger, nullable=False),
        PrimaryKeyConstraint("kind", "period", "person", "account", "destination"),
    )
