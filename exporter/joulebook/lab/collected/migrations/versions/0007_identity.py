"""A workload is one of a ledger, with its begin; renames; tokens; traces; calibration."""

from __future__ import annotations

from pathlib import Path

from alembic import op

from joulebook.lab.collected.database import refuse_downgrade as downgrade

__all__ = ["downgrade", "upgrade"]

revision, down_revision = "0007", "0004"


def upgrade() -> None:
    """Run the statements beside this file, which end in a semicolon and an empty line."""
    for statement in Path(__file__).with_suffix(".sql").read_text("utf-8").split(";\n\n"):
        op.get_bind().exec_driver_sql(statement)
