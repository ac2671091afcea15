"""Values that many rows of the collected ledger share: each has a number, given on first use."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from joulebook.core.evidence import Amount
from joulebook.core.money.amounts import Charge, Exact
from joulebook.lab.collected.database import Database

_AT_ONCE = 50


class BilledOwner(NamedTuple):
    """The recipient of a bill: an experiment, or a remainder (`""`: none)."""

    remainder: str = ""
    account: str = ""
    person: str = ""
    experiment: str = ""

    def __str__(self) -> str:
        if self.remainder:
            return f"({self.remainder})"
        return "/".join((self.account or "(none)", self.person, self.experiment))


class MonthSum(NamedTuple):
    """What a month comes to: energy and time by component, money and CO2e."""

    used: dict[str, Amount]
    billed: dict[Charge, Exact]


HOW = ("hows", ("remainder", "method", "evidence"))
KIND = ("kinds", ("remainder", "item", "currency"))
RATE = ("rates", ("quantity", "value", "unit", "source", "quality"))
OWNER = ("owners", BilledOwner._fields)

POSTING_COLUMNS = (
    "ledger, quarter_s, meter, workload, how, energy_uj, idle_uj, held_ns, idle_ns,"
    " calibration_uj, tensor_ns, tensor_known_ns, undated"
)

Table = tuple[str, tuple[str, ...]]


def known(
    database: Database, table: Table, wanted: Iterable[tuple[object, ...]]
) -> dict[tuple[object, ...], int]:
    """Return the numbers of existing values."""
    name, columns = table
    rows = sorted(set(wanted), key=repr)
    found: dict[tuple[object, ...], int] = {}
    one = f"({', '.join('?' * len(columns))})"
    for start in range(0, len(rows), _AT_ONCE):
        some = rows[start : start + _AT_ONCE]
        matching = database.rows(
            f"SELECT id, {', '.join(columns)} FROM {name} WHERE ({', '.join(columns)}) IN "  # noqa: S608
            f"(VALUES {', '.join([one] * len(some))})",
            [value for row in some for value in row],
        )
        found |= {tuple(values): number for number, *values in matching}
    return found


def numbered(
    database: Database,
    table: Table,
    wanted: Iterable[tuple[object, ...]],
    more: tuple[tuple[str, ...], dict[tuple[object, ...], tuple[object, ...]]] = ((), {}),
) -> dict[tuple[object, ...], int]:
    """The numbers of all of them; in the caller's transaction, which holds the lock on `closing`.

    `more` are further columns, and their values for those that are new.
    """
    rows = set(wanted)
    found = known(database, table, rows)
    new = sorted(rows - found.keys(), key=repr)
    if new:
        name, columns = table
        extra, values = more
        every = ("id", *columns, *extra)
        ((last,),) = database.rows(f"SELECT coalesce(max(id), 0) FROM {name}")  # noqa: S608
        database.many(
            f"INSERT INTO {name} ({', '.join(every)}) VALUES ({', '.join('?' * len(every))})",  # noqa: S608
            [(last + i, *row, *values.get(row, ())) for i, row in enumerate(new, start=1)],
        )
        found |= {row: last + i for i, row in enumerate(new, start=1)}
    return found
