"""The database under the collected ledger: an sqlite file or PostgreSQL, one way to talk to both.

SQL is written once, with `?` for all values: no name from a node is ever part of a statement.
SQLAlchemy, and psycopg for PostgreSQL, are loaded by the first connection: nodes have neither.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self

from joulebook.config.load import redact
from joulebook.errors import ConfigError, LedgerError, LedgerTooNew, LedgerUnavailable
from joulebook.lab.collected.months import QUARTERLY, after, begin_s, month_of

if TYPE_CHECKING:
    import sqlalchemy as sa

Row = tuple[Any, ...]

_AT_ONCE = 500
"""Values in one statement; sqlite of 2018 takes 999."""
_ROWS_AT_ONCE = 5_000


def connect(url: str, *, create: bool = False) -> Database:
    """Open the collected ledger at `url`; `create` makes and migrates its tables.

    Raises `ConfigError` for an invalid URL, and `LedgerError` and its children.
    """
    try:
        # Nodes have neither SQLAlchemy nor psycopg.
        from joulebook.lab.collected.engines import engine_of  # noqa: PLC0415

        database = Database(*engine_of(url, create=create))
    except ImportError as error:
        extra = "postgresql" if error.name == "psycopg" else "lab"
        raise ConfigError(
            f"collect.url = {redact(url)!r}: {error.name} is not installed: "
            f"pip install 'joulebook[{extra}]'"
        ) from error
    try:
        if create:
            bring_up_to_date(database)
        else:
            refuse_other(database)
    except BaseException:
        database.close()
        raise
    return database


@contextmanager
def opened(url: str, *, create: bool = False) -> Iterator[Database]:
    """`connect`, closed in the end."""
    with connect(url, create=create) as database:
        yield database


def one_by_some(
    database: Database, sql: str, before: Sequence[object], values: Sequence[object]
) -> Iterator[Row]:
    """Return the rows of `sql` for all `values`, which replace `(*)`, some hundred at a time."""
    for start in range(0, len(values), _AT_ONCE):
        some = values[start : start + _AT_ONCE]
        marks = ", ".join("?" * len(some))
        yield from database.rows(sql.replace("(*)", f"({marks})"), [*before, *some])


class Database:
    """One connection. Raises `LedgerUnavailable` where the same may work later (the database is
    down, locked, full), else `LedgerError`.

    Attributes:
        name: What people are shown: the URL without a password.
        lock: Suffix of a SELECT that locks its rows until the transaction ends.
        head: The revision of the tables that this version has.
        connection: What Alembic takes.

    """

    def __init__(self, engine: sa.Engine, name: str) -> None:
        from joulebook.lab.collected import tables  # noqa: PLC0415

        self.name, self.head = name, tables.HEAD
        self.lock = " FOR UPDATE" if engine.dialect.name == "postgresql" else ""
        self._tables = tables
        self._months: set[int] = set()
        with self._explaining():
            self.connection = engine.connect().execution_options(no_parameters=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def rows(self, sql: str, values: Sequence[object] = ()) -> list[Row]:
        """Return what a question finds."""
        with self._explaining():
            found = self.connection.exec_driver_sql(self._marked(sql, values), tuple(values))
            # The driver's own tuples: half the time of SQLAlchemy's rows.
            rows = [] if found.cursor is None else [*found.cursor.fetchall()]
            found.close()
            return rows

    def many(self, sql: str, rows: Sequence[Sequence[object]]) -> None:
        """Run a statement for each row."""
        if rows:
            with self._explaining():
                self.connection.exec_driver_sql(self._marked(sql, rows), [*map(tuple, rows)])

    def upsert(self, table: str, rows: Iterable[Sequence[object]], columns: str = "") -> None:
        """Insert rows; where the key is there, replace the other `columns` (default: all)."""
        made = self._tables.METADATA.tables[table]
        names = tuple(columns.replace(",", " ").split()) or tuple(made.columns.keys())
        places = [names.index(column.name) for column in made.primary_key]
        every = [*{tuple(row[place] for place in places): row for row in rows}.values()]
        sql = _upsert(made, names, arrays=bool(self.lock))
        if not self.lock:
            self.many(sql, every)
            return
        # One statement with an array for each column: half the time of a statement for each row.
        for start in range(0, len(every), _ROWS_AT_ONCE):
            some = every[start : start + _ROWS_AT_ONCE]
            self.rows(sql, [[*column] for column in zip(*some, strict=True)])

    @contextmanager
    def transaction(self, *, writes: bool = True) -> Iterator[None]:
        """All within, or nothing; a view of one instant."""
        view = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY" if self.lock else "BEGIN"
        self.rows(view if not writes else "BEGIN" if self.lock else "BEGIN IMMEDIATE")
        try:
            yield
            self.rows("COMMIT")
        except BaseException:
            with suppress(LedgerError):
                self.rows("ROLLBACK")
            raise

    def create(self) -> None:
        """Make the tables in an empty database."""
        with self._explaining():
            self._tables.create(self.connection)

    def have_months(self, quarters: Iterable[int]) -> None:
        """Make the partitions of quarter hours that are missing; in the caller's transaction."""
        if not self.lock or not (new := {*map(month_of, quarters)} - self._months):
            return
        with self._explaining():
            add_partitions(self.connection.exec_driver_sql, new)
        self._months |= new

    def leads(self) -> bool:
        """Return whether this connection may collect: of all to one PostgreSQL, one, while open."""
        return not self.lock or self.rows("SELECT pg_try_advisory_lock(?)", [_LEADER])[0][0]

    def key(self, table: str) -> list[str]:
        """Return the columns of a table's primary key."""
        return [column.name for column in self._tables.METADATA.tables[table].primary_key]

    def texts(self) -> dict[str, list[str]]:
        """Return the columns of each table that hold text."""
        return {
            table.name: [column.name for column in table.columns if column.type.python_type is str]
            for table in self._tables.METADATA.tables.values()
        }

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()
        self.connection.engine.dispose()

    def _marked(self, sql: str, values: object) -> str:
        if not self.lock:
            return sql
        return (sql.replace("%", "%%") if values else sql).replace("?", "%s")

    @contextmanager
    def _explaining(self) -> Iterator[None]:
        from sqlalchemy.exc import DBAPIError, SQLAlchemyError  # noqa: PLC0415

        try:
            yield
        except DBAPIError as error:
            said = " ".join(str(error.orig).split())
            what = f"collected ledger {self.name}: {said}"
            raise (LedgerUnavailable if _is_later(error.orig) else LedgerError)(what) from error
        except (SQLAlchemyError, OverflowError, UnicodeError) as error:
            raise LedgerError(f"collected ledger {self.name}: {error}") from error


def _is_later(error: BaseException | None) -> bool:
    """Return whether the same may work later."""
    if (code := getattr(error, "sqlite_errorcode", None)) is not None:
        # BUSY, LOCKED, IOERR, FULL, CANTOPEN
        return code & 0xFF in {5, 6, 10, 13, 14}
    # Two writers that began at the same row: the later one tries again.
    later = {"OperationalError", "InterfaceError", "UniqueViolation"}
    return any(kind.__name__ in later for kind in type(error).__mro__)


@cache
def _upsert(table: sa.Table, names: tuple[str, ...], *, arrays: bool) -> str:
    keys = [column.name for column in table.primary_key]
    said = ", ".join(f"{name} = excluded.{name}" for name in names if name not in keys)
    marks = ", ".join("?" * len(names))
    if arrays:
        marks = ", ".join(f"?::{table.columns[name].type}[]" for name in names)
    source = f"SELECT * FROM unnest({marks})" if arrays else f"VALUES ({marks})"  # noqa: S608
    return (
        f"INSERT INTO {table.name} ({', '.join(names)}) {source}"
        f" ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {said}"
    )


def add_partitions(run: Callable[[str], Any], months: Iterable[int]) -> None:
    """Make the partitions of months that have none, with the rows of before that belong there."""
    for month in sorted(months):
        first_s, end_s = begin_s(month), begin_s(after(month))
        for name in QUARTERLY:
            part = f"{name}_{month}"
            if run(f"SELECT to_regclass('{part}')").scalar() is not None:
                continue
            run(f"CREATE TABLE {part} (LIKE {name} INCLUDING DEFAULTS)")
            run(
                f"WITH moved AS (DELETE FROM {name}_other WHERE quarter_s >= {first_s}"  # noqa: S608
                f" AND quarter_s < {end_s} RETURNING *) INSERT INTO {part} SELECT * FROM moved"
            )
            run(
                f"ALTER TABLE {name} ATTACH PARTITION {part}"
                f" FOR VALUES FROM ({first_s}) TO ({end_s})"
            )


MIGRATIONS = Path(__file__).parent / "migrations"

_PLACE = 0x4A4C424B
_LEADER = 0x4A4C4243
"""Advisory locks of PostgreSQL: `JLBK` to make tables, `JLBC` of the server that collects."""

_OLD = (4, 7)
"""Schemas of versions that had no Alembic."""
_KNOWN = [f"{number:04}" for number in _OLD]
_FIRST = "0008"
"""The first one that Alembic made."""


def bring_up_to_date(database: Database) -> None:
    """Make the tables, or migrate those of this version or the one before: whole or not at all."""
    if _version(database) == database.head:
        return
    with database.transaction():
        if database.lock:
            database.rows("SELECT pg_advisory_xact_lock(?)", [_PLACE])
            database.rows("SET LOCAL statement_timeout = 0")
        found = _version(database)
        if found is None:
            _refuse_foreign(database)
        elif found >= database.head:
            refuse_other(database)
            return
        elif found < _FIRST and found not in _KNOWN:
            raise LedgerError(
                f"collected ledger {database.name} has schema {int(found)}, but this version "
                f"needs a newer one: upgrades are from schemas {' and '.join(map(str, _OLD))}"
            )
        _migrate(database, found)


def _migrate(database: Database, found: str | None) -> None:
    # It names each of its plugins at INFO as it is imported.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415

    config = Config(attributes={"connection": database.connection})
    config.set_main_option("script_location", str(MIGRATIONS))
    if found is None:
        database.create()
        command.stamp(config, "head")
        return
    if found in _KNOWN:
        command.stamp(config, found)
    command.upgrade(config, "head")


def refuse_other(database: Database) -> None:
    """Raises `LedgerError` if these are not the tables of this version."""
    found, known = _version(database), database.head
    if found is None:
        raise LedgerError(
            f"{database.name} is not a collected ledger: check collect.url; has `joulebook "
            "collect` run?"
        )
    if found > known:
        raise LedgerTooNew(
            f"collected ledger {database.name} has schema {int(found)}, but this version supports "
            f"schemas up to {int(known)}: install the newer version"
        )
    if found < known:
        raise LedgerError(
            f"collected ledger {database.name} has schema {int(found)}, but this version needs "
            f"{int(known)}: run `joulebook collect` of this version once"
        )


def refuse_downgrade() -> NoReturn:
    """Raise `LedgerError`: what is booked and billed never goes back."""
    raise LedgerError(
        "a collected ledger cannot be downgraded: use this version or a newer one, or restore a "
        "backup from before the upgrade"
    )


def _version(database: Database) -> str | None:
    """Return the revision of the tables; `None`: there are none."""
    if _has(database, "alembic_version"):
        ((found,),) = database.rows("SELECT version_num FROM alembic_version")
        return str(found)
    if _has(database, "joulebook_schema"):
        ((found,),) = database.rows("SELECT version FROM joulebook_schema")
        return f"{found:04}"
    return None


def _refuse_foreign(database: Database) -> None:
    # A node's own ledger has a table of that name, too.
    for table in ("ledger", "ledgers", "postings", "workloads"):
        if _has(database, table):
            raise LedgerError(
                f"{database.name} has a table {table} that is not part of a collected ledger: "
                "use a separate file or database for collect.url"
            )


def _has(database: Database, table: str) -> bool:
    if database.lock:
        return database.rows("SELECT to_regclass(?)", [table])[0][0] is not None
    return bool(database.rows("SELECT 1 FROM sqlite_master WHERE name = ?", [table]))
