"""Advice that is kept: worked out once, seen by nobody else, and never of before a change."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.unit.lab.web.served import NOW_S, bearer, filled, served

from joulebook.lab.advice import advise
from joulebook.lab.collected.database import opened
from joulebook.lab.collected.forget import forget
from joulebook.lab.web import bill_view
from joulebook.lab.web.kept import Kept


@pytest.fixture
def scopes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[object]]:
    """The values of the conditions for which advice was worked out."""
    found: list[object] = []
    real = advise.of_month

    def of_month(*args: object, **more: object) -> object:
        found.append(args[3].values)  # type: ignore[attr-defined]
        return real(*args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(bill_view, "of_month", of_month)
    yield found


def test_advice_is_worked_out_once_for_each_scope(tmp_path: Path, scopes: list[object]) -> None:
    url = filled(tmp_path)
    users = [bearer(url, user) for user in ("ada", "bob", "root")]
    with served(url, admins=("root",)) as client:
        for _ in range(2):
            for user in users:
                assert client.get("/advice", headers=user).status_code == 200
        assert scopes == [["ada"], ["bob"], []]


def test_who_is_forgotten_is_in_no_kept_advice(tmp_path: Path, scopes: list[object]) -> None:
    url = filled(tmp_path)
    root = bearer(url, "root")
    with served(url, admins=("root",)) as client:
        client.get("/advice", headers=root)
        with opened(url) as database:
            forget(database, "ada", "root", NOW_S)
        assert "ada" not in client.get("/api/v1/advice/2026-11", headers=root).text
        assert len(scopes) == 2


def test_several_at_once_wait_for_one() -> None:
    kept, made, go = Kept[int](2), list[int](), threading.Event()

    def make() -> int:
        assert go.wait(30)
        made.append(1)
        return len(made)

    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(kept.get, "key", make) for _ in range(4)]
        go.set()
        assert [each.result() for each in asked] == [1, 1, 1, 1]


def test_failures_and_the_oldest_are_not_kept() -> None:
    kept = Kept[int](2)
    with pytest.raises(ZeroDivisionError):
        kept.get("a", lambda: 1 // 0)
    assert [kept.get(key, lambda: 1) for key in "abc"] == [1, 1, 1]
    assert [kept.get(key, lambda: 2) for key in "cba"] == [1, 1, 2]
