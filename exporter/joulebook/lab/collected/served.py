"""What served models cost: their quarter hours, joined with what the nodes booked for them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from joulebook.core.money.amounts import IDLE_PARTS, Exact, Item
from joulebook.core.report.parts import put_together
from joulebook.core.report.serving import (
    QUARTER_S,
    BookedItem,
    Counts,
    Produced,
    divided,
    phase,
)
from joulebook.lab.collected import compact, report_query
from joulebook.lab.collected.database import Database, one_by_some
from joulebook.lab.collected.months import DAY_S, after, begin_s
from joulebook.lab.collected.rollup import closed_to
from joulebook.lab.collected.served_query import ENERGY, PHASES
from joulebook.lab.collected.tokens import add_totals


def settle(database: Database, now_s: int, back_s: int = DAY_S + 2 * 3600) -> int:
    """Join quarter hours with what was booked for them, where they changed; return how many.

    A quarter hour is joined once all nodes of the workload have booked past it and are collected.
    Months that are days here stay as they were joined before.
    """
    since_s = (now_s - back_s) // QUARTER_S * QUARTER_S
    compacted = compact.months(database)
    if compacted:
        since_s = max(since_s, begin_s(after(compacted[-1])))
    with database.transaction():
        closed_to(database)
        counts: dict[tuple[int, int], dict[str, dict[Produced, int]]] = {}
        owners: dict[tuple[int, int], tuple[str, ...]] = {}
        for *owner, quarter_s, name, kind, number, count in database.rows(
            "SELECT w.cluster, t.account, t.experiment, t.quarter_s, t.model_name, t.kind,"
            " t.workload, t.tokens FROM tokens t JOIN workloads w ON w.id = t.workload"
            " WHERE t.quarter_s >= ? AND t.quarter_s < ?",
            [since_s, now_s - QUARTER_S],
        ):
            models = counts.setdefault((number, quarter_s), {})
            models.setdefault(name, {})[Produced(kind)] = count
            owners[number, quarter_s] = tuple(owner)
        booked = _booked(database, sorted({number for number, _ in counts}), since_s)
        before = _served(database, sorted({number for number, _ in counts}), since_s)
        rows: list[tuple[object, ...]] = []
        more: dict[tuple[str | int, ...], Exact] = defaultdict(Exact)
        changed = 0
        for key, models in counts.items():
            new = _joined(booked.get(key, {}), models, key[1])
            old = before.get(key, {})
            if not new or new == old:
                continue
            changed += 1
            # What is not there any more comes to nothing.
            for of in new.keys() | old.keys():
                exact = new.get(of, Exact())
                rows.append((*key, *of, *exact))
                added = exact.atoms - old.get(of, Exact()).atoms
                if added > 0:
                    total: tuple[str | int, ...] = (*owners[key], *of)
                    more[total] = more[total].plus(Exact.of(added))
        database.upsert("served", rows)
        add_totals(database, more, now_s)
    return changed


_Items = dict[tuple[str, str, str, int], Exact]
"""(model, item, currency, idle) to an amount; energy in whole microjoules."""


def _joined(
    booked: Mapping[tuple[str, str], BookedItem], models: Mapping[str, Counts], quarter_s: int
) -> _Items:
    """Return what each model took of a quarter hour."""
    found: _Items = {}
    if not booked:
        return found
    for name, items in divided(booked, models, quarter_s).items():
        energy_uj = 0
        for (item, currency), share in items.items():
            exact = Exact if item in ENERGY else Exact.of
            if item in ENERGY:
                energy_uj += share.active
            for idle, amount in enumerate(share):
                if amount:
                    found[name, item, currency, idle] = exact(amount)
        kind = phase(models[name])
        if kind is not None and len(models) == 1:
            found[name, PHASES[kind], "", 0] = Exact(energy_uj)
            found[name, f"{PHASES[kind]}_tokens", "", 0] = Exact(models[name][kind])
    return found


def _booked(
    database: Database, numbers: Sequence[int], since_s: int
) -> dict[tuple[int, int], dict[tuple[str, str], BookedItem]]:
    """Return what was booked by workload and quarter hour, for those that are all collected."""
    mains, runs = _parts(database, numbers)
    every = sorted({part for of in runs.values() for part in of})
    open_from: dict[int, int] = {}
    found: dict[tuple[int, int], dict[tuple[str, str], BookedItem]] = defaultdict(dict)
    for number, booked_to_s, position, last_seq in one_by_some(
        database,
        "SELECT DISTINCT w.id, l.booked_to_s, l.position, l.last_seq FROM workloads w"
        " JOIN facts f ON f.workload = w.id JOIN ledgers l ON l.id = f.ledger WHERE w.id IN (*)",
        [],
        every,
    ):
        upto = booked_to_s if position >= last_seq else 0
        open_from[number] = min(open_from.get(number, upto), upto)
    upto_s = {main: min(open_from.get(part, 0) for part in of) for main, of in runs.items()}

    def add(part: int, quarter_s: int, of: tuple[str, str], whole: int, idle: int) -> None:
        if quarter_s + QUARTER_S <= upto_s[mains[part]]:
            at = found[mains[part], quarter_s]
            was = at.get(of, BookedItem(0))
            at[of] = BookedItem(was.whole + whole, was.idle + idle)

    for number, quarter_s, component, energy_uj, idle_uj in one_by_some(
        database,
        "SELECT p.workload, p.quarter_s, m.component, p.energy_uj, p.idle_uj FROM postings p"
        " JOIN meters m ON m.id = p.meter"
        " WHERE p.undated = 0 AND p.quarter_s >= ? AND p.workload IN (*)",
        [since_s],
        every,
    ):
        add(number, quarter_s, ("gpu" if component == "gpu" else "host", ""), energy_uj, idle_uj)
    idle_of = {str(part): str(item) for item, part in IDLE_PARTS.items()}
    for number, quarter_s, item, currency, *parts in one_by_some(
        database,
        "SELECT c.workload, c.quarter_s, k.item, k.currency, c.whole, c.nano, c.rest FROM charges c"
        " JOIN kinds k ON k.id = c.kind"
        " WHERE c.undated = 0 AND c.quarter_s >= ? AND c.workload IN (*)",
        [since_s],
        every,
    ):
        atoms = Exact(*parts).atoms
        whole, idle = (0, atoms) if item in idle_of else (atoms, 0)
        add(number, quarter_s, (idle_of.get(str(item), str(item)), currency), whole, idle)
    for items in found.values():
        energy = [items[of] for of in items if of[0] in ENERGY]
        whole_uj = sum(each.whole for each in energy)
        idle_uj = sum(each.idle for each in energy)
        for of, each in items.items():
            # The ledger knows the idle part of cost; that of CO2e and credits is by energy.
            if of[0] in {Item.CO2E, Item.CREDIT} and whole_uj:
                items[of] = BookedItem(each.whole, each.whole * idle_uj // whole_uj)
    return found


def _parts(
    database: Database, numbers: Sequence[int]
) -> tuple[dict[int, int], dict[int, list[int]]]:
    """Return for which workload each part counts, and the parts of the run of each workload."""
    alike = one_by_some(
        database,
        "SELECT b.id FROM workloads a JOIN workloads b ON b.workload = a.workload"
        " AND b.scheduler = a.scheduler AND b.cluster = a.cluster WHERE a.id IN (*)",
        [],
        numbers,
    )
    run_of = put_together(report_query.parts(database, sorted({number for (number,) in alike})))
    served = {*numbers}
    mains = {number: number for number in numbers}
    for part, run in run_of.items():
        if part not in served:
            same = [number for number in numbers if run_of[number].id == run.id]
            if same:
                mains[part] = min(same)
    runs: dict[int, list[int]] = defaultdict(list)
    for part, main in mains.items():
        runs[main].append(part)
    return mains, runs


def _served(
    database: Database, numbers: Sequence[int], since_s: int
) -> dict[tuple[int, int], _Items]:
    found: dict[tuple[int, int], _Items] = defaultdict(dict)
    for number, quarter_s, name, item, currency, idle, *parts in one_by_some(
        database,
        "SELECT * FROM served WHERE quarter_s >= ? AND workload IN (*)",
        [since_s],
        numbers,
    ):
        if any(parts):
            found[number, quarter_s][name, item, currency, idle] = Exact(*parts)
    return found
