"""Today's energy by experiment and by remainder, for the page; starts again at 00:00 UTC."""

from __future__ import annotations

from collections.abc import Mapping

from joulebook.core.books import Books, Entry, Remainder
from joulebook.core.workloads import Labels
from joulebook.units import NS_PER_S

DAY_S = 86_400


class Today:
    """Adds up what is booked to quarter hours of the current UTC day."""

    def __init__(self, kept: Mapping[Labels | Remainder, int], day: int) -> None:
        self._day = day
        self._energy_uj = dict(kept)

    def add(self, utc_ns: int, entry: Entry, books: Books) -> None:
        """Add a tick's postings; those of an earlier day are left out."""
        day = utc_ns // (DAY_S * NS_PER_S)
        if day != self._day:
            self._day, self._energy_uj = day, {}
        for key, amount in entry.postings.items():
            if key.quarter_s // DAY_S != day:
                continue
            who: Labels | Remainder
            if isinstance(key.subject, Remainder):
                who = key.subject
            else:
                state = books.workloads[key.subject]
                who = state.labels or state.facts.labels
            self._energy_uj[who] = self._energy_uj.get(who, 0) + amount.energy_uj

    def energy_uj(self) -> Mapping[Labels | Remainder, int]:
        """Microjoules booked since 00:00 UTC."""
        return dict(self._energy_uj)
