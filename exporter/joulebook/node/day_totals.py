"""Today's energy and charges by experiment and remainder (from 00:00 UTC), and rates in force."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from joulebook.core.evidence import Remainder, Subject, counted, summed
from joulebook.core.ledger import series
from joulebook.core.ledger.state import Books, Entry
from joulebook.core.money.amounts import Charge, Charges, Exact
from joulebook.core.money.rates import RateSet
from joulebook.core.workloads import Labels
from joulebook.metrics.snapshot import RateFeed
from joulebook.units import NS_PER_S

if TYPE_CHECKING:
    from joulebook.rates.poller import Poller


class Charging:
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
        """Return the health of each source."""
        return tuple(
            RateFeed(str(row.quantity), row.source, row.up, row.fetched_utc_s, row.errors)
            for row in (self._poller.health() if self._poller else ())
        )


DAY_S = 86_400

Owner = Labels | Remainder

MAX_OWNERS = 1_000
"""The most owners distinguished in a day; all others are one."""

REST = Labels(experiment=series.OVERFLOW)


class DayTotals:
    """Adds up what is booked to quarter hours of the current UTC day.

    Thread-safe: the totals are replaced as a whole.
    """

    def __init__(
        self, kept: Mapping[Owner, int], day: int, bills: Mapping[Owner, Charges] | None = None
    ) -> None:
        self._day = day
        charges = {
            (who, item): money
            for who, bill in (bills or {}).items()
            for item, money in bill.items()
        }
        self._totals: _Totals = (kept, charges)

    def add(self, utc_ns: int, entry: Entry, books: Books) -> None:
        """Add a tick's postings and charges; those of an earlier day are left out."""
        day = utc_ns // (DAY_S * NS_PER_S)
        energy_uj, charges = self._totals if day == self._day else ({}, {})
        energy_uj = counted(
            (
                (self._owner(key.subject, books), amount.energy_uj)
                for key, amount in entry.postings.items()
                if key.quarter_s // DAY_S == day
            ),
            energy_uj,
        )
        charges = summed(
            (
                ((self._owner(key.subject, books), key.charge), money)
                for key, money in entry.charges.items()
                if key.quarter_s // DAY_S == day
            ),
            charges,
        )
        self._day, self._totals = day, (energy_uj, charges)

    def _owner(self, subject: Subject, books: Books) -> Owner:
        if isinstance(subject, Remainder):
            return subject
        state, known = books.workloads[subject], self._totals[0]
        who = state.labels or state.facts.labels
        return who if who in known or len(known) < MAX_OWNERS else REST

    def totals(self) -> tuple[Mapping[Owner, int], Mapping[Owner, Charges]]:
        """Return microjoules booked since 00:00 UTC, and their charges."""
        energy_uj, charges = self._totals
        bills: dict[Owner, dict[Charge, Exact]] = {}
        for (who, item), money in charges.items():
            bills.setdefault(who, {})[item] = money
        return energy_uj, bills


_Totals = tuple[Mapping[Owner, int], Mapping[tuple[Owner, Charge], Exact]]
