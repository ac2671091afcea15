"""What is old leaves the ledger, a little at a time; the books stay as they are."""

from __future__ import annotations

import sqlite3

from joulebook.store import charges
from joulebook.units import NS_PER_HOUR, NS_PER_S

PERIOD_NS = NS_PER_HOUR
"""The least time between two batches."""

BATCH = 5_000
"""Rows of each table that one batch deletes at most: some ten milliseconds of work."""

_DAY_S = 86_400

_OLD_POSTINGS = "SELECT quarter_s FROM postings WHERE quarter_s < ? ORDER BY quarter_s LIMIT ?"

# The energy of what goes is kept with its meter, so that the ledger can still be balanced.
_SUMS = "SELECT sum(energy_uj), meter_id FROM postings WHERE quarter_s <= ? GROUP BY meter_id"
_CARRY = "UPDATE meters SET expired_uj = expired_uj + ? WHERE id = ?"

_DROP_POSTINGS = "DELETE FROM postings WHERE quarter_s <= ?"

_DROP_GAPS = """
DELETE FROM gaps WHERE id IN (
    SELECT id FROM gaps WHERE t1_utc_ns < ? ORDER BY t1_utc_ns LIMIT ?
)
"""

_DROP_WORKLOADS = """
DELETE FROM workloads WHERE id IN (
    SELECT id FROM workloads AS w
    WHERE touched_s < ?
      AND NOT EXISTS (
          SELECT 1 FROM postings AS p WHERE p.workload_id = w.id AND p.workload_id > 0
      )
      AND NOT EXISTS (
          SELECT 1 FROM charges AS c WHERE c.workload_id = w.id AND c.workload_id > 0
      )
    ORDER BY touched_s LIMIT ?
)
"""


def drop_old(conn: sqlite3.Connection, days: int, now_s: int) -> None:
    """Delete one batch of what is older than `days` at `now_s` (UTC), in the caller's transaction.

    A quarter hour goes whole, so that no batch leaves half a quarter behind.
    Raises `sqlite3.Error`.
    """
    before_s = now_s - days * _DAY_S
    old = conn.execute(_OLD_POSTINGS, (before_s, BATCH)).fetchall()
    if old:
        last = old[-1]
        conn.executemany(_CARRY, conn.execute(_SUMS, last).fetchall())
        conn.execute(_DROP_POSTINGS, last)
    charges.drop_old(conn, before_s, BATCH)
    conn.execute(_DROP_GAPS, (before_s * NS_PER_S, BATCH))
    conn.execute(_DROP_WORKLOADS, (before_s, BATCH))
