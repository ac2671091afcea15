"""What a store is: the one place where the books are kept."""

from __future__ import annotations

from typing import Protocol

from joulebook.clock import Anchor
from joulebook.core.books import Books, Entry


class Store(Protocol):
    """Keeps the books of one node. Raises only `joulebook.errors.LedgerError` and its children."""

    def load(self) -> tuple[Books, Anchor | None]:
        """The books as last committed (empty books and no anchor: a fresh ledger)."""

    def commit(self, before: Books, after: Books, entry: Entry, anchor: Anchor) -> None:
        """Make one tick durable, whole or not at all.

        Writes what differs (by identity) between `before`, the books last loaded or committed,
        and `after`, and the entry. Raises `LedgerUnavailable` if nothing was written: the caller
        keeps what it has and tries again with the next tick.
        """

    def close(self) -> None:
        """Let go of the ledger."""
