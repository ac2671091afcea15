"""Check the collected ledger against the nodes' totals, and the bills against the ledger."""

from __future__ import annotations

from typing import NamedTuple

from joulebook.core.money.amounts import IDLE_PARTS, NOTHING, Exact
from joulebook.lab.collected.bills import exact, halves, wholes
from joulebook.lab.collected.database import Database

_ENERGY = halves("energy_uj")
_PARTS = ", ".join(f"'{item}'" for item in IDLE_PARTS.values())
"""Items that bills did not always have."""
_MONEY = halves("whole", "nano", "rest")


class Balance(NamedTuple):
    """One meter or kind of charge of one ledger: the node's total, what is here, and what expired
    on the node (uJ or atoms).

    `missed` may be up to `expired`, if it expired before it was collected.
    """

    node: str
    ledger_id: str
    what: str
    booked: int
    here: int
    expired: int

    @property
    def missed(self) -> int:
        """Return what is missing here."""
        return self.booked - self.here

    @property
    def holds(self) -> bool:
        """Whether the books are whole: nothing too much, nothing missing but what expired."""
        return 0 <= self.missed <= self.expired


class Checked(NamedTuple):
    """What was found. `behind` are incomplete ledgers, which cannot be compared; `bills` are sums
    of bills that differ from the ledger's rows.
    """

    balances: list[Balance]
    behind: list[tuple[str, str, int]]
    bills: list[str]

    @property
    def good(self) -> bool:
        """Whether everything balances."""
        return not self.bills and all(balance.holds for balance in self.balances)


def check(database: Database) -> Checked:
    """Compare everything, in one view; reads all of the ledger."""
    with database.transaction(writes=False):
        ledgers = {
            number: (node, ledger_id, last_seq - position)
            for number, node, ledger_id, last_seq, position in database.rows(
                "SELECT id, node, ledger_id, last_seq, position FROM ledgers ORDER BY id"
            )
        }
        whole = {number for number, (_, _, lacking) in ledgers.items() if not lacking}
        balances = [*_meters(database), *_charges(database)]
        return Checked(
            [
                Balance(*ledgers[number][:2], what, booked, here, expired)
                for number, what, booked, here, expired in balances
                if number in whole
            ],
            [ledgers[number] for number in ledgers.keys() - whole],
            [*_bills(database)],
        )


def _meters(database: Database) -> list[tuple[int, str, int, int, int]]:
    here = {
        meter: wholes(sums)[0]
        for meter, *sums in database.rows(f"SELECT meter, {_ENERGY} FROM postings GROUP BY meter")  # noqa: S608
    }
    return [
        (ledger, f"{component} {name}", booked_uj, here.get(number, 0), expired_uj)
        for number, ledger, component, name, booked_uj, expired_uj in database.rows(
            "SELECT id, ledger, component, name, booked_uj, expired_uj FROM meters ORDER BY id"
        )
    ]


def _charges(database: Database) -> list[tuple[int, str, int, int, int]]:
    here = {
        (ledger, item, currency): exact(sums)
        for ledger, item, currency, *sums in database.rows(
            f"SELECT ledger, item, currency, {_MONEY} FROM charges JOIN kinds ON kinds.id = kind"  # noqa: S608
            " GROUP BY ledger, item, currency"
        )
    }
    return [
        (
            ledger,
            f"{item} {currency}".strip(),
            Exact(*parts[:3]).atoms,
            here.get((ledger, item, currency), NOTHING).atoms,
            Exact(*parts[3:]).atoms,
        )
        for ledger, item, currency, *parts in database.rows(
            "SELECT ledger, item, currency, whole, nano, rest, expired_whole, expired_nano,"
            " expired_rest FROM charged ORDER BY ledger, item, currency"
        )
    ]


def _bills(database: Database) -> list[str]:
    """Return each ledger's bills against its rows, and all corrections against nothing."""
    found = []
    used = _by_key(database, f"SELECT ledger, component, {_ENERGY} FROM used GROUP BY 1, 2")  # noqa: S608
    posted = _by_key(
        database,
        f"SELECT p.ledger, component, {_ENERGY} FROM postings p JOIN meters m ON m.id = meter"  # noqa: S608
        " WHERE undated = 0 GROUP BY 1, 2",
    )
    billed = _by_key(
        database,
        f"SELECT ledger, item || ' ' || currency, {_MONEY} FROM billed GROUP BY 1, 2",  # noqa: S608
    )
    charged = _by_key(
        database,
        f"SELECT ledger, item || ' ' || currency, {_MONEY} FROM charges"  # noqa: S608
        " JOIN kinds ON kinds.id = kind WHERE undated = 0"
        f" AND (item NOT IN ({_PARTS}) OR quarter_s >= (SELECT idle_from_s FROM closing))"
        " GROUP BY 1, 2",
    )
    found += _months(database)
    for bills, rows, unit in ((used, posted, "uJ"), (billed, charged, "atoms")):
        for key in sorted(bills.keys() | rows.keys()):
            if bills.get(key, 0) != rows.get(key, 0):
                found.append(
                    f"ledger {key[0]}, {key[1].strip()}: bills have {bills.get(key, 0)} {unit}, "
                    f"rows {rows.get(key, 0)}"
                )
    return found


def _months(database: Database) -> list[str]:
    """Return each month and owner for which a bill does not show what its days come to."""
    found = []
    for month, days, what, sums in (
        ("month_used", "used", "component", _ENERGY),
        ("month_billed", "billed", "item || ' ' || currency", _MONEY),
    ):
        shown, booked = (
            _by_key(
                database,
                f"SELECT month, owner || ' ' || {what}, {sums} FROM {table} GROUP BY 1, 2",  # noqa: S608
            )
            for table in (month, days)
        )
        found += [
            f"month {key[0]}, owner {key[1]}: the bill has {shown.get(key, 0)}, its days "
            f"{booked.get(key, 0)}"
            for key in sorted(shown.keys() | booked.keys())
            if shown.get(key, 0) != booked.get(key, 0)
        ]
    return found


def _by_key(database: Database, sql: str) -> dict[tuple[int, str], int]:
    return {
        (ledger, what): wholes(sums)[0] if len(sums) == 2 else exact(sums).atoms
        for ledger, what, *sums in database.rows(sql)
    }
