"""Opening a collected ledger: addresses, other people's files, older and newer tables."""

from __future__ import annotations

import builtins
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import joulebook
from joulebook.errors import ConfigError, LedgerError, LedgerTooNew, LedgerUnavailable
from joulebook.lab.collected.database import connect, opened
from joulebook.lab.collected.months import after, begin_s, month_of, parsed

EXPORTER = Path(joulebook.__file__).parents[1]


@pytest.mark.parametrize(
    "url", ["", "sqlite://", "sqlite:///", "sqlite://host/x.db", "mysql://h/d", "/x.db"]
)
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(ConfigError, match=r"collect\.url"):
        connect(url)


def test_no_message_holds_a_password() -> None:
    with pytest.raises(ConfigError) as refused:
        connect("mysql://me:secret@host/d")
    assert "secret" not in str(refused.value)
    with pytest.raises(LedgerUnavailable) as down:
        connect("postgresql://me:secret@127.0.0.1:1/d")
    assert "secret" not in str(down.value)


@pytest.mark.parametrize(
    ("lacking", "url", "extra"),
    [
        ("psycopg", "postgresql://me:secret@h/d", "postgresql"),
        ("sqlalchemy", "postgresql://me:secret@h/d", "lab"),
        ("sqlalchemy", "sqlite:///c.db", "lab"),
    ],
)
def test_without_what_a_node_does_not_have(
    monkeypatch: pytest.MonkeyPatch, lacking: str, url: str, extra: str
) -> None:
    real: Callable[..., Any] = builtins.__import__

    def without(name: str, *rest: object) -> object:
        if name == lacking:
            raise ImportError(name, name=name)
        return real(name, *rest)

    monkeypatch.delitem(sys.modules, "joulebook.lab.collected.engines", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=rf"{lacking} is not installed: .*\[{extra}\]") as refused:
        connect(url)
    assert "secret" not in str(refused.value)


def test_commands_of_a_node_start_without_it() -> None:
    code = (
        "import importlib, pkgutil, sys\n"
        "for name in ('sqlalchemy', 'alembic', 'psycopg', 'pyarrow'): sys.modules[name] = None\n"
        "import joulebook.commands as at\n"
        "for each in pkgutil.walk_packages(at.__path__, 'joulebook.commands.'):\n"
        "    importlib.import_module(each.name)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": str(EXPORTER)})


def test_it_is_made_once_and_found_again(tmp_path: Path) -> None:
    url = f"sqlite://{tmp_path}/c.db"
    with pytest.raises(LedgerError, match="no collected ledger at"):
        connect(url)
    with opened(url, create=True) as database:
        database.rows("UPDATE closing SET closed_to = 202601")
    with opened(f"sqlite:///{tmp_path}/c.db", create=True) as database:
        assert database.rows("SELECT closed_to FROM closing") == [(202601,)]
        assert database.name == url
    assert stat.S_IMODE((tmp_path / "c.db").stat().st_mode) & 0o007 == 0
    with pytest.raises(LedgerUnavailable, match="cannot be created: No such file"):
        connect(f"sqlite://{tmp_path}/none/c.db", create=True)


def test_other_tables_are_left_alone(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "other.db")) as conn:
        conn.execute("CREATE TABLE x (a)")
        conn.commit()
    with pytest.raises(LedgerError, match="is not a collected ledger"):
        connect(f"sqlite://{tmp_path}/other.db")
    (tmp_path / "text.db").write_text("not a database, but long enough to be looked at\n" * 9)
    with pytest.raises(LedgerError, match="not a database"):
        connect(f"sqlite://{tmp_path}/text.db", create=True)


@pytest.mark.parametrize(
    ("version", "kind", "why"), [(99, LedgerTooNew, "newer"), (1, LedgerError, "needs")]
)
def test_tables_of_another_version(
    tmp_path: Path, version: int, kind: type[LedgerError], why: str
) -> None:
    url = f"sqlite://{tmp_path}/c.db"
    with opened(url, create=True) as database:
        database.rows("UPDATE alembic_version SET version_num = ?", [f"{version:04}"])
    with pytest.raises(kind, match=why):
        connect(url)


def test_a_number_beyond_64_bits_is_refused_whole(tmp_path: Path) -> None:
    with opened(f"sqlite://{tmp_path}/c.db", create=True) as database:
        with pytest.raises(LedgerError, match="too large"), database.transaction():
            database.rows("UPDATE closing SET closed_to = 202601")
            database.many("INSERT INTO rates_used VALUES (1, 0, 1, ?, 0)", [(1,), (1 << 63,)])
        assert database.rows("SELECT closed_to FROM closing") == [(0,)]
        assert database.rows("SELECT * FROM rates_used") == []


def test_months() -> None:
    assert [month_of(begin_s(month)) for month in (197001, 202612)] == [197001, 202612]
    assert month_of(begin_s(202612) - 1) == 202611
    assert after(202612) == 202701
    assert parsed("2026-02") == 202602
    for text in ("2026-13", "2026-2", "26-02", "2026-02-01", "٢٠٢٦-02"):
        with pytest.raises(ValueError, match="expected a month"):
            parsed(text)
