"""Pages for a collector: all rows, in the order of change, whatever the size of a page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.ledger.samples import GPU0, GPU1, JOB, Open, anchor, rows, run, sql, tick

from joulebook.core.evidence import Gap
from joulebook.core.ledger.export import PostingsPage
from joulebook.core.ledger.state import Books, Entry
from joulebook.core.money.accrual import ChargeState
from joulebook.core.money.amounts import Charge, ChargeKey, Exact, Item, RateUsed
from joulebook.core.money.rates import Quality
from joulebook.ledger import report_query
from joulebook.ledger.query import LedgerReader
from joulebook.ledger.sqlite import SqliteStore
from joulebook.units import NS_PER_S

PAID = Charge(Item.ELECTRICITY, "EUR")


def charged(store: SqliteStore, before: Books, n: int) -> Books:
    """One more tick, with a charge, a rate and a gap in it."""
    after, entry = tick(before, n)
    quarter_s = after.last_ns // NS_PER_S // 900 * 900
    amount = Exact(0, 7, 11)
    known = before.charges.get(PAID, ChargeState())
    after = msgspec.structs.replace(
        after, charges={PAID: ChargeState(known.total.plus(amount))}, models={GPU0: "NVIDIA H100"}
    )
    entry = msgspec.structs.replace(
        entry,
        charges={ChargeKey(JOB, quarter_s, PAID): amount},
        rates={
            RateUsed(quarter_s, "price", 200, "nEUR/kWh", "contract", Quality.MEASURED): next(
                iter(entry.postings.values())
            )
        },
        gaps=(Gap(GPU1, after.last_ns - 5, after.last_ns, "hung"),),
    )
    store.commit(before, after, entry, anchor(after))
    return after


def collected(path: Path, limit: int, since: int = 0) -> tuple[dict[Any, Any], int, int]:
    """All pages from `since` on, each row in the place of its older self."""
    held: dict[Any, Any] = {}
    pages = 0
    while True:
        with LedgerReader(path) as reader:
            page = reader.page("n1", "c", since, limit=limit)
        # As it goes over the wire and comes back.
        page = msgspec.json.decode(msgspec.json.encode(page), type=PostingsPage)
        assert page.since == since
        assert page.next >= since
        names = {row.id for row in page.workloads}
        for row in page.postings:
            assert since < row.seq <= page.next
            assert row.workload_id in names | {0}
            held["posting", row.quarter_s, row.meter_id, row.workload_id, row.remainder] = row
        for charge in page.charges:
            held["charge", charge.quarter_s, charge.workload_id, charge.item] = charge
        for rate in page.rates:
            held["rate", rate.quarter_s, rate.value] = rate
        for gap in page.gaps:
            held["gap", gap.id] = gap
        for workload in page.workloads:
            held["workload", workload.id] = workload
        pages += 1
        since = page.next
        if page.next == page.last:
            return held, since, pages


@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=4))
def test_a_page_of_any_size_leads_to_the_same(
    sizes: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("ledger") / "ledger.db"
    store = SqliteStore(path, allow_volatile=True)
    books = store.load()[0]
    since = 0
    held: dict[tuple[object, ...], Any] = {}
    for i, size in enumerate(sizes):
        for n in range(3):
            books = charged(store, books, 400 * (3 * i + n))
        news, since, _ = collected(path, size, since)
        held |= news
    whole, last, pages = collected(path, 10_000)
    store.close()
    assert pages == 1
    assert (held, since) == (whole, last)
    energy_uj = sum(row.energy_uj for key, row in whole.items() if key[0] == "posting")
    assert energy_uj == 2 * 1_000_003 * 3 * len(sizes)


def test_it_says_what_the_books_say(path: Path, open_store: Open) -> None:
    store = open_store()
    books = store.load()[0]
    for n in range(3):
        books = charged(store, books, n)
    with LedgerReader(path) as reader:
        page = reader.page("n1", "c", 0)
    assert (page.v, page.node, page.cluster) == (2, "n1", "c")
    assert [
        (m.component, m.name, m.model, m.booked_uj, m.expired_uj)
        for m in sorted(page.meters, key=lambda m: m.name)
    ] == [
        ("gpu", "GPU-0", "NVIDIA H100", 3_000_009, 0),
        ("gpu", "GPU-1", "", 3_000_009, 0),
    ]
    ((item, currency, booked, expired),) = msgspec.to_builtins(page.charged)
    assert (item, currency, booked, expired) == (
        "electricity",
        "EUR",
        (0, 21, 33),
        (0, 0, 0),
    )
    assert page.booked_to_s == books.last_ns // NS_PER_S
    (workload,) = page.workloads
    assert (workload.user, workload.account, workload.experiment) == ("ada", "nlp", "bert")
    assert workload.extra == {"partition": "a100"}


def test_what_was_read_and_is_not_booked_yet_is_not_said_to_be(
    path: Path, open_store: Open
) -> None:
    store = open_store()
    books = charged(store, store.load()[0], 0)
    settling = msgspec.structs.replace(books, last_ns=books.last_ns + 3 * NS_PER_S)
    store.commit(books, settling, Entry(), anchor(settling))
    with LedgerReader(path) as reader:
        assert reader.page("n1", "c", 0).booked_to_s == books.last_ns // NS_PER_S
        assert report_query.account(reader, 0, 1 << 40, node="n1").known_until_s == {
            "n1": books.last_ns // NS_PER_S
        }


def test_another_ledger_is_told_from_its_begin(path: Path, open_store: Open) -> None:
    run(open_store(), 2)
    with LedgerReader(path) as reader:
        own = reader.page("n1", "", 0)
        assert reader.page("n1", "", own.next, own.ledger_id).rows == 0
        assert reader.page("n1", "", own.next, "0" * 32) == own


def test_what_was_let_go_is_no_row(path: Path, open_store: Open) -> None:
    store = open_store(retention_days=1)
    books = charged(store, store.load()[0], 0)
    charged(store, books, 3 * 86_400)
    with LedgerReader(path) as reader:
        page = reader.page("n1", "", 0)
    assert rows(path, "SELECT count(*) FROM charges WHERE quarter_s = 0") == [(1,)]
    assert len(page.charges) == 1
    assert page.charged[0].expired == (0, 7, 11)
    assert [meter.expired_uj for meter in page.meters] == [1_000_003, 1_000_003]


def test_a_reader_keeps_nobody_from_writing(path: Path, open_store: Open) -> None:
    store = open_store()
    books = run(store, 2)
    with sql(path) as conn:
        conn.execute("BEGIN")
        conn.execute("SELECT count(*) FROM postings").fetchone()
        run(store, 2, books, first=2)
        assert conn.execute("SELECT max(energy_uj) FROM postings").fetchone() == (1_800_006,)
