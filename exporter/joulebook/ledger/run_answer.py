"""What the daemon answers programs that ask for a run's figures (`GET /v1/runs`)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from joulebook.core.money.amounts import IDLE_PARTS, NOTHING, Charge, Charges, Exact, Item
from joulebook.core.report.dataset import Selection
from joulebook.core.report.rollup import net
from joulebook.core.report.runs import Run, runs
from joulebook.errors import InputError
from joulebook.ledger import report_query
from joulebook.ledger.query import LedgerReader
from joulebook.run_figures import NodeRuns, RunFigures
from joulebook.units import NS_PER_S, QUARTER_NS

_FIELDS = ("job", "experiment", "user", "account")
_MOST_CHARS = 256
_MOST_RUNS = 1_000
_FOREVER_S = 1 << 40
_QUARTER_S = QUARTER_NS // NS_PER_S
_REQUEUED = re.compile(r"\.r[0-9]+$")


def answer(ledger: Path | str, node: str, query: Mapping[str, str]) -> NodeRuns:
    """Return the runs of a `job` or `experiment`. Raises `InputError` and `LedgerError`."""
    names = {field: query.get(field, "") for field in _FIELDS}
    if unknown := sorted(set(query) - set(_FIELDS)):
        raise InputError(f"{unknown[0][:40]}: expected one of {', '.join(_FIELDS)}", reason="query")
    if long := [field for field, text in names.items() if len(text) > _MOST_CHARS]:
        raise InputError(f"{long[0]}: more than {_MOST_CHARS} characters", reason="query")
    if not (names["job"] or names["experiment"]):
        raise InputError("expected job=ID or experiment=NAME", reason="query")
    wanted = Selection(
        **{f"{field}s": frozenset({name} - {""}) for field, name in names.items()},
    )
    with LedgerReader(ledger) as reader:
        known = report_query.workloads(reader, wanted)
        if not known:
            return NodeRuns(node, reader.booked_to_utc_ns(()) / NS_PER_S)
        # Rates and gaps of years are not read for a job of an hour.
        began_s = min(each.started_utc_ns or 0 for each in known) // QUARTER_NS * _QUARTER_S
        data = partial(report_query.account, reader, began_s, _FOREVER_S, wanted, node)
        # Of the meters first: what is booked while we read is then in the rows.
        booked_ns = reader.booked_to_utc_ns({row.meter for row in data().postings})
        family = runs(data())
    # The id of an array is that of one of its tasks, too, which is then meant.
    found = [run for run in family if _is(run, names["job"])] or family
    if len(found) > _MOST_RUNS:
        raise InputError(f"more than {_MOST_RUNS} runs: use joulebook report", reason="query")
    return NodeRuns(node, booked_ns / NS_PER_S, tuple(map(_figures, found)))


def _is(run: Run, job: str) -> bool:
    names = run.names | {_REQUEUED.sub("", name) for name in run.names}
    return not job or job in names


def _figures(run: Run) -> RunFigures:
    tally, workload = run.tally, run.workload
    co2e = tally.bill.get(Charge(Item.CO2E))
    told = workload.extra.get("node_count", "")
    ended_ns = workload.ended_utc_ns
    return RunFigures(
        workload.id.workload,
        workload.labels.account or workload.labels.user,
        tally.energy_uj,
        tally.idle_uj,
        tally.gpu_ns,
        tally.held_ns if tally.wall_ns else None,
        {str(method): uj for method, uj in tally.by_method.items()},
        {currency: amount.floor for currency, amount in net(tally.bill).items()},
        _idle(tally.bill),
        None if co2e is None else co2e.floor,
        run.nodes,
        int(told) if told.isdecimal() and len(told) < 7 else len(run.nodes),
        None if ended_ns is None else ended_ns / NS_PER_S,
    )


def _idle(bill: Charges) -> dict[str, int]:
    found: dict[str, Exact] = {}
    for (item, currency), amount in bill.items():
        if item in IDLE_PARTS.values():
            found[currency] = found.get(currency, NOTHING).plus(amount)
    return {currency: amount.floor for currency, amount in found.items()}
