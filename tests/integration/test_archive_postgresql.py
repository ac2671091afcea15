"""The laws of bills on a real PostgreSQL, and what the database itself refuses."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from tests.integration.postgresql import PostgreSql
from tests.scale import scaled
from tests.unit.lab.collected.laws import Laws

from joulebook.lab.collected.database import Database, connect, opened


def test_laws(postgresql: PostgreSql) -> None:
    url = postgresql.new()

    class OnPostgreSql(Laws):
        def open(self) -> Database:
            import psycopg

            with psycopg.connect(url, autocommit=True) as conn:
                conn.execute("DROP SCHEMA public CASCADE")
                conn.execute("CREATE SCHEMA public")
            return connect(url, create=True)

    run_state_machine_as_test(
        OnPostgreSql,
        settings=settings(
            max_examples=scaled(12),
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


FORBIDDEN = [
    ("UPDATE used SET energy_uj = energy_uj + 1", "closed"),
    ("UPDATE billed SET whole = 0", "closed"),
    ("DELETE FROM used", "closed"),
    ("DELETE FROM billed", "closed"),
    ("INSERT INTO used SELECT ledger, day_s + 86400, month, workload, owner, component,"
     " energy_uj, idle_uj, held_ns, idle_ns FROM used", "closed"),
    ("UPDATE periods SET closed_by = 'me'", "closed"),
    ("DELETE FROM periods", "closed"),
    ("UPDATE closing SET closed_to = 0", "closed"),
    ("DELETE FROM closing", "closed"),
    ("UPDATE corrections SET why = 'x'", "never changed"),
    ("DELETE FROM corrections", "never changed"),
    ("UPDATE transfers SET energy_uj = 1", "never changed"),
    ("DELETE FROM transfers", "never changed"),
    ("INSERT INTO transfers SELECT correction, 99, month, from_owner, to_owner, workload,"
     " component, energy_uj, idle_uj, held_ns, item, currency, whole, nano, rest, idle_ns"
     " FROM transfers",
     "on record"),
    ("INSERT INTO corrections VALUES (77, 202612, 0, 'correction', 'me', 'why')", "has entries"),
    ("INSERT INTO transfers VALUES (78, 1, 202612, 1, 1, 0, 'gpu', 1, 0, 0, '', '', 0, 0, 0, 0)",
     "(?i)check|foreign"),
    ("INSERT INTO transfers VALUES (78, 1, 202612, 1, 2, 0, 'gpu', -1, 0, 0, '', '', 0, 0, 0, 0)",
     "(?i)check|foreign"),
    ("INSERT INTO transfers VALUES (78, 1, 202612, 1, 2, 0, 'gpu', 1, 0, 0, '', '', 0, 0, 0, 0)",
     "(?i)check|foreign"),
]  # fmt: skip


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: object) -> str:
    if request.param == "sqlite":
        return f"sqlite://{tmp_path}/collected.db"
    server: PostgreSql = request.getfixturevalue("postgresql")
    return server.new()


@pytest.mark.parametrize(("statement", "why"), FORBIDDEN)
def test_the_database_refuses(url: str, statement: str, why: str) -> None:
    from tests.unit.lab.collected.nodes import OCTOBER_S, Node

    from joulebook.core.money.amounts import Exact
    from joulebook.errors import LedgerError
    from joulebook.lab.collected import bills, corrections, ingest
    from joulebook.lab.collected.schema import BilledOwner

    now_s = OCTOBER_S + 61 * 86_400 + 1
    database = connect(url, create=True)
    node = Node()
    node.burn(OCTOBER_S, 1_000, "1", Exact(1, 2, 3))
    ingest.take(database, node.page(0), "t", now_s)
    bills.close(database, 202610, "grace", now_s)
    corrections.correct(
        database,
        BilledOwner("", "a"),
        BilledOwner("", "b"),
        [corrections.Transfer(item="electricity", currency="EUR", billed=Exact(1))],
        corrections.Reason("correction", "grace", "agreed", now_s),
    )
    before = bills.bill(database, 202610), bills.bill(database, 202612)
    with pytest.raises(LedgerError, match=why), database.transaction():
        database.rows(statement)
    assert (bills.bill(database, 202610), bills.bill(database, 202612)) == before
    database.close()


_KEPT = (
    "ledgers", "meters", "charged", "owners", "workloads", "facts", "hows", "kinds", "rates",
    "postings", "charges", "rates_used", "gaps", "used", "billed", "periods", "transfers",
    "corrections",
)  # fmt: skip


@pytest.mark.parametrize("version", [4, 7])
def test_a_collected_ledger_of_the_version_before_keeps_every_bill(
    postgresql: PostgreSql, tmp_path: Path, version: int
) -> None:
    import psycopg
    from tests.unit.lab.collected.test_migration import (
        _BOOKED,
        STEP,
        collected_before,
        differences,
        every_bill,
    )
    from tests.unit.ledger.test_migration import FORMATS

    from joulebook.lab.collected import check
    from joulebook.lab.collected.database import MIGRATIONS

    before, url = collected_before(tmp_path), postgresql.new()
    with psycopg.connect(url) as old:
        old.execute("CREATE TABLE joulebook_schema (version INTEGER NOT NULL)")
        old.execute("INSERT INTO joulebook_schema VALUES (%s)", [version])
        for statement in (FORMATS / "collected-4.postgresql.sql").read_text().split(";\n\n"):
            old.execute(statement.encode())
        with closing(sqlite3.connect(before.removeprefix("sqlite://"))) as conn:
            for table in _KEPT:
                marks = ""
                for row in conn.execute(f"SELECT * FROM {table}"):
                    marks = marks or ", ".join(["%s"] * len(row))
                    old.execute(f"INSERT INTO {table} VALUES ({marks})".encode(), row)
            ((closed,),) = conn.execute("SELECT closed_to FROM closing").fetchall()
        old.execute("UPDATE closing SET closed_to = %s", [closed])
        old.commit()
        if version == 7:
            for statement in (MIGRATIONS / "versions" / STEP).read_text().split(";\n\n"):
                old.execute(statement.encode())
        rows = old.execute(_BOOKED).fetchall()
    with opened(url, create=True) as database, opened(before, create=True) as sqlite:
        assert database.rows(_BOOKED) == sqlite.rows(_BOOKED) == rows
        assert differences(database) == []
        assert check.check(database).good
        assert every_bill(database) == every_bill(sqlite)
        # October and November; nothing is outside of its month.
        assert {*months_of(database)} >= {"postings_202610", "postings_202611"}
        assert database.rows("SELECT count(1) FROM postings_other") == [(0,)]


def months_of(database: Database) -> list[str]:
    """The partitions of postings."""
    return [
        str(name)
        for (name,) in database.rows(
            "SELECT inhrelid::regclass::text FROM pg_inherits"
            " WHERE inhparent = 'postings'::regclass ORDER BY 1"
        )
    ]


def test_each_month_of_quarter_hours_has_a_partition(postgresql: PostgreSql) -> None:
    from tests.unit.lab.collected.nodes import DAY_S, DECEMBER_S, NOVEMBER_S, Node

    from joulebook.core.money.amounts import Exact
    from joulebook.lab.collected import check, ingest

    node = Node()
    for when_s in (NOVEMBER_S - 1, NOVEMBER_S, DECEMBER_S + 5 * DAY_S):
        node.burn(when_s, 1_000, "1", Exact(1))
    url = postgresql.new()
    with connect(url, create=True) as database:
        # The clock was ahead: what cannot be yet is of no month, and makes no partition.
        assert ingest.take(database, node.page(0), "t", NOVEMBER_S + 10) is not None
        assert months_of(database) == ["postings_202610", "postings_202611", "postings_other"]
        assert database.rows("SELECT count(1) FROM postings_other") == [(1,)]
        since = node.last
        node.burn(DECEMBER_S + 6 * DAY_S, 500, "1", Exact(1))
        later = node.page(since)
    with connect(url) as database:
        assert ingest.take(database, later, "t", DECEMBER_S + 7 * DAY_S) is not None
        assert "postings_202612" in months_of(database)
        # What was kept aside moves there with the month.
        assert database.rows("SELECT count(1) FROM postings_other") == [(0,)]
        assert database.rows("SELECT count(1) FROM postings_202612") == [(2,)]
        assert check.check(database).good


def test_compacted_and_exported_months(postgresql: PostgreSql, tmp_path: Path) -> None:
    from tests.unit.lab.collected import test_archive, test_compact

    url = postgresql.new()
    test_archive.read_back(url, test_compact.lab(5), tmp_path / "out")
    days = test_compact.statements(url)
    hours = [*map(test_archive.comparable, test_archive.hourly(url))]
    with opened(url) as database:
        before = size_of(database)
    test_compact.compacted(url)
    with opened(url) as database:
        # The disk has the space again.
        assert size_of(database) < before / 2
    assert test_compact.statements(url) == days
    assert [*map(test_archive.comparable, test_archive.hourly(url))] == hours
    test_compact.unchanged(postgresql.new(), test_compact.lab(7))


def size_of(database: Database) -> int:
    """Bytes of October's quarter hours."""
    return sum(
        int(database.rows("SELECT pg_table_size(?::regclass)", [f"{table}_202610"])[0][0])
        for table in ("postings", "charges", "rates_used")
    )


def test_a_person_is_forgotten(postgresql: PostgreSql) -> None:
    import psycopg
    from tests.unit.lab.collected import test_forget

    url = postgresql.new()
    stands = test_forget.forgotten(url)
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("CHECKPOINT")
        ((oid,),) = conn.execute("SELECT oid FROM pg_database WHERE datname = current_database()")
    files = (postgresql.folder / "data/base" / str(oid)).iterdir()
    kept = b"".join(file.read_bytes() for file in files)
    assert stands.encode() in kept
    assert test_forget.NAME.encode() not in kept
