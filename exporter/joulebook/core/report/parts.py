"""Which workloads of which nodes are one run.

A job on several nodes has a part on each, which the node books under its own begin; and job numbers
come again. So parts of one number are one run where the scheduler gave them the same start, or,
where that is not known, where their times overlap: within one cluster, on different nodes, and
never of different users. The components of a heterogeneous job are one run, and so are the pods of
one Kubernetes Job, PyTorchJob and the like, those that replace a failed one too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import reduce

import msgspec

from joulebook.core.report.dataset import ReportData, ReportWorkload
from joulebook.core.workloads import WorkloadId
from joulebook.units import NS_PER_S

_SLACK_NS = NS_PER_S
"""A node may see the begin of its part so long after the end of another's."""
_FOREVER_NS = 1 << 63


class Group(msgspec.Struct, frozen=True):
    """The parts of one run, and what is known of it from all of them."""

    whole: ReportWorkload
    parts: tuple[ReportWorkload, ...]

    @property
    def names(self) -> frozenset[str]:
        """All that it may be asked for by, its parts' names among them."""
        exact = {f"{self.whole.shown}@{self.began_utc}"} if self.began_utc else set()
        return self.whole.names.union(exact, *(part.names for part in self.parts))

    @property
    def began_utc(self) -> str:
        """When it began, by which it is reported from another of its number; empty: not known."""
        begin_ns = _begin_ns(self.whole)
        if begin_ns is None:
            return ""
        return datetime.fromtimestamp(begin_ns // NS_PER_S, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def groups(account: ReportData) -> list[Group]:
    """Return all workloads of an account by the run that they are a part of."""
    nodes: dict[WorkloadId, set[str]] = {}
    for rows in (account.postings, account.charges):
        for row in rows:
            if isinstance(row.subject, WorkloadId):
                nodes.setdefault(row.subject, set()).add(row.node)
    every = [account.workloads.get(key) or ReportWorkload(key) for key in nodes]
    alike: dict[tuple[str, str, str], list[list[ReportWorkload]]] = {}
    for part in sorted(every, key=lambda each: (_begin_ns(each) or 0, each.id)):
        runs = alike.setdefault((part.of_cluster, part.id.scheduler, _name(part)), [])
        fits = [(_overlap_ns(run, part, nodes), run) for run in runs]
        best = max((overlap_ns for overlap_ns, _ in fits if overlap_ns is not None), default=None)
        if best is None:
            runs.append([part])
        else:
            next(run for overlap_ns, run in fits if overlap_ns == best).append(part)
    return [_group(run) for runs in alike.values() for run in runs]


def _group(parts: list[ReportWorkload]) -> Group:
    whole = reduce(ReportWorkload.and_of, parts)
    first, name = parts[0], _name(parts[0])
    if owner := _owner(first):
        cluster = f"{first.of_cluster}:" if first.of_cluster else ""
        known_as = WorkloadId(first.id.scheduler, f"{cluster}{first.labels.account}/{owner}")
        whole = msgspec.structs.replace(whole, id=known_as, display=owner.rpartition("/")[2])
    elif len({part.id.workload for part in parts}) > 1:
        whole = msgspec.structs.replace(whole, display=name)
    return Group(whole, tuple(parts))


def _owner(workload: ReportWorkload) -> str:
    """The controller of a pod whose pods are one run."""
    owner = workload.extra.get("owner", "")
    is_job = workload.id.scheduler == "kubernetes" and owner.partition("/")[0].endswith("Job")
    return owner if is_job else ""


def _name(workload: ReportWorkload) -> str:
    """What all parts of a run have in common; names of Kubernetes are unique in a namespace."""
    if owner := _owner(workload):
        return f"{workload.labels.account}/{owner}"
    return workload.extra.get("het_job_id", "") or workload.id.workload


def _overlap_ns(
    run: Iterable[ReportWorkload], part: ReportWorkload, nodes: Mapping[WorkloadId, set[str]]
) -> int | None:
    """For how long a part ran beside those of a run; `None`: it is of another one."""
    if _owner(part):
        return 0
    most: int | None = None
    for each in run:
        same_number = each.id.workload == part.id.workload
        if same_number and not nodes[each.id].isdisjoint(nodes[part.id]):
            return None
        if _differ(each.labels.user, part.labels.user):
            return None
        if each.scheduler_start_s and part.scheduler_start_s:
            if each.scheduler_start_s != part.scheduler_start_s:
                return None
            most = _FOREVER_NS
            continue
        first_ns, second_ns = _begin_ns(each), _begin_ns(part)
        if first_ns is None or second_ns is None:
            continue
        ends_ns = [_FOREVER_NS if w.ended_utc_ns is None else w.ended_utc_ns for w in (each, part)]
        overlap_ns = min(ends_ns) - max(first_ns, second_ns)
        if overlap_ns > -_SLACK_NS:
            most = overlap_ns if most is None else max(most, overlap_ns)
    return most


def _differ(one: str, other: str) -> bool:
    return bool(one and other and one != other)


def _begin_ns(workload: ReportWorkload) -> int | None:
    if workload.started_utc_ns is not None:
        return workload.started_utc_ns
    return workload.id.start * NS_PER_S or None
