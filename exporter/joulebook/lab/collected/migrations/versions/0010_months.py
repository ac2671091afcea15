"""Bills by month and owner."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, ForeignKey, Integer, PrimaryKeyConstraint, Text

from joulebook.core.money.amounts import Exact
from joulebook.lab.collected.database import refuse_downgrade as downgrade
from joulebook.lab.collected.months import month_of
from joulebook.lab.collected.statements import kept_closed

__all__ = ["downgrade", "upgrade"]

revision, down_revision = "0010", "0009"

_AMOUNTS = ("energy_uj", "idle_uj", "held_ns", "idle_ns")
_PARTS = ("whole", "nano", "rest")


def upgrade() -> None:
    """Add up the bills by day."""
    _table("month_used", ("component",), _AMOUNTS)
    _table("month_billed", ("item", "currency"), _PARTS)
    run = op.get_bind().exec_driver_sql
    used: dict[tuple[object, ...], list[int]] = {}
    for month, owner, day_s, component, *amounts in run(
        f"SELECT month, owner, day_s, component, {', '.join(_AMOUNTS)} FROM used"  # noqa: S608
    ):
        key = (month, owner, _late_for(month, day_s), component)
        used[key] = [a + b for a, b in zip(used.get(key, [0] * 4), amounts, strict=True)]
    billed: dict[tuple[object, ...], Exact] = {}
    for month, owner, day_s, item, currency, *parts in run(
        f"SELECT month, owner, day_s, item, currency, {', '.join(_PARTS)} FROM billed"  # noqa: S608
    ):
        to = (month, owner, _late_for(month, day_s), item, currency)
        billed[to] = billed.get(to, Exact()).plus(Exact(*parts))
    mark = "%s" if op.get_bind().dialect.name == "postgresql" else "?"
    for name, rows in (
        ("month_used", [(*key, *amounts) for key, amounts in used.items()]),
        ("month_billed", [(*key, *parts) for key, parts in billed.items()]),
    ):
        if rows:
            marks = ", ".join([mark] * len(rows[0]))
            run(f"INSERT INTO {name} VALUES ({marks})", rows)  # noqa: S608
    for statement in kept_closed(op.get_bind().dialect.name, "month_used", "month_billed"):
        run(statement)


def _late_for(month: int, day_s: int) -> int:
    return 0 if month_of(day_s) == month else month_of(day_s)


def _table(name: str, texts: tuple[str, ...], amounts: tuple[str, ...]) -> None:
    op.create_table(
        name,
        Column("month", Integer, nullable=False),
        Column("owner", Integer, ForeignKey("owners.id"), nullable=False),
        Column("late_for", Integer, nullable=False),
        *(Column(text, Text, nullable=False) for text in texts),
        *(Column(amount, BigInteger, nullable=False) for amount in amounts),
        PrimaryKeyConstraint("month", "owner", "late_for", *texts),
    )
