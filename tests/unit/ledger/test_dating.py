"""Rows that a wrong clock dated get their right date, as long as nobody may have billed them."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from tests.unit.ledger.samples import GPU0, T0_NS, Open, anchor, rows, tick

from joulebook.core.ledger.state import Books
from joulebook.ledger.query import LedgerReader
from joulebook.ledger.sqlite import SqliteStore
from joulebook.units import NS_PER_S

DAY_NS = 86_400 * NS_PER_S
QUARTER_S = T0_NS // NS_PER_S


def book(
    store: SqliteStore, before: Books, n: int, *, wrong_ns: int = 0, epoch: str = "boot"
) -> Books:
    """A tick that begins with the n-th second; the clock is wrong by `wrong_ns`."""
    after, entry = tick(before, n)
    moved = {
        key._replace(quarter_s=key.quarter_s + wrong_ns // NS_PER_S): amount
        for key, amount in entry.postings.items()
    }
    entry = msgspec.structs.replace(entry, postings=moved)
    kept = msgspec.structs.replace(anchor(after, offset_ns=wrong_ns), epoch=epoch)
    store.commit(before, after, entry, kept)
    return after


def quarters(path: Path) -> dict[int, int]:
    """The energy of each quarter hour that has any."""
    found = rows(path, "SELECT quarter_s, sum(energy_uj) FROM postings GROUP BY 1")
    return {quarter_s: energy_uj for quarter_s, energy_uj in found if energy_uj}


def balanced(path: Path) -> bool:
    with LedgerReader(path) as reader:
        return all(each.difference_uj == 0 for each in reader.balance_check())


def test_a_clock_wrong_at_boot_and_set_later_leaves_no_wrong_date(
    open_store: Open, path: Path
) -> None:
    for n, wrong_ns in enumerate((400 * DAY_NS, -400 * DAY_NS)):
        store = open_store()
        books = store.load()[0]
        first = 2_000 * n
        before = quarters(path)
        books = book(store, books, first, epoch=f"b{n}", wrong_ns=wrong_ns if not n else 0)
        if n:
            # Not into what is on record from before the boot.
            books = book(store, books, first + 900, epoch="b1", wrong_ns=400 * DAY_NS)
        else:
            assert min(quarters(path)) > QUARTER_S + 300 * 86_400
        books = book(store, books, first + 1_800, epoch=f"b{n}")
        found = quarters(path)
        assert all(QUARTER_S <= each <= QUARTER_S + 5_400 for each in found), found
        assert sum(found.values()) - sum(before.values()) == 2 * 1_000_003 * (2 + n)
        assert balanced(path)
        store.close()


def test_what_was_handed_on_with_a_date_that_can_be_never_moves(
    open_store: Open, path: Path
) -> None:
    store = open_store()
    books = book(store, store.load()[0], 0, wrong_ns=-20 * DAY_NS)
    with LedgerReader(path) as reader:
        store.handed(reader.page("n", "", 0).next)
    before = quarters(path)
    book(store, books, 900)
    assert quarters(path).items() >= before.items()
    assert balanced(path)


def test_what_was_handed_on_and_has_grown_since_never_moves(open_store: Open, path: Path) -> None:
    store = open_store()
    books = book(store, store.load()[0], 0, wrong_ns=-20 * DAY_NS)
    with LedgerReader(path) as reader:
        first = reader.page("n", "", 0)
    store.handed(first.next)
    books = book(store, books, 1, wrong_ns=-20 * DAY_NS)
    grown = quarters(path)
    book(store, books, 900)
    assert quarters(path).items() >= grown.items()
    with LedgerReader(path) as reader:
        later = reader.page("n", "", first.next)
    collected = {
        msgspec.structs.astuple(row)[1:7]: row.energy_uj
        for row in (*first.postings, *later.postings)
    }
    assert balanced(path)
    assert sum(collected.values()) == sum(quarters(path).values())


def test_what_a_killed_process_may_have_handed_on_never_moves(open_store: Open, path: Path) -> None:
    store = open_store()
    book(store, store.load()[0], 0, wrong_ns=-20 * DAY_NS)
    store.close()
    before = quarters(path)
    store = open_store()
    book(store, store.load()[0], 900)
    assert quarters(path).items() >= before.items()
    assert balanced(path)


def test_what_was_handed_on_with_a_date_that_cannot_be_comes_to_nothing_there(
    open_store: Open, path: Path
) -> None:
    store = open_store()
    books = book(store, store.load()[0], 0, wrong_ns=20_000 * DAY_NS)
    with LedgerReader(path) as reader:
        first = reader.page("n", "", 0)
    store.handed(first.next)
    book(store, books, 900)
    with LedgerReader(path) as reader:
        later = reader.page("n", "", first.next)
    wrong = {row.quarter_s for row in first.postings}
    assert {row.energy_uj for row in later.postings if row.quarter_s in wrong} == {0}
    energy = sum(row.energy_uj for row in later.postings)
    assert energy == 4 * 1_000_003
    assert balanced(path)


@pytest.mark.parametrize("handed", [False, True])
@pytest.mark.parametrize("days", [30, 500, 7_000])
def test_a_clock_that_is_set_back_for_a_while_moves_nothing_of_before(
    open_store: Open, path: Path, days: int, handed: bool
) -> None:
    store = open_store()
    books = store.load()[0]
    for n in range(10):
        books = book(store, books, 86_400 * n, epoch="first" if n < 5 else "boot")
    store.close()
    store = open_store()
    with LedgerReader(path) as reader:
        first = reader.page("n", "", 0)
    store.handed(first.next * handed)
    before = quarters(path)
    books = book(store, books, 86_400 * 10, wrong_ns=-days * DAY_NS)
    assert quarters(path).items() >= before.items()
    books = book(store, books, 86_400 * 10 + 900, wrong_ns=-days * DAY_NS)
    books = book(store, books, 86_400 * 10 + 1_800)
    # Once it is right, what was booked meanwhile has the dates that it should have had.
    after = quarters(path)
    assert after.items() >= before.items()
    assert sorted(after.keys() - before.keys()) == [
        QUARTER_S + 86_400 * 10 + 900 * n for n in range(3)
    ]
    with LedgerReader(path) as reader:
        later = reader.page("n", "", first.next)
    sums = {msgspec.structs.astuple(row)[1:7]: row.energy_uj for row in first.postings}
    for row in later.postings:
        key = msgspec.structs.astuple(row)[1:7]
        assert row.energy_uj >= sums.get(key, 0), "a collector refuses what falls"
    assert balanced(path)


def test_retention_waits_until_the_clock_is_steady(open_store: Open, path: Path) -> None:
    store = open_store(retention_days=30)
    books = book(store, store.load()[0], 0)
    books = book(store, books, 1, epoch="other", wrong_ns=500 * DAY_NS)
    books = book(store, books, 3, epoch="other")
    assert len(quarters(path)) == 1
    assert rows(path, "SELECT count(*) FROM workloads") == [(1,)]
    assert GPU0 in books.meters
