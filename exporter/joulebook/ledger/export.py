"""Pages of the ledger for a collector: what changed after a number, in the order of change."""

from __future__ import annotations

import heapq
import sqlite3
from collections.abc import Iterable, Iterator

import msgspec

from joulebook.core.energy.readings import REPLAYED, Component, Meter
from joulebook.core.ledger.export import (
    MAX_ROWS,
    VERSION,
    ChargedRow,
    ChargeRow,
    GapRow,
    MeterRow,
    PostingRow,
    PostingsPage,
    RateRow,
    WorkloadRow,
)
from joulebook.core.money.amounts import NOTHING, Exact
from joulebook.decoding import converter
from joulebook.ledger import state

_NUMBERED = ("workloads", "postings", "charges", "rates_used", "gaps")

_WORKLOADS = """
SELECT id, seq, scheduler, workload, display, name, user, account, experiment, started_utc_ns,
       ended_utc_ns, complete, gpu_count, evidence, extra, start, scheduler_start_s, named, stage,
       outcome
FROM workloads
"""

_POSTINGS = """
SELECT seq, quarter_s, meter_id, workload_id, remainder, method, evidence, energy_uj, idle_uj,
       held_ns, idle_ns, calibration_uj, tensor_ns, tensor_known_ns
FROM postings WHERE seq > ? AND seq <= ? ORDER BY seq
"""

# What was let go is one sum, of an older number: it is reported with the totals.
_CHARGES = """
SELECT seq, quarter_s, workload_id, remainder, item, currency, whole, nano, rest
FROM charges WHERE seq > ? AND seq <= ? AND quarter_s > 0 ORDER BY seq
"""

_RATES = """
SELECT seq, quarter_s, quantity, value, unit, source, quality, energy_uj, held_ns
FROM rates_used WHERE seq > ? AND seq <= ? ORDER BY seq
"""

_GAPS = """
SELECT id, seq, meter_id, reason, t0_utc_ns, t1_utc_ns
FROM gaps WHERE seq > ? AND seq <= ? ORDER BY seq
"""

_EXPIRED = "SELECT item, currency, whole, nano, rest FROM charges WHERE quarter_s = 0"

_workload_row = converter(WorkloadRow)

_IDS = 500
"""Row numbers in one question; sqlite of 2018 takes 999."""


def page(
    conn: sqlite3.Connection,
    node: str,
    cluster: str,
    since: int,
    ledger_id: str = "",
    limit: int = MAX_ROWS,
) -> PostingsPage:
    """At most `limit` rows numbered after `since`, in the caller's transaction.

    `ledger_id` is the ledger that `since` is of: another one than this is reported from its begin.
    Raises `sqlite3.Error` and `msgspec.MsgspecError`.
    """
    own_id, created_s = conn.execute("SELECT ledger_id, created_s FROM ledger").fetchone()
    if ledger_id not in {"", own_id}:
        since = 0
    last = state.read_seq(conn)
    upto = min(_upto(conn, since, limit), last)
    span = (since, upto)
    postings = tuple(PostingRow(*row) for row in conn.execute(_POSTINGS, span))
    charged = tuple(ChargeRow(*row) for row in conn.execute(_CHARGES, span))
    named = {row.workload_id for row in postings} | {row.workload_id for row in charged}
    return PostingsPage(
        v=VERSION,
        node=node,
        cluster=cluster,
        ledger_id=own_id,
        created_s=created_s,
        since=since,
        next=upto,
        last=last,
        booked_to_s=state.read_booked_to_s(conn),
        meters=tuple(_meters(conn)),
        charged=tuple(_charged(conn)),
        workloads=tuple(_workloads(conn, span, named - {0})),
        postings=postings,
        charges=charged,
        rates=tuple(RateRow(*row) for row in conn.execute(_RATES, span)),
        gaps=tuple(GapRow(*row) for row in conn.execute(_GAPS, span)),
        since_writer=state.read_writer(conn, since),
        next_writer=state.read_writer(conn, upto),
    )


def _upto(conn: sqlite3.Connection, since: int, limit: int) -> int:
    """Return the number up to which `limit` rows come after `since`; with fewer, beyond all."""
    numbers = [
        [seq for (seq,) in conn.execute(
            f"SELECT seq FROM {table} WHERE seq > ? ORDER BY seq LIMIT ?",  # noqa: S608
            (since, limit),
        )]
        for table in _NUMBERED
    ]  # fmt: skip
    merged = list(heapq.merge(*numbers))
    return merged[limit - 1] if len(merged) >= limit else 1 << 62


def _meters(conn: sqlite3.Connection) -> Iterator[MeterRow]:
    meters = {each.meter: each for each in state.read_meters(conn)}
    models = state.read_models(conn)
    for id_, component, name, expired_uj in conn.execute(
        "SELECT id, component, name, expired_uj FROM meters ORDER BY id"
    ):
        meter = Meter(Component(component), name)
        known = meters.get(meter)
        yield MeterRow(
            id_,
            component,
            name,
            models.get(meter, ""),
            0 if known is None else known.booked_uj,
            expired_uj,
            known is not None and known.base.epoch == REPLAYED,
        )


def _charged(conn: sqlite3.Connection) -> Iterator[ChargedRow]:
    expired = {(item, currency): Exact(*parts) for item, currency, *parts in conn.execute(_EXPIRED)}
    for charge, booked in sorted(state.read_charges(conn).items()):
        key = (charge.item.value, charge.currency)
        yield ChargedRow(*key, booked, expired.get(key, NOTHING))


def _workloads(
    conn: sqlite3.Connection, span: tuple[int, int], named: set[int]
) -> Iterator[WorkloadRow]:
    changed = conn.execute(f"{_WORKLOADS} WHERE seq > ? AND seq <= ? ORDER BY seq", span).fetchall()
    yield from map(_workload, changed)
    wanted = sorted(named - {row[0] for row in changed})
    for start in range(0, len(wanted), _IDS):
        some = wanted[start : start + _IDS]
        marks = ",".join("?" * len(some))
        yield from map(_workload, conn.execute(f"{_WORKLOADS} WHERE id IN ({marks})", some))


def _workload(row: Iterable[object]) -> WorkloadRow:
    values = dict(zip(WorkloadRow.__struct_fields__, row, strict=True))
    values["complete"], values["named"] = bool(values["complete"]), bool(values["named"])
    values["extra"] = msgspec.json.decode(str(values["extra"]))
    return _workload_row([*values.values()])
