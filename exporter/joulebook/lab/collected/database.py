"""The database under the collected ledger: an sqlite file or PostgreSQL, one way to talk to both.

SQL is written once, with `?` for all values: no name from a node is ever part of a statement.
psycopg is only loaded for PostgreSQL.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

from joulebook.config.load import redact
from joulebook.errors import ConfigError, LedgerError, LedgerUnavailable
from joulebook.lab.collected import schema
from joulebook.lab.collected.schema import Database, Row

if TYPE_CHECKING:
    import psycopg

__all__ = ["Database", "PostgreSql", "Row", "Sqlite", "connect", "one_by_some", "opened"]

_BUSY_S = 30.0
_CONNECT_S = 10
_AT_ONCE = 500
"""Values in one statement; sqlite of 2018 takes 999."""


def connect(url: str, *, create: bool = False) -> Database:
    """Open the collected ledger at `url`; `create` makes and updates its tables.

    Raises `ConfigError` for an invalid URL, and `LedgerError` and its children.
    """
    parts = urlsplit(url)
    database: Database
    if parts.scheme == "sqlite" and not parts.netloc and len(parts.path) > 1:
        # As others write it, with four slashes, it is the same file.
        database = Sqlite(Path("/", parts.path.lstrip("/")), create=create)
    elif parts.scheme in {"postgresql", "postgres"}:
        database = PostgreSql(url)
    else:
        raise ConfigError(
            "collect.url is not set: expected sqlite:///absolute/path or "
            "postgresql://user@host:port/database"
            if not url
            else f"collect.url = {redact(url)!r}: expected sqlite:///absolute/path or "
            "postgresql://user@host:port/database"
        )
    try:
        if create:
            schema.bring_up_to_date(database)
        else:
            schema.refuse_other(database)
    except BaseException:
        database.close()
        raise
    return database


@contextmanager
def opened(url: str, *, create: bool = False) -> Iterator[Database]:
    """`connect`, closed in the end."""
    database = connect(url, create=create)
    try:
        yield database
    finally:
        database.close()


def one_by_some(
    database: Database, sql: str, before: Sequence[object], values: Sequence[object]
) -> Iterator[Row]:
    """Return the rows of `sql` for all `values`, which replace `(*)`, some hundred at a time."""
    for start in range(0, len(values), _AT_ONCE):
        some = values[start : start + _AT_ONCE]
        marks = ", ".join("?" * len(some))
        yield from database.rows(sql.replace("(*)", f"({marks})"), [*before, *some])


class _Closing:
    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close it."""


class Sqlite(_Closing):
    """An sqlite file: the embedded default. A writer waits for another one, readers for none."""

    lock = ""

    def __init__(self, path: Path, *, create: bool = False) -> None:
        self.name = f"sqlite://{path}"
        if not create and not path.exists():
            raise LedgerError(
                f"no collected ledger at {path}: check collect.url; has `joulebook "
                "collect` run?")  # fmt: skip
        if create:
            _make(path)
        try:
            self._conn = sqlite3.connect(
                path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
            )
            self._conn.execute("PRAGMA trusted_schema = OFF")
            self._conn.execute("PRAGMA foreign_keys = ON")
            if create:
                self._conn.execute("PRAGMA journal_mode = WAL")
                self._conn.execute("PRAGMA synchronous = FULL")
            self._conn.execute("SELECT 1 FROM sqlite_master LIMIT 1")
        except sqlite3.Error as error:
            raise self._explained(error) from error

    def rows(self, sql: str, values: Sequence[object] = ()) -> list[Row]:
        """Return what a question finds."""
        try:
            return self._conn.execute(sql, values).fetchall()
        except (sqlite3.Error, OverflowError, UnicodeError) as error:
            raise self._explained(error) from error

    def many(self, sql: str, rows: Sequence[Sequence[object]]) -> None:
        """Run a statement for each row."""
        try:
            self._conn.executemany(sql, rows)
        except (sqlite3.Error, OverflowError, UnicodeError) as error:
            raise self._explained(error) from error

    def script(self, statements: Sequence[str]) -> None:
        """Run statements without values."""
        for statement in statements:
            self.rows(statement)

    @contextmanager
    def transaction(self, *, writes: bool = True) -> Iterator[None]:
        """All within, or nothing."""
        self.rows("BEGIN IMMEDIATE" if writes else "BEGIN")
        try:
            yield
            self.rows("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                if self._conn.in_transaction:
                    self._conn.execute("ROLLBACK")
            raise

    def close(self) -> None:
        """Close the file."""
        self._conn.close()

    def _explained(self, error: Exception) -> LedgerError:
        what = f"collected ledger {self.name}: {error}"
        later = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL,
                 sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN}  # fmt: skip
        if (getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF in later:
            return LedgerUnavailable(what)
        return LedgerError(what)


def _make(path: Path) -> None:
    """An empty file that its owner and group alone may read, if there is none: it holds names."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o640))
    except FileExistsError:
        return
    except OSError as error:
        raise LedgerUnavailable(
            f"collected ledger {path}: cannot be created: {error.strerror}: check collect.url "
            "and the directory"
        ) from None


class PostgreSql(_Closing):
    """A PostgreSQL database, as libpq understands the URL (PGPASSFILE, sslmode and all)."""

    lock = " FOR UPDATE"

    def __init__(self, url: str) -> None:
        try:
            import psycopg  # noqa: PLC0415 - 11 MiB that only users of PostgreSQL should pay
        except ImportError as error:
            raise ConfigError(
                "collect.url names PostgreSQL, and psycopg is not installed: "
                "pip install 'joulebook[postgresql]'"
            ) from error
        self._psycopg = psycopg
        self.name = redact(url)
        try:
            self._conn: psycopg.Connection[Row] = psycopg.connect(
                url,
                autocommit=True,
                connect_timeout=_CONNECT_S,
                # A host that vanished is noticed, and no statement lasts for ever.
                keepalives_idle=30,
                tcp_user_timeout=60_000,
                options="-c statement_timeout=600000 -c lock_timeout=60000"
                " -c idle_in_transaction_session_timeout=600000",
                application_name="joulebook",
            )
        except psycopg.Error as error:
            raise self._explained(error) from error

    def rows(self, sql: str, values: Sequence[object] = ()) -> list[Row]:
        """What a question finds."""
        try:
            found = self._conn.execute(_percent(sql), values)
            return found.fetchall() if found.description else []
        except (self._psycopg.Error, UnicodeError) as error:
            raise self._explained(error) from error

    def many(self, sql: str, rows: Sequence[Sequence[object]]) -> None:
        """Run a statement for each row."""
        try:
            with self._conn.cursor() as cursor:
                cursor.executemany(_percent(sql), rows)
        except (self._psycopg.Error, UnicodeError) as error:
            raise self._explained(error) from error

    def script(self, statements: Sequence[str]) -> None:
        """Run statements without values."""
        try:
            for statement in statements:
                self._conn.execute(statement)
        except self._psycopg.Error as error:
            raise self._explained(error) from error

    @contextmanager
    def transaction(self, *, writes: bool = True) -> Iterator[None]:
        """All within, or nothing."""
        self.rows("BEGIN" if writes else "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        try:
            yield
            self.rows("COMMIT")
        except BaseException:
            with suppress(self._psycopg.Error):
                self._conn.rollback()
            raise

    def close(self) -> None:
        """Close the connection."""
        self._conn.close()

    def _explained(self, error: Exception) -> LedgerError:
        what = f"collected ledger {self.name}: {' '.join(str(error).split())}"
        kinds = self._psycopg
        # Two writers that began at the same row: the later one tries again.
        later = (kinds.OperationalError, kinds.InterfaceError, kinds.errors.UniqueViolation)
        return LedgerUnavailable(what) if isinstance(error, later) else LedgerError(what)


def _percent(sql: str) -> str:
    return sql.replace("%", "%%").replace("?", "%s")
