"""The permanent record: postings, charges, facts of workloads and gaps, as rows."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from itertools import count

import msgspec

from joulebook.core.energy.readings import Meter
from joulebook.core.evidence import ZERO, Gap, Remainder
from joulebook.core.ledger.state import Entry
from joulebook.core.workloads import WorkloadFacts, WorkloadId
from joulebook.ledger import charges
from joulebook.units import NS_PER_S

_REMEMBERED = 4_096
"""Row numbers of workloads kept in memory; more than are ever exposed."""

_UPSERT_POSTING = """
INSERT INTO postings (quarter_s, meter_id, workload_id, remainder, method, evidence,
                      energy_uj, idle_uj, held_ns, idle_ns, calibration_uj, tensor_ns,
                      tensor_known_ns, seq)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (quarter_s, meter_id, workload_id, remainder, method, evidence) DO UPDATE SET
    energy_uj = energy_uj + excluded.energy_uj,
    idle_uj = idle_uj + excluded.idle_uj,
    held_ns = held_ns + excluded.held_ns,
    idle_ns = idle_ns + excluded.idle_ns,
    calibration_uj = calibration_uj + excluded.calibration_uj,
    tensor_ns = tensor_ns + excluded.tensor_ns,
    tensor_known_ns = tensor_known_ns + excluded.tensor_known_ns,
    seq = excluded.seq
"""

_UPSERT_FACTS = """
INSERT INTO workloads (scheduler, workload, start, display, name, user, account, experiment,
                       started_ns, started_utc_ns, ended_ns, ended_utc_ns, complete, gpu_count,
                       evidence, extra, scheduler_start_s, named, stage, outcome, touched_s, seq)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (workload, scheduler, start) DO UPDATE SET
    display = excluded.display, name = excluded.name, user = excluded.user,
    account = excluded.account, experiment = excluded.experiment,
    started_ns = excluded.started_ns, started_utc_ns = excluded.started_utc_ns,
    ended_ns = excluded.ended_ns, ended_utc_ns = excluded.ended_utc_ns,
    complete = excluded.complete, gpu_count = excluded.gpu_count,
    evidence = excluded.evidence, extra = excluded.extra,
    scheduler_start_s = excluded.scheduler_start_s, named = excluded.named,
    stage = excluded.stage, outcome = excluded.outcome,
    touched_s = excluded.touched_s, seq = excluded.seq
"""

# A device that stays away is reported piece by piece; its gap is one row that grows.
_EXTEND_GAP = """
UPDATE gaps SET t1_ns = ?, t1_utc_ns = ?, seq = ?
WHERE id = (SELECT id FROM gaps WHERE meter_id = ? AND t1_ns = ? AND reason = ? LIMIT 1)
"""

_INSERT_GAP = """
INSERT INTO gaps (meter_id, reason, t0_ns, t1_ns, t0_utc_ns, t1_utc_ns, seq)
VALUES (?, ?, ?, ?, ?, ?, ?)
"""


class EntryWriter:
    """Writes entries through a connection, always inside the caller's transaction.

    Remembers the row numbers of meters and workloads: after a transaction that was rolled back,
    and after rows were deleted, `forget` them.
    """

    def __init__(self, conn: sqlite3.Connection) -> None:
        self._conn = conn
        self._meters: dict[Meter, int] = {}
        self._workloads: dict[WorkloadId, int] = {}

    def forget(self) -> None:
        """Look all row numbers up again."""
        self._meters.clear()
        self._workloads.clear()

    def write(self, entry: Entry, seq: int, now_ns: int, utc_offset_ns: int) -> int:
        """Add an entry; its rows are numbered from `seq + 1` on. Returns the last number used.

        `now_ns` and the times in the entry are node time, `utc_offset_ns` makes UTC of them.
        Raises `sqlite3.Error`, and `OverflowError` or `UnicodeError` for what cannot be stored.
        """
        numbers = count(seq + 1)
        self._write_facts(entry.facts, numbers, now_ns, utc_offset_ns)
        self._write_gaps(entry.gaps, numbers, utc_offset_ns)
        now_s = (now_ns + utc_offset_ns) // NS_PER_S
        self._write_postings(entry, numbers, now_s)
        charges.write(
            self._conn,
            entry.charges,
            entry.rates,
            lambda workload: self._workload_id(workload, numbers, now_s),
            numbers,
        )
        return next(numbers) - 1

    def _write_facts(
        self, facts: Iterable[WorkloadFacts], numbers: count[int], now_ns: int, offset_ns: int
    ) -> None:
        # UTC is worked out again with each change: the latest offset is the best known.
        touched_s = (now_ns + offset_ns) // NS_PER_S
        for each in facts:
            started_ns = each.started_ns or None
            self._conn.execute(
                _UPSERT_FACTS,
                (
                    *each.id,
                    each.shown,
                    each.name,
                    *each.labels,
                    started_ns,
                    None if started_ns is None else started_ns + offset_ns,
                    each.ended_ns,
                    None if each.ended_ns is None else each.ended_ns + offset_ns,
                    each.complete,
                    each.gpu_count,
                    each.evidence,
                    msgspec.json.encode(each.extra).decode(),
                    each.scheduler_start_s,
                    each.named,
                    each.stage,
                    each.outcome,
                    touched_s,
                    next(numbers),
                ),
            )

    def _write_gaps(self, gaps: Iterable[Gap], numbers: count[int], offset_ns: int) -> None:
        for gap in gaps:
            meter_id = self._meter_id(gap.meter)
            seq = next(numbers)
            t1_utc_ns = gap.t1_ns + offset_ns
            extended = self._conn.execute(
                _EXTEND_GAP, (gap.t1_ns, t1_utc_ns, seq, meter_id, gap.t0_ns, gap.reason)
            )
            if not extended.rowcount:
                t0_utc_ns = gap.t0_ns + offset_ns
                self._conn.execute(
                    _INSERT_GAP,
                    (meter_id, gap.reason, gap.t0_ns, gap.t1_ns, t0_utc_ns, t1_utc_ns, seq),
                )

    def _write_postings(self, entry: Entry, numbers: count[int], now_s: int) -> None:
        rows = []
        for key, amount in entry.postings.items():
            if isinstance(key.subject, Remainder):
                if amount == ZERO:
                    continue
                workload_id, remainder = 0, key.subject.value
            else:
                workload_id, remainder = self._workload_id(key.subject, numbers, now_s), ""
            rows.append(
                (
                    key.quarter_s,
                    self._meter_id(key.meter),
                    workload_id,
                    remainder,
                    key.method.value,
                    key.evidence,
                    *amount,
                    next(numbers),
                )
            )
        self._conn.executemany(_UPSERT_POSTING, rows)

    def _meter_id(self, meter: Meter) -> int:
        known = self._meters.get(meter)
        if known is None:
            self._conn.execute(
                "INSERT INTO meters (component, name) VALUES (?, ?) ON CONFLICT DO NOTHING", meter
            )
            (known,) = self._conn.execute(
                "SELECT id FROM meters WHERE component = ? AND name = ?", meter
            ).fetchone()
            self._meters[meter] = known
        return known

    def _workload_id(self, workload: WorkloadId, numbers: count[int], now_s: int) -> int:
        known = self._workloads.get(workload)
        if known is None:
            if len(self._workloads) >= _REMEMBERED:
                self._workloads.clear()
            # Energy may come before any facts.
            self._conn.execute(
                "INSERT INTO workloads (scheduler, workload, start, display, touched_s, seq)"
                " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (*workload, workload.workload, now_s, next(numbers)),
            )
            (known,) = self._conn.execute(
                "SELECT id FROM workloads WHERE scheduler = ? AND workload = ? AND start = ?",
                workload,
            ).fetchone()
            self._workloads[workload] = known
        return known
