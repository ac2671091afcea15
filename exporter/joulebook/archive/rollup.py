"""What a page adds to bills: by day, owner and month, read once, added up exactly, written once."""

from __future__ import annotations

from joulebook.archive.engine import Database, one_by_some
from joulebook.archive.months import DAY_S, after, month_of
from joulebook.core.bills import NOTHING, Exact
from joulebook.core.books import ZERO, Amount

Used = dict[tuple[int, int, int, int, str], Amount]
"""(day, month, workload, owner, component) to an amount."""

Billed = dict[tuple[int, int, int, int, str, str], Exact]
"""(day, month, workload, owner, item, currency) to an amount."""

WRITE_USED = (
    "INSERT INTO used (ledger, day_s, month, workload, owner, component, energy_uj, idle_uj,"
    " held_ns) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (ledger, day_s, workload, owner, component, month) DO UPDATE SET"
    " energy_uj = excluded.energy_uj, idle_uj = excluded.idle_uj, held_ns = excluded.held_ns"
)
WRITE_BILLED = (
    "INSERT INTO billed (ledger, day_s, month, workload, owner, item, currency, whole, nano, rest)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (ledger, day_s, workload, owner, item, currency, month) DO UPDATE SET"
    " whole = excluded.whole, nano = excluded.nano, rest = excluded.rest"
)


class Rollup:
    """What is to be added to the bills of one ledger, in the caller's transaction."""

    def __init__(self, database: Database, ledger: int, closed_to: int) -> None:
        self._database = database
        self._ledger = ledger
        self._closed_to = closed_to
        self._used: Used = {}
        self._billed: Billed = {}
        self._late: set[tuple[int, int]] = set()

    @property
    def late(self) -> int:
        """For how many workloads and days something came after the month was closed."""
        return len(self._late)

    def use(self, when_s: int, workload: int, owner: int, component: str, more: Amount) -> None:
        """Energy and held time of an instant."""
        if more != ZERO:
            key = (*self._place(when_s, workload), workload, owner, component)
            self._used[key] = self._used.get(key, ZERO).plus(more)

    def bill(
        self, when_s: int, workload: int, owner: int, item: str, currency: str, more: Exact
    ) -> None:
        """Money or CO2e of an instant."""
        if more != NOTHING:
            key = (*self._place(when_s, workload), workload, owner, item, currency)
            self._billed[key] = self._billed.get(key, NOTHING).plus(more)

    def write(self) -> None:
        """Add it to what is there."""
        days = sorted({key[0] for key in self._used})
        for *key, energy_uj, idle_uj, held_ns in one_by_some(
            self._database,
            "SELECT day_s, month, workload, owner, component, energy_uj, idle_uj, held_ns"
            " FROM used WHERE ledger = ? AND day_s IN (*)",
            [self._ledger],
            days,
        ):
            known = (key[0], key[1], key[2], key[3], key[4])
            if known in self._used:
                old = Amount(energy_uj, idle_uj, held_ns)
                self._used[known] = self._used[known].plus(old)
        self._database.many(
            WRITE_USED, [(self._ledger, *key, *amount) for key, amount in self._used.items()]
        )
        days = sorted({key[0] for key in self._billed})
        for *key, whole, nano, rest in one_by_some(
            self._database,
            "SELECT day_s, month, workload, owner, item, currency, whole, nano, rest"
            " FROM billed WHERE ledger = ? AND day_s IN (*)",
            [self._ledger],
            days,
        ):
            paid = (key[0], key[1], key[2], key[3], key[4], key[5])
            if paid in self._billed:
                self._billed[paid] = self._billed[paid].plus(Exact(whole, nano, rest))
        self._database.many(
            WRITE_BILLED, [(self._ledger, *key, *amount) for key, amount in self._billed.items()]
        )

    def _place(self, when_s: int, workload: int) -> tuple[int, int]:
        """The day of an instant, and the month in which it is billed."""
        day_s = when_s // DAY_S * DAY_S
        month = month_of(day_s)
        if month > self._closed_to:
            return day_s, month
        self._late.add((day_s, workload))
        return day_s, after(self._closed_to)
