"""Charges as rows: exact in SQL, balanced with the books, also after they expired."""

from __future__ import annotations

import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.scale import scaled
from tests.unit.core.money.test_accrual import CO2E, EUR, T0_S, metered, rates_of
from tests.unit.core.world import Run, job_id
from tests.unit.ledger.samples import Open, anchor, rows, sql

from joulebook.core.evidence import Remainder
from joulebook.core.ledger.state import Books, Entry
from joulebook.core.money.amounts import ChargeKey, Exact
from joulebook.core.money.rates import PER_KWH, UG_PER_G, Quality
from joulebook.core.workloads import Labels
from joulebook.ledger import charges, retention, schema
from joulebook.ledger.query import LedgerReader
from joulebook.ledger.sqlite import SqliteStore
from joulebook.units import NS_PER_S

DAY_S = 86_400
JOB = job_id("1")
OWNER = Labels("a", "b", "c")
PRICED = rates_of(
    [(0, 123_456_789), (T0_S + 1000, 300_000_001)], [(0, 401 * UG_PER_G)], 1_234_567, 1_250_000_007
)


def written(store: SqliteStore, run: Run) -> Books:
    before = Books()
    for after, entry in zip(run.history[1:], run.entries, strict=True):
        store.commit(before, after, entry, anchor(after))
        before = after
    return before


@settings(max_examples=scaled(40))
@given(st.lists(st.integers(-(10**38), 10**38), min_size=1, max_size=12))
def test_sql_carries_exactly(amounts: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.db"
        with closing(SqliteStore(path, allow_volatile=True)) as store:
            for n, atoms in enumerate(amounts):
                # The same row twice in three, then another one of the same owner.
                key = ChargeKey(Remainder.SYSTEM, 900 * (n % 3 == 2), EUR)
                entry = Entry(charges={key: Exact.of(atoms)})
                store.commit(Books(), Books(), entry, anchor(Books()))
        with LedgerReader(path) as reader:
            assert reader.bills_by_owner(0) == {Remainder.SYSTEM: {EUR: Exact.of(sum(amounts))}}
        for nano, rest in rows(path, "SELECT nano, rest FROM charges"):
            assert 0 <= nano < 10**9
            assert 0 <= rest < PER_KWH


def test_books_and_rows_say_the_same(open_store: Open, path: Path) -> None:
    run = metered([700_000, 333_333, 100_001], gpus=3, step_s=700, rates=PRICED)
    store = open_store()
    books = written(store, run)
    assert store.load()[0] == books
    with LedgerReader(path) as reader:
        checks = reader.charge_check()
        assert {check.charge for check in checks} == set(books.charges)
        assert all(check.booked == check.rows for check in checks)
        assert reader.bills_by_owner(0) == {OWNER: books.workloads[JOB].bill}
        later = reader.bills_by_owner(T0_S + 900)[OWNER]
        assert 0 < later[EUR].atoms < books.workloads[JOB].bill[EUR].atoms


def test_the_rates_in_force_are_on_record(open_store: Open, path: Path) -> None:
    store = open_store()
    written(store, metered([3_600_000], step_s=1800, rates=PRICED))
    with sql(path) as conn:
        found = list(charges.rates(conn, 0, 1 << 60))
    prices = [(r.used.quarter_s - T0_S, r.used.value) for r in found if r.used.quantity == "price"]
    assert prices == [(0, 123_456_789), (900, 123_456_789), (900, 300_000_001)]
    assert sum(r.energy_uj for r in found if r.used.quantity == "price") == 1800 * 3_600 * 10**6
    hardware = [r for r in found if r.used.quantity == "hardware"]
    assert {(r.used.value, r.used.unit, r.energy_uj) for r in hardware} == {
        (1_250_000_007, "nEUR/GPU-hour", 0)
    }
    assert sum(r.held_ns for r in hardware) == 1800 * NS_PER_S
    assert {(r.used.source, r.used.quality) for r in found} == {("test", Quality.MEASURED)}


def test_what_expires_stays_in_the_sum(
    open_store: Open, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "BATCH", 3)
    store = open_store(retention_days=10)
    run = metered([700_000] * 30, step_s=DAY_S, rates=PRICED)
    books = written(store, run)
    quarters = rows(path, "SELECT min(quarter_s) FROM charges WHERE quarter_s > 0")[0][0]
    assert quarters > T0_S, "some are gone"
    with sql(path) as conn:
        while retention_left(conn):
            conn.execute("BEGIN")
            retention.drop_old(conn, 10, books.last_ns // NS_PER_S)
            conn.execute("COMMIT")
    first_s = T0_S + 20 * DAY_S
    assert rows(path, "SELECT min(quarter_s) FROM rates_used") == [(first_s,)]
    with LedgerReader(path) as reader:
        assert all(check.booked == check.rows for check in reader.charge_check())
        assert all(check.rows.atoms for check in reader.charge_check())
        kept = reader.bills_by_owner(0)
        assert kept.keys() == {OWNER}
        assert kept[OWNER][CO2E].atoms < books.charges[CO2E].total.atoms


def retention_left(conn: sqlite3.Connection) -> bool:
    old = "SELECT 1 FROM rates_used WHERE quarter_s < ? LIMIT 1"
    return conn.execute(old, (T0_S + 20 * DAY_S,)).fetchone() is not None


def test_a_ledger_of_before_gets_the_new_tables(
    path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = tmp_path / "migrations"
    first.mkdir()
    for step in schema.steps(schema.MIGRATIONS)[:1]:
        (first / step.name).write_text(step.read_text())
    path.parent.mkdir(parents=True)
    path.touch()
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", first)
        schema.open_ledger(path).close()
    assert rows(path, "PRAGMA user_version") == [(1,)]
    with closing(SqliteStore(path, allow_volatile=True)) as store:
        assert store.load()[0] == Books()
        written(store, metered([700_000], rates=PRICED))
    assert rows(path, "SELECT count(*) > 0 FROM charges") == [(1,)]
