"""Read from the collected ledger what advice needs, of the rows that its reader may see."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from joulebook.core.energy.readings import Component
from joulebook.core.evidence import ZERO, Amount
from joulebook.core.ledger.card_facts import MEMORY_GIB, MEMORY_TOTAL_GIB, POWER_LIMITS_W
from joulebook.core.money.amounts import Charge, Charges, Item, add
from joulebook.core.money.rates import PPM, RateSet, StepCurve
from joulebook.core.report.dataset import ReportWorkload
from joulebook.core.report.parts import put_together
from joulebook.core.workloads import WorkloadId
from joulebook.lab.advice.later import SiteCurves
from joulebook.lab.advice.model import CardUse, JobUse
from joulebook.lab.advice.size import CardSize
from joulebook.lab.advice.start import (
    HISTORY_H,
    HOUR_S,
    KnownUntil,
    StartPlanner,
    all_ahead,
    day_ahead,
    nothing_ahead,
)
from joulebook.lab.collected import report_query
from joulebook.lab.collected.bills import exact, halves, wholes
from joulebook.lab.collected.database import Database, one_by_some
from joulebook.lab.collected.months import DAY_S
from joulebook.lab.collected.statements import IDLE_ITEMS
from joulebook.units import NS_PER_HOUR, NS_PER_S

MOST_JOBS = 50_000
"""So many jobs are looked at, those with the most GPU time."""
MOST_DETAILED = 200
"""Of so many jobs the quarter hours are read, those that idled longest."""

_AMOUNT = ("energy_uj", "idle_uj", "held_ns", "idle_ns")
_QUARTER_S = 900


_CHOSEN = (
    "FROM {table} u JOIN workloads w ON w.id = u.workload JOIN owners o ON o.id = w.owner"
    " WHERE u.day_s >= ? AND u.day_s < ?"
)
_IDLE_COST = f"""
SELECT c.workload, k.item, k.currency, {halves("c.whole", "c.nano", "c.rest")}
FROM charges c JOIN kinds k ON k.id = c.kind
WHERE k.item IN ('idle_electricity', 'idle_hardware') AND c.undated = 0
AND c.quarter_s >= ? AND c.quarter_s < ? AND c.workload IN (*)
GROUP BY c.workload, k.item, k.currency
"""  # noqa: S608 - words of ours
"""Bills that were closed early do not have what idle time cost: charges always do."""


class Rows(NamedTuple):
    """The rows that may be seen: a condition on `o.person` and `o.account`, and its values."""

    where: str = "1 = 1"
    values: Sequence[object] = ()


EVERYBODY = Rows()


def jobs(
    database: Database, span: tuple[int, int], rows: Rows, *, detailed: bool = True
) -> list[JobUse]:
    """Return the jobs with GPU time in whole days; `detailed`: with their cards and charges."""
    asked = [span[0] // DAY_S * DAY_S, span[1], *rows.values]
    used: dict[int, dict[str, Amount]] = defaultdict(dict)
    for number, component, *sums in database.rows(
        f"SELECT w.id, u.component, {halves(*_AMOUNT)} {_CHOSEN.format(table='used')}"
        f" AND {rows.where} GROUP BY w.id, u.component",
        asked,
    ):
        used[number][component] = Amount(*wholes(sums))
    numbers = sorted(used, key=lambda n: -used[n].get(Component.GPU, ZERO).held_ns)[:MOST_JOBS]
    idle = sorted(n for n in numbers if used[n].get(Component.GPU, ZERO).idle_ns)
    paid = _paid(database, span, rows, idle) if detailed else {}
    parts = report_query.parts(database, sorted(numbers))
    of_run: dict[WorkloadId, list[int]] = defaultdict(list)
    runs = put_together(parts)
    for number, run in runs.items():
        of_run[run.id].append(number)
    found: list[tuple[list[int], JobUse]] = []
    for mine in of_run.values():
        made = _job(
            runs[mine[0]],
            [parts[number].workload.extra for number in mine],
            [used[number] for number in mine],
            [paid[number] for number in mine if number in paid],
            span,
        )
        if made.gpu.held_ns:
            found.append((mine, made))
    found.sort(key=lambda each: -each[1].gpu.idle_ns)
    cards = {}
    if detailed:
        worst = [mine for mine, job in found[:MOST_DETAILED] if job.gpu.idle_ns > NS_PER_HOUR // 10]
        cards = _cards(database, span, worst)
    return [msgspec.structs.replace(job, cards=cards.get(mine[0], ())) for mine, job in found]


def _paid(
    database: Database,
    span: tuple[int, int],
    rows: Rows,
    idle: Sequence[int],
) -> dict[int, Charges]:
    """Return what workloads were charged; of those that idled, what that cost as well."""
    paid: dict[int, Charges] = defaultdict(dict)
    for number, item, currency, *sums in database.rows(
        f"SELECT w.id, u.item, u.currency, {halves('whole', 'nano', 'rest')}"
        f" {_CHOSEN.format(table='billed')} AND NOT {IDLE_ITEMS} AND {rows.where}"
        " GROUP BY w.id, u.item, u.currency",
        [span[0] // DAY_S * DAY_S, span[1], *rows.values],
    ):
        paid[number] = add(paid[number], {Charge(Item(item), currency): exact(sums)})
    for number, item, currency, *sums in one_by_some(database, _IDLE_COST, span, idle):
        paid[number] = add(paid[number], {Charge(Item(item), currency): exact(sums)})
    return paid


def _job(
    run: ReportWorkload,
    extras: Sequence[Mapping[str, str]],
    used: Iterable[Mapping[str, Amount]],
    paid: Iterable[Charges],
    span: tuple[int, int],
) -> JobUse:
    gpu, energy_uj = ZERO, 0
    charges: Charges = {}
    for components in used:
        gpu = gpu.plus(components.get(Component.GPU, ZERO))
        energy_uj += sum(amount.energy_uj for amount in components.values())
    for more in paid:
        charges = add(charges, more)
    started_s, ended_s = (
        None if t_ns is None else t_ns // NS_PER_S
        for t_ns in (run.started_utc_ns, run.ended_utc_ns)
    )
    return JobUse(
        shown=run.shown,
        labels=run.labels,
        cluster=run.cluster,
        scheduler=run.id.scheduler,
        partition=run.extra.get("partition", ""),
        model=run.extra.get("gpu_model", ""),
        outcome=run.outcome,
        gpu_count=run.gpu_count,
        started_s=started_s,
        ended_s=ended_s,
        whole=started_s is not None
        and ended_s is not None
        and span[0] <= started_s <= ended_s <= span[1],
        asked_s=max(_numbers(extras, "time_limit_s"), default=0),
        memory_gib=max(_numbers(extras, MEMORY_GIB), default=0),
        card_gib=min(_numbers(extras, MEMORY_TOTAL_GIB), default=0),
        limits_w=frozenset(_numbers(extras, POWER_LIMITS_W)),
        gpu=gpu,
        energy_uj=energy_uj,
        charges=charges,
    )


def _numbers(extras: Iterable[Mapping[str, str]], name: str) -> list[int]:
    """Return the numbers that nodes report by a name; they come from nodes, so any text may."""
    words = (word for extra in extras for word in extra.get(name, "").split(","))
    return [int(word) for word in words if word.isascii() and word.isdecimal() and len(word) < 10]


_CARDS = """
SELECT p.workload, p.meter, p.quarter_s, p.energy_uj, p.idle_uj, p.held_ns, p.idle_ns
FROM postings p JOIN meters m ON m.id = p.meter
WHERE m.component = 'gpu' AND p.undated = 0 AND p.quarter_s >= ? AND p.quarter_s < ?
AND p.workload IN (*)
"""


def _cards(
    database: Database, span: tuple[int, int], runs: Sequence[Sequence[int]]
) -> dict[int, tuple[CardUse, ...]]:
    """Return the cards of runs, by the first number of each.

    Of a month that is days here, a day is the finest that can be said of the last work.
    """
    first = {number: run[0] for run in runs for number in run}
    of: dict[int, dict[tuple[int, int], Amount]] = defaultdict(dict)
    for number, meter, quarter_s, *sums in one_by_some(database, _CARDS, span, sorted(first)):
        by_quarter = of[first[number]]
        before = by_quarter.get((meter, quarter_s), ZERO)
        by_quarter[meter, quarter_s] = before.plus(Amount(*sums))
    return {number: _cards_of(by_quarter) for number, by_quarter in of.items()}


def _cards_of(by_quarter: Mapping[tuple[int, int], Amount]) -> tuple[CardUse, ...]:
    last = max((q for (_, q), amount in by_quarter.items() if amount.held_ns > amount.idle_ns),
               default=None)  # fmt: skip
    sums: dict[int, list[int]] = defaultdict(lambda: [0] * 6)
    for (meter, quarter_s), amount in by_quarter.items():
        after = amount if last is not None and quarter_s > last else ZERO
        more = (*amount[:4], after.idle_uj, after.idle_ns)
        sums[meter] = [a + b for a, b in zip(sums[meter], more, strict=True)]
    return tuple(CardUse(*sums[meter]) for meter in sorted(sums))


_SIZES = """
SELECT DISTINCT w.cluster, f.extra FROM facts f JOIN workloads w ON w.id = f.workload
WHERE f.ended_utc_ns IS NULL OR f.ended_utc_ns > ?
"""


def sizes(database: Database, since_s: int) -> list[CardSize]:
    """Return the memory of the cards of each partition or model; they name nobody."""
    found = set()
    for cluster, text in database.rows(_SIZES, [since_s * NS_PER_S]):
        extra = _EXTRA.decode(text)
        place = (cluster, extra.get("partition", ""), extra.get("gpu_model", ""))
        for card_gib in _numbers([extra], MEMORY_TOTAL_GIB):
            if place[1] or place[2]:
                found.add(CardSize(*place, card_gib))
    return sorted(found)


_EXTRA = msgspec.json.Decoder(dict[str, str])

_USED = """
SELECT u.quarter_s, r.quantity, r.value, r.unit, r.source
FROM rates_used u JOIN rates r ON r.id = u.rate
WHERE u.ledger = ? AND u.quarter_s >= ? AND u.quarter_s < ?
AND r.quantity IN ('price', 'carbon', 'pue')
"""

_DAY_AHEAD = ("ENTSO-E ", "Energy-Charts ")
"""Begins of the names of feeds that have the prices of the European day-ahead market."""


def curves(
    database: Database, span: tuple[int, int], now_s: int, rates: RateSet, kind: str
) -> dict[str, SiteCurves]:
    """Return the curves of each cluster until now, as one of its nodes was charged, and to come.

    `rates` are those of this machine's feeds, of which only what is after the ledger counts, and
    only where that cluster was charged by the same source: another zone's prices are not its own.
    `kind` is that of the price (`rates.price.kind`).
    """
    found = {}
    for cluster, ledger in _longest(database, span).items():
        values: dict[str, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
        sources: dict[str, set[str]] = defaultdict(set)
        currency, pues = "", []
        edges = [span[0] // HOUR_S * HOUR_S - HISTORY_H * HOUR_S, now_s]
        for quarter_s, quantity, value, unit, source in database.rows(_USED, [ledger, *edges]):
            values[quantity][quarter_s // HOUR_S].append(value)
            sources[quantity].add(source)
            if quantity == "price":
                currency = unit.removeprefix("n").partition("/")[0]
            elif quantity == "pue":
                pues.append(value)
        of_price = sources["price"]
        is_market = bool(of_price) and all(each.startswith(_DAY_AHEAD) for each in of_price)
        price_known: KnownUntil = nothing_ahead
        if is_market:  # Whatever this machine has a tariff for.
            price_known = day_ahead
        elif kind in {"schedule", "constant"}:
            price_known = all_ahead
        found[cluster] = SiteCurves(
            _planner(values["price"], rates.price, of_price, price_known),
            _planner(values["carbon"], rates.carbon, sources["carbon"], nothing_ahead),
            currency,
            sum(pues) / len(pues) / PPM if pues else 1.0,
        )  # fmt: skip
    return found


def _longest(database: Database, span: tuple[int, int]) -> dict[str, int]:
    """Return the ledger of each cluster that covers most of a time."""
    best: dict[str, tuple[int, int]] = {}
    for number, cluster, created_s, booked_to_s in database.rows(
        "SELECT id, cluster, created_s, booked_to_s FROM ledgers ORDER BY id"
    ):
        covered = min(booked_to_s, span[1]) - max(created_s, span[0] - HISTORY_H * HOUR_S)
        if covered > best.get(cluster, (0, 0))[0]:
            best[cluster] = (covered, number)
    return {cluster: number for cluster, (_, number) in best.items()}


def _planner(
    used: Mapping[int, Sequence[int]], to_come: StepCurve, sources: set[str], known: KnownUntil
) -> StartPlanner | None:
    """Return a planner on the means of hours; what feeds know to come is known whenever asked, if
    it is from one of `sources`.
    """
    if not used:
        return None
    values = {hour: sum(some) / len(some) for hour, some in used.items()}
    last = max(values)
    coming = {}
    for hour in range(last + 1, last + 1 + _AHEAD_H):
        point = to_come.at(hour * HOUR_S)
        if point is not None and point.source in sources:
            coming[hour] = float(point.value)
    end = max(coming, default=last) + 1
    return StartPlanner(
        values | coming, lambda hour: max(known(hour), end) if hour > last else known(hour)
    )


_AHEAD_H = 72
