"""The part of each cost that is for idle time, on bills of months that are open."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, Integer

from joulebook.core.money.amounts import Exact
from joulebook.lab.collected.bills import exact, halves
from joulebook.lab.collected.database import refuse_downgrade as downgrade
from joulebook.lab.collected.months import DAY_S, after, begin_s, month_of
from joulebook.lab.collected.statements import BILLED_VIEWS

__all__ = ["downgrade", "upgrade"]

revision, down_revision = "0017", "0016"


def upgrade() -> None:
    """Bill it from the charges; what is closed stays as it is."""
    for name, kind in (("idle_from", Integer), ("idle_from_s", BigInteger)):
        op.add_column("closing", Column(name, kind, nullable=False, server_default="0"))
    run = op.get_bind().exec_driver_sql
    run("DROP VIEW billed_entries")
    ((closed,),) = run("SELECT closed_to FROM closing").fetchall()
    first = after(closed) if closed else 0
    since_s = begin_s(first) if first else 0
    run(f"UPDATE closing SET idle_from = {int(first)}, idle_from_s = {int(since_s)}")  # noqa: S608
    for view in BILLED_VIEWS:
        run(view)
    days: dict[tuple[object, ...], Exact] = {}
    sums: dict[tuple[object, ...], Exact] = {}
    # Of a workload that was relabelled the correction moved no such part: all is its owner's.
    for ledger, day_s, workload, owner, item, currency, *parts in run(
        f"SELECT c.ledger, c.quarter_s / {DAY_S} * {DAY_S}, c.workload, coalesce(w.owner, o.id),"  # noqa: S608
        f" k.item, k.currency, {halves('c.whole', 'c.nano', 'c.rest')}"
        " FROM charges c JOIN kinds k ON k.id = c.kind"
        " LEFT JOIN workloads w ON w.id = c.workload"
        " LEFT JOIN owners o ON o.remainder = k.remainder AND o.remainder <> ''"
        " WHERE k.item IN ('idle_electricity', 'idle_hardware') AND c.undated = 0"
        f" AND c.quarter_s >= {int(since_s)} GROUP BY 1, 2, 3, 4, 5, 6"
    ):
        month = month_of(day_s)
        for rows, key in (
            (days, (ledger, day_s, month, workload, owner, item, currency)),
            (sums, (month, owner, 0, item, currency)),
        ):
            rows[key] = rows.get(key, Exact()).plus(exact(parts))
    mark = "%s" if op.get_bind().dialect.name == "postgresql" else "?"
    for name, rows in (("billed", days), ("month_billed", sums)):
        made = [(*key, *amount) for key, amount in rows.items() if amount != Exact()]
        if made:
            marks = ", ".join([mark] * len(made[0]))
            run(f"INSERT INTO {name} VALUES ({marks})", made)  # noqa: S608
