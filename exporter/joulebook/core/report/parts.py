"""Find which workloads are parts of one run: on several nodes, or in one job or controller.

What nodes booked of one job is joined by the scheduler's start time, else by time (`joined`); the
components of a heterogeneous job, the pods of one Job, and a span with its windows are one run
(`groups`). Nothing booked
changes: parts are joined each time they are reported, so that a start time that becomes known later
joins them from then on.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from functools import reduce
from typing import NamedTuple, TypeVar

import msgspec

from joulebook.core.evidence import Remainder, Subject
from joulebook.core.report.dataset import Charged, Posting, ReportData, ReportWorkload
from joulebook.core.workloads import WorkloadId
from joulebook.units import NS_PER_S

_SPANS_NODES = frozenset({"slurm", "kubernetes"})
"""Schedulers whose names mean the same on every node of a cluster."""


class Part(NamedTuple):
    """What one ledger knows of a workload."""

    ledger: Hashable
    workload: ReportWorkload


_Key = TypeVar("_Key", bound=Hashable)


def put_together(parts: Mapping[_Key, Part]) -> dict[_Key, ReportWorkload]:
    """Return the run that each part belongs to; runs have unique ids.

    If nodes report different owners of a workload, they are different runs.
    """
    runs: dict[tuple[str, ...], list[dict[_Key, Part]]] = {}
    for key, part in sorted(parts.items(), key=lambda item: item[1].workload.started_utc_ns or 0):
        named = (part.workload.cluster, part.workload.id.scheduler, part.workload.id.workload)
        known = runs.setdefault(named, [])
        run = next((run for run in known if _is_of(part, list(run.values()))), None)
        if run is None:
            known.append({key: part})
        else:
            run[key] = part
    several = len({cluster for cluster, *_ in runs}) > 1
    found: dict[_Key, ReportWorkload] = {}
    taken: set[WorkloadId] = set()
    for (cluster, scheduler, name), known in runs.items():
        for run in known:
            whole, *others = (part.workload for part in run.values())
            for other in others:
                whole = whole.and_of(other)
            start = min(part.workload.id.start for part in run.values())
            id_ = WorkloadId(scheduler, f"{cluster}:{name}" if several else name, start)
            while id_ in taken:
                id_ = id_._replace(start=id_.start + 1)
            taken.add(id_)
            found |= dict.fromkeys(run, msgspec.structs.replace(whole, id=id_))
    return found


def _is_of(part: Part, run: list[Part]) -> bool:
    """Return whether a part is of the run that others are parts of."""
    workload = part.workload
    if workload.id.scheduler not in _SPANS_NODES:
        return False
    if not all(_agree(workload, other.workload) for other in run):
        return False
    starts = {other.workload.scheduler_start_s for other in run} - {0}
    if workload.scheduler_start_s and starts:
        return workload.scheduler_start_s in starts
    if any(other.ledger == part.ledger for other in run):
        return False
    return any(_overlap(workload, other.workload) for other in run)


def _agree(one: ReportWorkload, other: ReportWorkload) -> bool:
    """Return whether two nodes' data on the owner can be of one run."""
    if any(a and b and a != b for a, b in zip(one.labels[:2], other.labels[:2], strict=True)):
        return False
    a, b = one.labels.experiment, other.labels.experiment
    # If only one of them was given by a person, the other was derived by the node meanwhile.
    return not a or not b or a == b or one.named != other.named


def _overlap(one: ReportWorkload, other: ReportWorkload) -> bool:
    """Return whether two time ranges overlap; an unknown time may be any."""
    for a, b in ((one, other), (other, one)):
        if (
            a.ended_utc_ns is not None
            and b.started_utc_ns is not None
            and a.ended_utc_ns <= b.started_utc_ns
        ):
            return False
    return True


def joined(parts: Sequence[ReportData]) -> ReportData:
    """Join the data of two or more sources.

    Raises `ValueError` for a node in two of them: its energy would count twice.
    """
    whose: dict[str, str] = {}
    runs = put_together(
        {
            (n, id_): Part(n, each)
            for n, part in enumerate(parts)
            for id_, each in part.workloads.items()
        }
    )
    for part in parts:
        for node in {row.node for rows in (part.postings, part.charges) for row in rows}:
            if node in whose:
                raise ValueError(f"node {node} is in both {whose[node]} and {part.source}")
            whose[node] = part.source
    return ReportData(
        ", ".join(part.source for part in parts),
        min(part.since_s for part in parts),
        max(part.until_s for part in parts),
        tuple(_of_run(row, n, runs) for n, part in enumerate(parts) for row in part.postings),
        tuple(_of_run(row, n, runs) for n, part in enumerate(parts) for row in part.charges),
        {run.id: run for run in runs.values()},
        tuple(row for part in parts for row in part.rates),
        tuple(row for part in parts for row in part.gaps),
        {key: model for part in parts for key, model in part.models.items()},
        {node: until_s for part in parts for node, until_s in part.known_until_s.items()},
        {matter: why for part in parts for matter, why in part.unknown.items()},
        max(part.error_ratio for part in parts),
        tuple(text for part in parts for text in part.warnings),
        frozenset().union(*(part.replayed for part in parts)),
        frozenset().union(*(part.cut for part in parts)),
        {key: audit for part in parts for key, audit in part.audits.items()},
    )


_Row = TypeVar("_Row", Posting, Charged)


def _of_run(row: _Row, number: int, runs: Mapping[tuple[int, WorkloadId], ReportWorkload]) -> _Row:
    """Return the row of one of several sources, under the run that its workload is a part of."""
    if isinstance(row.subject, Remainder):
        return row
    run = runs.get((number, row.subject))
    return row if run is None else row._replace(subject=run.id)


class Group(msgspec.Struct, frozen=True):
    """The parts of one run, and what is known of it from all of them.

    `unread_ns`: for how long the parts that nothing was booked to held GPUs.
    """

    whole: ReportWorkload
    parts: tuple[ReportWorkload, ...]
    unread_ns: Mapping[WorkloadId, int] = {}

    @property
    def names(self) -> frozenset[str]:
        """All that it may be asked for by, its parts' names among them.

        Its start (`500@1767225620`, UTC seconds) distinguishes it from another run with its number.
        """
        began_s = _begin_ns(self.whole) // NS_PER_S
        exact = {f"{self.whole.shown}@{began_s}"} if began_s else set()
        return self.whole.names.union(exact, *(part.names for part in self.parts))


def groups(data: ReportData) -> list[Group]:
    """Return all workloads that anything was booked to, or that held GPUs which nobody read, by
    the run that they are a part of.
    """
    booked: dict[Subject, None] = {
        row.subject: None for rows in (data.postings, data.charges) for row in rows
    }
    unread_ns = data.unread
    booked |= dict.fromkeys(unread_ns)
    every = [
        data.workloads.get(key) or ReportWorkload(key)
        for key in booked
        if isinstance(key, WorkloadId)
    ]
    alike: dict[object, list[list[ReportWorkload]]] = {}
    for part in sorted(every, key=lambda each: (_begin_ns(each), each.id)):
        runs = alike.setdefault(_common(part), [])
        # Job numbers come again, those of heterogeneous jobs too.
        is_sure = bool(_owner(part)) or part.named_in_code
        run = next((run for run in runs if is_sure or _beside(run, part)), None)
        if run is None:
            runs.append([part])
        else:
            run.append(part)
    return [_group(run, unread_ns) for runs in alike.values() for run in runs]


def _common(workload: ReportWorkload) -> object:
    """Return what the parts of a run have in common; Kubernetes names are unique in a namespace."""
    cluster, scheduler = workload.of_cluster, workload.id.scheduler
    if owner := _owner(workload):
        return cluster, scheduler, workload.labels.account, owner
    if workload.named_in_code:
        return cluster, scheduler, _span(workload)
    if het := workload.extra.get("het_job_id", ""):
        return cluster, scheduler, workload.labels.user, het
    return workload.id


def _owner(workload: ReportWorkload) -> str:
    """Return the controller whose pods are one run, including replacements of failed ones."""
    owner = workload.extra.get("owner", "")
    is_job = workload.id.scheduler == "kubernetes" and owner.partition("/")[0].endswith("Job")
    return owner if is_job else ""


def _span(workload: ReportWorkload) -> str:
    """Return the id of the span that a workload is, or is a window of: `SPAN_3` is of `SPAN`."""
    return workload.id.workload.partition("_")[0]


def _beside(run: list[ReportWorkload], part: ReportWorkload) -> bool:
    """Return whether a component ran while the others of a run did, none of which it is."""
    if any(each.id.workload == part.id.workload for each in run):
        return False
    ends_ns = [each.ended_utc_ns for each in run]
    return None in ends_ns or _begin_ns(part) <= max(end for end in ends_ns if end is not None)


def _group(parts: list[ReportWorkload], unread_ns: Mapping[WorkloadId, int]) -> Group:
    whole = reduce(ReportWorkload.and_of, parts)
    first = parts[0]
    if owner := _owner(first):
        cluster = f"{first.of_cluster}:" if first.of_cluster else ""
        known_as = WorkloadId(first.id.scheduler, f"{cluster}{first.labels.account}/{owner}")
        whole = msgspec.structs.replace(whole, id=known_as, display=owner.rpartition("/")[2])
    elif first.named_in_code:
        whole = msgspec.structs.replace(
            whole, id=first.id._replace(workload=_span(first)), name=first.labels.experiment
        )
    elif len(parts) > 1:
        whole = msgspec.structs.replace(whole, display=first.extra["het_job_id"])
    mine = {part.id: unread_ns[part.id] for part in parts if part.id in unread_ns}
    return Group(whole, tuple(parts), mine)


def _begin_ns(workload: ReportWorkload) -> int:
    if workload.started_utc_ns is not None:
        return workload.started_utc_ns
    return workload.id.start * NS_PER_S
