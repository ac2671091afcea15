"""Queries of reports: postings, charges, facts and gaps of a time range."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import msgspec

from joulebook.core.energy.readings import Component, Meter
from joulebook.core.evidence import ZERO, Amount, Method
from joulebook.core.report.dataset import (
    Charged,
    LostStretch,
    Posting,
    ReportData,
    ReportWorkload,
    Selection,
    family_patterns,
    replay_warning,
    subject_of,
)
from joulebook.core.report.runs import WorkloadTotals
from joulebook.core.workloads import WorkloadId
from joulebook.ledger import charges, state
from joulebook.ledger.query import WORKLOADS, LedgerReader, played, workload
from joulebook.units import NS_PER_S, QUARTER_NS

_NAMED = f"{WORKLOADS} WHERE workload = ? OR display = ? ORDER BY id"

_IDENTIFIED = f"{WORKLOADS} WHERE scheduler = ? AND workload = ? AND start = ?"

# `workload_id > 0` is what makes the partial index usable.
_SUMS = """
SELECT component, name, method, evidence, sum(energy_uj), sum(idle_uj), sum(held_ns),
       sum(idle_ns), sum(calibration_uj), sum(tensor_ns), sum(tensor_known_ns),
       min(quarter_s), max(quarter_s)
FROM postings JOIN meters ON meters.id = meter_id
WHERE workload_id = ? AND workload_id > 0
GROUP BY meter_id, method, evidence
"""

_POSTINGS = """
SELECT workload_id, remainder, component, meters.name, quarter_s, energy_uj, idle_uj, held_ns,
       idle_ns, calibration_uj, tensor_ns, tensor_known_ns, method, evidence
FROM postings JOIN meters ON meters.id = meter_id
WHERE quarter_s >= ? AND quarter_s < ? AND
"""

_GAPS = """
SELECT component, name, reason, t0_utc_ns, t1_utc_ns
FROM gaps JOIN meters ON meters.id = meter_id WHERE t1_utc_ns > ? AND t0_utc_ns < ?
"""

EVERYTHING = Selection()

_QUARTER_S = QUARTER_NS // NS_PER_S

_LATEST_S = 1 << 33
"""Beyond all that was booked, and in ns still a number of 64 bits."""

_COLUMNS = {"experiments": "experiment", "users": "user", "accounts": "account"}


def account(
    reader: LedgerReader,
    since_s: int,
    until_s: int,
    wanted: Selection = EVERYTHING,
    node: str = "",
) -> ReportData:
    """Return all that a report needs of the quarter hours in [since, until), in one view.

    A ledger does not know its node's name: postings carry the one that is given. Raises
    `LedgerError`.
    """
    source = f"ledger of {node}" if node else f"ledger {reader.path}"
    with reader.view() as conn:
        return _read(conn, source, node, since_s, until_s, wanted)


def workloads(reader: LedgerReader, wanted: Selection) -> tuple[ReportWorkload, ...]:
    """Return the workloads that are selected, also those that nothing was booked to."""
    with reader.view() as conn:
        return tuple(each for _, each in _workloads(conn, *_chosen(wanted)))


def workload_totals(reader: LedgerReader, name: WorkloadId | str) -> tuple[WorkloadTotals, ...]:
    """Return the totals of the workloads with that identity, id or displayed name.

    Empty if there is none; several if a name was reused, or another scheduler uses it, too.
    """
    with reader.view() as conn:
        if isinstance(name, WorkloadId):
            rows = conn.execute(_IDENTIFIED, name).fetchall()
        else:
            rows = conn.execute(_NAMED, (name, name)).fetchall()
        return tuple(_totals(conn, row) for row in rows)


def _read(
    conn: sqlite3.Connection, source: str, node: str, since_s: int, until_s: int, wanted: Selection
) -> ReportData:
    clause, chosen = _chosen(wanted)
    ((cluster,),) = conn.execute("SELECT cluster FROM ledger").fetchall()
    within: tuple[int | str, ...] = (since_s, until_s, *chosen)
    postings: list[Posting] = []
    known: dict[int, ReportWorkload] = {}
    replayed = played(conn)
    for number, row in _workloads(conn, clause, chosen):
        known[number] = msgspec.structs.replace(row, cluster=cluster)
    for number, remainder, *row in conn.execute(_POSTINGS + clause, within):
        postings.append(Posting.of_row(node, subject_of(number, remainder, known), row))
    charged = tuple(
        Charged(node, subject_of(number, remainder, known), quarter_s, charge, amount)
        for number, remainder, quarter_s, charge, amount in charges.rows(conn, clause, within)
    )
    there = {row.subject for row in postings} | {row.subject for row in charged}
    return ReportData(
        source,
        since_s,
        until_s,
        tuple(postings),
        charged,
        {
            each.id: each
            for each in known.values()
            if each.id in there or (there and each.held_within(since_s, until_s))
        },
        tuple(charges.rates(conn, since_s, until_s, node)),
        tuple(
            LostStretch.of_row(node, row)
            for row in conn.execute(
                _GAPS, [min(max(edge_s, 0), _LATEST_S) * NS_PER_S for edge_s in (since_s, until_s)]
            )
        ),
        {(node, meter): model for meter, model in state.read_models(conn).items()},
        known_until_s={node: state.read_booked_to_s(conn)},
        warnings=replay_warning(source, replayed & {posting.meter for posting in postings}),
        replayed=frozenset((node, meter) for meter in replayed),
        audits={(node, each.meter): each.shown_audit for each in state.read_meters(conn)},
    )


def _chosen(wanted: Selection) -> tuple[str, tuple[str, ...]]:
    """Return the condition on `workload_id`, and its parameters. Names only ever go in as those."""
    if wanted.everything:
        return "1", ()
    parts: list[str] = []
    values: list[str] = []
    for field, column in _COLUMNS.items():
        names = sorted(getattr(wanted, field))
        if names:
            parts.append(f"{column} IN ({_marks(names)})")
            values += names
    names = sorted(wanted.workloads)
    if names:
        marks = _marks(names)
        parts.append(
            f"(workload IN ({marks}) OR display IN ({marks})"
            f" OR scheduler || '/' || workload IN ({marks}))"
        )
        values += [*names, *names, *names]
    patterns = [pattern for job in sorted(wanted.jobs) for pattern in family_patterns(job)]
    if patterns:
        like = " OR ".join(
            ["workload LIKE ? ESCAPE '\\' OR display LIKE ? ESCAPE '\\'"] * len(patterns)
        )
        parts.append(f"({like})")
        values += [pattern for each in patterns for pattern in (each, each)]
    # `workload_id > 0` is what makes the partial index usable.
    where = f"SELECT id FROM workloads WHERE {' AND '.join(parts) or '1'}"  # noqa: S608 - no values
    return f"workload_id > 0 AND workload_id IN ({where})", tuple(values)


def _marks(names: list[str]) -> str:
    return ", ".join("?" * len(names))


def _workloads(
    conn: sqlite3.Connection, clause: str, chosen: tuple[str, ...]
) -> Iterator[tuple[int, ReportWorkload]]:
    only = clause.replace("workload_id", "id")
    for row in conn.execute(f"{WORKLOADS} WHERE {only}", chosen):
        yield row[0], workload(row)


def _totals(conn: sqlite3.Connection, row: tuple[object, ...]) -> WorkloadTotals:
    total = ZERO
    by_meter: dict[Meter, Amount] = {}
    by_method: dict[Method, Amount] = {}
    by_evidence: dict[str, Amount] = {}
    quarters: list[int] = []
    for component, name, method, evidence, *sums, first, last in conn.execute(_SUMS, row[:1]):
        amount, meter, how = Amount(*sums), Meter(Component(component), name), Method(method)
        total = total.plus(amount)
        by_meter[meter] = by_meter.get(meter, ZERO).plus(amount)
        by_method[how] = by_method.get(how, ZERO).plus(amount)
        by_evidence[evidence] = by_evidence.get(evidence, ZERO).plus(amount)
        quarters += [first, last]
    return WorkloadTotals(
        workload(row),
        total,
        by_meter,
        by_method,
        by_evidence,
        charges.of_workload(conn, row[0]),
        first_s=min(quarters, default=None),
        last_s=max(quarters) + _QUARTER_S if quarters else None,
        replayed=not played(conn).isdisjoint(by_meter),
    )
