"""A ledger for each test, closed at its end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from tests.unit.ledger.samples import Open, ledger_at

from joulebook.ledger.sqlite import SqliteStore


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the ledger is; nothing is there yet."""
    return ledger_at(tmp_path)


@pytest.fixture
def open_store(path: Path) -> Iterator[Open]:
    """Opens the ledger of the test, which may lie on a tmpfs; what it opened is closed."""
    with ExitStack() as stack:

        def open_one(**options: Any) -> SqliteStore:
            store = SqliteStore(path, **{"allow_volatile": True, **options})
            stack.enter_context(closing(store))
            return store

        yield open_one
