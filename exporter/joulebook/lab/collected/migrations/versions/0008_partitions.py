"""Quarter hours of PostgreSQL in a partition for each month."""

from __future__ import annotations

from alembic import op

from joulebook.lab.collected.database import add_partitions
from joulebook.lab.collected.database import refuse_downgrade as downgrade
from joulebook.lab.collected.months import month_of
from joulebook.lab.collected.statements import other_partition

__all__ = ["downgrade", "upgrade"]

revision, down_revision = "0008", "0007"

_KEYS = {
    "postings": "ledger, quarter_s, meter, workload, how",
    "charges": "ledger, quarter_s, workload, kind",
    "rates_used": "ledger, quarter_s, rate",
}


def upgrade() -> None:
    """Copy the rows into tables with partitions."""
    run = op.get_bind().exec_driver_sql
    run("UPDATE joulebook_schema SET version = 8")
    if op.get_bind().dialect.name != "postgresql":
        return
    for name, key in _KEYS.items():
        run(f"ALTER TABLE {name} RENAME TO {name}_7")
        run(f"DROP INDEX IF EXISTS {name}_by_workload")
        run(
            f"CREATE TABLE {name} (LIKE {name}_7 INCLUDING DEFAULTS, PRIMARY KEY ({key}))"
            " PARTITION BY RANGE (quarter_s)"
        )
        run(other_partition(name))
        if "workload" in key:
            run(f"CREATE INDEX {name}_by_workload ON {name} (workload, quarter_s)")
    days = run("SELECT DISTINCT day_s FROM used").fetchall()
    add_partitions(run, {month_of(day_s) for (day_s,) in days})
    for name in _KEYS:
        run(f"INSERT INTO {name} SELECT * FROM {name}_7")  # noqa: S608
        run(f"DROP TABLE {name}_7")
