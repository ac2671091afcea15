"""Which workloads are one run: the components of a heterogeneous job, the pods of one Job.

What several nodes booked of one job is one workload already (see `parts`).
"""

from __future__ import annotations

from functools import reduce

import msgspec

from joulebook.core.report.dataset import ReportData, ReportWorkload
from joulebook.core.workloads import WorkloadId
from joulebook.units import NS_PER_S


class Group(msgspec.Struct, frozen=True):
    """The parts of one run, and what is known of it from all of them."""

    whole: ReportWorkload
    parts: tuple[ReportWorkload, ...]

    @property
    def names(self) -> frozenset[str]:
        """All that it may be asked for by, its parts' names among them.

        With its begin (`500@1767225620`, UTC seconds) it is told from another of its number.
        """
        began_s = _begin_ns(self.whole) // NS_PER_S
        exact = {f"{self.whole.shown}@{began_s}"} if began_s else set()
        return self.whole.names.union(exact, *(part.names for part in self.parts))


def groups(data: ReportData) -> list[Group]:
    """Return all workloads that anything was booked to, by the run that they are a part of."""
    booked = {row.subject: None for rows in (data.postings, data.charges) for row in rows}
    every = [
        data.workloads.get(key) or ReportWorkload(key)
        for key in booked
        if isinstance(key, WorkloadId)
    ]
    alike: dict[object, list[list[ReportWorkload]]] = {}
    for part in sorted(every, key=lambda each: (_begin_ns(each), each.id)):
        runs = alike.setdefault(_common(part), [])
        # Job numbers come again, those of heterogeneous jobs too.
        run = next((run for run in runs if _owner(part) or _beside(run, part)), None)
        if run is None:
            runs.append([part])
        else:
            run.append(part)
    return [_group(run) for runs in alike.values() for run in runs]


def _common(workload: ReportWorkload) -> object:
    """What the parts of a run have in common; names of Kubernetes are unique in a namespace."""
    cluster, scheduler = workload.of_cluster, workload.id.scheduler
    if owner := _owner(workload):
        return cluster, scheduler, workload.labels.account, owner
    if het := workload.extra.get("het_job_id", ""):
        return cluster, scheduler, workload.labels.user, het
    return workload.id


def _owner(workload: ReportWorkload) -> str:
    """The controller of a pod whose pods are one run, those that replace a failed one too."""
    owner = workload.extra.get("owner", "")
    is_job = workload.id.scheduler == "kubernetes" and owner.partition("/")[0].endswith("Job")
    return owner if is_job else ""


def _beside(run: list[ReportWorkload], part: ReportWorkload) -> bool:
    """Whether a component ran while the others of a run did, none of which it is."""
    if any(each.id.workload == part.id.workload for each in run):
        return False
    ends_ns = [each.ended_utc_ns for each in run]
    return None in ends_ns or _begin_ns(part) <= max(end for end in ends_ns if end is not None)


def _group(parts: list[ReportWorkload]) -> Group:
    whole = reduce(ReportWorkload.and_of, parts)
    first = parts[0]
    if owner := _owner(first):
        cluster = f"{first.of_cluster}:" if first.of_cluster else ""
        known_as = WorkloadId(first.id.scheduler, f"{cluster}{first.labels.account}/{owner}")
        whole = msgspec.structs.replace(whole, id=known_as, display=owner.rpartition("/")[2])
    elif len(parts) > 1:
        whole = msgspec.structs.replace(whole, display=first.extra["het_job_id"])
    return Group(whole, tuple(parts))


def _begin_ns(workload: ReportWorkload) -> int:
    if workload.started_utc_ns is not None:
        return workload.started_utc_ns
    return workload.id.start * NS_PER_S
