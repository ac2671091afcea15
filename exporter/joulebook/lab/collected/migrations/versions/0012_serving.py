"""What serving a model cost by quarter hour, the counters it is from, and their sums."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, Integer, PrimaryKeyConstraint, Text

from joulebook.lab.collected.database import refuse_downgrade as downgrade

__all__ = ["downgrade", "upgrade"]

revision, down_revision = "0012", "0011"

_PARTS = ("whole", "nano", "rest")
_OF_TOTALS = ("account", "experiment", "model_name", "item", "currency")


def _columns(kind: type[Text | Integer | BigInteger], *names: str) -> list[Column[object]]:
    return [Column(name, kind, nullable=False) for name in names]


def upgrade() -> None:
    """Add three tables."""
    op.create_table(
        "served",
        *_columns(BigInteger, "workload", "quarter_s"),
        *_columns(Text, "model_name", "item", "currency"),
        *_columns(Integer, "idle"),
        *_columns(BigInteger, *_PARTS),
        PrimaryKeyConstraint("workload", "quarter_s", "model_name", "item", "currency", "idle"),
    )
    op.create_index("served_by_quarter", "served", ["quarter_s"])
    op.create_table(
        "serving_counters",
        *_columns(Integer, "workload"),
        *_columns(Text, "target", "model_name", "kind"),
        *_columns(BigInteger, "value", "read_s", "started_s"),
        PrimaryKeyConstraint("workload", "target", "model_name", "kind"),
    )
    op.create_table(
        "serving_totals",
        *_columns(Text, "cluster", *_OF_TOTALS),
        *_columns(Integer, "idle"),
        *_columns(BigInteger, *_PARTS, "changed_s"),
        PrimaryKeyConstraint("cluster", *_OF_TOTALS, "idle"),
    )
