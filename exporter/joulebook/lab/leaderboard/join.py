"""Results joined to the energy they took: by run id, by tag, or by time and host.

Nothing is joined on a guess that could be two things: a result for which there are several
candidates, or none, is handed back with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from joulebook.core.energy.readings import Component
from joulebook.core.evidence import Method
from joulebook.core.money.amounts import Charge, Charges, Item, add
from joulebook.core.report.dataset import WHOLE_METER, Posting, ReportData, ReportWorkload
from joulebook.core.report.leaderboard import UNKNOWN_GPU, ComparedMetric, Entrant, Join
from joulebook.core.report.rollup import net
from joulebook.core.workloads import WorkloadId
from joulebook.lab.leaderboard.results import Result

JOB_TAGS = (
    "joulebook.workload",
    "slurm_job_id",
    "slurm.job_id",
    "job_id",
    "pod",
    "pod_name",
    "k8s.pod.name",
)
"""Tags, in small letters, that name a workload."""

COVERED = 0.5
"""A job that is inferred must cover so much of a run's time, and the run so much of the job's."""

_REQUEUED = re.compile(r"\.r[0-9]+$")


class WorkloadEnergy(msgspec.Struct, frozen=True):
    """What one workload took in all, on all nodes.

    `measured_uj` is the part that meters measured for it alone: neither apportioned nor modelled
    (`None`: the source does not know). `co2e_ug` is `None` where none was charged.
    """

    workload: ReportWorkload
    energy_uj: int
    cost_nano: Mapping[str, int]
    gpu: str
    nodes: frozenset[str]
    idle_uj: int = 0
    gpu_ns: int = 0
    measured_uj: int | None = None
    co2e_ug: int | None = None

    @property
    def names(self) -> frozenset[str]:
        """All that it may be called; a run after a requeue is the job's as well."""
        names = self.workload.names
        return names | {_REQUEUED.sub("", name) for name in names}


class WithoutEnergy(NamedTuple):
    """A result without energy, and why."""

    result: Result
    why: str


class Joined(NamedTuple):
    """Entrants with their energy, and the results that have none."""

    entrants: list[Entrant]
    left: list[WithoutEnergy]


def spent(account: ReportData) -> list[WorkloadEnergy]:
    """What each workload of an account took."""
    postings: dict[WorkloadId, list[Posting]] = {}
    for posting in account.postings:
        if isinstance(posting.subject, WorkloadId):
            postings.setdefault(posting.subject, []).append(posting)
    bills: dict[WorkloadId, Charges] = {}
    for row in account.charges:
        if isinstance(row.subject, WorkloadId):
            bills[row.subject] = add(bills.get(row.subject, {}), {row.charge: row.amount})
    return [
        _spent(account, account.workloads.get(who) or ReportWorkload(who), of, bills.get(who, {}))
        for who, of in postings.items()
    ]


def _spent(
    account: ReportData, workload: ReportWorkload, postings: Sequence[Posting], bill: Charges
) -> WorkloadEnergy:
    models = {
        account.models.get((p.node, p.meter), "")
        for p in postings
        if p.meter.component is Component.GPU and p.meter.name != WHOLE_METER
    } - {""}
    known = models or set(filter(None, workload.extra.get("gpu_model", "").split(",")))
    methods = [(p.method, p.amount.energy_uj) for p in postings]
    measured = sum(uj for method, uj in methods if method in _MEASURED)
    co2e = bill.get(Charge(Item.CO2E))
    return WorkloadEnergy(
        workload,
        sum(p.amount.energy_uj for p in postings),
        {currency: amount.floor for currency, amount in net(bill).items()},
        " + ".join(sorted(known)) or UNKNOWN_GPU,
        frozenset(p.node for p in postings),
        sum(p.amount.idle_uj for p in postings),
        sum(p.amount.held_ns for p in postings if p.meter.component is Component.GPU),
        None if any(method is None for method, _ in methods) else measured,
        None if co2e is None else co2e.floor,
    )


_MEASURED = frozenset({Method.COUNTER, Method.INTEGRATED})


class Match(NamedTuple):
    """A result, the workloads that it is of, and how that is known."""

    result: Result
    found: list[WorkloadEnergy]
    join: Join


def matches(
    results: Sequence[Result], account: ReportData
) -> tuple[list[Match], list[WithoutEnergy]]:
    """Each run with its own workloads, and the runs that have none."""
    every = spent(account)
    named: dict[str, list[WorkloadEnergy]] = {}
    called: dict[str, list[WorkloadEnergy]] = {}
    for each in every:
        for name in each.names:
            named.setdefault(name, []).append(each)
        if each.workload.name:
            called.setdefault(each.workload.name, []).append(each)
    made: list[Match] = []
    left: list[WithoutEnergy] = []
    for result in results:
        if result.energy_uj is not None:
            made.append(Match(result, [], Join.GIVEN))
            continue
        found, join, why = _match(result, named, called, every)
        if found:
            made.append(Match(result, found, join))
        else:
            left.append(WithoutEnergy(result, why))
    return made, left


def by_run(results: Sequence[Result], account: ReportData) -> Joined:
    """Each run with the energy of its own workloads."""
    made, left = matches(results, account)
    users: dict[WorkloadId, int] = {}
    for _, found, _ in made:
        for each in found:
            users[each.workload.id] = users.get(each.workload.id, 0) + 1
    return Joined([_entrant(*match, users, account) for match in made], left)


def by_experiment(metric: ComparedMetric, results: Sequence[Result], account: ReportData) -> Joined:
    """The best result of each experiment, with the energy of all of its workloads.

    All count: runs that failed, or that have no result, were part of finding the best.
    """
    every: dict[str, list[WorkloadEnergy]] = {}
    for each in spent(account):
        every.setdefault(each.workload.labels.experiment, []).append(each)
    best: dict[str, Result] = {}
    runs: dict[str, list[Result]] = {}
    for result in results:
        runs.setdefault(result.experiment, []).append(result)
        known = best.get(result.experiment)
        if known is None or metric.better(result.value, known.value):
            best[result.experiment] = result
    entrants: list[Entrant] = []
    left: list[WithoutEnergy] = []
    for name, result in best.items():
        given = runs[name]
        if all(each.energy_uj is not None for each in given):
            entrants.append(_of_given(name, result, given))
            continue
        found = every.get(name, [])
        if not name or not found:
            left.append(
                WithoutEnergy(result, f"no workload of experiment {name[:60]!r} is on record")
            )
            continue
        entrant = _entrant(result, found, Join.EXPERIMENT, {}, account)
        entrants.append(msgspec.structs.replace(entrant, name=name))
    return Joined(entrants, left)


def _of_given(name: str, result: Result, runs: Sequence[Result]) -> Entrant:
    cost: dict[str, int] = {}
    for each in runs:
        for currency, nano in each.cost_nano.items():
            cost[currency] = cost.get(currency, 0) + nano
    gpus = {each.gpu for each in runs} - {""}
    return Entrant(
        name,
        result.value,
        sum(each.energy_uj or 0 for each in runs),
        cost,
        " + ".join(sorted(gpus)) or UNKNOWN_GPU,
        len(runs),
        result.flops,
    )


def _match(
    result: Result,
    named: Mapping[str, list[WorkloadEnergy]],
    called: Mapping[str, list[WorkloadEnergy]],
    every: Sequence[WorkloadEnergy],
) -> tuple[list[WorkloadEnergy], Join, str]:
    if result.run and result.run in named:
        return named[result.run], Join.RUN, ""
    for key, value in result.tags.items():
        if key.lower() in JOB_TAGS and value in named:
            return named[value], Join.TAG, ""
    alike = [
        each
        for each in called.get(result.run, ())
        if result.experiment in {"", each.workload.labels.experiment}
    ]
    if result.run and alike:
        if len(alike) == 1:
            return alike, Join.TAG, ""
        return [], Join.TAG, f"{len(alike)} jobs have its name"
    return _inferred(result, every)


def _inferred(
    result: Result, every: Iterable[WorkloadEnergy]
) -> tuple[list[WorkloadEnergy], Join, str]:
    """The one job that ran on the run's host while it ran."""
    began, ended = result.started_utc_ns, result.ended_utc_ns
    if not result.host or began is None or ended is None or ended <= began:
        lacks = "no host" if not result.host else "no times"
        return [], Join.INFERRED, f"no job has its id, and it has {lacks} to be inferred by"
    host = result.host.partition(".")[0]
    found = []
    for each in every:
        t0, t1 = each.workload.started_utc_ns, each.workload.ended_utc_ns
        if t0 is None or t1 is None or host not in {n.partition(".")[0] for n in each.nodes}:
            continue
        user = each.workload.labels.user
        if result.user and user and result.user != user:
            continue
        both = min(t1, ended) - max(t0, began)
        if both >= COVERED * (ended - began) and both >= COVERED * (t1 - t0):
            found.append(each)
    if len(found) == 1:
        return found, Join.INFERRED, ""
    how = "no job ran" if not found else f"{len(found)} jobs ran"
    return [], Join.INFERRED, f"no job has its id, and {how} on {host[:60]} then"


def _entrant(
    result: Result,
    found: Sequence[WorkloadEnergy],
    join: Join,
    users: Mapping[WorkloadId, int],
    account: ReportData,
) -> Entrant:
    if join is Join.GIVEN:
        assert result.energy_uj is not None
        return Entrant(
            result.name, result.value, result.energy_uj, result.cost_nano,
            result.gpu or UNKNOWN_GPU, 1, result.flops,
        )  # fmt: skip
    cost: dict[str, int] = {}
    for each in found:
        for currency, nano in each.cost_nano.items():
            cost[currency] = cost.get(currency, 0) + nano
    hedges = []
    shared = max((users.get(each.workload.id, 1) for each in found), default=1)
    if shared > 1:
        hedges.append(f"one job made {shared} results: each shows the energy of all of it")
    if any(e.workload.started_utc_ns and e.workload.ended_utc_ns is None for e in found):
        hedges.append("still running: so far" if account.known_until_s else "no end on record")
    gpus = {each.gpu for each in found} - {UNKNOWN_GPU}
    return Entrant(
        result.name,
        result.value,
        sum(each.energy_uj for each in found),
        cost,
        " + ".join(sorted(gpus)) or UNKNOWN_GPU,
        len(found),
        result.flops,
        join,
        "; ".join(hedges),
    )
