"""Corrections: amounts that go from one owner to another, with who, why and when. Never edits.

A correction counts in the open month. The database refuses to change one, to add to one, and to
write one into a closed month; each of its rows takes as much from one as it gives to the other.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from joulebook.core.evidence import ZERO, Amount
from joulebook.core.money.amounts import NOTHING, Exact, Item
from joulebook.core.workloads import is_reserved
from joulebook.errors import InputError, LedgerError
from joulebook.lab.collected import audit
from joulebook.lab.collected.database import Database
from joulebook.lab.collected.months import after, month_of, shown
from joulebook.lab.collected.rollup import closed_to
from joulebook.lab.collected.schema import OWNER, BilledOwner, numbered

_INSERT = (
    "INSERT INTO transfers (correction, line, month, from_owner, to_owner, workload, component,"
    " energy_uj, idle_uj, held_ns, idle_ns, item, currency, whole, nano, rest)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)

FOREVER = 999_912
"""Later than any month."""


class Reason(NamedTuple):
    """What kind of correction it is, who makes it, why, when (UTC seconds), and how the author is
    known.
    """

    kind: str
    who: str
    why: str
    made_s: int
    how: str = audit.COMMAND


class Transfer(NamedTuple):
    """An amount of a component's energy, or of an item's money or CO2e; the other is nothing."""

    component: str = ""
    used: Amount = ZERO
    item: str = ""
    currency: str = ""
    billed: Exact = NOTHING


def money(text: str) -> Exact:
    """`12.50` as an exact amount. Raises `ValueError`."""
    match = re.fullmatch(r"(\d{1,15})(?:\.(\d{1,9}))?", text, re.ASCII)
    if match is None:
        raise ValueError(f"{text!r}: expected an amount like 12.50, to nine digits at most")
    return Exact(int(match[1]), int((match[2] or "0").ljust(9, "0")))


def correct(
    database: Database,
    giver: BilledOwner,
    taker: BilledOwner,
    amounts: Sequence[Transfer],
    reason: Reason,
    month: int = 0,
) -> tuple[int, int]:
    """Take amounts from `giver` and give them to `taker`, in a month that is open (0: the current).

    Gives the number of the correction and the month. Raises `InputError` for an empty correction,
    or a month that is closed or has not started; `LedgerError`.
    """
    with database.transaction():
        current = open_month(database, reason.made_s)
        if month:
            _refuse_month(month, closed_to(database), current)
        owners = numbered(database, OWNER, {giver, taker})
        number = _write(
            database, month or current, owners[giver], owners[taker], 0, amounts, reason
        )
        what = f"correction {number} in {shown(month or current)}: from {giver} to {taker}"
        audit.note(database, reason.made_s, reason.who, reason.how, what)
        return number, month or current


def _refuse_month(month: int, closed: int, current: int) -> None:
    if month <= closed:
        raise InputError(
            f"{shown(month)} is closed permanently: correct it in an open month; leave out the "
            f"month for {shown(current)}",
            reason="closed",
        )
    if month > current:
        raise InputError(f"{shown(month)} has not begun", reason="not_begun")


def relabel(
    database: Database,
    workload: str,
    labels: tuple[str | None, str | None],
    reason: Reason,
    cluster: str = "",
) -> tuple[int, BilledOwner, BilledOwner]:
    """Move a workload to another (account, experiment); `None`: unchanged.

    Everything billed to it moves in the open month, and later entries are booked there at once.
    Returns the number of the correction (0: nothing was billed yet), the old owner and the new one.
    Raises `InputError`, `LedgerError`.
    """
    with database.transaction():
        month = open_month(database, reason.made_s)
        number, old, owner = _find(database, workload, cluster)
        account, experiment = labels
        new = owner._replace(
            account=owner.account if account is None else account,
            experiment=owner.experiment if experiment is None else experiment,
        )
        if is_reserved(new.experiment) or is_reserved(new.account):
            raise InputError(
                f"{new}: names in parentheses are reserved for Joulebook",
                reason="reserved_name",
            )
        if new == owner:
            raise InputError(f"{workload} already belongs to {owner}", reason="nothing")
        taker = numbered(database, OWNER, {new})[new]
        database.rows(
            "UPDATE workloads SET owner = ?, relabelled = 1 WHERE id = ?", [taker, number]
        )
        what = f"relabelled {workload}: from {owner} to {new}"
        audit.note(database, reason.made_s, reason.who, reason.how, what)
        amounts = standing(database, number, old, FOREVER)
        if not amounts:
            return 0, owner, new
        return _write(database, month, old, taker, number, amounts, reason), owner, new


def hand_over(
    database: Database, workload: int, old: int, new: int, reason: Reason, up_to: int
) -> None:
    """Move what was billed to a workload in months up to `up_to` to another owner."""
    amounts = standing(database, workload, old, up_to)
    if amounts:
        _write(database, after(up_to), old, new, workload, amounts, reason)


def standing(database: Database, workload: int, owner: int, up_to: int) -> list[Transfer]:
    """Return an owner's amounts of a workload: rows up to month `up_to`, and corrections."""
    used: dict[str, Amount] = {}
    billed: dict[tuple[str, str], Exact] = {}
    who = [workload, owner, up_to]
    for component, *amount in database.rows(
        "SELECT component, energy_uj, idle_uj, held_ns, idle_ns FROM used_entries"
        " WHERE workload = ? AND owner = ? AND (month <= ? OR correction > 0)",
        who,
    ):
        used[component] = used.get(component, ZERO).plus(Amount(*amount))
    for view in ("billed_entries", "idle_entries"):
        for item, currency, *parts in database.rows(
            f"SELECT item, currency, whole, nano, rest FROM {view}"  # noqa: S608
            " WHERE workload = ? AND owner = ? AND (month <= ? OR correction > 0)",
            who,
        ):
            more = Exact.of(Exact(*parts).atoms)
            billed[item, currency] = billed.get((item, currency), NOTHING).plus(more)
    return [
        *(Transfer(component, amount) for component, amount in used.items() if amount != ZERO),
        *(
            Transfer(item=item, currency=currency, billed=amount)
            for (item, currency), amount in billed.items()
            if amount != NOTHING or item == Item.IDLE_UNKNOWN
        ),
    ]


def open_month(database: Database, now_s: int) -> int:
    """Return the month in which an entry made now counts; holds the lock on bills."""
    closed = closed_to(database)
    return max(after(closed) if closed else 0, month_of(now_s))


def _write(
    database: Database,
    month: int,
    giver: int,
    taker: int,
    workload: int,
    amounts: Sequence[Transfer],
    reason: Reason,
) -> int:
    if giver == taker:
        raise InputError("a correction needs two different owners", reason="nothing")
    if not any(each.used != ZERO or each.billed != NOTHING for each in amounts):
        raise InputError("a correction needs an amount above zero", reason="nothing")
    if min(min(*each.used, *each.billed) for each in amounts) < 0:
        raise InputError("a correction needs an amount above zero", reason="negative")
    if not reason.who.strip() or not reason.why.strip():
        raise InputError("a correction needs an author and a reason", reason="unsigned")
    ((number,),) = database.rows("SELECT coalesce(max(id), 0) + 1 FROM corrections")
    database.many(
        _INSERT,
        [
            (number, line, month, giver, taker, workload, each.component, *each.used[:4],
             each.item, each.currency, *each.billed)
            for line, each in enumerate(amounts, start=1)
        ],
    )  # fmt: skip
    database.rows(
        "INSERT INTO corrections VALUES (?, ?, ?, ?, ?, ?)",
        [number, month, reason.made_s, reason.kind, reason.who, reason.why],
    )
    return int(number)


def _find(database: Database, workload: str, cluster: str) -> tuple[int, int, BilledOwner]:
    found = database.rows(
        "SELECT w.id, w.owner, w.cluster, w.scheduler, w.workload, o.remainder, o.account,"
        " o.person, o.experiment FROM workloads w JOIN owners o ON o.id = w.owner"
        " WHERE (w.workload = ? OR w.scheduler || '/' || w.workload = ? OR w.id IN"
        " (SELECT workload FROM facts WHERE display = ?)) AND (? = '' OR w.cluster = ?)"
        " ORDER BY w.id LIMIT 10",
        [workload, workload, workload, cluster, cluster],
    )
    if not found:
        raise LedgerError(f"no workload {workload!r} in {database.name}")
    if len(found) > 1:
        names = ", ".join(f"{c or '(no cluster)'} {s}/{w}" for _, _, c, s, w, *_ in found)
        raise LedgerError(f"{workload!r} is ambiguous: {names}; give one of them, or --cluster")
    number, owner, _, _, _, *labels = found[0]
    return int(number), int(owner), BilledOwner(*labels)
