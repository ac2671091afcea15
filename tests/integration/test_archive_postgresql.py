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

from joulebook.lab.collected.database import Database, connect


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


def test_a_collected_ledger_of_the_version_before_keeps_every_bill(
    postgresql: PostgreSql, tmp_path: Path
) -> None:
    from tests.unit.lab.collected.test_migration import collected_before, every_bill

    from joulebook.lab.collected import check, schema
    from joulebook.lab.collected.database import PostgreSql as PostgreSqlDatabase
    from joulebook.lab.collected.database import opened

    before, url = collected_before(tmp_path), postgresql.new()
    with PostgreSqlDatabase(url) as old, old.transaction():
        old.script(["CREATE TABLE joulebook_schema (version INTEGER NOT NULL)"])
        old.rows("INSERT INTO joulebook_schema VALUES (4)")
        for step in schema.steps("postgresql"):
            if step.number <= 4:
                old.script(step.statements)
        with closing(sqlite3.connect(before.removeprefix("sqlite://"))) as conn:
            for table in _KEPT:
                rows = conn.execute(f"SELECT * FROM {table}").fetchall()
                if rows:
                    marks = ", ".join("?" * len(rows[0]))
                    old.many(f"INSERT INTO {table} VALUES ({marks})", rows)
            ((closed,),) = conn.execute("SELECT closed_to FROM closing").fetchall()
        old.rows("UPDATE closing SET closed_to = ?", [closed])
    with opened(url, create=True) as database, opened(before, create=True) as sqlite:
        assert check.check(database).good
        assert every_bill(database) == every_bill(sqlite)
