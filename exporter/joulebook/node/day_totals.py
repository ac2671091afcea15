"""Today's energy and charges by experiment and remainder (from 00:00 UTC), and rates in force."""

from __future__ import annotations

from collections.abc import Mapping

from joulebook.core.evidence import Remainder, Subject
from joulebook.core.ledger.state import Books, Entry
from joulebook.core.money.amounts import NOTHING, Charge, Charges, Exact
from joulebook.core.money.rates import RateSet
from joulebook.core.workloads import Labels
from joulebook.metrics.snapshot import RateFeed
from joulebook.rates.poller import Poller
from joulebook.units import NS_PER_S


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
        """How each source fares."""
        return tuple(
            RateFeed(str(row.quantity), row.source, row.up, row.fetched_utc_s, row.errors)
            for row in (self._poller.health() if self._poller else ())
        )


DAY_S = 86_400

Owner = Labels | Remainder


class DayTotals:
    """Adds up what is booked to quarter hours of the current UTC day."""

    def __init__(
        self, kept: Mapping[Owner, int], day: int, bills: Mapping[Owner, Charges] | None = None
    ) -> None:
        self._day = day
        self._energy_uj = dict(kept)
        self._bills: dict[Owner, dict[Charge, Exact]] = {
            who: dict(bill) for who, bill in (bills or {}).items()
        }

    def add(self, utc_ns: int, entry: Entry, books: Books) -> None:
        """Add a tick's postings and charges; those of an earlier day are left out."""
        day = utc_ns // (DAY_S * NS_PER_S)
        if day != self._day:
            self._day, self._energy_uj, self._bills = day, {}, {}
        for key, amount in entry.postings.items():
            if key.quarter_s // DAY_S == day:
                who = _owner(key.subject, books)
                self._energy_uj[who] = self._energy_uj.get(who, 0) + amount.energy_uj
        for charged, money in entry.charges.items():
            if charged.quarter_s // DAY_S == day:
                bill = self._bills.setdefault(_owner(charged.subject, books), {})
                bill[charged.charge] = bill.get(charged.charge, NOTHING).plus(money)

    def energy_uj(self) -> Mapping[Owner, int]:
        """Microjoules booked since 00:00 UTC."""
        return dict(self._energy_uj)

    def bills(self) -> Mapping[Owner, Charges]:
        """What was charged since 00:00 UTC."""
        return {who: dict(bill) for who, bill in self._bills.items()}


def _owner(subject: Subject, books: Books) -> Owner:
    if isinstance(subject, Remainder):
        return subject
    state = books.workloads[subject]
    return state.labels or state.facts.labels
