from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from tests.unit.ledger.samples import Open, rows, run, sql

from joulebook.errors import LedgerError, LedgerTooNew, LedgerUnavailable
from joulebook.ledger import schema
from joulebook.ledger.query import LedgerReader


def test_migrations_are_numbered_without_holes() -> None:
    numbers = [int(each.name[:4]) for each in schema.steps(schema.MIGRATIONS)]
    assert numbers == list(range(1, len(numbers) + 1))


def test_newer_schema_is_refused_untouched(open_store: Open, path: Path) -> None:
    open_store().close()
    with sql(path) as conn:
        conn.execute("PRAGMA user_version = 99")
    before = path.read_bytes()
    with pytest.raises(
        LedgerTooNew, match=r"schema 99, but this version supports schemas up to \d"
    ):
        open_store()
    assert path.read_bytes() == before


def test_file_of_something_else_is_refused_untouched(open_store: Open, path: Path) -> None:
    path.parent.mkdir()
    with sql(path) as conn:
        conn.execute("CREATE TABLE photos (id)")
    before = path.read_bytes()
    with pytest.raises(LedgerError, match=r"not a Joulebook ledger: check ledger\.path"):
        open_store()
    assert path.read_bytes() == before


@pytest.fixture
def newer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Migrations with one more than today's; gives the path of that one, to be written."""
    folder = tmp_path / "migrations"
    folder.mkdir()
    known = schema.steps(schema.MIGRATIONS)
    for step in known:
        (folder / step.name).write_text(step.read_text())
    monkeypatch.setattr(schema, "MIGRATIONS", folder)
    return folder / f"{len(known) + 1:04}_next.sql"


def test_older_schema_is_brought_up_to_date(open_store: Open, path: Path, newer: Path) -> None:
    store = open_store()
    books = run(store, 2)
    store.close()
    newer.write_text(
        "-- a semicolon; in a comment\nALTER TABLE meters ADD COLUMN room TEXT DEFAULT 'a;b';\n"
        "CREATE INDEX meters_by_room\n    ON meters (room);\n"
    )
    number = int(newer.name[:4])
    with pytest.raises(LedgerError, match=rf"schema {number - 1}, .* needs {number}: start"):
        LedgerReader(path)
    assert open_store().load()[0] == books
    assert rows(path, "PRAGMA user_version") == [(number,)]
    assert rows(path, "SELECT DISTINCT room FROM meters") == [("a;b",)]


def test_migration_that_fails_changes_nothing(open_store: Open, path: Path, newer: Path) -> None:
    store = open_store()
    books = run(store, 2)
    store.close()
    newer.write_text("DROP TABLE gaps;\nINSERT INTO nowhere VALUES (1);\n")
    with pytest.raises(LedgerError, match="no such table: nowhere"):
        open_store()
    assert rows(path, "PRAGMA user_version") == [(int(newer.name[:4]) - 1,)]
    newer.write_text("DROP TABLE gaps;\n")
    assert open_store().load()[0] == books


def test_a_start_that_fails_promises_nothing(
    open_store: Open, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_store().close()
    full = sqlite3.OperationalError("database or disk is full")
    full.sqlite_errorcode, full.sqlite_errorname = sqlite3.SQLITE_FULL, "SQLITE_FULL"

    def refuse(*_: object) -> None:
        raise full

    monkeypatch.setattr(schema, "_check", refuse)
    with pytest.raises(LedgerUnavailable, match="no space left") as caught:
        schema.open_ledger(path)
    assert "goes on by itself" not in str(caught.value)
