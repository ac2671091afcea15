"""Closed months of the collected ledger as one row for each workload and day.

What was booked, charged and billed stays to the unit. Rates of quarter hours go; what a workload
was charged at stays for its days: every rate up to four, else the least, the greatest and a mean
that is exact. Quarter hours stay where a day would not say the same: where a rate changed within
one, and the last one of a workload of which a begin or end is not known.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from joulebook.core.energy.readings import Component, Meter
from joulebook.core.evidence import ZERO, Amount, Remainder
from joulebook.core.ledger.export import PostingsPage
from joulebook.core.money.amounts import CALIBRATION, Charge, Exact, Item, RateUsed
from joulebook.core.money.rates import Quality
from joulebook.core.report.dataset import Charged, Posting, ReportData, UsedRate
from joulebook.core.report.rollup import own_rates
from joulebook.errors import InputError
from joulebook.lab.collected.database import Database, one_by_some
from joulebook.lab.collected.months import DAY_S, QUARTERLY, after, begin_s, month_of, shown
from joulebook.lab.collected.rollup import closed_to
from joulebook.lab.collected.schema import POSTING_COLUMNS, RATE, numbered

Used = dict[tuple[str, str, str, str], dict[int, tuple[int, int]]]
"""Quantity, unit, source and quality to each value, with the energy (uJ) and time (ns) at it."""

_RATES_KEPT = 4


class Compacted(NamedTuple):
    """A month: how many ledgers are compacted now, and which nodes have more to report of it."""

    month: int
    ledgers: int
    waiting: list[str]


def months(database: Database) -> list[int]:
    """Return the months in which any ledger is compacted."""
    found = database.rows("SELECT DISTINCT month FROM compacted ORDER BY month")
    return [int(month) for (month,) in found]


def late(
    database: Database, ledger: int, page: PostingsPage, undated: frozenset[int]
) -> frozenset[int]:
    """Return the quarter hours of the page in months that are days here, and note that they came.

    A node that had reported all of a month dates rows anew at most: they add to what is there.
    `undated` are those that cannot be: they may be of no month at all.
    """
    quarters = {row.quarter_s for rows in (page.postings, page.charges) for row in rows} - undated
    gone = {
        month
        for (month,) in one_by_some(
            database,
            "SELECT month FROM compacted WHERE ledger = ? AND month IN (*)",
            [ledger],
            sorted({*map(month_of, quarters)}),
        )
    }
    for month in gone:
        database.rows(
            "UPDATE compacted SET late = 1 WHERE ledger = ? AND month = ?", [ledger, month]
        )
    return frozenset(quarter_s for quarter_s in quarters if month_of(quarter_s) in gone)


def compact(database: Database, now_s: int) -> Iterator[Compacted]:
    """Compact each closed month, a ledger in one transaction; what is compacted stays so.

    Raises `InputError` for a month that was exported and has changed since, `LedgerError`.
    """
    closed = closed_to(database)
    for month in consumed(database):
        if month <= closed:
            yield _month(database, month, now_s)


def consumed(database: Database) -> list[int]:
    """Return the months in which anything was consumed, whenever it was billed."""
    found = database.rows("SELECT DISTINCT month, late_for FROM month_used")
    return sorted({late_for or month for month, late_for in found})


def _month(database: Database, month: int, now_s: int) -> Compacted:
    end_s = begin_s(after(month))
    done = {n for (n,) in database.rows("SELECT ledger FROM compacted WHERE month = ?", [month])}
    waiting = []
    for ledger, node, position, last_seq, booked_to_s in database.rows(
        "SELECT id, node, position, last_seq, booked_to_s FROM ledgers WHERE created_s < ?"
        " ORDER BY id",
        [end_s],
    ):
        if ledger in done:
            continue
        if position < last_seq or booked_to_s < end_s:
            waiting.append(node)
            continue
        with database.transaction():
            closed_to(database)
            _refuse_stale(database, month, ledger, anew=not done)
            _ledger(database, ledger, node, (begin_s(month), end_s))
            database.upsert("compacted", [(month, ledger, now_s, 0, 0)])
        done.add(ledger)
    _give_back(database, month)
    return Compacted(month, len(done), waiting)


def _refuse_stale(database: Database, month: int, ledger: int, *, anew: bool) -> None:
    """Raise `InputError` if rows changed since their export; once a month is begun, forget it."""
    which = [month, ledger]
    for directory, state in database.rows(
        "SELECT directory, state FROM exported WHERE month = ? AND ledger = ?", which
    ):
        if state == state_of(database, month, ledger):
            continue
        if anew:
            raise InputError(
                f"{shown(month)} has changed since its export to {directory}: export it again "
                "first (joulebook collect --export DIR)",
                reason="export",
            )
        database.rows("DELETE FROM exported WHERE month = ? AND ledger = ?", which)


def _give_back(database: Database, month: int) -> None:
    """Give the disk what the quarter hours took (PostgreSQL; sqlite writes there again)."""
    if not database.rows("SELECT 1 FROM compacted WHERE month = ? AND packed = 0", [month]):
        return
    if database.lock:
        for name in QUARTERLY:
            if database.rows("SELECT to_regclass(?)", [f"{name}_{month}"])[0][0] is not None:
                database.rows(f"VACUUM FULL {name}_{month}")
    database.rows("UPDATE compacted SET packed = 1 WHERE month = ?", [month])


def state_of(database: Database, month: int, ledger: int) -> str:
    """Return what changes with a ledger's quarter hours: how many there are, and their sums."""
    which = [ledger, begin_s(month), begin_s(after(month))]
    found = [
        database.rows(
            f"SELECT count(1), {', '.join(f'sum({c} % 1000000007)' for c in columns)} FROM {name}"  # noqa: S608
            " WHERE ledger = ? AND quarter_s >= ? AND quarter_s < ? AND undated = 0",
            which,
        )[0]
        for name, columns in (
            ("postings", ("energy_uj", "idle_uj", "held_ns", "calibration_uj")),
            ("charges", ("whole", "nano", "rest")),
        )
    ]
    return " ".join(str(each or 0) for row in found for each in row)


_POSTINGS = """
SELECT p.workload, p.quarter_s, p.meter, p.how, m.component, m.name, m.model, p.energy_uj,
       p.idle_uj, p.held_ns, p.idle_ns, p.calibration_uj, p.tensor_ns, p.tensor_known_ns
FROM postings p JOIN meters m ON m.id = p.meter
WHERE p.ledger = ? AND p.quarter_s >= ? AND p.quarter_s < ? AND p.undated = 0
"""

_CHARGES = """
SELECT c.workload, c.quarter_s, c.kind, k.item, k.currency, c.whole, c.nano, c.rest
FROM charges c JOIN kinds k ON k.id = c.kind
WHERE c.ledger = ? AND c.quarter_s >= ? AND c.quarter_s < ? AND c.undated = 0
"""

_RATES = """
SELECT u.quarter_s, r.quantity, r.value, r.unit, r.source, r.quality, u.energy_uj, u.held_ns, u.rate
FROM rates_used u JOIN rates r ON r.id = u.rate
WHERE u.ledger = ? AND u.quarter_s >= ? AND u.quarter_s < ?
"""

_OPEN = """
SELECT workload FROM facts WHERE ledger = ? AND workload IN (*)
    AND (started_utc_ns IS NULL OR ended_utc_ns IS NULL)
"""


def _ledger(database: Database, ledger: int, node: str, span: tuple[int, int]) -> None:
    """Compact one ledger's rows of [from, to), in the caller's transaction."""
    rates: dict[int, list[UsedRate]] = defaultdict(list)
    kept: list[tuple[int, ...]] = []
    for (
        quarter_s,
        quantity,
        value,
        unit,
        source,
        quality,
        energy_uj,
        held_ns,
        rate,
    ) in database.rows(_RATES, [ledger, *span]):
        used = RateUsed(quarter_s, quantity, value, unit, source, Quality(quality))
        rates[quarter_s].append(UsedRate(used, energy_uj, held_ns, node))
        kept.append((ledger, quarter_s, rate, energy_uj, held_ns))
    frames = {quarter_s: _frame(rows) for quarter_s, rows in rates.items()}
    mixed = {quarter_s for quarter_s, frame in frames.items() if frame is None}
    postings: dict[int, list[tuple[tuple[int, int, int], Posting]]] = defaultdict(list)
    models: dict[tuple[str, Meter], str] = {}
    for workload, quarter_s, number, how, component, name, model, *amount in database.rows(
        _POSTINGS, [ledger, *span]
    ):
        meter = Meter(Component(component), name)
        if model:
            models[node, meter] = model
        row = Posting(node, _ANY, meter, quarter_s, Amount(*amount), None, None)
        postings[workload].append(((quarter_s, number, how), row))
    charges: dict[int, list[tuple[int, Charged]]] = defaultdict(list)
    for workload, quarter_s, kind, item, currency, *exact in database.rows(
        _CHARGES, [ledger, *span]
    ):
        charge = Charged(node, _ANY, quarter_s, Charge(Item(item), currency), Exact(*exact))
        charges[workload].append((kind, charge))
    workloads = sorted(postings.keys() | charges.keys())
    whole = {number for (number,) in one_by_some(database, _OPEN, [ledger], workloads)} | {0}
    made: list[tuple[int, ...]] = []
    paid: list[tuple[int, ...]] = []
    days: list[tuple[object, ...]] = []
    for workload in workloads:
        rows, bill = postings[workload], charges[workload]
        quarters = {row.quarter_s for _, row in rows} | {row.quarter_s for _, row in bill}
        alone = mixed | ({max(quarters)} if workload in whole else set())
        begins = _begins(quarters, frames, alone)
        sums: dict[tuple[int, int, int], Amount] = {}
        for (quarter_s, meter_id, how), row in rows:
            key = (begins[quarter_s], meter_id, how)
            sums[key] = sums.get(key, ZERO).plus(row.amount)
        made += [(ledger, b, m, workload, h, *amount, 0) for (b, m, h), amount in sums.items()]
        money: dict[tuple[int, int], Exact] = {}
        for kind, charged in bill:
            place = (begins[charged.quarter_s], kind)
            money[place] = money.get(place, Exact()).plus(charged.amount)
        paid += [(ledger, b, workload, k, *exact, 0) for (b, k), exact in money.items()]
        account = ReportData(
            "", 0, 0,
            tuple(row for _, row in rows if row.quarter_s not in mixed),
            tuple(charged for _, charged in bill if charged.quarter_s not in mixed),
            rates=tuple(row for quarter_s in quarters - mixed for row in rates.get(quarter_s, ())),
            models=models,
        )  # fmt: skip
        by_day: dict[int, Used] = defaultdict(dict)
        for each in own_rates(account):
            add(by_day[begins[each.used.quarter_s]], each)
        days += [(workload, b, ledger, digest) for b, digest in _stored(database, by_day)]
    _replace(database, ledger, span, made, paid, [row for row in kept if row[1] in mixed])
    database.upsert("day_rates", days)


_ANY = Remainder.UNALLOCATED
"""Rates do not ask whose a row is."""


def _frame(rows: Iterable[UsedRate]) -> frozenset[tuple[str, int, str]] | None:
    """Return what must be the same all day for a mean to be exact; `None`: it changed within."""
    seen: set[tuple[str, int, str]] = set()
    quantities: set[str] = set()
    for row in rows:
        used = row.used
        if used.quantity in quantities and used.quantity != "hardware":
            return None
        quantities.add(used.quantity)
        if used.quantity == "pue" or used.quantity.startswith(CALIBRATION):
            seen.add((used.quantity, used.value, used.source))
    return frozenset(seen)


def _begins(quarters: set[int], frames: Mapping[int, object], alone: set[int]) -> dict[int, int]:
    """Return the quarter hour under which each one is counted: the first alike on its day."""
    first: dict[object, int] = {}
    return {
        quarter_s: quarter_s
        if quarter_s in alone
        else first.setdefault((quarter_s // DAY_S, frames.get(quarter_s)), quarter_s)
        for quarter_s in sorted(quarters)
    }


def add(used: Used, row: UsedRate) -> None:
    """Add what was charged at a rate."""
    _, quantity, value, *source = row.used
    at = used.setdefault((quantity, *map(str, source)), {})  # type: ignore[arg-type]
    energy_uj, held_ns = at.get(value, (0, 0))
    at[value] = (energy_uj + row.energy_uj, held_ns + row.held_ns)


def few(at: Mapping[int, tuple[int, int]]) -> dict[int, tuple[int, int]]:
    """Return at most four values with the same least, greatest, weight and mean, to the unit."""
    whole = sum(energy_uj for energy_uj, _ in at.values())
    if len(at) <= _RATES_KEPT or any(held_ns for _, held_ns in at.values()) or not whole:
        return {**at}
    mean, over = divmod(sum(value * energy_uj for value, (energy_uj, _) in at.items()), whole)
    kept = {min(at): 0, max(at): 0}
    for value, energy_uj in ((mean, whole - over), (mean + 1, over)):
        if energy_uj:
            kept[value] = kept.get(value, 0) + energy_uj
    return {value: (energy_uj, 0) for value, energy_uj in sorted(kept.items())}


def _stored(database: Database, by_day: Mapping[int, Used]) -> Iterator[tuple[int, str]]:
    """Yield each day's rates as JSON: the number of a rate of that source, and its values."""
    for begin, used in by_day.items():
        first = {kind: (kind[0], min(at), *kind[1:]) for kind, at in used.items()}
        numbers = numbered(database, RATE, first.values())
        digest = [
            (numbers[first[kind]], [(v, *amounts) for v, amounts in few(at).items()])
            for kind, at in used.items()
        ]
        yield begin, msgspec.json.encode(digest).decode()


def _replace(
    database: Database,
    ledger: int,
    span: Sequence[int],
    postings: Sequence[tuple[int, ...]],
    charges: Sequence[tuple[int, ...]],
    rates: Sequence[tuple[int, ...]],
) -> None:
    chosen = "ledger = ? AND quarter_s >= ? AND quarter_s < ?"
    for table in QUARTERLY:
        dated = "" if table == "rates_used" else " AND undated = 0"
        database.rows(f"DELETE FROM {table} WHERE {chosen}{dated}", [ledger, *span])  # noqa: S608
    database.upsert("postings", postings, POSTING_COLUMNS)
    database.upsert("charges", charges)
    database.upsert("rates_used", rates)
