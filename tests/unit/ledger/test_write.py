from __future__ import annotations

import json
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.scale import scaled
from tests.unit.ledger.samples import FACTS, GPU0, GPU1, JOB, T0_NS, Open, anchor, rows, sql, tick

from joulebook.core.evidence import Amount, Gap, Method, PostingKey, Remainder
from joulebook.core.ledger.state import Books, Entry
from joulebook.core.workloads import WorkloadId
from joulebook.ledger.sqlite import SqliteStore
from joulebook.units import NS_PER_S


def test_postings_add_up(open_store: Open, path: Path) -> None:
    store = open_store()
    key = PostingKey(JOB, GPU0, T0_NS // NS_PER_S, Method.APPORTIONED, "scontrol")
    books = Books()
    for _ in range(3):
        store.commit(books, books, Entry({key: Amount(10, 3, 7)}), anchor(books))
    assert rows(path, "SELECT energy_uj, idle_uj, held_ns FROM postings") == [(30, 9, 21)]


def test_empty_amounts_leave_no_rows(open_store: Open, path: Path) -> None:
    store = open_store()
    key = PostingKey(Remainder.SYSTEM, GPU0, 0, Method.COUNTER, "none")
    store.commit(Books(), Books(), Entry({key: Amount(0)}), anchor(Books()))
    assert rows(path, "SELECT * FROM postings") == []


@settings(max_examples=scaled(25))
@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 3)), max_size=25), st.integers(1, 4))
def test_collector_that_pages_by_seq_ends_with_the_same(
    plan: list[tuple[int, int]], page: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.db"
        query = (
            "SELECT seq, quarter_s, meter_id, workload_id, remainder, method, evidence,"
            " energy_uj, idle_uj, held_ns FROM postings WHERE seq > ? ORDER BY seq LIMIT ?"
        )
        copy: dict[tuple[Any, ...], tuple[Any, ...]] = {}
        since = 0
        with closing(SqliteStore(path, allow_volatile=True)) as store, sql(path) as conn:
            books = Books()
            for n, (uj, pages) in enumerate(plan):
                after, entry = tick(books, n * 400, uj=uj)
                store.commit(books, after, entry, anchor(after))
                books = after
                for _ in range(pages):
                    for seq, *row in conn.execute(query, (since, page)):
                        assert seq > since
                        copy[tuple(row[:6])] = tuple(row[6:])
                        since = seq
            for seq, *row in conn.execute(query, (since, -1)):
                copy[tuple(row[:6])] = tuple(row[6:])
                since = seq
            assert sum(amount[0] for amount in copy.values()) == sum(
                each.booked_uj for each in books.meters.values()
            )
            assert {tuple(r[1:7]): tuple(r[7:]) for r in conn.execute(query, (0, -1))} == copy


def test_facts_are_kept_with_utc(open_store: Open, path: Path) -> None:
    store = open_store()
    books = Books(last_ns=T0_NS)
    ended = msgspec.structs.replace(FACTS, ended_ns=T0_NS + 9, display="101_7", complete=True)
    store.commit(Books(), books, Entry(facts=(FACTS,)), anchor(books))
    (first,) = rows(path, "SELECT seq FROM workloads")[0]
    store.commit(books, books, Entry(facts=(ended,)), anchor(books, offset_ns=1_000))
    query = (
        "SELECT scheduler, workload, display, name, user, account, experiment, started_ns,"
        " started_utc_ns, ended_ns, ended_utc_ns, complete, gpu_count, evidence FROM workloads"
    )
    times = (T0_NS, T0_NS + 1_000, T0_NS + 9, T0_NS + 1_009)
    owner = ("train", "ada", "nlp", "bert")
    assert rows(path, query) == [("slurm", "101", "101_7", *owner, *times, 1, 2, "prolog")]
    ((extra, seq),) = rows(path, "SELECT extra, seq FROM workloads")
    assert json.loads(extra) == {"partition": "a100"}
    assert seq > first


def test_energy_may_come_before_facts(open_store: Open, path: Path) -> None:
    store = open_store()
    after, entry = tick(Books(), 0)
    store.commit(Books(), after, Entry(entry.postings), anchor(after))
    query = "SELECT id, display, user, started_ns FROM workloads"
    assert rows(path, query) == [(1, "101", "", None)]
    store.commit(after, after, Entry(facts=(FACTS,)), anchor(after))
    assert rows(path, query) == [(1, "101", "ada", T0_NS)]


def test_many_short_jobs_each_get_a_row(open_store: Open, path: Path) -> None:
    store = open_store()
    quarter_s = T0_NS // NS_PER_S
    for start in range(0, 9_000, 1_500):
        keys = [
            PostingKey(WorkloadId("slurm", str(n)), GPU0, quarter_s, Method.COUNTER, "prolog")
            for n in range(start, start + 1_500)
        ]
        store.commit(Books(), Books(), Entry(dict.fromkeys(keys, Amount(1))), anchor(Books()))
    counts = "SELECT count(*), count(DISTINCT workload_id) FROM postings"
    assert rows(path, counts) == [(9_000, 9_000)]


def test_gap_that_goes_on_is_one_row(open_store: Open, path: Path) -> None:
    store = open_store()
    books = Books(last_ns=T0_NS)
    pieces = [Gap(GPU0, T0_NS + n, T0_NS + n + 1, "lost") for n in range(3)]
    others = [Gap(GPU0, T0_NS + 3, T0_NS + 4, "released"), Gap(GPU1, T0_NS + 3, T0_NS + 4, "lost")]
    for gap in (*pieces, *others):
        store.commit(books, books, Entry(gaps=(gap,)), anchor(books, offset_ns=50))
    query = "SELECT reason, t0_ns, t1_ns, t0_utc_ns, t1_utc_ns FROM gaps ORDER BY id"
    assert rows(path, query) == [
        ("lost", T0_NS, T0_NS + 3, T0_NS + 50, T0_NS + 53),
        ("released", T0_NS + 3, T0_NS + 4, T0_NS + 53, T0_NS + 54),
        ("lost", T0_NS + 3, T0_NS + 4, T0_NS + 53, T0_NS + 54),
    ]
