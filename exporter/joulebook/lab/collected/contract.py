"""What there is to say to the database under the collected ledger, whichever it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

Row = tuple[Any, ...]


class Database(Protocol):
    """One connection. Raises `LedgerUnavailable` where the same may work later (the database is
    down, locked, full), else `LedgerError`.
    """

    name: str
    """What people are shown: the URL without a password."""
    lock: str
    """Follows a SELECT whose rows are to stay as they are until the transaction ends."""

    def rows(self, sql: str, values: Sequence[object] = ()) -> list[Row]:
        """What a question finds."""

    def many(self, sql: str, rows: Sequence[Sequence[object]]) -> None:
        """Run a statement for each row."""

    def script(self, statements: Sequence[str]) -> None:
        """Run statements without values."""

    @contextmanager
    def transaction(self, *, writes: bool = True) -> Iterator[None]:
        """All within, or nothing; a view of one instant."""

    def close(self) -> None:
        """Let go of it."""
