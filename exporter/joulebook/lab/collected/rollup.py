"""What a page adds to bills: by day, owner and month, read once, added up exactly, written once.

Closed months stay as they are.
"""

from __future__ import annotations

from joulebook.core.evidence import ZERO, Amount
from joulebook.core.money.amounts import IDLE_PARTS, INCLUDED, NOTHING, Exact, Item
from joulebook.lab.collected.database import Database, one_by_some
from joulebook.lab.collected.months import DAY_S, after, month_of


def closed_to(database: Database) -> int:
    """Return the last month that is closed (0: none), locked until the caller's transaction ends.

    Every write to bills starts with this, so that no month closes in between, and writers are
    serialized.
    """
    ((month,),) = database.rows(f"SELECT closed_to FROM closing{database.lock}")  # noqa: S608
    return int(month)


Used = dict[tuple[int, int, int, int, str], Amount]
"""(day, month, workload, owner, component) to an amount."""

Billed = dict[tuple[int, int, int, int, str, str], Exact]
"""(day, month, workload, owner, item, currency) to an amount."""


def add_to_months(database: Database, used: Used, billed: Billed, closed_to: int) -> None:
    """Add amounts to what bills show, by month and owner; in the caller's transaction.

    Months up to `closed_to` stay as they are.
    """
    amounts: dict[tuple[int, int, int, str], Amount] = {}
    for (day_s, month, _, owner, component), amount in used.items():
        of = (month, owner, _late_for(month, day_s), component)
        amounts[of] = amounts.get(of, ZERO).plus(amount)
    for *key, energy_uj, idle_uj, held_ns, idle_ns in one_by_some(
        database,
        "SELECT month, owner, late_for, component, energy_uj, idle_uj, held_ns, idle_ns"
        " FROM month_used WHERE month > ? AND owner IN (*)",
        [closed_to],
        sorted({owner for _, owner, *_ in amounts}),
    ):
        if (of := (key[0], key[1], key[2], key[3])) in amounts:
            amounts[of] = amounts[of].plus(Amount(energy_uj, idle_uj, held_ns, idle_ns))
    database.upsert("month_used", [(*key, *amount[:4]) for key, amount in amounts.items()])
    money: dict[tuple[int, int, int, str, str], int] = {}
    for (day_s, month, _, owner, item, currency), exact in billed.items():
        to = (month, owner, _late_for(month, day_s), item, currency)
        money[to] = money.get(to, 0) + exact.atoms
    for *key, whole, nano, rest in one_by_some(
        database,
        "SELECT month, owner, late_for, item, currency, whole, nano, rest FROM month_billed"
        " WHERE month > ? AND owner IN (*)",
        [closed_to],
        sorted({owner for _, owner, *_ in money}),
    ):
        if (to := (key[0], key[1], key[2], key[3], key[4])) in money:
            money[to] += Exact(whole, nano, rest).atoms
    database.upsert("month_billed", [(*key, *Exact.of(atoms)) for key, atoms in money.items()])


def _late_for(month: int, day_s: int) -> int:
    """Return the month of a day if it is billed in another one (0: it is not)."""
    return 0 if month_of(day_s) == month else month_of(day_s)


def idle_from_s(database: Database) -> int:
    """Return the UTC second from which on bills have the part of each cost for idle time."""
    ((begin_s,),) = database.rows("SELECT idle_from_s FROM closing")
    return int(begin_s)


class Rollup:
    """Amounts to add to the bills of one ledger, in the caller's transaction."""

    def __init__(
        self, database: Database, ledger: int, closed_to: int, *, tells_idle: bool = True
    ) -> None:
        """`tells_idle`: whether its node tells which part of a cost is for idle time."""
        self._database = database
        self._ledger = ledger
        self._closed_to = closed_to
        self._tells_idle = tells_idle
        self._idle_from_s = idle_from_s(database)
        self._used: Used = {}
        self._billed: Billed = {}
        self._late: set[tuple[int, int]] = set()

    @property
    def late(self) -> int:
        """Return the number of workloads and days that arrived after their month was closed."""
        return len(self._late)

    def use(self, when_s: int, workload: int, owner: int, component: str, more: Amount) -> None:
        """Energy and held time of an instant."""
        # Bills are of energy and time as booked.
        used = more._replace(calibration_uj=0, tensor_ns=0, tensor_known_ns=0)
        if used != ZERO:
            key = (*self._place(when_s, workload), workload, owner, component)
            self._used[key] = self._used.get(key, ZERO).plus(used)

    def bill(
        self, when_s: int, workload: int, owner: int, item: str, currency: str, more: Exact
    ) -> None:
        """Money or CO2e of an instant, or the part of money that is for idle time."""
        if item in INCLUDED and when_s < self._idle_from_s:
            return
        if more != NOTHING or item == Item.IDLE_UNKNOWN:
            key = (*self._place(when_s, workload), workload, owner, item, currency)
            self._billed[key] = self._billed.get(key, NOTHING).plus(more)
        if item in IDLE_PARTS and workload and not self._tells_idle:
            self.bill(when_s, workload, owner, Item.IDLE_UNKNOWN, currency, NOTHING)

    def write(self) -> None:
        """Add the amounts to the bills."""
        add_to_months(self._database, self._used, self._billed, self._closed_to)
        days = sorted({key[0] for key in self._used})
        for *key, energy_uj, idle_uj, held_ns, idle_ns in one_by_some(
            self._database,
            "SELECT day_s, month, workload, owner, component, energy_uj, idle_uj, held_ns, idle_ns"
            " FROM used WHERE ledger = ? AND day_s IN (*)",
            [self._ledger],
            days,
        ):
            known = (key[0], key[1], key[2], key[3], key[4])
            if known in self._used:
                old = Amount(energy_uj, idle_uj, held_ns, idle_ns)
                self._used[known] = self._used[known].plus(old)
        self._database.upsert(
            "used", [(self._ledger, *key, *amount[:4]) for key, amount in self._used.items()]
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
        self._database.upsert(
            "billed", [(self._ledger, *key, *amount) for key, amount in self._billed.items()]
        )

    def _place(self, when_s: int, workload: int) -> tuple[int, int]:
        """Return the day of an instant, and the month in which it is billed."""
        day_s = when_s // DAY_S * DAY_S
        month = month_of(day_s)
        if month > self._closed_to:
            return day_s, month
        self._late.add((day_s, workload))
        return day_s, after(self._closed_to)
