"""The totals of each run over all nodes: energy, money, and their quality."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import msgspec

from joulebook.core.evidence import Method
from joulebook.core.money.amounts import Charge, Item
from joulebook.core.report.dataset import ReportData, ReportWorkload
from joulebook.core.report.leaderboard import UNKNOWN_GPU
from joulebook.core.report.rollup import net
from joulebook.core.report.runs import Run, runs
from joulebook.core.report.tally import HOST, UNKNOWN

_REQUEUED = re.compile(r"\.r[0-9]+$")


class WorkloadEnergy(msgspec.Struct, frozen=True):
    """The totals of one run over all nodes.

    Attributes:
        names: All that it may be called; a run after a requeue is the job's as well.
        measured_uj: The part that meters measured for it alone, neither apportioned nor modelled;
            `None`: the source does not know.
        co2e_ug: `None` where none was charged.
        coverage: Share of the time it held GPUs for that is measured; `None`: not known.
        whole: Whether all of it is in the time that was asked for.
        host: Share of the time it held GPUs for in which its hosts were measured too.
        other_nodes: Nodes that it ran on beside those of the source.

    """

    workload: ReportWorkload
    names: frozenset[str]
    energy_uj: int
    cost_nano: Mapping[str, int]
    gpu: str
    nodes: frozenset[str]
    idle_uj: int = 0
    gpu_uj: int = 0
    gpu_ns: int = 0
    measured_uj: int | None = None
    co2e_ug: int | None = None
    coverage: float | None = None
    whole: bool = True
    host: float = 0.0
    other_nodes: int = 0
    replayed: bool = False
    running: bool = False


def spent(data: ReportData) -> list[WorkloadEnergy]:
    """Return what each run of an account took."""
    return [_spent(run) for run in runs(data)]


def _spent(run: Run) -> WorkloadEnergy:
    tally, workload = run.tally, run.workload
    known = set(run.models) or set(filter(None, workload.extra.get("gpu_model", "").split(",")))
    measured = sum(tally.by_method.get(method, 0) for method in _MEASURED)
    co2e = tally.bill.get(Charge(Item.CO2E))
    told_nodes = workload.extra.get("node_count", "")
    all_nodes = int(told_nodes) if told_nodes.isdecimal() and len(told_nodes) < 7 else 0
    return WorkloadEnergy(
        workload,
        run.names | {_REQUEUED.sub("", name) for name in run.names},
        tally.energy_uj,
        {currency: amount.floor for currency, amount in net(tally.bill).items()},
        " + ".join(sorted(known)) or UNKNOWN_GPU,
        frozenset(run.nodes),
        tally.idle_uj,
        tally.gpu_uj,
        tally.gpu_ns,
        None if UNKNOWN in tally.by_method else measured,
        None if co2e is None else co2e.floor,
        tally.coverage,
        not run.cut,
        tally.measured_with(HOST),
        max(all_nodes - len(run.nodes), 0),
        run.replayed,
        run.running,
    )


_MEASURED = frozenset({Method.COUNTER, Method.INTEGRATED})


def mean(parts: Iterable[tuple[float, int]]) -> float:
    """Return the mean of shares, by time."""
    every = list(parts)
    whole = sum(weight for _, weight in every)
    if not whole:
        return sum(share for share, _ in every) / len(every) if every else 0.0
    return sum(share * weight for share, weight in every) / whole
