"""The SQL of the collected ledger that SQLAlchemy has no words for: views, triggers, partitions."""

from __future__ import annotations

from pathlib import Path

PARTS = ("whole", "nano", "rest")
MOVED = ("energy_uj", "idle_uj", "held_ns")

_ENTRY = "month, day_s, ledger, workload, owner"
_LEG = "month, 0, 0, workload, {}"


def _entries(name: str, kind: str, amounts: tuple[str, ...], what: str) -> str:
    """A view of both legs of each transfer, and all that is billed beside them."""
    plain, minus = ", ".join(amounts), ", ".join(f"-{amount}" for amount in amounts)
    of_transfers = f"FROM transfers WHERE {what.split(',', maxsplit=1)[0]} <> ''"
    return (
        f"CREATE VIEW {name}_entries AS SELECT {_ENTRY}, {what}, {plain}, 0 AS correction"  # noqa: S608
        f" FROM {kind} UNION ALL SELECT {_LEG.format('to_owner')}, {what}, {plain}, correction"
        f" {of_transfers} UNION ALL SELECT {_LEG.format('from_owner')}, {what}, {minus},"
        f" correction {of_transfers}"
    )


VIEWS = (
    _entries("used", "used", (*MOVED, "idle_ns"), "component"),
    _entries("billed", "billed", PARTS, "item, currency"),
)


def kept_closed(engine: str, *names: str) -> list[str]:
    """Return the statements of triggers that keep closed months in those tables as they are."""
    made = statements(f"open_month.{engine}")
    return [statement.replace("{table}", name) for name in names for statement in made]


def statements(name: str) -> list[str]:
    """Return the statements of a file beside this one."""
    return (Path(__file__).parent / f"{name}.sql").read_text("utf-8").split(";\n\n")


def other_partition(name: str) -> str:
    """Make the partition for what is of no month (PostgreSQL)."""
    return f"CREATE TABLE {name}_other PARTITION OF {name} DEFAULT"
