"""What the loop knows of rates: those in force, what is to be charged, how the sources fare."""

from __future__ import annotations

from joulebook.core.bills import Charge
from joulebook.core.rates import RateSet
from joulebook.exposition.view import RateFeed
from joulebook.rates.poller import Poller


class Money:
    """The rates of a node. Without a poller nothing is charged."""

    def __init__(
        self,
        poller: Poller | None = None,
        charges: frozenset[Charge] = frozenset(),
        lacking: tuple[tuple[str, str], ...] = (),
    ) -> None:
        """`lacking` are settings that are not made, and what is not shown for it."""
        self._poller = poller
        self.charges = charges
        self.lacking = lacking

    @property
    def rates(self) -> RateSet:
        """The rates as they are known now; never waits."""
        return self._poller.current if self._poller else RateSet()

    def feeds(self) -> tuple[RateFeed, ...]:
        """How each source fares."""
        return tuple(
            RateFeed(str(row.quantity), row.source, row.up, row.fetched_utc_s, row.errors)
            for row in (self._poller.health() if self._poller else ())
        )
