"""Charges and the rates used, as rows: write, read, add up and delete them."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import count
from typing import Any, NamedTuple

from joulebook.core.evidence import Amount, Remainder
from joulebook.core.money.amounts import Charge, ChargeKey, Charges, Exact, RateUsed, total
from joulebook.core.money.rates import NANO, PER_KWH
from joulebook.core.report.dataset import UsedRate
from joulebook.core.workloads import Labels, WorkloadId
from joulebook.decoding import converter

EXPIRED = "(expired)"
"""The remainder under which charges older than the ledger keeps them are held in one sum."""

# In an upsert a plain name is the old value. Two rests are less than 2^63: it carries exactly.
_UPSERT = f"""
INSERT INTO charges (quarter_s, workload_id, remainder, item, currency, whole, nano, rest, seq)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (quarter_s, workload_id, remainder, item, currency) DO UPDATE SET
    whole = whole + excluded.whole
        + (nano + excluded.nano + (rest + excluded.rest) / {PER_KWH}) / {NANO},
    nano = (nano + excluded.nano + (rest + excluded.rest) / {PER_KWH}) % {NANO},
    rest = (rest + excluded.rest) % {PER_KWH},
    seq = excluded.seq
"""  # noqa: S608 - two numbers of ours

_UPSERT_RATE = """
INSERT INTO rates_used (quarter_s, quantity, value, unit, source, quality, energy_uj, held_ns, seq)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (quarter_s, quantity, value, unit, source, quality) DO UPDATE SET
    energy_uj = energy_uj + excluded.energy_uj,
    held_ns = held_ns + excluded.held_ns,
    seq = excluded.seq
"""

# A sum of rests can leave 64 bits; its halves cannot.
_HALF = 1_000_000_000
_SUM = f"sum(whole), sum(nano), sum(rest / {_HALF}), sum(rest % {_HALF})"

_BY_OWNER = f"""
SELECT remainder, user, account, experiment, item, currency, {_SUM}
FROM charges LEFT JOIN workloads ON workloads.id = workload_id
WHERE quarter_s >= ? AND quarter_s < ?
GROUP BY remainder, user, account, experiment, item, currency
"""  # noqa: S608

# As in the index: the condition is what makes it usable.
_OF_WORKLOAD = f"""
SELECT item, currency, {_SUM} FROM charges
WHERE workload_id = ? AND workload_id > 0 GROUP BY item, currency
"""  # noqa: S608

_ROWS = """
SELECT workload_id, remainder, quarter_s, item, currency, whole, nano, rest FROM charges
WHERE quarter_s >= ? AND quarter_s < ? AND
"""

_TOTALS = f"SELECT item, currency, {_SUM} FROM charges GROUP BY item, currency"  # noqa: S608

_RATES = """
SELECT quarter_s, quantity, value, unit, source, quality, energy_uj, held_ns
FROM rates_used WHERE quarter_s >= ? AND quarter_s < ? ORDER BY quarter_s, quantity, value
"""

_OLD = "SELECT quarter_s FROM charges WHERE quarter_s BETWEEN 1 AND ? ORDER BY quarter_s LIMIT ?"
_OLD_SUMS = f"""
SELECT item, currency, {_SUM}, max(seq) FROM charges
WHERE quarter_s BETWEEN 1 AND ? GROUP BY item, currency
"""  # noqa: S608
_DROP = "DELETE FROM charges WHERE quarter_s BETWEEN 1 AND ?"
_OLD_RATES = "SELECT quarter_s FROM rates_used WHERE quarter_s < ? ORDER BY quarter_s LIMIT ?"
_DROP_RATES = "DELETE FROM rates_used WHERE quarter_s <= ?"


def write(
    conn: sqlite3.Connection,
    charges: Mapping[ChargeKey, Exact],
    rates: Mapping[RateUsed, Amount],
    workload_id: Callable[[WorkloadId], int],
    numbers: count[int],
) -> None:
    """Add an entry's charges and rates, in the caller's transaction."""
    rows = []
    for key, amount in charges.items():
        if isinstance(key.subject, Remainder):
            who: tuple[int, str] = (0, key.subject.value)
        else:
            who = (workload_id(key.subject), "")
        item, currency = key.charge
        rows.append((key.quarter_s, *who, item.value, currency, *amount, next(numbers)))
    conn.executemany(_UPSERT, rows)
    conn.executemany(
        _UPSERT_RATE,
        [
            (*used[:-1], used.quality.value, amount.energy_uj, amount.held_ns, next(numbers))
            for used, amount in rates.items()
        ],
    )


def by_owner(
    conn: sqlite3.Connection, since_s: int, until_s: int
) -> dict[Labels | Remainder, Charges]:
    """Return the charges in the quarter hours of [since, until), by owner."""
    found: dict[Labels | Remainder, Charges] = {}
    for remainder, *rest in conn.execute(_BY_OWNER, (since_s, until_s)):
        if remainder == EXPIRED:
            continue
        who = Remainder(remainder) if remainder else Labels(*rest[:3])
        found[who] = total([found.get(who, {}), {_charge(*rest[3:5]): _exact(rest[5:])}])
    return found


class ChargeTotal(NamedTuple):
    """One charge: a workload's number, or (number 0) a remainder."""

    workload_id: int
    remainder: str
    quarter_s: int
    charge: Charge
    amount: Exact


def rows(
    conn: sqlite3.Connection, clause: str, within: tuple[int | str, ...]
) -> Iterator[ChargeTotal]:
    """Yield the charges in [since, until) selected by `clause` with its parameters `within`."""
    for number, remainder, quarter_s, item, currency, *amount in conn.execute(
        _ROWS + clause, within
    ):
        if remainder != EXPIRED:
            yield ChargeTotal(number, remainder, quarter_s, _charge(item, currency), Exact(*amount))


def of_workload(conn: sqlite3.Connection, number: object) -> dict[Charge, Exact]:
    """Return all that was charged to the workload with that row number."""
    return {
        _charge(item, currency): _exact(sums)
        for item, currency, *sums in conn.execute(_OF_WORKLOAD, (number,))
    }


def totals(conn: sqlite3.Connection) -> dict[Charge, Exact]:
    """Return all that was ever charged; what expired is in it."""
    return {
        _charge(item, currency): _exact(sums) for item, currency, *sums in conn.execute(_TOTALS)
    }


_used_rate = converter(UsedRate)


def rates(
    conn: sqlite3.Connection, since_s: int, until_s: int, node: str = ""
) -> Iterator[UsedRate]:
    """Yield the rates that were used on the node in the quarter hours of [since, until).

    Raises `msgspec.MsgspecError` for a row that cannot be.
    """
    for row in conn.execute(_RATES, (since_s, until_s)):
        yield _used_rate((row[:6], *row[6:], node))


def drop_old(conn: sqlite3.Connection, before_s: int, batch: int) -> None:
    """Delete one batch of older rows, whole quarter hours; the sum of charges is kept."""
    old = conn.execute(_OLD, (before_s - 1, batch)).fetchall()
    if old:
        last = old[-1]
        sums = conn.execute(_OLD_SUMS, last).fetchall()
        conn.execute(_DROP, last)
        conn.executemany(
            _UPSERT,
            [
                (0, 0, EXPIRED, item, currency, *_exact(amount), seq)
                for item, currency, *amount, seq in sums
            ],
        )
    old = conn.execute(_OLD_RATES, (before_s, batch)).fetchall()
    if old:
        conn.execute(_DROP_RATES, old[-1])


def _charge(item: str, currency: str) -> Charge:
    return Charge.read(item, currency)


def _exact(sums: Iterable[Any]) -> Exact:
    whole, nano, high, low = sums
    return Exact.of((whole * NANO + nano) * PER_KWH + high * _HALF + low)
