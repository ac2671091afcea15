"""The runs of an account: one for each job, whatever nodes it was on, added up exactly.

One run are the components of a heterogeneous job, and the pods of one Job; what several nodes
booked of one job is one workload already (see `parts`).

    coverage = time for which energy is known / time for which GPUs were held

A run on two GPUs for an hour has two hours of the second; those that no reading covers are missing
from its energy, so its energy is then a lower bound.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce

import msgspec

from joulebook.core.energy.readings import Component, Meter
from joulebook.core.evidence import ZERO, Amount, Method, Remainder, Subject
from joulebook.core.money.amounts import Charges, total
from joulebook.core.report.dataset import (
    WHOLE_METER,
    LostStretch,
    Posting,
    ReportData,
    ReportWorkload,
    Unknowable,
)
from joulebook.core.report.tally import Facility, Tally, booked
from joulebook.core.workloads import WorkloadId
from joulebook.units import NS_PER_S, QUARTER_NS


class Group(msgspec.Struct, frozen=True):
    """The parts of one run, and what is known of it from all of them."""

    whole: ReportWorkload
    parts: tuple[ReportWorkload, ...]

    @property
    def names(self) -> frozenset[str]:
        """All that it may be asked for by, its parts' names among them.

        Its start (`500@1767225620`, UTC seconds) distinguishes it from another run with its number.
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
    """Return what the parts of a run have in common; Kubernetes names are unique in a namespace."""
    cluster, scheduler = workload.of_cluster, workload.id.scheduler
    if owner := _owner(workload):
        return cluster, scheduler, workload.labels.account, owner
    if het := workload.extra.get("het_job_id", ""):
        return cluster, scheduler, workload.labels.user, het
    return workload.id


def _owner(workload: ReportWorkload) -> str:
    """Return the controller whose pods are one run, including replacements of failed ones."""
    owner = workload.extra.get("owner", "")
    is_job = workload.id.scheduler == "kubernetes" and owner.partition("/")[0].endswith("Job")
    return owner if is_job else ""


def _beside(run: list[ReportWorkload], part: ReportWorkload) -> bool:
    """Return whether a component ran while the others of a run did, none of which it is."""
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


class Run(msgspec.Struct, frozen=True):
    """One workload on all of its nodes: the GPUs it was booked on, and what came to each model.

    Attributes:
        by_model: By name of the GPU model; empty where it is not known.
        cut: Whether it began before or ended after the stretch of the account, which has a part
            of its energy only.
        replayed: Whether a meter of it was played from a recorded trace.
        running: Whether it consumed in the last quarter hour that one of its nodes booked, and no
            end of it is known.
        names: All that it may be asked for by, its parts' names among them.
        parts: The workloads that it consists of.

    """

    workload: ReportWorkload
    tally: Tally
    nodes: tuple[str, ...] = ()
    gpus: frozenset[tuple[str, Meter]] = frozenset()
    by_model: Mapping[str, Amount] = {}
    cut: bool = False
    replayed: bool = False
    running: bool = False
    names: frozenset[str] = frozenset()
    parts: frozenset[WorkloadId] = frozenset()

    @property
    def models(self) -> list[str]:
        """The models of its GPUs."""
        return sorted(model for model in self.by_model if model)

    @property
    def shown(self) -> str:
        """What people call it."""
        return self.workload.shown

    @property
    def gpu_count(self) -> int:
        """How many GPUs it held: what the scheduler said, else what it was booked on."""
        return self.workload.gpu_count or len(self.gpus)


def runs(account: ReportData) -> tuple[Run, ...]:
    """Return the runs, in the order in which they started."""
    postings: dict[Subject, list[Posting]] = defaultdict(list)
    for row in account.postings:
        postings[row.subject].append(row)
    bills: dict[Subject, list[Charges]] = defaultdict(list)
    for charged in account.charges:
        bills[charged.subject].append({charged.charge: charged.amount})
    site = Facility.of(account.rates)
    found = []
    for group in groups(account):
        rows = [row for part in group.parts for row in postings[part.id]]
        bill = total(bill for part in group.parts for bill in bills[part.id])
        walls = wall_ns(account, group.whole, rows)
        on_gpus = [row for row in rows if row.meter.component is Component.GPU]
        found.append(
            Run(
                group.whole,
                booked(rows, bill, site, None if walls is None else sum(walls.values())),
                tuple(sorted({row.node for row in rows})),
                frozenset((r.node, r.meter) for r in on_gpus if r.meter.name != WHOLE_METER),
                _by_model(account, group.whole, on_gpus, walls),
                _is_cut(account, group.whole, rows),
                any((row.node, row.meter) in account.replayed for row in rows),
                group.whole.ended_utc_ns is None and _goes_on(account, rows),
                group.names,
                frozenset(part.id for part in group.parts),
            )
        )
    return tuple(sorted(found, key=lambda run: (_start(run), run.workload.id)))


def remainders(account: ReportData) -> dict[Remainder, Tally]:
    """Return what belongs to no run, by name."""
    rows: dict[Remainder, list[Posting]] = defaultdict(list)
    for row in account.postings:
        if isinstance(row.subject, Remainder):
            rows[row.subject].append(row)
    bills: dict[Remainder, list[Charges]] = defaultdict(list)
    for charged in account.charges:
        if isinstance(charged.subject, Remainder):
            bills[charged.subject].append({charged.charge: charged.amount})
    site = Facility.of(account.rates)
    return {
        reason: booked(rows.get(reason, []), total(bills.get(reason, [])), site, 0)
        for reason in sorted(rows.keys() | bills.keys())
    }


def _start(run: Run) -> int:
    return run.workload.started_utc_ns or 0


def _is_cut(account: ReportData, workload: ReportWorkload, rows: Sequence[Posting]) -> bool:
    began_ns, ended_ns = workload.started_utc_ns, workload.ended_utc_ns
    until_ns = account.until_s * NS_PER_S
    if not account.cut.isdisjoint({row.subject for row in rows}):
        return True
    if began_ns is not None and began_ns < account.since_s * NS_PER_S:
        return True
    if ended_ns is not None:
        return ended_ns > until_ns
    if Unknowable.TIMES in account.unknown:
        return False
    # Whoever consumed in the last quarter hour of all and has no end goes on.
    return any((row.quarter_s * NS_PER_S + QUARTER_NS) == until_ns for row in rows)


def _goes_on(account: ReportData, rows: Iterable[Posting]) -> bool:
    known_ns = {node: until_s * NS_PER_S for node, until_s in account.known_until_s.items()}
    return any(
        row.node in known_ns and known_ns[row.node] < row.quarter_s * NS_PER_S + QUARTER_NS
        for row in rows
    )


def _by_model(
    account: ReportData,
    workload: ReportWorkload,
    on_gpus: Iterable[Posting],
    walls: Mapping[_OnMeter, int] | None,
) -> Mapping[str, Amount]:
    """Return totals by model, with the time held as far as known."""
    reported = workload.extra.get("gpu_model", "")
    sums: dict[str, Amount] = {}
    for row in on_gpus:
        model = account.models.get((row.node, row.meter)) or reported
        held_ns = row.amount.held_ns if walls is None else 0
        sums[model] = sums.get(model, ZERO).plus(row.amount._replace(held_ns=held_ns))
    for (_, node, meter), held_ns in (walls or {}).items():
        model = account.models.get((node, meter)) or reported
        sums[model] = sums.get(model, ZERO).plus(Amount(0, 0, held_ns))
    return sums


_OnMeter = tuple[Subject, str, Meter]
"""A workload, a node, and a meter of it."""

UNSEEN = Meter(Component.GPU, "")
"""GPUs that a run held and nothing was ever booked to it on: that they are is all that is known."""


def wall_ns(
    account: ReportData, workload: ReportWorkload, rows: Iterable[Posting]
) -> dict[_OnMeter, int] | None:
    """For how long a run held each GPU inside the account; `None`: a start or an end is not known.

    A GPU that was not read for all of the time has no posting, but the run held it.
    """
    if Unknowable.COVERAGE in account.unknown:
        return None
    held: dict[_OnMeter, Amount] = {}
    shared: set[_OnMeter] = set()
    last: dict[tuple[Subject, str], tuple[int, int]] = {}
    for row in rows:
        where, booked = (row.subject, row.node), (row.quarter_s, row.amount.held_ns)
        last[where] = max(last.get(where, booked), booked)
        if row.meter.component is Component.GPU:
            key = (row.subject, row.node, row.meter)
            held[key] = held.get(key, ZERO).plus(row.amount)
            if row.method is Method.APPORTIONED:
                shared.add(key)
    walls: dict[_OnMeter, int] = {}
    longest_ns = 0
    for where, booked in last.items():
        ends = _ends(account, *where, *booked)
        if ends is None:
            if any(key[:2] == where for key in held):
                return None
            continue
        longest_ns = max(longest_ns, ends[1] - ends[0])
        for key, amount in held.items():
            if key[:2] != where:
                continue
            whole_ns = max(ends[1] - ends[0], amount.held_ns)
            walls[key] = whole_ns
            if key in shared:
                # How much of it it would have held in a gap is reported by the rest of the time.
                gap_ns = sum(_overlap(gap, *ends) for gap in account.gaps if key[1:] == gap[:2])
                walls[key] = amount.held_ns + gap_ns * amount.held_ns // max(whole_ns, 1)
    unseen = workload.gpu_count - len(held)
    if unseen > 0 and not shared and longest_ns > 0:
        walls[workload.id, "", UNSEEN] = unseen * longest_ns
    return walls


def _ends(
    account: ReportData, subject: Subject, node: str, last_s: int, last_held_ns: int
) -> tuple[int, int] | None:
    """Start and end of a workload on a node inside the account (UTC ns).

    `last_s` is the last quarter hour in which it was booked to there, `last_held_ns` for how long
    it held anything in it.
    """
    workload = None if isinstance(subject, Remainder) else account.workloads.get(subject)
    if workload is None or workload.started_utc_ns is None:
        return None
    end_ns = workload.ended_utc_ns
    if end_ns is None:
        known_ns = account.known_until_s.get(node, 0) * NS_PER_S
        if not known_ns:
            return None
        last_ns = last_s * NS_PER_S
        # Else nobody saw its end, on a node that died: what was booked last is all there was.
        goes_on = known_ns < last_ns + QUARTER_NS
        end_ns = known_ns if goes_on else last_ns + last_held_ns
    return (
        max(workload.started_utc_ns, account.since_s * NS_PER_S),
        min(end_ns, account.until_s * NS_PER_S),
    )


def _overlap(gap: LostStretch, t0_ns: int, t1_ns: int) -> int:
    return max(min(gap.t1_utc_ns, t1_ns) - max(gap.t0_utc_ns, t0_ns), 0)
