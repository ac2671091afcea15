"""The runs of an account: one for each job, whatever nodes it was on, added up exactly (`parts`).

    coverage = time for which energy is known / time for which GPUs were held

A run on two GPUs for an hour has two hours of the second; those that no reading covers are missing
from its energy, so its energy is then a lower bound.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from joulebook.core.attribution.claims import Evidence
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
from joulebook.core.report.parts import Group, groups
from joulebook.core.report.tally import Facility, Tally, booked
from joulebook.core.workloads import WorkloadId
from joulebook.units import NS_PER_S, QUARTER_NS


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


def runs(data: ReportData) -> tuple[Run, ...]:
    """Return the runs, in the order in which they started."""
    bills: dict[Subject, list[Charges]] = defaultdict(list)
    for charged in data.charges:
        bills[charged.subject].append({charged.charge: charged.amount})
    site = Facility.of(data.rates)
    found = []
    for group, rows in _with_rows(data):
        bill = total(bill for part in group.parts for bill in bills[part.id])
        walls = wall_ns(data, group, rows)
        on_gpus = [row for row in rows if row.meter.component is Component.GPU]
        found.append(
            Run(
                group.whole,
                booked(rows, bill, site, None if walls is None else sum(walls.values())),
                tuple(sorted({row.node for row in rows})),
                frozenset((r.node, r.meter) for r in on_gpus if r.meter.name != WHOLE_METER),
                _by_model(data, group.whole, on_gpus, walls),
                _is_cut(data, group.whole, rows),
                any((row.node, row.meter) in data.replayed for row in rows),
                group.whole.ended_utc_ns is None and _goes_on(data, rows),
                group.names,
                frozenset(part.id for part in group.parts),
            )
        )
    return tuple(sorted(found, key=lambda run: (_start(run), run.workload.id)))


def _with_rows(data: ReportData) -> Iterator[tuple[Group, list[Posting]]]:
    postings: dict[Subject, list[Posting]] = defaultdict(list)
    for row in data.postings:
        postings[row.subject].append(row)
    for group in groups(data):
        yield group, [row for part in group.parts for row in postings[part.id]]


def held_ns(data: ReportData) -> dict[WorkloadId, int]:
    """Return how long each workload held GPUs, from start to end; none where that is not known."""
    held: dict[WorkloadId, int] = {}
    for group, rows in _with_rows(data):
        parts = {part.id for part in group.parts}
        for (subject, _, _), ns in (wall_ns(data, group, rows) or {}).items():
            who = subject if isinstance(subject, WorkloadId) and subject in parts else None
            who = who or group.parts[0].id  # GPUs that nothing was booked on.
            held[who] = held.get(who, 0) + ns
    return held


def remainders(data: ReportData) -> dict[Remainder, Tally]:
    """Return what belongs to no run, by name."""
    rows: dict[Remainder, list[Posting]] = defaultdict(list)
    for row in data.postings:
        if isinstance(row.subject, Remainder):
            rows[row.subject].append(row)
    bills: dict[Remainder, list[Charges]] = defaultdict(list)
    for charged in data.charges:
        if isinstance(charged.subject, Remainder):
            bills[charged.subject].append({charged.charge: charged.amount})
    site = Facility.of(data.rates)
    return {
        reason: booked(rows.get(reason, []), total(bills.get(reason, [])), site, 0)
        for reason in sorted(rows.keys() | bills.keys())
    }


def _start(run: Run) -> int:
    return run.workload.started_utc_ns or 0


def _is_cut(data: ReportData, workload: ReportWorkload, rows: Sequence[Posting]) -> bool:
    began_ns, ended_ns = workload.started_utc_ns, workload.ended_utc_ns
    until_ns = data.until_s * NS_PER_S
    if not data.cut.isdisjoint({row.subject for row in rows}):
        return True
    if began_ns is not None and began_ns < data.since_s * NS_PER_S:
        return True
    if ended_ns is not None:
        return ended_ns > until_ns
    if Unknowable.TIMES in data.unknown:
        return False
    # Whoever consumed in the last quarter hour of all and has no end goes on.
    return any((row.quarter_s * NS_PER_S + QUARTER_NS) == until_ns for row in rows)


def _goes_on(data: ReportData, rows: Iterable[Posting]) -> bool:
    known_ns = {node: until_s * NS_PER_S for node, until_s in data.known_until_s.items()}
    return any(
        row.node in known_ns and known_ns[row.node] < row.quarter_s * NS_PER_S + QUARTER_NS
        for row in rows
    )


def _by_model(
    data: ReportData,
    workload: ReportWorkload,
    on_gpus: Iterable[Posting],
    walls: Mapping[_OnMeter, int] | None,
) -> Mapping[str, Amount]:
    """Return totals by model, with the time held as far as known."""
    reported = workload.extra.get("gpu_model", "")
    sums: dict[str, Amount] = {}
    for row in on_gpus:
        model = data.models.get((row.node, row.meter)) or reported
        held_ns = row.amount.held_ns if walls is None else 0
        sums[model] = sums.get(model, ZERO).plus(row.amount._replace(held_ns=held_ns))
    for (_, node, meter), held_ns in (walls or {}).items():
        model = data.models.get((node, meter)) or reported
        sums[model] = sums.get(model, ZERO).plus(Amount(0, 0, held_ns))
    return sums


_OnMeter = tuple[Subject, str, Meter]
"""A workload, a node, and a meter of it."""

UNSEEN = Meter(Component.GPU, "")
"""GPUs that a run held and nothing was ever booked to it on: that they are is all that is known."""


def wall_ns(data: ReportData, group: Group, rows: Iterable[Posting]) -> dict[_OnMeter, int] | None:
    """For how long a run held each GPU inside the account; `None`: a start or an end is not known.

    A GPU that was not read for all of the time has no posting, but the run held it. Without a
    scheduler a run holds a GPU while it has processes there, not from its start to its end.
    """
    if Unknowable.COVERAGE in data.unknown:
        return None
    workload = group.whole
    held: dict[_OnMeter, Amount] = {}
    shared: set[_OnMeter] = set()
    last: dict[tuple[Subject, str], tuple[int, int]] = {}
    for row in rows:
        where, booked = (row.subject, row.node), (row.quarter_s, row.amount.held_ns)
        last[where] = max(last.get(where, booked), booked)
        if row.meter.component is Component.GPU:
            key = (row.subject, row.node, row.meter)
            held[key] = held.get(key, ZERO).plus(row.amount)
            if row.method is Method.APPORTIONED or row.evidence == Evidence.PROCESSES.label:
                shared.add(key)
    walls: dict[_OnMeter, int] = {}
    longest_ns = 0
    for where, booked in last.items():
        ends = _ends(data, *where, *booked)
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
                gap_ns = sum(_overlap(gap, *ends) for gap in data.gaps if key[1:] == gap[:2])
                read_ns = max(whole_ns - gap_ns, amount.held_ns, 1)
                walls[key] = amount.held_ns + gap_ns * amount.held_ns // read_ns
    unread = group.unread_ns
    walls |= {(part, "", UNSEEN): ns for part, ns in unread.items()}
    unseen = workload.gpu_count - len(held)
    unseen -= sum(part.gpu_count for part in group.parts if part.id in unread)
    if unseen > 0 and not shared and longest_ns > 0:
        walls[workload.id, "", UNSEEN] = unseen * longest_ns
    return walls


def _ends(
    data: ReportData, subject: Subject, node: str, last_s: int, last_held_ns: int
) -> tuple[int, int] | None:
    """Start and end of a workload on a node inside the account (UTC ns).

    `last_s` is the last quarter hour in which it was booked to there, `last_held_ns` for how long
    it held anything in it.
    """
    workload = None if isinstance(subject, Remainder) else data.workloads.get(subject)
    if workload is None or workload.started_utc_ns is None:
        return None
    end_ns = workload.ended_utc_ns
    if end_ns is None:
        known_ns = data.known_until_s.get(node, 0) * NS_PER_S
        if not known_ns:
            return None
        last_ns = last_s * NS_PER_S
        # Else nobody saw its end, on a node that died: what was booked last is all there was.
        goes_on = known_ns < last_ns + QUARTER_NS
        end_ns = known_ns if goes_on else last_ns + last_held_ns
    return (
        max(workload.started_utc_ns, data.since_s * NS_PER_S),
        min(end_ns, data.until_s * NS_PER_S),
    )


def _overlap(gap: LostStretch, t0_ns: int, t1_ns: int) -> int:
    return max(min(gap.t1_utc_ns, t1_ns) - max(gap.t0_utc_ns, t0_ns), 0)


class WorkloadTotals(msgspec.Struct, frozen=True):
    """Everything booked to one workload; each mapping of amounts adds up to `total`.

    Attributes:
        first_s: UTC start of the first quarter hour with a posting; `None`: nothing was booked.
        last_s: UTC end of the last one.
        replayed: Whether one of its meters replayed a recorded trace.
        nodes: Nodes that it was booked on.
        wall_ns: GPU time that it held, from start to end; `None`: unknown.

    """

    workload: ReportWorkload
    total: Amount
    by_meter: dict[Meter, Amount]
    by_method: dict[Method, Amount]
    by_evidence: dict[str, Amount]
    bill: Charges
    first_s: int | None
    last_s: int | None
    replayed: bool = False
    nodes: tuple[str, ...] = ()
    wall_ns: int | None = None

    @property
    def gpu(self) -> Amount:
        """The part of GPUs."""
        found = ZERO
        for meter, amount in self.by_meter.items():
            if meter.component is Component.GPU:
                found = found.plus(amount)
        return found

    @property
    def coverage(self) -> float | None:
        """Return the booked share of the held GPU time; `None`: unknown, or no GPU was held."""
        return min(self.gpu.held_ns / self.wall_ns, 1.0) if self.wall_ns else None


def totals(data: ReportData) -> list[WorkloadTotals]:
    """Return the totals of each run, in the order in which they began."""
    of: dict[Subject, list[Posting]] = {}
    for row in data.postings:
        of.setdefault(row.subject, []).append(row)
    found = []
    for run in runs(data):
        rows = [row for part in run.parts for row in of.get(part, ())]
        total = ZERO
        by_meter: dict[Meter, Amount] = {}
        by_method: dict[Method, Amount] = {}
        by_evidence: dict[str, Amount] = {}
        for row in rows:
            meter = row.meter
            if len(run.nodes) > 1:
                meter = Meter(meter.component, f"{row.node}/{meter.name}")
            total = total.plus(row.amount)
            by_meter[meter] = by_meter.get(meter, ZERO).plus(row.amount)
            if row.method is not None:
                by_method[row.method] = by_method.get(row.method, ZERO).plus(row.amount)
            evidence = row.evidence or ""
            by_evidence[evidence] = by_evidence.get(evidence, ZERO).plus(row.amount)
        quarters = [row.quarter_s for row in rows]
        found.append(
            WorkloadTotals(
                run.workload,
                total,
                by_meter,
                by_method,
                by_evidence,
                run.tally.bill,
                min(quarters, default=None),
                max(quarters) + QUARTER_NS // NS_PER_S if quarters else None,
                run.replayed,
                run.nodes,
                run.tally.wall_ns,
            )
        )
    return found
