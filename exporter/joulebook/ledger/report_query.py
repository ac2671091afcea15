"""Queries of reports: postings, charges, facts and gaps of a time range."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator

import msgspec

from joulebook.core.energy.readings import REPLAYED, Meter
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
from joulebook.decoding import converter
from joulebook.ledger import charges, state
from joulebook.units import NS_PER_S

WORKLOADS = """
SELECT id, scheduler, workload, display, name, user, account, experiment, started_utc_ns,
       ended_utc_ns, gpu_count, evidence, extra, start, scheduler_start_s, named, stage, outcome
FROM workloads
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

_as_workload = converter(ReportWorkload)

_LATEST_NS = (1 << 63) - 1

_COLUMNS = {"experiments": "experiment", "users": "user", "accounts": "account"}


def read(
    conn: sqlite3.Connection, source: str, node: str, since_s: int, until_s: int, wanted: Selection
) -> ReportData:
    """The account of [since, until), in the caller's transaction. Raises `sqlite3.Error`, and
    `msgspec.MsgspecError` or `ValueError` for values that cannot be.
    """
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
        {each.id: each for each in known.values() if each.id in there},
        tuple(charges.rates(conn, since_s, until_s, node)),
        tuple(
            LostStretch.of_row(node, row)
            for row in conn.execute(
                _GAPS, (since_s * NS_PER_S, min(until_s * NS_PER_S, _LATEST_NS))
            )
        ),
        {(node, meter): model for meter, model in state.read_models(conn).items()},
        known_until_s={node: state.read_booked_to_s(conn)},
        warnings=replay_warning(source, replayed & {posting.meter for posting in postings}),
        replayed=frozenset((node, meter) for meter in replayed),
        audits={(node, each.meter): each.shown_audit for each in state.read_meters(conn)},
    )


def workloads(conn: sqlite3.Connection, wanted: Selection) -> tuple[ReportWorkload, ...]:
    """The workloads that are selected, in the caller's transaction. Raises as `read` does."""
    return tuple(each for _, each in _workloads(conn, *_chosen(wanted)))


def played(conn: sqlite3.Connection) -> frozenset[Meter]:
    """Return the meters that were played from a recorded trace."""
    return frozenset(m.meter for m in state.read_meters(conn) if m.base.epoch == REPLAYED)


def workload(row: Iterable[object]) -> ReportWorkload:
    """Return a row of `WORKLOADS`. Raises `msgspec.MsgspecError` for one that cannot be."""
    _, scheduler, name, display, called, user, account, experiment, *rest = row
    started_utc_ns, ended_utc_ns, gpu_count, evidence, extra, start, *rest = rest
    scheduler_start_s, named, stage, outcome = rest
    return _as_workload(
        {
            "id": (scheduler, name, start),
            "display": display,
            "name": called,
            "labels": (user, account, experiment),
            "started_utc_ns": started_utc_ns,
            "ended_utc_ns": ended_utc_ns,
            "gpu_count": gpu_count,
            "evidence": evidence,
            "extra": msgspec.json.decode(str(extra)),
            "scheduler_start_s": scheduler_start_s,
            "named": bool(named),
            "stage": stage,
            "outcome": outcome,
        }
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
