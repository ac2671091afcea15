"""The SQL of the collected ledger that SQLAlchemy has no words for: views, triggers, partitions."""

from __future__ import annotations

from pathlib import Path

PARTS = ("whole", "nano", "rest")
MOVED = ("energy_uj", "idle_uj", "held_ns")

_ENTRY = "month, day_s, ledger, workload, owner"
_LEG = "month, 0, 0, workload, {}"


_MONEY = ", ".join(PARTS)
IDLE_ITEMS = "item IN ('idle_electricity', 'idle_hardware', 'idle_unknown')"
_NOT_KNOWN = f"'idle_unknown' AS item, currency, {', '.join('0' for _ in PARTS)}"
_HAS_IDLE = f"item IN ('electricity', 'hardware') AND ({' OR '.join(f'{p} <> 0' for p in PARTS)})"


def _entries(
    name: str, kind: str, amounts: tuple[str, ...], what: str, only: str, more: str = ""
) -> str:
    """A view of both legs of each transfer, and all that is billed beside them."""
    plain, minus = ", ".join(amounts), ", ".join(f"-{amount}" for amount in amounts)
    of_transfers = f"FROM transfers WHERE {only}"
    return (
        f"CREATE VIEW {name}_entries AS SELECT {_ENTRY}, {what}, {plain}, 0 AS correction"  # noqa: S608
        f" FROM {kind} WHERE {only}{more} UNION ALL"
        f" SELECT {_LEG.format('to_owner')}, {what}, {plain}, correction {of_transfers} UNION ALL"
        f" SELECT {_LEG.format('from_owner')}, {what}, {minus}, correction {of_transfers}"
    )


BILLED_VIEWS = (
    _entries("billed", "billed", PARTS, "item, currency", f"item <> '' AND NOT {IDLE_ITEMS}"),
    # The part for idle time, which is included in these: whoever adds up one view counts once.
    _entries(
        "idle", "billed", PARTS, "item, currency", IDLE_ITEMS,
        f" UNION ALL SELECT {_ENTRY}, {_NOT_KNOWN}, 0 FROM billed WHERE {_HAS_IDLE}"  # noqa: S608
        " AND day_s < (SELECT idle_from_s FROM closing)",
    ),
    # All of a month, and where bills were made before they had the part for idle time.
    f"CREATE VIEW month_charges AS SELECT month, owner, late_for, item, currency, {_MONEY}"  # noqa: S608
    f" FROM month_billed UNION ALL SELECT month, owner, late_for, {_NOT_KNOWN} FROM month_billed"
    f" WHERE {_HAS_IDLE} AND CASE WHEN late_for > 0 THEN late_for ELSE month END"
    " < (SELECT idle_from FROM closing)",
)  # fmt: skip

VIEWS = (
    _entries("used", "used", (*MOVED, "idle_ns"), "component", "component <> ''"),
    *BILLED_VIEWS,
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
