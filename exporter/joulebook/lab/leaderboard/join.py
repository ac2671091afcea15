"""Results joined to the energy they took: by run id, by tag, or by time and host.

Nothing is joined ambiguously: a result with several candidates, or none, is returned with the
reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

import msgspec

from joulebook.core.report.dataset import ReportData, is_theirs, owners
from joulebook.core.report.leaderboard import UNKNOWN_GPU, ComparedMetric, Entrant, Join
from joulebook.core.workloads import WorkloadId
from joulebook.lab.leaderboard.results import Result
from joulebook.lab.leaderboard.run_energy import WorkloadEnergy, mean, spent
from joulebook.lab.report.wording import percent

WORKLOAD_TAG = "joulebook.workload"
JOINED_BY = "joulebook.joined_by"
"""Tags that are written back: which workloads a run was, and how that is known."""

JOB_TAGS = (
    WORKLOAD_TAG,
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


class WithoutEnergy(NamedTuple):
    """A result without energy, and why."""

    result: Result
    why: str


class Joined(NamedTuple):
    """Entrants with their energy, and the results that have none."""

    entrants: list[Entrant]
    left: list[WithoutEnergy]


class Match(NamedTuple):
    """A result, the workloads that it is of, and how that is known."""

    result: Result
    found: list[WorkloadEnergy]
    join: Join


def matches(results: Sequence[Result], data: ReportData) -> tuple[list[Match], list[WithoutEnergy]]:
    """Return each run with its own workloads, and the runs that have none."""
    every = spent(data)
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
        if result.problem:
            left.append(WithoutEnergy(result, result.problem))
            continue
        if result.energy_uj is not None:
            made.append(Match(result, [], Join.GIVEN))
            continue
        found, join, why = _match(result, named, called, every)
        if found and not sum(each.energy_uj for each in found):
            found, why = [], "nothing was booked to its job"
        if found:
            made.append(Match(result, found, join))
        else:
            left.append(WithoutEnergy(result, why))
    return made, left


def by_run(results: Sequence[Result], data: ReportData) -> Joined:
    """Return each run with the energy of its own workloads."""
    made, left = matches(results, data)
    users: dict[WorkloadId, int] = {}
    for _, found, _ in made:
        for each in found:
            users[each.workload.id] = users.get(each.workload.id, 0) + 1
    return Joined([_entrant(*match, users) for match in made], left)


def by_experiment(metric: ComparedMetric, results: Sequence[Result], data: ReportData) -> Joined:
    """Return the best result of each experiment, with the energy of all of its workloads.

    All count: runs that failed, or that have no result, were part of finding the best. The best is
    one of a run that is among them: a value from a run without energy was bought elsewhere.
    """
    every: dict[str, list[WorkloadEnergy]] = {}
    for each in spent(data):
        every.setdefault(each.workload.labels.experiment, []).append(each)
    left: list[WithoutEnergy] = []
    of: dict[str, list[Result]] = {}
    for result in results:
        if result.problem:
            left.append(WithoutEnergy(result, result.problem))
        else:
            of.setdefault(result.experiment, []).append(result)
    entrants: list[Entrant] = []
    for name, several in of.items():
        given = [each for each in several if each.energy_uj is not None]
        if given:
            left += [
                WithoutEnergy(
                    each, "other results of its experiment have a stated energy, but it has none"
                )
                for each in several
                if each.energy_uj is None
            ]
            entrants.append(_of_given(name, metric, given))
            continue
        found = every.get(name, [])
        if not name or not sum(each.energy_uj for each in found):
            why = f"no workload of experiment {name[:60]!r} is recorded"
            left += [WithoutEnergy(each, why) for each in several]
            continue
        own, without = _of_own_runs(several, found, data)
        left += without
        whose = owners(e.workload for match in own for e in match.found or found)
        several_owners = [
            f"{kind}s: {', '.join(sorted(n))}" for kind, n in whose.items() if len(n) > 1
        ]
        if several_owners:
            why = f"its experiment's name exists in several {several_owners[0][:100]}"
            left += [WithoutEnergy(match.result, why) for match in own]
        elif own:
            best = _best(metric, [match.result for match in own])
            guessed = any(m.result is best and m.join is Join.INFERRED for m in own)
            its = [each for each in found if is_theirs(each.workload, whose)]
            join = Join.INFERRED if guessed else Join.EXPERIMENT
            entrant = _entrant(best, its, join, {})
            entrants.append(msgspec.structs.replace(entrant, name=name))
    return Joined(entrants, left)


def _of_own_runs(
    results: Sequence[Result], found: Sequence[WorkloadEnergy], data: ReportData
) -> tuple[list[Match], list[WithoutEnergy]]:
    """The results of an experiment that its workloads made; one that names no run is of all."""
    made, left = matches([each for each in results if each.run], data)
    ids = {each.workload.id for each in found}
    own = [m for m in made if any(each.workload.id in ids for each in m.found)]
    elsewhere = [m.result for m in made if m not in own]
    left += [WithoutEnergy(each, "its job belongs to another experiment") for each in elsewhere]
    return [*own, *(Match(each, [], Join.EXPERIMENT) for each in results if not each.run)], left


def _best(metric: ComparedMetric, results: Sequence[Result]) -> Result:
    best = results[0]
    for each in results[1:]:
        if metric.better(each.value, best.value):
            best = each
    return best


def _of_given(name: str, metric: ComparedMetric, runs: Sequence[Result]) -> Entrant:
    gpus = {each.gpu for each in runs} - {""}
    best = _best(metric, runs)
    return Entrant(
        name,
        best.value,
        sum(each.energy_uj or 0 for each in runs),
        _costs(each.cost_nano for each in runs),
        " + ".join(sorted(gpus)) or UNKNOWN_GPU,
        len(runs),
        best.flops,
        experiment=name,
    )


def _costs(costs: Iterable[Mapping[str, int]]) -> dict[str, int]:
    sums: dict[str, int] = {}
    for each in costs:
        for currency, nano in each.items():
            sums[currency] = sums.get(currency, 0) + nano
    return sums


def _match(
    result: Result,
    named: Mapping[str, list[WorkloadEnergy]],
    called: Mapping[str, list[WorkloadEnergy]],
    every: Sequence[WorkloadEnergy],
) -> tuple[list[WorkloadEnergy], Join, str]:
    if result.run and result.run in named:
        return _one_job(result, named[result.run], Join.RUN)
    for key, value in result.tags.items():
        if key.lower() not in JOB_TAGS:
            continue
        found = [each for name in value.split(",") for each in named.get(name, ())]
        if found:
            # Written back by us: it is still only inferred.
            guessed = result.tags.get(JOINED_BY) == Join.INFERRED.value and key == WORKLOAD_TAG
            unique = list({each.workload.id: each for each in found}.values())
            return _one_job(result, unique, Join.INFERRED if guessed else Join.TAG)
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


def _one_job(
    result: Result, found: list[WorkloadEnergy], join: Join
) -> tuple[list[WorkloadEnergy], Join, str]:
    """Requeues of a job are all of it; of two jobs of one number the one that ran then is meant."""
    if len({each.workload.id.workload for each in found}) == len(found):
        return found, join, ""
    then = [each for each in found if _both_ns(result, each) > 0]
    if then and len({each.workload.id.workload for each in then}) == len(then):
        return then, join, ""
    return [], join, f"{len(found)} jobs have its id, and its times do not tell them apart"


def _both_ns(result: Result, each: WorkloadEnergy) -> int:
    """For how long a run and a job ran at the same time; 0 where that is not known."""
    t0, t1 = each.workload.started_utc_ns, each.workload.ended_utc_ns
    began, ended = result.started_utc_ns, result.ended_utc_ns
    if t0 is None or began is None:
        return 0
    ends = [t for t in (t1, ended) if t is not None]
    return min(ends, default=max(t0, began) + 1) - max(t0, began)


def _inferred(
    result: Result, every: Iterable[WorkloadEnergy]
) -> tuple[list[WorkloadEnergy], Join, str]:
    """Return the one job that ran on the run's host while it ran."""
    began, ended = result.started_utc_ns, result.ended_utc_ns
    if not result.host or began is None or ended is None or ended <= began:
        lacks = "no host" if not result.host else "no times"
        return [], Join.INFERRED, f"no job has its id, and it has {lacks} to infer it from"
    host = result.host.partition(".")[0]
    found = []
    for each in every:
        t0, t1 = each.workload.started_utc_ns, each.workload.ended_utc_ns
        if t0 is None or t1 is None or host not in {n.partition(".")[0] for n in each.nodes}:
            continue
        user = each.workload.labels.user
        if result.user and user and result.user != user:
            continue
        both = _both_ns(result, each)
        if both >= COVERED * (ended - began) and both >= COVERED * (t1 - t0):
            found.append(each)
    if len(found) == 1:
        return found, Join.INFERRED, ""
    how = "no job ran" if not found else f"{len(found)} jobs ran"
    return [], Join.INFERRED, f"no job has its id, and {how} on {host[:60]} at that time"


def _entrant(
    result: Result, found: Sequence[WorkloadEnergy], join: Join, users: Mapping[WorkloadId, int]
) -> Entrant:
    if join is Join.GIVEN:
        assert result.energy_uj is not None
        return Entrant(
            result.name, result.value, result.energy_uj, result.cost_nano,
            result.gpu or UNKNOWN_GPU, 1, result.flops, experiment=result.experiment,
        )  # fmt: skip
    hedges = []
    shared = max((users.get(each.workload.id, 1) for each in found), default=1)
    if shared > 1:
        hedges.append(f"one job made {shared} results: each shows the energy of the whole job")
    if any(
        e.workload.started_utc_ns and e.workload.ended_utc_ns is None and not e.running
        for e in found
    ):
        hedges.append("no end recorded")
    if any(each.replayed for each in found):
        hedges.append("from a recorded trace, not measured")
    gpus = {each.gpu for each in found} - {UNKNOWN_GPU}
    return Entrant(
        result.name,
        result.value,
        sum(each.energy_uj for each in found),
        _costs(each.cost_nano for each in found),
        " + ".join(sorted(gpus)) or UNKNOWN_GPU,
        len(found),
        result.flops,
        join,
        "; ".join(hedges),
        experiment=result.experiment,
        gpu_uj=sum(each.gpu_uj for each in found),
        host=mean((each.host, each.gpu_ns) for each in found),
        partial=_partial(found),
        own_uj=sum(
            (Fraction(e.energy_uj, users.get(e.workload.id, 1)) for e in found), Fraction(0)
        ),
        co2e_ug=_emitted(found),
        coverage=_coverage(found),
    )


def _emitted(found: Sequence[WorkloadEnergy]) -> int | None:
    known = [each.co2e_ug for each in found if each.co2e_ug is not None]
    return sum(known) if len(known) == len(found) else None


def _coverage(found: Sequence[WorkloadEnergy]) -> float | None:
    known = [(each.coverage, each.gpu_ns) for each in found if each.coverage is not None]
    return mean(known) if known else None


_ENOUGH = 0.99
"""Of less than this share of the time energy is a lower bound that must not compete."""


def _partial(found: Sequence[WorkloadEnergy]) -> str:
    """Return why the energy is incomplete; empty: complete as far as known."""
    if any(not each.whole for each in found):
        return "cut off by the requested time range"
    if any(each.running for each in found):
        return "still running"
    if nodes := sum(each.other_nodes for each in found):
        return f"{nodes} of its nodes are not in this source"
    share = _coverage(found)
    if share is not None and share < _ENOUGH:
        return f"measured for {percent(100 * share)} of its GPU time"
    return ""
