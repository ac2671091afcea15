"""What the lab server keeps: nonces, sessions and tokens, and who changed what."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, Integer, PrimaryKeyConstraint, Text

from joulebook.lab.collected.database import refuse_downgrade as downgrade

__all__ = ["downgrade", "upgrade"]

revision, down_revision = "0011", "0010"


def _texts(*names: str) -> list[Column[str]]:
    return [Column(name, Text, nullable=False) for name in names]


def upgrade() -> None:
    """Add four tables."""
    op.create_table(
        "lab_nonces",
        Column("nonce", Text, primary_key=True),
        Column("until_s", BigInteger, nullable=False),
    )
    op.create_table(
        "lab_grants",
        Column("secret", Text, primary_key=True),
        *_texts("kind", "person", "how", "name"),
        Column("until_s", BigInteger, nullable=False),
    )
    op.create_table(
        "lab_commented",
        *_texts("cluster", "job"),
        Column("start_s", BigInteger, nullable=False),
        Column("made_s", BigInteger, nullable=False),
        *_texts("what"),
        PrimaryKeyConstraint("cluster", "job", "start_s"),
    )
    op.create_table(
        "lab_audit",
        Column("id", Integer, primary_key=True, autoincrement=False),
        Column("when_s", BigInteger, nullable=False),
        *_texts("who", "how", "what"),
    )
