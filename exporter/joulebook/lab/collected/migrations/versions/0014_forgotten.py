"""Names of people who were forgotten, and what a proof of identity says of accounts."""

from __future__ import annotations

from alembic import op
from sqlalchemy import Column, Text

from joulebook.lab.collected.database import refuse_downgrade as downgrade

__all__ = ["downgrade", "upgrade"]

revision, down_revision = "0014", "0013"


def upgrade() -> None:
    """Add a table, and a column to grants."""
    op.add_column("lab_grants", Column("accounts", Text, nullable=False, server_default="[]"))
    op.create_table(
        "lab_forgotten",
        Column("digest", Text, primary_key=True),
        Column("kind", Text, nullable=False),
        Column("alias", Text, nullable=False),
    )
