"""The runs of an account: one for each job, whatever nodes it was on, added up exactly.

    coverage = time for which energy is known / time for which GPUs were held

A run on two GPUs for an hour has two hours of the second; those that no reading covers are missing
from its energy, so its energy is then a lower bound.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

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
from joulebook.core.report.tally import Tally, booked, pue_ppm
from joulebook.core.workloads import WorkloadId
from joulebook.units import NS_PER_S, QUARTER_NS


class Run(msgspec.Struct, frozen=True):
    """One workload on all of its nodes: the GPUs it was booked on, and what came to each model.

    Attributes:
        by_model: By name of the GPU model; empty where it is not known.
        cut: Whether it began before or ended after the stretch of the account, which has a part
            of its energy only.
        replayed: Whether a meter of it was played from a recorded trace.

    """

    workload: ReportWorkload
    tally: Tally
    nodes: tuple[str, ...] = ()
    gpus: frozenset[tuple[str, Meter]] = frozenset()
    by_model: Mapping[str, Amount] = {}
    cut: bool = False
    replayed: bool = False

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
    """The runs, in the order in which they started."""
    of = {key: _job(workload) for key, workload in account.workloads.items()}
    postings: dict[WorkloadId, list[Posting]] = defaultdict(list)
    for row in account.postings:
        if not isinstance(row.subject, Remainder):
            postings[of.get(row.subject, row.subject)].append(row)
    bills: dict[WorkloadId, list[Charges]] = defaultdict(list)
    for charged in account.charges:
        if not isinstance(charged.subject, Remainder):
            key = of.get(charged.subject, charged.subject)
            bills[key].append({charged.charge: charged.amount})
    workloads = _jobs(account, of)
    pue = pue_ppm(account.rates)
    found = []
    for key in postings.keys() | bills.keys():
        workload = workloads.get(key, ReportWorkload(key))
        rows = postings.get(key, [])
        on_gpus = [row for row in rows if row.meter.component is Component.GPU]
        found.append(
            Run(
                workload,
                booked(rows, total(bills.get(key, [])), pue, _wall_ns(account, rows)),
                tuple(sorted({row.node for row in rows})),
                frozenset((r.node, r.meter) for r in on_gpus if r.meter.name != WHOLE_METER),
                _by_model(account, workload, on_gpus),
                _is_cut(account, workload, rows),
                any((row.node, row.meter) in account.replayed for row in rows),
            )
        )
    return tuple(sorted(found, key=lambda run: (_start(run), run.workload.id)))


def _job(workload: ReportWorkload) -> WorkloadId:
    """What a workload is a part of: the pods of one Job, PyTorchJob ... are one run.

    A pod that is replaced after a failure is a part of the same run, as it is for Kubernetes. The
    name of the experiment's account is in it, since names are unique in a namespace only.
    """
    owner = workload.extra.get("owner", "")
    if workload.id.scheduler != "kubernetes" or not owner.partition("/")[0].endswith("Job"):
        return workload.id
    return WorkloadId(workload.id.scheduler, f"{workload.labels.account}/{owner}")


def _jobs(
    account: ReportData, of: Mapping[WorkloadId, WorkloadId]
) -> dict[WorkloadId, ReportWorkload]:
    """What is known of each run, from all that is known of its parts."""
    found: dict[WorkloadId, ReportWorkload] = {}
    for key, part in account.workloads.items():
        run = of[key]
        named = part if run == key else _named(part, run)
        found[run] = found[run].and_of(named) if run in found else named
    return found


def _named(part: ReportWorkload, run: WorkloadId) -> ReportWorkload:
    return msgspec.structs.replace(part, id=run, display=run.workload.rpartition("/")[2])


def remainders(account: ReportData) -> dict[Remainder, Tally]:
    """What belongs to no run, by name."""
    rows: dict[Remainder, list[Posting]] = defaultdict(list)
    for row in account.postings:
        if isinstance(row.subject, Remainder):
            rows[row.subject].append(row)
    bills: dict[Remainder, list[Charges]] = defaultdict(list)
    for charged in account.charges:
        if isinstance(charged.subject, Remainder):
            bills[charged.subject].append({charged.charge: charged.amount})
    pue = pue_ppm(account.rates)
    return {
        reason: booked(rows.get(reason, []), total(bills.get(reason, [])), pue, 0)
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


def _by_model(
    account: ReportData, workload: ReportWorkload, on_gpus: Iterable[Posting]
) -> Mapping[str, Amount]:
    reported = workload.extra.get("gpu_model", "")
    sums: dict[str, Amount] = {}
    for row in on_gpus:
        model = account.models.get((row.node, row.meter)) or reported
        sums[model] = sums.get(model, ZERO).plus(row.amount)
    return sums


def _wall_ns(account: ReportData, rows: Iterable[Posting]) -> int | None:
    """GPU time of a run inside the account; `None`: a start or an end is not known."""
    if Unknowable.COVERAGE in account.unknown:
        return None
    held: dict[tuple[Subject, str, Meter], Amount] = {}
    shared: set[tuple[Subject, str, Meter]] = set()
    last: dict[tuple[Subject, str], tuple[int, int]] = {}
    for row in rows:
        where, booked = (row.subject, row.node), (row.quarter_s, row.amount.held_ns)
        last[where] = max(last.get(where, booked), booked)
        if row.meter.component is Component.GPU:
            key = (row.subject, row.node, row.meter)
            held[key] = held.get(key, ZERO).plus(row.amount)
            if row.method is Method.APPORTIONED:
                shared.add(key)
    wall_ns = 0
    for key, amount in held.items():
        ends = _ends(account, key[0], key[1], *last[key[:2]])
        if ends is None:
            return None
        whole_ns = max(ends[1] - ends[0], amount.held_ns)
        if key in shared:
            # How much of the device it would have held in a gap is reported by the rest of the
            # time.
            gap_ns = sum(_overlap(gap, *ends) for gap in account.gaps if key[1:] == gap[:2])
            wall_ns += amount.held_ns + gap_ns * amount.held_ns // max(whole_ns, 1)
        else:
            wall_ns += whole_ns
    return wall_ns


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
