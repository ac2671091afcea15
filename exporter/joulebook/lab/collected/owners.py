"""Whose a workload is: what its nodes know of it, until a person says otherwise.

What a workload has consumed goes along when its labels become known late: in open months its rows
change hands; what stands in closed ones is handed over by an entry in the open month.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import msgspec

from joulebook.core.evidence import Amount
from joulebook.core.ledger.export import PostingsPage, WorkloadRow
from joulebook.core.money.amounts import Exact
from joulebook.core.workloads import Labels, WorkloadFacts, WorkloadId, merged
from joulebook.lab.collected import corrections
from joulebook.lab.collected.database import Database, Row, one_by_some
from joulebook.lab.collected.dimensions import OWNER, BilledOwner, numbered
from joulebook.lab.collected.rollup import WRITE_BILLED, WRITE_USED

A = TypeVar("A", Amount, Exact)

WORKLOAD = ("workloads", ("cluster", "scheduler", "workload"))

_FACTS = """
SELECT f.workload, w.scheduler, w.workload, f.display, f.person, f.account, f.experiment
FROM facts f JOIN workloads w ON w.id = f.workload
WHERE f.workload IN (*) ORDER BY f.workload, f.ledger
"""


class KnownWorkload(NamedTuple):
    """A workload's number here, and its owner's."""

    workload: int
    owner: int


def learn(
    database: Database, ledger: int, page: PostingsPage, closed_to: int, now_s: int
) -> dict[int, KnownWorkload]:
    """Take in what a node knows of workloads; gives them by the node's own row numbers."""
    if not page.workloads:
        return {}
    first = {
        (page.cluster, row.scheduler, row.workload): BilledOwner(
            "", row.account, row.user, row.experiment
        )
        for row in page.workloads
    }
    owners = numbered(database, OWNER, first.values())
    numbers = numbered(
        database,
        WORKLOAD,
        first,
        (("owner",), {key: (owners[owner],) for key, owner in first.items()}),
    )
    mine = {row.id: numbers[page.cluster, row.scheduler, row.workload] for row in page.workloads}
    database.many(
        "INSERT INTO facts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (workload, ledger) DO UPDATE SET display = excluded.display,"
        " name = excluded.name, person = excluded.person, account = excluded.account,"
        " experiment = excluded.experiment, started_utc_ns = excluded.started_utc_ns,"
        " ended_utc_ns = excluded.ended_utc_ns, complete = excluded.complete,"
        " gpu_count = excluded.gpu_count, evidence = excluded.evidence, extra = excluded.extra",
        [_facts(ledger, mine[row.id], row) for row in page.workloads],
    )
    wanted = sorted(set(mine.values()))
    reported = _told(database, wanted)
    stand = {
        number: (owner, relabelled)
        for number, owner, relabelled in one_by_some(
            database, "SELECT id, owner, relabelled FROM workloads WHERE id IN (*)", [], wanted
        )
    }
    owners |= numbered(database, OWNER, reported.values())
    for number, (owner, relabelled) in stand.items():
        right = owners[reported[number]]
        if right != owner and not relabelled:
            _hand_over(database, number, owner, right, closed_to)
            corrections.hand_over(
                database,
                number,
                owner,
                right,
                corrections.Reason(
                    "late labels", f"node {page.node}", "labels became known late", now_s
                ),
                up_to=closed_to,
            )
            stand[number] = (right, 0)
    return {local: KnownWorkload(number, stand[number][0]) for local, number in mine.items()}


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
    )


def _told(database: Database, wanted: list[int]) -> dict[int, BilledOwner]:
    """What all nodes together know of the owners; nodes in the order in which they came."""
    facts: dict[int, WorkloadFacts] = {}
    for number, scheduler, workload, display, *labels in one_by_some(database, _FACTS, [], wanted):
        reported = WorkloadFacts(WorkloadId(scheduler, workload), display, labels=Labels(*labels))
        facts[number] = merged(facts[number], reported) if number in facts else reported
    return {
        number: BilledOwner("", each.labels.account, each.labels.user, each.labels.experiment)
        for number, each in facts.items()
    }


def _hand_over(database: Database, workload: int, old: int, new: int, closed_to: int) -> None:
    """Rows of open months change hands."""
    database.rows("UPDATE workloads SET owner = ? WHERE id = ?", [new, workload])
    mine = [workload, closed_to, old, new]
    used = database.rows(
        "SELECT ledger, day_s, month, workload, component, energy_uj, idle_uj, held_ns FROM used"
        " WHERE workload = ? AND month > ? AND owner IN (?, ?)",
        mine,
    )
    database.rows("DELETE FROM used WHERE workload = ? AND month > ? AND owner = ?", mine[:3])
    database.many(
        WRITE_USED,
        [(*key[:4], new, *key[4:], *amount) for key, amount in _summed(used, Amount).items()],
    )
    billed = database.rows(
        "SELECT ledger, day_s, month, workload, item, currency, whole, nano, rest FROM billed"
        " WHERE workload = ? AND month > ? AND owner IN (?, ?)",
        mine,
    )
    database.rows("DELETE FROM billed WHERE workload = ? AND month > ? AND owner = ?", mine[:3])
    database.many(
        WRITE_BILLED,
        [(*key[:4], new, *key[4:], *amount) for key, amount in _summed(billed, Exact).items()],
    )


def _summed(rows: Sequence[Row], kind: Callable[..., A]) -> dict[Row, A]:
    """The sums of what the last three columns are, by all others."""
    sums: dict[Row, A] = {}
    for *key, a, b, c in rows:
        amount, known = kind(a, b, c), sums.get(tuple(key))
        sums[tuple(key)] = amount if known is None else known.plus(amount)
    return sums
