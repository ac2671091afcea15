"""Closed months by day, and exports of months."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, Integer, PrimaryKeyConstraint, Text

from joulebook.lab.collected.database import refuse_downgrade as downgrade

__all__ = ["downgrade", "upgrade"]

revision, down_revision = "0009", "0008"


def _columns(kind: type[Integer] | type[Text], *names: str) -> list[Column[object]]:
    return [Column(name, kind, nullable=False) for name in names]


def upgrade() -> None:
    """Add three tables."""
    op.create_table(
        "compacted",
        *_columns(Integer, "month", "ledger"),
        *_columns(BigInteger, "made_s"),
        *_columns(Integer, "late", "packed"),
        PrimaryKeyConstraint("month", "ledger"),
    )
    op.create_table(
        "day_rates",
        *_columns(Integer, "workload"),
        *_columns(BigInteger, "quarter_s"),
        *_columns(Integer, "ledger"),
        *_columns(Text, "used"),
        PrimaryKeyConstraint("workload", "quarter_s", "ledger"),
    )
    op.create_table(
        "exported",
        *_columns(Integer, "month", "ledger"),
        *_columns(BigInteger, "made_s"),
        *_columns(Text, "directory", "state"),
        PrimaryKeyConstraint("month", "ledger"),
    )
