from __future__ import annotations

import os
import sqlite3
import stat
import tempfile
import zlib
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.scale import scaled
from tests.unit.ledger.samples import (
    BOOKS,
    FACTS,
    GPU0,
    GPU1,
    JOB,
    Open,
    anchor,
    rows,
    run,
    sql,
    tick,
)

from joulebook.core.attribution.claims import Claim, Evidence
from joulebook.core.energy.readings import Component
from joulebook.core.evidence import Amount, Method, PostingKey
from joulebook.core.ledger.state import Books, Entry
from joulebook.core.workloads import Labels, WorkloadId
from joulebook.errors import LedgerBusy, LedgerCorrupt, LedgerError, LedgerUnavailable
from joulebook.ledger import schema, state
from joulebook.ledger.sqlite import SqliteStore


def test_fresh_ledger_is_empty(open_store: Open) -> None:
    assert open_store().load() == (Books(), None)


def test_file_and_directory_are_closed_to_others(open_store: Open, path: Path) -> None:
    old = os.umask(0)
    try:
        run(open_store(), 1)
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o750
    modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()}
    assert modes == dict.fromkeys(
        ("ledger.db", "ledger.db-wal", "ledger.db-shm", "ledger.db.lock"), 0o640
    )


def test_file_says_what_it_is(open_store: Open, path: Path) -> None:
    open_store()
    assert rows(path, "PRAGMA application_id") == [(0x4A4C424B,)]
    assert rows(path, "PRAGMA user_version") == [(len(schema.steps(schema.MIGRATIONS)),)]
    assert rows(path, "PRAGMA journal_mode") == [("wal",)]


def test_every_commit_is_synced(open_store: Open) -> None:
    assert open_store()._conn.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL


def test_closed_ledger_is_one_plain_file(open_store: Open, path: Path) -> None:
    store = open_store()
    books = run(store, 3)
    store.close()
    store.close()
    assert {each.name for each in path.parent.iterdir()} == {"ledger.db", "ledger.db.lock"}
    assert open_store().load() == (books, anchor(books))


# Books are large: three at a time often need more data than hypothesis gives to one example.
@settings(
    max_examples=scaled(60),
    suppress_health_check=[HealthCheck.data_too_large, HealthCheck.too_slow],
)
@given(st.lists(BOOKS, min_size=1, max_size=3), st.data())
def test_random_books_come_back(states: list[Books], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.db"
        store = SqliteStore(path, allow_volatile=True)
        before, last = store.load()
        for state in states:
            # Some fields stay the very same object, as after a real tick.
            kept = data.draw(st.sets(st.sampled_from(Books.__struct_fields__)))
            after = msgspec.structs.replace(state, **{name: getattr(before, name) for name in kept})
            last = anchor(after, offset_ns=-3)
            store.commit(before, after, Entry(), last)
            before = after
        store.close()
        with closing(SqliteStore(path, allow_volatile=True)) as again:
            assert again.load() == (before, last)


def test_the_keys_of_an_older_ledger_are_those_of_now(open_store: Open, path: Path) -> None:
    """In which the identity of a workload had two parts: of what only grows, too."""
    store = open_store()
    books = run(store, 2)
    store.close()
    with closing(sqlite3.connect(path)) as conn, conn:
        for kind in ("workloads", "running"):
            ((key,),) = conn.execute("SELECT key FROM state WHERE kind = ?", (kind,)).fetchall()
            old = msgspec.msgpack.encode(msgspec.msgpack.decode(key)[:2])
            assert old != key
            conn.execute("UPDATE state SET key = ? WHERE kind = ?", (old, kind))
        state.rekey(conn)
    again = open_store()
    kept, last = again.load()
    assert kept.workloads == books.workloads and last is not None
    gone = msgspec.structs.replace(kept, workloads={})
    again.commit(kept, gone, Entry(), last)
    assert rows(path, "SELECT 1 FROM state WHERE kind IN ('workloads', 'running')") == []


def test_of_a_workload_that_goes_on_only_what_grows_is_written(
    open_store: Open, path: Path
) -> None:
    store = open_store()
    books = run(store, 2)
    kinds = "SELECT kind, count(*) FROM state WHERE kind IN ('workloads', 'running') GROUP BY kind"
    first = rows(path, kinds)
    assert first == [("running", 1), ("workloads", 1)]
    (base,) = rows(path, "SELECT value FROM state WHERE kind = 'workloads'")

    def commit(**news: Any) -> None:
        nonlocal books
        state = msgspec.structs.replace(books.workloads[JOB], **news)
        after = msgspec.structs.replace(books, workloads={JOB: state})
        store.commit(books, after, Entry(), anchor(after))
        books = after

    commit(balance={Component.GPU: Amount(7, 1)}, final_ns=5)
    assert rows(path, "SELECT value FROM state WHERE kind = 'workloads'") == [base]
    commit(balance={Component.GPU: Amount(9, 1)}, ended_ns=6)
    assert rows(path, kinds) == [("workloads", 1)], "its own row says all of it"
    commit(hold_left_ns=1)
    store.close()
    again = open_store()
    assert again.load() == (books, anchor(books))
    gone = msgspec.structs.replace(books, workloads={})
    again.commit(books, gone, Entry(), anchor(gone))
    assert rows(path, kinds) == []


@pytest.mark.parametrize("number", [0, 119, 120, 121, 127, 128])
def test_no_number_is_taken_for_a_packed_value(open_store: Open, number: int) -> None:
    store = open_store()
    before, _ = store.load()
    after = msgspec.structs.replace(before, overflow={"workloads": number}, last_ns=number)
    store.commit(before, after, Entry(), anchor(after))
    store.close()
    assert open_store().load()[0] == after


def test_long_values_are_packed_and_plain_ones_are_read(open_store: Open, path: Path) -> None:
    store = open_store()
    books = run(store, 2)
    name = "x" * 2000
    state = msgspec.structs.replace(books.meters[GPU1], gap_reason=name)
    after = msgspec.structs.replace(books, meters={**books.meters, GPU1: state})
    store.commit(books, after, Entry(), anchor(after))
    query = "SELECT key, value FROM state WHERE kind = 'meters'"
    values = dict(rows(path, query))
    assert all(len(value) < 512 for value in values.values())
    store.close()
    with sql(path) as conn:  # as an older joulebook wrote it
        for key, value in values.items():
            plain = zlib.decompress(value) if value[:1] == b"\x78" else value
            conn.execute("UPDATE state SET value = ? WHERE key = ?", (plain, key))
    assert len(max((value for _, value in rows(path, query)), key=len)) > 2000
    assert open_store().load() == (after, anchor(after))


def test_only_what_changed_is_written(open_store: Open, path: Path) -> None:
    store = open_store()
    books = run(store, 2)
    # Whatever is written again loses this mark.
    with sql(path) as conn:
        conn.execute("UPDATE state SET value = CAST(value || x'ff' AS BLOB)")
    states = dict(books.meters)
    states[GPU1] = msgspec.structs.replace(states[GPU1], tick_ns=7)
    after = msgspec.structs.replace(books, meters=states)
    store.commit(books, after, Entry(), anchor(after))
    found = rows(path, "SELECT kind, key FROM state WHERE substr(value, -1) <> x'ff'")
    assert sorted(found) == [
        ("anchor", b""),
        ("meters", msgspec.msgpack.encode(GPU1)),
        ("seq", b""),
    ]


def test_what_is_gone_from_the_books_is_deleted(open_store: Open, path: Path) -> None:
    store = open_store()
    books = run(store, 1)
    after = msgspec.structs.replace(books, workloads={}, meters={GPU1: books.meters[GPU1]})
    store.commit(books, after, Entry(), anchor(after))
    assert store.load()[0] == after
    assert rows(path, "SELECT count(*) FROM state WHERE kind = 'workloads'") == [(0,)]


def test_state_of_other_versions_is_left_alone(open_store: Open, path: Path) -> None:
    store = open_store()
    books = run(store, 1)
    with sql(path) as conn:
        conn.execute("INSERT INTO state VALUES ('budgets', x'00', x'01')")
        conn.execute("DELETE FROM state WHERE kind = 'overflow'")
    assert store.load()[0] == books


def test_a_ledger_of_before_mig_still_loads(open_store: Open, path: Path) -> None:
    store = open_store()
    books = run(store, 1)
    claim = Claim(JOB, GPU0, 7, None, Evidence.PROLOG)
    after = msgspec.structs.replace(books, claims=(claim,))
    store.commit(books, after, Entry(), anchor(after))
    with sql(path) as conn:
        # As it was written then: each array ends before `instance` and `instances`.
        conn.execute(
            "UPDATE state SET value = ? WHERE kind = 'claims'",
            (msgspec.msgpack.encode([msgspec.to_builtins(claim)[:-1]]),),
        )
        state = msgspec.to_builtins(after.meters[GPU0])
        state[1] = state[1][:-1]
        conn.execute(
            "UPDATE state SET value = ? WHERE kind = 'meters' AND key = ?",
            (msgspec.msgpack.encode(state), msgspec.msgpack.encode(GPU0)),
        )
    assert store.load()[0] == after


def test_labels_keep_empty_apart_from_unknown(open_store: Open) -> None:
    store = open_store()
    after, entry = tick(Books(), 0)
    settled = msgspec.structs.replace(after.workloads[JOB], labels=Labels())
    after = msgspec.structs.replace(after, workloads={JOB: settled})
    store.commit(Books(), after, entry, anchor(after))
    assert store.load()[0].workloads[JOB].labels == Labels()


def test_numbers_go_on_after_a_restart_and_after_deletion(open_store: Open, path: Path) -> None:
    store = open_store()
    run(store, 3)
    (last,) = rows(path, "SELECT max(seq) FROM postings")[0]
    store.close()
    with sql(path) as conn:
        conn.execute("DELETE FROM postings")
    # Also for a caller that never loads.
    store = open_store()
    after, entry = tick(Books(), 5)
    store.commit(Books(), after, entry, anchor(after))
    assert rows(path, "SELECT min(seq) FROM postings")[0][0] > last


HUGE = PostingKey(JOB, GPU0, 0, Method.COUNTER, "prolog")


@pytest.mark.parametrize(
    ("change", "entry"),
    [
        pytest.param({}, Entry({HUGE: Amount(2**63)}), id="posting"),
        pytest.param({}, Entry({HUGE: Amount(1, 1, 2**63 - 1)}), id="sum"),
        pytest.param({"last_ns": 2**64}, Entry(), id="books"),
        pytest.param({"overflow": {"\ud800": 1}}, Entry(), id="text in the books"),
        pytest.param(
            {}, Entry(facts=(msgspec.structs.replace(FACTS, name="\ud800"),)), id="text of a fact"
        ),
        pytest.param(
            {}, Entry(facts=(msgspec.structs.replace(FACTS, gpu_count=2**63),)), id="fact"
        ),
    ],
)
def test_value_that_does_not_fit_is_refused_whole(
    open_store: Open, path: Path, change: dict[str, Any], entry: Entry
) -> None:
    store = open_store()
    books = run(store, 1)
    store.commit(books, books, Entry({HUGE: Amount(1, 1, 1)}), anchor(books))
    with sql(path) as conn:
        before = list(conn.iterdump())
    after = msgspec.structs.replace(books, **change)
    with pytest.raises(LedgerError, match="cannot be stored, nothing was written") as caught:
        store.commit(books, after, entry, anchor(books))
    assert type(caught.value) is LedgerError
    with sql(path) as conn:
        assert list(conn.iterdump()) == before
    assert run(store, 1, books, first=1) == store.load()[0]


def test_refused_workload_does_not_keep_its_row_number(open_store: Open, path: Path) -> None:
    store = open_store()
    good = PostingKey(WorkloadId("slurm", "7"), GPU0, 0, Method.COUNTER, "prolog")
    with pytest.raises(LedgerError):
        store.commit(
            Books(), Books(), Entry({good: Amount(1), HUGE: Amount(2**63)}), anchor(Books())
        )
    other = PostingKey(WorkloadId("slurm", "8"), GPU1, 0, Method.COUNTER, "prolog")
    store.commit(Books(), Books(), Entry({other: Amount(8), good: Amount(7)}), anchor(Books()))
    query = (
        "SELECT workload, meters.name, energy_uj FROM postings"
        " JOIN workloads ON workloads.id = workload_id JOIN meters ON meters.id = meter_id"
    )
    assert sorted(rows(path, query)) == [("7", "GPU-0", 7), ("8", "GPU-1", 8)]


def test_second_daemon_is_refused_until_the_first_is_gone(open_store: Open, path: Path) -> None:
    store = open_store()
    with pytest.raises(
        LedgerBusy, match=rf"in use by another Joulebook daemon, pid {os.getpid()}\b"
    ):
        open_store()
    store.close()
    open_store()


def test_books_that_make_no_sense_are_damage(open_store: Open, path: Path) -> None:
    store = open_store()
    run(store, 1)
    with sql(path) as conn:
        conn.execute("UPDATE state SET value = x'c3' WHERE kind = 'meters'")
    with pytest.raises(LedgerCorrupt, match="the books cannot be read"):
        store.load()


def test_ledger_that_was_moved_is_noticed(open_store: Open, path: Path) -> None:
    store = open_store()
    books = run(store, 1)
    path.rename(path.with_name("moved"))
    with pytest.raises(LedgerUnavailable, match="was moved, deleted or replaced"):
        run(store, 1, books, first=1)
    path.with_name("moved").rename(path)
    assert run(store, 1, books, first=1) == store.load()[0]


def test_a_lock_file_deleted_by_hand_does_not_let_two_daemons_book(
    path: Path, open_store: Open
) -> None:
    store = open_store()
    path.with_name("ledger.db.lock").unlink()
    with pytest.raises(LedgerBusy, match="in use by another Joulebook daemon"):
        open_store()
    run(store, 2)
    store.close()
    open_store()


def test_a_disk_that_lets_nothing_be_rolled_back_does_not_end_the_daemon(
    open_store: Open, path: Path
) -> None:
    store = open_store()
    before, _ = store.load()
    after, entry = tick(before, 0)
    for steps in (*range(1, 9), 20, 50):
        # sqlite gives up whatever it is asked, the end of the transaction too.
        store._conn.set_progress_handler(lambda: 1, steps)
        with pytest.raises(LedgerUnavailable):
            store.commit(before, after, entry, anchor(after))
    store._conn.set_progress_handler(None, 0)
    store.commit(before, after, entry, anchor(after))
    assert rows(path, "SELECT sum(energy_uj) FROM postings") == [(2 * 1_000_003,)]
