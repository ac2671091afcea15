"""Owners of workloads: as reported by nodes, until a person corrects them.

If labels arrive late, a workload's consumption moves with them: in open months its rows change
owner; amounts in closed months are moved by an entry in the open month.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import msgspec

from joulebook.core.evidence import ZERO, Amount
from joulebook.core.ledger.export import PostingsPage, WorkloadRow
from joulebook.core.money.amounts import NOTHING, Exact
from joulebook.lab.collected import corrections
from joulebook.lab.collected.database import Database, Row, one_by_some
from joulebook.lab.collected.rollup import Billed, Used, add_to_months
from joulebook.lab.collected.schema import OWNER, BilledOwner, numbered

A = TypeVar("A", Amount, Exact)

_WORKLOAD = ("workloads", ("ledger", "scheduler", "workload", "start"))

# Workloads of before, which nodes may share: those that this ledger has told of are its own too.
_SHARED = """
SELECT w.scheduler, w.workload, w.start, w.id, (SELECT count(1) FROM facts WHERE workload = w.id)
FROM workloads w JOIN facts f ON f.workload = w.id WHERE w.ledger = 0 AND f.ledger = ?
    AND w.workload IN (*)
"""


class KnownWorkload(NamedTuple):
    """A workload's number here, and its owner's."""

    workload: int
    owner: int


def learn(
    database: Database, ledger: int, page: PostingsPage, closed_to: int, now_s: int
) -> dict[int, KnownWorkload]:
    """Take in what a node knows of its workloads; gives them by the node's own row numbers.

    A node sets the owner of its own rows only.
    """
    if not page.workloads:
        return {}
    right = {
        row.id: BilledOwner("", row.account, row.user, row.experiment) for row in page.workloads
    }
    owners = numbered(database, OWNER, right.values())
    mine, shared = _numbers(database, ledger, page, owners)
    database.upsert("facts", [_facts(ledger, mine[row.id], row) for row in page.workloads])
    stand = {
        number: (owner, relabelled)
        for number, owner, relabelled in one_by_some(
            database,
            "SELECT id, owner, relabelled FROM workloads WHERE id IN (*)",
            [],
            sorted(mine.values()),
        )
    }
    found: dict[int, KnownWorkload] = {}
    for local, number in mine.items():
        (old, relabelled), new = stand[number], owners[right[local]]
        if new == old or relabelled or number in shared:
            found[local] = KnownWorkload(number, old)
            continue
        _hand_over(database, number, old, new, closed_to)
        reason = corrections.Reason(
            "late labels", f"node {page.node}", "labels arrived late", now_s
        )
        corrections.hand_over(database, number, old, new, reason, up_to=closed_to)
        found[local] = KnownWorkload(number, new)
    return found


def _numbers(
    database: Database,
    ledger: int,
    page: PostingsPage,
    owners: dict[tuple[object, ...], int],
) -> tuple[dict[int, int], set[int]]:
    """The numbers of a page's workloads by the node's own; and those that other nodes share."""
    keys = {row.id: (row.scheduler, row.workload, row.start) for row in page.workloads}
    names = sorted({row.workload for row in page.workloads})
    numbers: dict[tuple[object, ...], int] = {}
    shared: set[int] = set()
    for *key, number, nodes in one_by_some(database, _SHARED, [ledger], names):
        numbers[tuple(key)] = number
        if nodes > 1:
            shared.add(number)
    new: dict[tuple[object, ...], tuple[object, ...]] = {
        (ledger, *keys[row.id]): (
            page.cluster,
            owners[BilledOwner("", row.account, row.user, row.experiment)],
        )
        for row in page.workloads
        if keys[row.id] not in numbers
    }
    made = numbered(database, _WORKLOAD, new, (("cluster", "owner"), new))
    return {
        local: numbers[key] if key in numbers else made[ledger, *key] for local, key in keys.items()
    }, shared


def _facts(ledger: int, number: int, row: WorkloadRow) -> tuple[object, ...]:
    return (
        ledger,
        number,
        row.display,
        row.name,
        row.user,
        row.account,
        row.experiment,
        row.started_utc_ns,
        row.ended_utc_ns,
        int(row.complete),
        row.gpu_count,
        row.evidence,
        msgspec.json.encode(row.extra).decode(),
        row.scheduler_start_s,
        int(row.named),
        row.stage,
        row.outcome,
    )


def _hand_over(database: Database, workload: int, old: int, new: int, closed_to: int) -> None:
    """Change the owner of rows in open months."""
    database.rows("UPDATE workloads SET owner = ? WHERE id = ?", [new, workload])
    mine = [workload, closed_to, old, new]
    used = database.rows(
        "SELECT ledger, day_s, month, workload, component, owner, energy_uj, idle_uj, held_ns,"
        " idle_ns FROM used WHERE workload = ? AND month > ? AND owner IN (?, ?)",
        mine,
    )
    billed = database.rows(
        "SELECT ledger, day_s, month, workload, item, currency, owner, whole, nano, rest"
        " FROM billed WHERE workload = ? AND month > ? AND owner IN (?, ?)",
        mine,
    )
    moved: Used = {}
    for _, day_s, month, _, component, owner, *amount in used:
        if owner == old:
            for who, sign in ((old, -1), (new, 1)):
                key = (day_s, month, workload, who, component)
                more = Amount(*(sign * each for each in amount))
                moved[key] = moved.get(key, ZERO).plus(more)
    paid: Billed = {}
    for _, day_s, month, _, item, currency, owner, *exact in billed:
        if owner == old:
            for who, sign in ((old, -1), (new, 1)):
                to = (day_s, month, workload, who, item, currency)
                atoms = sign * Exact(*exact).atoms
                paid[to] = Exact.of(paid.get(to, NOTHING).atoms + atoms)
    add_to_months(database, moved, paid, closed_to)
    database.rows("DELETE FROM used WHERE workload = ? AND month > ? AND owner = ?", mine[:3])
    database.rows("DELETE FROM billed WHERE workload = ? AND month > ? AND owner = ?", mine[:3])
    used = [(*row[:5], *row[6:]) for row in used]
    billed = [(*row[:6], *row[7:]) for row in billed]
    database.upsert(
        "used",
        [
            (*key[:4], new, *key[4:], *amount[:4])
            for key, amount in _summed(used, Amount, 4).items()
        ],
    )
    database.upsert(
        "billed",
        [(*key[:4], new, *key[4:], *amount) for key, amount in _summed(billed, Exact, 3).items()],
    )


def _summed(rows: Sequence[Row], kind: Callable[..., A], columns: int) -> dict[Row, A]:
    """Return the sums of what the last columns are, by all others."""
    sums: dict[Row, A] = {}
    for row in rows:
        key, amount = row[:-columns], kind(*row[-columns:])
        known = sums.get(key)
        sums[key] = amount if known is None else known.plus(amount)
    return sums
