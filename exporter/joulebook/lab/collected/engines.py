"""SQLAlchemy's engines for the collected ledger: an sqlite file, or PostgreSQL by psycopg."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import sqlalchemy as sa

from joulebook.config.load import redact
from joulebook.errors import ConfigError, LedgerError, LedgerUnavailable

_BUSY_S = 30.0
_CONNECT_S = 10


def engine_of(url: str, *, create: bool) -> tuple[sa.Engine, str]:
    """Return the engine of a URL, and what people are shown: the URL without a password.

    Raises `ConfigError` for an invalid URL, `LedgerError`, and `ImportError` without psycopg.
    """
    parts = urlsplit(url)
    if parts.scheme == "sqlite" and not parts.netloc and len(parts.path) > 1:
        # As others write it, with four slashes, it is the same file.
        path = Path("/", parts.path.lstrip("/"))
        return _sqlite(path, create=create), f"sqlite://{path}"
    if parts.scheme in {"postgresql", "postgres"}:
        return _postgresql(url), redact(url)
    was = f"collect.url = {redact(url)!r}" if url else "collect.url is not set"
    raise ConfigError(f"{was}: expected sqlite:///absolute/path or postgresql://host:port/database")


def _sqlite(path: Path, *, create: bool) -> sa.Engine:
    """An sqlite file: the embedded default. A writer waits for another one, readers for none."""
    if not create and not path.exists():
        raise LedgerError(
            f"no collected ledger at {path}: check collect.url; has `joulebook collect` run?"
        )
    if create:
        _make(path)
    engine = sa.create_engine(
        sa.URL.create("sqlite", database=str(path)),
        isolation_level="AUTOCOMMIT",
        connect_args={"timeout": _BUSY_S, "check_same_thread": False},
    )
    pragmas = ["trusted_schema = OFF", "foreign_keys = ON"]
    pragmas += ["journal_mode = WAL", "synchronous = FULL"] if create else []

    @sa.event.listens_for(engine, "connect")
    def _set(connection: sqlite3.Connection, _: object) -> None:
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}")

    return engine


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


def _postgresql(url: str) -> sa.Engine:
    """A PostgreSQL database, as libpq understands the URL (PGPASSFILE, sslmode and all)."""
    import psycopg  # noqa: PLC0415 - 11 MiB that only users of PostgreSQL should pay

    def dial() -> psycopg.Connection[Any]:
        return psycopg.connect(
            url,
            connect_timeout=_CONNECT_S,
            # A host that vanished is noticed, and no statement lasts for ever.
            keepalives_idle=30,
            tcp_user_timeout=60_000,
            options="-c statement_timeout=600000 -c lock_timeout=60000"
            " -c idle_in_transaction_session_timeout=600000",
            application_name="joulebook",
        )

    return sa.create_engine("postgresql+psycopg://", creator=dial, isolation_level="AUTOCOMMIT")
