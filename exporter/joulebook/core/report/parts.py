"""Join the parts of a run from several nodes, by the scheduler's start time, else by time.

Nothing booked changes: parts are joined each time they are reported, so that a start time that
becomes known later joins them from then on.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import NamedTuple, TypeVar

import msgspec

from joulebook.core.evidence import Remainder
from joulebook.core.report.dataset import Charged, Posting, ReportData, ReportWorkload
from joulebook.core.workloads import WorkloadId

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
    for key, part in sorted(parts.items(), key=lambda item: _begin_ns(item[1].workload)):
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


def _begin_ns(workload: ReportWorkload) -> int:
    return workload.started_utc_ns or 0


def joined(accounts: Iterable[ReportData]) -> ReportData:
    """Join the data of several sources; their nodes must differ, or energy would count twice.

    Raises `ValueError` for a node in two of them, or if there is none.
    """
    parts = list(accounts)
    if len(parts) == 1:
        return parts[0]
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
    if not parts:
        raise ValueError("no account to join")
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
