from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from tests.unit.ledger.samples import FACTS, GPU0, GPU1, JOB, T0_NS, Open, anchor, run, tick

from joulebook.core.energy.readings import Component, Meter
from joulebook.core.evidence import Amount, Method, PostingKey, Remainder
from joulebook.core.ledger.state import Books, Entry
from joulebook.core.money.amounts import Charge, ChargeKey, Exact, Item, RateUsed
from joulebook.core.money.rates import Quality
from joulebook.core.workloads import Labels, WorkloadFacts, WorkloadId
from joulebook.errors import LedgerCorrupt, LedgerError, LedgerTooNew
from joulebook.ledger import charges, report_query, state
from joulebook.ledger.query import LedgerReader, MeterBalance
from joulebook.ledger.sqlite import SqliteStore
from joulebook.units import NS_PER_S

Q0_S = T0_NS // NS_PER_S
CPU = Meter(Component.CPU, "package-0")


def book(
    store: SqliteStore, *facts: WorkloadFacts, postings: dict[PostingKey, Amount] | None = None
) -> None:
    books = Books(last_ns=T0_NS)
    store.commit(books, books, Entry(postings or {}, (), facts), anchor(books))


def job(workload: str, display: str = "", scheduler: str = "slurm") -> WorkloadFacts:
    return WorkloadFacts(WorkloadId(scheduler, workload), display=display)


def names(path: Path, pattern: str, limit: int = 1_000) -> list[str]:
    with LedgerReader(path) as reader:
        return [each.display for each in reader.jobs(pattern, limit)]


def test_job_is_found_by_id_array_and_requeue(open_store: Open, path: Path) -> None:
    book(
        open_store(),
        job("101"),
        job("101.r1"),
        job("150", "101_7"),
        job("151.r2", "101_8"),
        job("1012"),
        job("101.rx"),
        job("101", scheduler="process"),
    )
    assert names(path, "101") == ["101", "101_8", "101_7", "101.r1", "101"]
    assert names(path, "101_8") == ["101_8"]
    assert names(path, "151") == ["101_8"]
    assert names(path, "101*") == ["101", "101.rx", "1012", "101_8", "101_7", "101.r1", "101"]
    assert names(path, "101?") == ["1012"]
    assert names(path, "102") == names(path, "") == []
    assert names(path, "*", limit=2) == ["101", "101.rx"]


@pytest.mark.parametrize("name", ["a[b", "[0-9]", "x' OR 1=1 --", "%", "a\x00b", "\U0001f4a1"])
def test_hostile_name_finds_itself_only(open_store: Open, path: Path, name: str) -> None:
    book(open_store(), job("1"), job("ab"), job(name))
    assert names(path, name) == [name]


def test_job_comes_with_its_facts(open_store: Open, path: Path) -> None:
    store = open_store()
    ended = msgspec.structs.replace(FACTS, ended_ns=T0_NS + NS_PER_S)
    books = Books(last_ns=T0_NS)
    store.commit(books, books, Entry(facts=(ended, job("5"))), anchor(books, offset_ns=-70))
    with LedgerReader(path) as reader:
        (found,) = reader.jobs("101")
        (unknown,) = reader.jobs("5")
    assert (found.id, found.display, found.name) == (JOB, "101", "train")
    assert found.labels == Labels("ada", "nlp", "bert")
    assert found.started_utc_ns == T0_NS - 70
    assert found.ended_utc_ns == T0_NS + NS_PER_S - 70
    assert (found.gpu_count, found.evidence) == (2, "prolog")
    assert found.extra == {"partition": "a100"}
    assert (unknown.started_utc_ns, unknown.ended_utc_ns) == (None, None)


def test_totals_add_up_in_every_direction(open_store: Open, path: Path) -> None:
    counted, shared = Method.COUNTER, Method.APPORTIONED
    postings = {
        PostingKey(JOB, GPU0, Q0_S, counted, "prolog"): Amount(100, 10, 1),
        PostingKey(JOB, GPU0, Q0_S + 900, counted, "prolog"): Amount(200, 20, 2),
        PostingKey(JOB, GPU0, Q0_S + 900, shared, "prolog"): Amount(1_000, 0, 4),
        PostingKey(JOB, CPU, Q0_S + 1_800, shared, "processes"): Amount(5_000, 7, 8),
        PostingKey(WorkloadId("process", "101"), GPU1, Q0_S, counted, "prolog"): Amount(3),
        PostingKey(Remainder.UNALLOCATED, GPU0, Q0_S, counted, "none"): Amount(9),
    }
    book(open_store(), FACTS, job("7"), postings=postings)
    with LedgerReader(path) as reader:
        (found,) = report_query.workload_totals(reader, JOB)
        assert report_query.workload_totals(reader, "101")[0] == found
        assert [each.total for each in report_query.workload_totals(reader, "101")] == [
            found.total,
            Amount(3),
        ]
        (empty,) = report_query.workload_totals(reader, "7")
        assert (
            report_query.workload_totals(reader, "8")
            == report_query.workload_totals(reader, WorkloadId("x", "101"))
            == ()
        )
    assert found.workload.labels.user == "ada"
    assert found.total == Amount(6_300, 37, 15)
    assert found.by_meter == {GPU0: Amount(1_300, 30, 7), CPU: Amount(5_000, 7, 8)}
    assert found.by_method == {counted: Amount(300, 30, 3), shared: Amount(6_000, 7, 12)}
    assert found.by_evidence == {"prolog": Amount(1_300, 30, 7), "processes": Amount(5_000, 7, 8)}
    assert (found.first_s, found.last_s) == (Q0_S, Q0_S + 2_700)
    assert (empty.total, empty.first_s, empty.last_s) == (Amount(0), None, None)


def test_balance_holds_for_every_meter(open_store: Open, path: Path) -> None:
    store = open_store()
    books = run(store, 1_000)
    idle = msgspec.structs.replace(books.meters[GPU0], meter=CPU, booked_uj=0)
    after = msgspec.structs.replace(books, meters={**books.meters, CPU: idle})
    store.commit(books, after, Entry(), anchor(after))
    with LedgerReader(path) as reader:
        balances = reader.balance_check()
    total = 1_000 * 1_000_003
    assert balances == (
        MeterBalance(CPU, 0, 0, 0),
        MeterBalance(GPU0, total, total, 0),
        MeterBalance(GPU1, total, total, 0),
    )
    assert [each.difference_uj for each in balances] == [0, 0, 0]


def test_balance_shows_what_was_tampered_with(open_store: Open, path: Path) -> None:
    run(open_store(), 1)
    with closing(sqlite3.connect(path)) as conn, conn:
        conn.execute("UPDATE postings SET energy_uj = energy_uj + 5 WHERE workload_id = 0")
    with LedgerReader(path) as reader:
        assert [each.difference_uj for each in reader.balance_check()] == [-5, -5]


def test_owners_since_the_midnight_that_is_asked_for(open_store: Open, path: Path) -> None:
    def key(subject: WorkloadId | Remainder, meter: Meter, quarter_s: int) -> PostingKey:
        return PostingKey(subject, meter, quarter_s, Method.COUNTER, "e")

    other = WorkloadFacts(WorkloadId("slurm", "102"), labels=FACTS.labels)
    unknown = WorkloadId("slurm", "103")
    postings = {
        key(JOB, GPU0, Q0_S - 900): Amount(1, 1),
        key(JOB, GPU0, Q0_S): Amount(10, 4),
        key(other.id, GPU1, Q0_S + 900): Amount(100, 50),
        key(unknown, GPU1, Q0_S): Amount(1_000),
        key(Remainder.SYSTEM, CPU, Q0_S): Amount(10_000),
        key(Remainder.SYSTEM, GPU0, Q0_S + 900): Amount(20_000),
    }
    book(open_store(), FACTS, other, postings=postings)
    with LedgerReader(path) as reader:
        assert reader.since_by_owner(Q0_S) == {
            Labels("ada", "nlp", "bert"): 110,
            Labels(): 1_000,
            Remainder.SYSTEM: 30_000,
        }
        assert reader.since_by_owner(Q0_S + 900) == {FACTS.labels: 100, Remainder.SYSTEM: 20_000}
        assert reader.since_by_owner(Q0_S + 1_800) == {}


def test_reader_and_daemon_do_not_wait_for_each_other(open_store: Open, path: Path) -> None:
    store = open_store()
    books = run(store, 1)
    with LedgerReader(path) as reader:
        for n in range(1, 50):
            books = run(store, 1, books, first=n)
            assert {each.booked_uj for each in reader.balance_check()} == {(n + 1) * 1_000_003}
        store._conn.execute("BEGIN IMMEDIATE")
        assert report_query.workload_totals(reader, JOB)[0].total.held_ns == 2 * 50 * NS_PER_S
        store._conn.execute("ROLLBACK")
    assert store.load()[0] == books


def test_reader_does_not_take_the_daemons_locks_with_it(open_store: Open, path: Path) -> None:
    store = open_store()
    LedgerReader(path).close()
    books = run(store, 1)
    # Were the locks gone, another program would take itself for the last one and delete the log.
    other = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('SELECT * FROM state')"
    )
    subprocess.run([sys.executable, "-c", f"{other}; c.close()", path], check=True)
    assert path.with_name("ledger.db-wal").exists()
    assert store.load()[0] == books


def test_reader_cannot_write(open_store: Open, path: Path) -> None:
    run(open_store(), 1)
    with (
        LedgerReader(path) as reader,
        pytest.raises(sqlite3.OperationalError, match="attempt to write a readonly database"),
    ):
        reader._conn.execute("DELETE FROM postings")


def test_ledger_at_rest_is_readable(open_store: Open, path: Path) -> None:
    store = open_store()
    run(store, 2)
    store.close()
    assert names(path, "101") == ["101"]
    assert not path.with_name("ledger.db-wal").exists()


def test_missing_and_empty_ledgers_are_named(path: Path) -> None:
    with pytest.raises(LedgerError, match=r"no ledger at .*ledger\.db: check ledger\.path"):
        LedgerReader(path)
    path.parent.mkdir()
    path.touch()
    with pytest.raises(LedgerError, match="no ledger at"):
        LedgerReader(path)
    with pytest.raises(LedgerError, match="cannot be read"):
        LedgerReader(path / "x")


def test_other_schemas_and_files_are_refused(open_store: Open, path: Path) -> None:
    open_store().close()
    with closing(sqlite3.connect(path)) as conn:
        conn.execute("PRAGMA user_version = 99")
    with pytest.raises(LedgerTooNew, match="schema 99"):
        LedgerReader(path)
    path.write_bytes(b"not a ledger at all" * 400)
    with pytest.raises(LedgerCorrupt, match=r"damaged.*\.recover"):
        LedgerReader(path)


def test_value_that_makes_no_sense_is_damage(open_store: Open, path: Path) -> None:
    after, entry = tick(Books(), 0)
    open_store().commit(Books(), after, entry, anchor(after))
    with closing(sqlite3.connect(path)) as conn, conn:
        conn.execute("UPDATE meters SET component = 'toaster'")
        conn.execute("UPDATE workloads SET extra = '[1'")
        conn.execute("UPDATE postings SET remainder = 'elves' WHERE workload_id = 0")
    with LedgerReader(path) as reader:
        for ask in (
            reader.balance_check,
            lambda: reader.since_by_owner(0),
            lambda: reader.jobs("*"),
            lambda: report_query.workload_totals(reader, JOB),
        ):
            with pytest.raises(LedgerCorrupt):
                ask()


@pytest.mark.parametrize(
    "change",
    [
        "state SET value = 'text'",
        "state SET value = 7",
        "state SET value = x'7801ff'",
        "workloads SET extra = replace(hex(zeroblob(50000)), '0', '[')",
        "workloads SET user = x'ff'",
        "workloads SET gpu_count = 'many'",
        "charges SET currency = char(27) || '[2J'",
        "charges SET currency = x'455552'",
        "charges SET item = 'gold'",
        "rates_used SET quantity = x'ff'",
        "rates_used SET source = x'ff'",
    ],
)
def test_a_ledger_made_to_harm_is_damage(open_store: Open, path: Path, change: str) -> None:
    """`report --ledger FILE` may be given anybody's."""
    after, entry = tick(Books(), 0)
    charge = ChargeKey(JOB, 0, Charge(Item.ELECTRICITY, "EUR"))
    used = RateUsed(0, "price", 300_000_000, "EUR/kWh", "tariff", Quality.MEASURED)
    entry = msgspec.structs.replace(entry, charges={charge: Exact(1)}, rates={used: Amount(1)})
    open_store().commit(Books(), after, entry, anchor(after))
    with closing(sqlite3.connect(path)) as conn, conn:
        assert conn.execute(f"UPDATE {change}").rowcount
    with LedgerReader(path) as reader, pytest.raises(LedgerCorrupt):
        reader.balance_check()
        reader.jobs("*")
        reader.charge_check()
        reader.bills_by_owner(0)
        with reader.view() as conn:
            list(charges.rates(conn, 0, 1 << 40))


def test_what_is_packed_is_not_unpacked_without_end(
    open_store: Open, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    books = Books(last_ns=T0_NS)
    after = msgspec.structs.replace(books, models={GPU0: "x" * 100_000})
    open_store().commit(books, after, Entry(), anchor(after))
    monkeypatch.setattr(state, "_MOST_BYTES", 99_999)
    with LedgerReader(path) as reader, pytest.raises(LedgerCorrupt, match="too large"):
        reader.models()


def test_a_model_so_long_that_it_is_packed_is_read(open_store: Open, path: Path) -> None:
    books = Books(last_ns=T0_NS)
    after = msgspec.structs.replace(books, models={GPU0: "x" * 600, GPU1: "NVIDIA H100"})
    open_store().commit(books, after, Entry(), anchor(after))
    with LedgerReader(path) as reader:
        assert reader.models() == after.models
