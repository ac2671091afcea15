"""Bills: the totals of a month by account, and the closing of months.

Sums over many rows leave 64 bits, so the database adds up the halves of numbers, which cannot,
and they are put together here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from joulebook.core.evidence import ZERO, Amount
from joulebook.core.money.amounts import NOTHING, Charge, Charges, Exact, Item, add
from joulebook.core.money.rates import NANO, PER_KWH
from joulebook.errors import InputError
from joulebook.lab.collected import audit, months
from joulebook.lab.collected.database import Database, Row
from joulebook.lab.collected.months import after, begin_s, month_of
from joulebook.lab.collected.rollup import closed_to
from joulebook.lab.collected.schema import BilledOwner, MonthSum
from joulebook.units import NS_PER_S

_HALF = 1_000_000_000


def halves(*columns: str) -> str:
    """Return the sums of columns, each in two halves (SQL)."""
    return ", ".join(f"sum({c} / {_HALF}), sum({c} % {_HALF})" for c in columns)


def wholes(parts: Sequence[object]) -> list[int]:
    """Return the numbers of which those are the halves."""
    numbers = [int(str(part)) for part in parts]
    return [high * _HALF + low for high, low in zip(numbers[::2], numbers[1::2], strict=True)]


def exact(parts: Sequence[object]) -> Exact:
    """Return the sum of exact amounts, from the halves of its three parts."""
    whole, nano, rest = wholes(parts)
    return Exact.of((whole * NANO + nano) * PER_KWH + rest)


def _entries(table: str, columns: str, amounts: Sequence[str], kind: str) -> str:
    """Return the question for a month's amounts by owner, and both legs of its transfers."""
    plain, minus = ", ".join(amounts), ", ".join(f"-{amount}" for amount in amounts)
    of_month = f"FROM transfers WHERE month = ? AND {kind} <> ''"
    return f"""
SELECT remainder, account, person, experiment, correction, late_for, {columns}, {plain} FROM (
    SELECT owner, 0 AS correction, late_for, {columns}, {plain} FROM {table} WHERE month = ?
    UNION ALL SELECT to_owner, correction, 0, {columns}, {plain} {of_month}
    UNION ALL SELECT from_owner, correction, 0, {columns}, {minus} {of_month}
) e JOIN owners ON owners.id = owner WHERE (? = '' OR account = ?) AND ONLY
"""  # noqa: S608 - words of ours


_USED = _entries(
    "month_used", "component", ("energy_uj", "idle_uj", "held_ns", "idle_ns"), "component"
)
_BILLED = _entries("month_charges", "item, currency", ("whole", "nano", "rest"), "item")


# Whoever held GPUs for longer than is booked, as far as that is seen without reading quarter hours:
# those that share a GPU are among them.
_SHORT = """
SELECT DISTINCT w.scheduler, w.workload FROM (
    SELECT workload, ledger, sum(held_ns) AS held_ns FROM used JOIN owners ON owners.id = owner
    WHERE month = ? AND component = 'gpu' AND workload > 0 AND (? = '' OR account = ?)
    GROUP BY workload, ledger
) u
JOIN facts f ON f.workload = u.workload AND f.ledger = u.ledger
JOIN workloads w ON w.id = u.workload
WHERE f.ended_utc_ns IS NULL OR u.held_ns * 1.005 < f.gpu_count * (
    CASE WHEN f.ended_utc_ns < ? THEN f.ended_utc_ns ELSE ? END
    - CASE WHEN f.started_utc_ns > ? THEN f.started_utc_ns ELSE ? END
)
"""


def _by_owner(sums: str, columns: str, *entries: str) -> str:
    """Return a month's sums by owner, and the corrections, which the sums do not have."""
    chosen = (f"{sums} ", *(f"{each} WHERE correction > 0" for each in entries))
    parts = (f"SELECT month, owner, {columns} FROM {each}" for each in chosen)  # noqa: S608
    return f"({' UNION ALL '.join(parts)}) AS sums"


BY_OWNER_USED = _by_owner(
    "month_used", "component, energy_uj, idle_uj, held_ns, idle_ns", "used_entries"
)
BY_OWNER_BILLED = _by_owner(
    "month_charges", "item, currency, whole, nano, rest", "billed_entries", "idle_entries"
)
"""What stands where a table does: months by owner, as the bill has them."""


class BillLine(msgspec.Struct, frozen=True):
    """One owner's total in a month, by the kind of entry.

    `late_for` is the month in which it was consumed, if that was already closed (0: the month of
    the bill); `correction` is the number of its correction.
    """

    owner: BilledOwner
    late_for: int
    correction: int
    used: dict[str, Amount]
    billed: Charges


class Correction(NamedTuple):
    """Who corrected something, why and when (UTC seconds)."""

    number: int
    month: int
    made_s: int
    kind: str
    who: str
    why: str


class MonthBill(msgspec.Struct, frozen=True):
    """The bill of a month: `account` is empty for all of them, remainders then with them."""

    month: int
    account: str
    closed_s: int | None
    closed_by: str
    lines: tuple[BillLine, ...]
    corrections: tuple[Correction, ...]


class Period(NamedTuple):
    """A month that something is billed in; `closed_s` is `None` while it is open."""

    month: int
    closed_s: int | None
    closed_by: str


def bill(database: Database, month: int, account: str = "") -> MonthBill:
    """Return the bill of a month, in one view."""
    with database.transaction(writes=False):
        return read(database, month, account)


def read(
    database: Database,
    month: int,
    account: str = "",
    only: tuple[str, Sequence[object]] = ("1 = 1", ()),
) -> MonthBill:
    """Return the bill of a month, in the caller's transaction.

    `only` is a condition on the columns of owners, and its values: other lines are left out, and
    corrections that have no other.
    """
    where, values = only
    lines: dict[tuple[BilledOwner, int, int], BillLine] = {}
    chosen = [month, month, month, account, account, *values]
    used, billed_ = (sql.replace("ONLY", where) for sql in (_USED, _BILLED))

    def line(owner: BilledOwner, correction: int, late_for: int) -> BillLine:
        key = (owner, late_for, correction)
        return lines.setdefault(key, BillLine(*key, {}, {}))

    for *who, correction, late_for, component, e, i, h, n in database.rows(used, chosen):
        more = Amount(e, i, h, n)
        if correction or more != ZERO:
            sums = line(BilledOwner(*who), correction, late_for).used
            sums[component] = sums.get(component, ZERO).plus(more)
    for *who, correction, late_for, item, currency, whole, nano, rest in database.rows(
        billed_, chosen
    ):
        exact = Exact.of(Exact(whole, nano, rest).atoms)
        if correction or exact != NOTHING or item == Item.IDLE_UNKNOWN:
            here = line(BilledOwner(*who), correction, late_for)
            billed = add(here.billed, {Charge(Item(item), currency): exact})
            key = (here.owner, here.late_for, here.correction)
            lines[key] = msgspec.structs.replace(here, billed=billed)
    closed = database.rows("SELECT closed_s, closed_by FROM periods WHERE month = ?", [month])
    made = [
        Correction(*row)
        for row in database.rows(
            "SELECT id, month, made_s, kind, who, why FROM corrections WHERE month = ? ORDER BY id",
            [month],
        )
    ]
    shown = {each.correction for each in lines.values()}
    return MonthBill(
        month,
        account,
        closed[0][0] if closed else None,
        closed[0][1] if closed else "",
        tuple(lines[key] for key in sorted(lines)),
        tuple(each for each in made if each.number in shown),
    )


def short(database: Database, month: int, account: str = "") -> list[str]:
    """Return the workloads that may have held GPUs in a month for longer than is booked."""
    begin_ns, end_ns = begin_s(month) * NS_PER_S, begin_s(after(month)) * NS_PER_S
    asked = [month, account, account, end_ns, end_ns, begin_ns, begin_ns]
    return [f"{scheduler}/{name}" for scheduler, name in database.rows(_SHORT, asked)]


_OF_MONTHS = """
SELECT month, {columns}, {sums} FROM (
    SELECT month, owner, {columns}, {plain} FROM {table} WHERE month >= ? AND month <= ?
    UNION ALL SELECT month, to_owner, {columns}, {plain} {moved}
    UNION ALL SELECT month, from_owner, {columns}, {minus} {moved}
) e JOIN owners ON owners.id = owner WHERE {where} GROUP BY month, {columns}
"""


def by_month(
    database: Database, first: int, last: int, only: tuple[str, Sequence[object]] = ("1 = 1", ())
) -> dict[int, MonthSum]:
    """Return what each month from `first` to `last` comes to, of the owners that are asked for."""
    where, values = only
    found: dict[int, MonthSum] = {}

    def rows(table: str, columns: str, amounts: Sequence[str], kind: str) -> Sequence[Row]:
        sql = _OF_MONTHS.format(
            table=table, columns=columns, where=where, sums=halves(*amounts),
            plain=", ".join(amounts), minus=", ".join(f"-{amount}" for amount in amounts),
            moved=f"FROM transfers WHERE month >= ? AND month <= ? AND {kind} <> ''",
        )  # fmt: skip
        return database.rows(sql, [*[first, last] * 3, *values])

    of_energy = ("energy_uj", "idle_uj", "held_ns", "idle_ns")
    for month, component, *sums in rows("month_used", "component", of_energy, "component"):
        found.setdefault(month, MonthSum({}, {})).used[component] = Amount(*wholes(sums))
    for month, item, currency, *sums in rows(
        "month_charges", "item, currency", ("whole", "nano", "rest"), "item"
    ):
        charge = Charge(Item(item), currency)
        found.setdefault(month, MonthSum({}, {})).billed[charge] = exact(sums)
    return found


def total(lines: Sequence[BillLine]) -> tuple[Amount, Charges]:
    """Return the total of lines, over all components."""
    amount = ZERO
    paid: Charges = {}
    for line in lines:
        for more in line.used.values():
            amount = amount.plus(more)
        paid = add(paid, line.billed)
    return amount, paid


def periods(database: Database) -> list[Period]:
    """Return all months in which anything is billed, or that were closed."""
    closed = {
        row[0]: row for row in database.rows("SELECT month, closed_s, closed_by FROM periods")
    }
    open_ = database.rows(
        "SELECT month FROM month_used UNION SELECT month FROM month_billed"
        " UNION SELECT month FROM corrections"
    )
    every = sorted({month for (month,) in open_} | closed.keys())
    return [Period(*closed.get(month, (month, None, ""))) for month in every]


class PeriodSum(NamedTuple):
    """A month with what it comes to so far."""

    period: Period
    total: MonthSum


def with_sums(
    database: Database, only: tuple[str, Sequence[object]] = ("1 = 1", ())
) -> list[PeriodSum]:
    """Return all months and what each comes to, of the owners that are asked for."""
    every = periods(database)
    if not every:
        return []
    sums = by_month(database, every[0].month, every[-1].month, only)
    return [PeriodSum(each, sums.get(each.month, MonthSum({}, {}))) for each in every]


def replayed_meters(database: Database) -> list[tuple[str, str, str]]:
    """Node, component and name of the meters that play a recorded trace."""
    rows = database.rows(
        "SELECT l.node, m.component, m.name FROM meters m JOIN ledgers l ON l.id = m.ledger"
        " WHERE m.replayed = 1 ORDER BY 1, 2, 3"
    )
    return [(str(node), str(component), str(name)) for node, component, name in rows]


def owners(database: Database) -> list[tuple[str, str, str]]:
    """Account, user and experiment of all that anything was ever booked to."""
    rows = database.rows(
        "SELECT account, person, experiment FROM owners WHERE remainder = '' ORDER BY 1, 2, 3"
    )
    return [(str(account), str(person), str(experiment)) for account, person, experiment in rows]


def currencies(database: Database) -> list[str]:
    """Return the currencies that anything was charged in."""
    rows = database.rows("SELECT DISTINCT currency FROM kinds WHERE currency <> '' ORDER BY 1")
    return [str(currency) for (currency,) in rows]


def reported(database: Database) -> list[tuple[str, int]]:
    """Return the nodes, and up to when each is complete (UTC seconds; 0: incomplete)."""
    found: dict[tuple[str, str], int] = {}
    for cluster, node, booked_to_s, position, last_seq in database.rows(
        "SELECT cluster, node, booked_to_s, position, last_seq FROM ledgers"
    ):
        told_s = booked_to_s if position == last_seq else 0
        found[cluster, node] = max(found.get((cluster, node), 0), told_s)
    return [(node, told_s) for (_, node), told_s in sorted(found.items())]


def behind(database: Database, month: int) -> list[tuple[str, int]]:
    """Return the nodes that have not reported all of a month yet, and up to when each has."""
    end_s = begin_s(after(month))
    return [(node, told_s) for node, told_s in reported(database) if told_s < end_s]


def close(database: Database, month: int, who: str, now_s: int, how: str = audit.COMMAND) -> None:
    """Close a month permanently; `how` says how it is known who does so.

    Raises `InputError` if it is not over, or an earlier one is open.
    """
    if not who.strip():
        raise InputError("a month is closed by somebody", reason="unsigned")
    if month >= month_of(now_s):
        raise InputError(f"{months.shown(month)} is not over", reason="not_over")
    with database.transaction():
        closed = closed_to(database)
        if month <= closed:
            raise InputError(
                f"{months.shown(month)} is already closed (closed up to {months.shown(closed)})",
                reason="closed",
            )
        earlier = database.rows(
            "SELECT min(month) FROM month_used WHERE month > ? AND month < ?", [closed, month]
        )
        if earlier and earlier[0][0] is not None:
            raise InputError(
                f"{months.shown(earlier[0][0])} is still open: close months in order",
                reason="order",
            )
        database.rows("INSERT INTO periods VALUES (?, ?, ?)", [month, now_s, who])
        database.rows("UPDATE closing SET closed_to = ? WHERE one = 1", [month])
        audit.note(database, now_s, who, how, f"closed {months.shown(month)}")
