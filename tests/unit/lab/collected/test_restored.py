"""A node's ledger that was put back from an older copy, and has consumed more since than it
lost.
"""

from __future__ import annotations

import copy
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from tests.unit.lab.collected.nodes import OCTOBER_S, Node
from tests.unit.lab.collected.test_migration import collected_before
from tests.unit.ledger.samples import run

from joulebook.errors import InputError, LedgerError
from joulebook.lab.collect import validate
from joulebook.lab.collected import check, ingest
from joulebook.lab.collected.database import Database, connect, opened
from joulebook.ledger import schema, state
from joulebook.ledger.query import LedgerReader
from joulebook.ledger.sqlite import SqliteStore


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with opened(f"sqlite://{tmp_path}/c.db", create=True) as database:
        yield database


def collect(database: Database, node: Node, since: int, limit: int = 10_000) -> int:
    page = node.page(since, limit)
    assert ingest.take(database, page, "t", OCTOBER_S) is not None
    return page.next


def put_back(database: Database) -> tuple[Node, int]:
    """A node that was collected and then put back; and where its collection stands."""
    node = Node()
    for n in range(10):
        node.burn(OCTOBER_S + 900 * n, 1_000, "1")
    older = copy.deepcopy(node)
    for n in range(10, 15):
        node.burn(OCTOBER_S + 900 * n, 1_000, "1")
    return older, collect(database, node, 0)


def test_it_is_refused_though_all_its_numbers_have_grown(database: Database) -> None:
    node, since = put_back(database)
    for n in range(20, 50):
        node.burn(OCTOBER_S + 900 * n, 2_000, "1")
    assert node.last > since
    with pytest.raises(
        InputError, match=r"n1: .*GPU-0 has a total of 70000 uJ, .* 65000 uJ .*move"
    ) as caught:
        collect(database, node, since)
    assert caught.value.reason == "went_back"
    # What was here is as it was.
    assert check.check(database).good


def test_it_is_refused_at_the_end_of_several_pages(database: Database) -> None:
    node, since = put_back(database)
    for n in range(20, 50):
        node.burn(OCTOBER_S + 900 * n, 2_000, "1")
    with pytest.raises(InputError, match="move"):
        while since < node.last:
            since = collect(database, node, since, 7)


def test_rows_that_left_for_their_age_before_they_were_asked_for_are_no_reason(
    database: Database,
) -> None:
    node = Node()
    for n in range(5):
        node.burn(OCTOBER_S + 900 * n, 1_000, "1")
    for key in sorted(node.postings)[:2]:
        del node.postings[key]
    page = node.page(0)
    (meter,) = page.meters
    aged = msgspec.structs.replace(meter, booked_uj=5_000, expired_uj=2_000)
    page = msgspec.structs.replace(page, meters=(aged,))
    assert ingest.take(database, page, "t", OCTOBER_S) is not None
    assert check.check(database).good


def books(path: Path, more: range) -> None:
    """Open the ledger as a daemon does, and book a tick for each number."""
    with closing(SqliteStore(path, allow_volatile=True)) as store:
        run(store, len(more), first=more.start)


def collected(database: Database, path: Path, since: int) -> int:
    with LedgerReader(path) as reader:
        page = reader.page("n1", "", since)
    validate.check(page, since, page.ledger_id, "t")
    assert ingest.take(database, page, "t", OCTOBER_S) is not None
    return page.next


@pytest.mark.parametrize("lost", [range(5, 10), range(5, 900, 300)])
@pytest.mark.parametrize("more", [0, 1, 7])
def test_it_is_refused_though_it_has_consumed_exactly_what_it_lost(
    database: Database, tmp_path: Path, lost: range, more: int
) -> None:
    path = tmp_path / "ledger.db"
    books(path, range(5))
    shutil.copy(path, tmp_path / "copy.db")
    for n in lost:
        books(path, range(n, n + 1))
    since = collected(database, path, 0)
    shutil.copy(tmp_path / "copy.db", path)
    for n in lost:
        books(path, range(n, n + 1))
    with LedgerReader(path) as reader:
        assert reader.page("n1", "", since).last == since
    books(path, range(900, 900 + more))
    with pytest.raises(InputError, match=rf"n1: rows up to number {since} .*copy.*move") as caught:
        collected(database, path, since)
    assert caught.value.reason == "went_back"
    assert check.check(database).good


def test_restarts_are_no_reason(database: Database, tmp_path: Path) -> None:
    path, since = tmp_path / "ledger.db", 0
    for n in range(12):
        books(path, range(n, n + n % 3))  # some daemons book nothing
        since = collected(database, path, since)
    assert since
    assert check.check(database).good


def test_who_gave_a_number_is_known_for_the_last_thousand_restarts(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    books(path, range(1))
    with closing(schema.open_ledger(path)) as conn:
        for n in range(100, 1_300):
            state.sign(conn, n)
        assert {state.read_writer(conn, n) for n in (1, 200)} == {""}
        named = [state.read_writer(conn, n) for n in range(301, 1_301)]
        assert len(set(named)) == 1_000
        assert "" not in named
        # One that gave no number is forgotten with the next.
        state.sign(conn, 1_299)
        assert state.read_writer(conn, 1_299) == named[-2]
        assert state.read_writer(conn, 1_300) not in named


@pytest.mark.parametrize("version", [3, 5])
def test_schemas_of_no_release_are_refused_in_words(tmp_path: Path, version: int) -> None:
    url = collected_before(tmp_path)
    with closing(sqlite3.connect(url.removeprefix("sqlite://"))) as conn:
        conn.execute("UPDATE joulebook_schema SET version = ?", [version])
        conn.commit()
    with pytest.raises(LedgerError, match=rf"has schema {version}, .* schemas 4 and 7"):
        connect(url, create=True)
