from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from tests.unit.ledger.samples import FACTS, GPU0, T0_NS, Open, anchor, rows, run, sql, tick

from joulebook.core.evidence import Gap, Remainder
from joulebook.core.ledger.state import Books, Entry
from joulebook.core.workloads import WorkloadId
from joulebook.ledger import retention
from joulebook.ledger.query import LedgerReader
from joulebook.ledger.sqlite import SqliteStore
from joulebook.units import NS_PER_HOUR, NS_PER_S

DAY_NS = 24 * NS_PER_HOUR


def old_and_new(store: SqliteStore) -> Books:
    """500 days of one posting a day and meter, with a gap and a job each."""
    books = Books()
    for day in range(500):
        after, entry = tick(books, day * 86_400)
        job = WorkloadId("slurm", str(day))
        facts = msgspec.structs.replace(FACTS, id=job)
        postings = {
            key if isinstance(key.subject, Remainder) else key._replace(subject=job): amount
            for key, amount in entry.postings.items()
        }
        gap = Gap(GPU0, after.last_ns - 5, after.last_ns, "lost")
        store.commit(books, after, Entry(postings, (gap,), (facts,)), anchor(after))
        books = after
    return books


def test_old_rows_leave_and_the_books_stay(open_store: Open, path: Path) -> None:
    store = open_store(retention_days=400)
    books = old_and_new(store)
    assert store.load()[0] == books
    first = T0_NS // NS_PER_S + 99 * 86_400
    assert rows(path, "SELECT min(quarter_s), count(*) FROM postings") == [(first, 401 * 4)]
    assert rows(path, "SELECT min(t1_utc_ns), count(*) FROM gaps") == [(first * NS_PER_S, 401)]
    assert rows(path, "SELECT min(CAST(workload AS INT)), count(*) FROM workloads") == [(99, 401)]
    with LedgerReader(path) as reader:
        for balance in reader.balance_check():
            assert balance.difference_uj == 0
            assert balance.expired_uj == 99 * 1_000_003
            assert balance.booked_uj == 500 * 1_000_003


def test_old_rows_leave_in_batches_once_an_hour(
    open_store: Open, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "BATCH", 8)
    store = open_store(retention_days=1_000)
    books = old_and_new(store)
    store.close()
    store = open_store(retention_days=10)
    counts = []
    for minutes in (0, 30, 59, 60, 90, 120):
        after = msgspec.structs.replace(books, last_ns=books.last_ns + minutes * 60 * NS_PER_S)
        store.commit(books, after, Entry(), anchor(after))
        counts.append(rows(path, "SELECT count(*) FROM postings")[0][0])
    assert counts == [1992, 1992, 1992, 1984, 1984, 1976]
    with LedgerReader(path) as reader:
        assert [each.difference_uj for each in reader.balance_check()] == [0, 0]


def test_wall_clock_that_leaps_ahead_deletes_nothing(open_store: Open, path: Path) -> None:
    store = open_store(retention_days=1_000)
    books = old_and_new(store)
    after = msgspec.structs.replace(books, last_ns=books.last_ns + DAY_NS)
    store.commit(books, after, Entry(), anchor(after, offset_ns=10_000 * DAY_NS))
    assert rows(path, "SELECT count(*) FROM postings") == [(2_000,)]


def test_deletion_that_fails_does_not_fail_the_tick(
    open_store: Open, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store()
    with sql(path) as conn:
        conn.execute("ALTER TABLE gaps RENAME TO stolen")
    books = run(store, 700)
    assert "were not deleted" in caplog.text
    assert store.load()[0] == books
