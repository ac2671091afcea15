"""Ledgers of the version before: everything is kept, and what is new has its old meaning."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from joulebook.core.evidence import Amount, Method, PostingKey
from joulebook.core.ledger.export import OLDEST, VERSION, PostingsPage
from joulebook.core.ledger.state import Books, Entry
from joulebook.core.workloads import Labels, WorkloadFacts, WorkloadId
from joulebook.errors import LedgerTooNew
from joulebook.ledger import report_query, schema, state
from joulebook.ledger.query import LedgerReader
from joulebook.ledger.sqlite import SqliteStore

FORMATS = Path(__file__).parents[2] / "data" / "formats"
"""Made by the code of schema 2, of page 1 and of collected schema 4."""

EARLIER = WorkloadId("slurm", "500")


def old_ledger(folder: Path, node: str = "n1") -> Path:
    """A ledger of schema 2: two jobs, a pod that still runs, remainders, a gap, charges."""
    path = folder / f"{node}.db"
    with closing(sqlite3.connect(path)) as conn:
        conn.executescript((FORMATS / f"ledger-2-{node}.sql").read_text())
        conn.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
        conn.execute("PRAGMA user_version = 2")
    return path


def old_page(node: str = "n1") -> PostingsPage:
    """The page that schema 2 made of that ledger."""
    return msgspec.json.decode((FORMATS / f"page-1-{node}.json").read_bytes(), type=PostingsPage)


def sums(path: Path, of: str) -> dict[str, list[tuple[object, ...]]]:
    with closing(sqlite3.connect(path)) as conn:
        return {
            table: conn.execute(f"SELECT {columns} FROM {table} ORDER BY seq").fetchall()
            for table, columns in {
                "postings": "quarter_s, meter_id, workload_id, remainder, method, evidence,"
                " energy_uj, idle_uj, held_ns, seq",
                "charges": "*",
                "rates_used": "*",
                "gaps": "*",
                "workloads": "id, scheduler, workload, display, name, user, account, experiment,"
                " started_ns, ended_ns, complete, gpu_count, evidence, extra, touched_s, seq",
            }.items()
            if of in {table, ""}
        }


@pytest.mark.parametrize("node", ["n1", "n2"])
def test_every_row_is_kept_and_means_what_it_meant(tmp_path: Path, node: str) -> None:
    path = old_ledger(tmp_path, node)
    before = sums(path, "")
    with closing(sqlite3.connect(path)) as conn:
        books = state.read(conn).books
    assert len(books.workloads) == 1
    with closing(SqliteStore(path, allow_volatile=True)) as store:
        now, anchor = store.load()
        assert now == books
        assert anchor is not None
    assert sums(path, "") == before
    with LedgerReader(path) as reader:
        assert all(each.difference_uj == 0 for each in reader.balance_check())
        assert all(each.booked == each.rows for each in reader.charge_check())
        (job,) = report_query.workload_totals(reader, EARLIER)
        assert job.total.idle_uj
        assert (job.total.idle_ns, job.total.calibration_uj) == (0, 0)
        page = reader.page(node, "alpha", 0)
    assert page == msgspec.structs.replace(old_page(node), v=VERSION)


def test_a_key_that_got_another_part_is_the_same_key(tmp_path: Path) -> None:
    path = old_ledger(tmp_path)
    with closing(SqliteStore(path, allow_volatile=True)) as store:
        books, anchor = store.load()
        assert anchor is not None
        (running,) = books.workloads
        after = msgspec.structs.replace(books, workloads={}, last_ns=books.last_ns + 1)
        store.commit(books, after, Entry(), anchor)
        assert store.load()[0].workloads == {}
        assert running == WorkloadId("kubernetes", "web-0.1a2b3c4d")
        assert store.load()[0] != Books()


def test_a_number_that_comes_again_is_another_workload(tmp_path: Path) -> None:
    path = old_ledger(tmp_path)
    again = EARLIER._replace(start=1_793_500_000)
    with closing(SqliteStore(path, allow_volatile=True)) as store:
        books, anchor = store.load()
        assert anchor is not None
        meter = next(iter(books.meters))
        key = PostingKey(again, meter, 1_793_500_200, Method.COUNTER, "prolog")
        facts = WorkloadFacts(again, labels=Labels("carol", "bio", "fold"))
        entry = Entry({key: Amount(7, 5, 3, 2, -1)}, facts=(facts,))
        after = msgspec.structs.replace(books, last_ns=books.last_ns + 1)
        with LedgerReader(path) as reader:
            (before,) = report_query.workload_totals(reader, EARLIER)
        store.commit(books, after, entry, anchor)
    with LedgerReader(path) as reader:
        assert report_query.workload_totals(reader, EARLIER) == (before,)
        (second,) = report_query.workload_totals(reader, again)
        assert second.total == Amount(7, 5, 3, 2, -1)
        assert second.workload.labels == facts.labels
        assert [each.id.start for each in reader.jobs("500")] == [again.start, 0]


def test_the_version_before_is_refused_in_words(tmp_path: Path) -> None:
    path = old_ledger(tmp_path)
    with closing(sqlite3.connect(path)) as conn:
        conn.execute("PRAGMA user_version = 99")
    with pytest.raises(LedgerTooNew, match=r"has schema 99.*install the newer version again"):
        SqliteStore(path, allow_volatile=True)


def test_a_page_of_the_version_before_can_be_read() -> None:
    page = old_page()
    assert page.v == OLDEST == VERSION - 1
    assert {row.start for row in page.workloads} == {0}
    assert all(row.idle_ns == row.calibration_uj == 0 for row in page.postings)
