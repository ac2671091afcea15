"""The runs of an account: one for each job, whatever nodes it was on, added up exactly.

    coverage = time for which energy is known / time for which GPUs were held

A run on two GPUs for an hour has two hours of the second; those that no reading covers are missing
from its energy, so its energy is then a lower bound.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

import msgspec

from joulebook.core.energy.readings import Component, Meter
from joulebook.core.evidence import ZERO, Amount, Method, Remainder, Subject
from joulebook.core.money.amounts import Charges, total
from joulebook.core.money.rates import PPM
from joulebook.core.report.dataset import (
    WHOLE_METER,
    LostStretch,
    Posting,
    ReportData,
    ReportWorkload,
    Unknowable,
)
from joulebook.core.workloads import WorkloadId
from joulebook.units import NS_PER_S, QUARTER_NS

K = TypeVar("K", Component, str)

UNKNOWN = ""
"""The method or evidence of energy of which the source does not know it."""


class Tally(msgspec.Struct, frozen=True):
    """What was burnt, held and charged in all; every mapping adds up to `energy_uj`.

    `wall_ns` is the GPU time that there was to cover (`None`: not known). `facility` is the energy
    of the facility as far as a PUE was known, in uJ x 10^-6, and `no_pue_uj` what had none.
    """

    by_component: Mapping[Component, int] = {}
    by_method: Mapping[str, int] = {}
    by_evidence: Mapping[str, int] = {}
    idle_uj: int = 0
    held_ns: int = 0
    wall_ns: int | None = 0
    bill: Charges = {}
    facility: int = 0
    no_pue_uj: int = 0

    @property
    def energy_uj(self) -> int:
        """All of it."""
        return sum(self.by_component.values())

    @property
    def gpu_uj(self) -> int:
        """That of GPUs."""
        return self.by_component.get(Component.GPU, 0)

    @property
    def facility_uj(self) -> int | None:
        """Energy of the facility; `None` where a PUE was not known for all of it."""
        return None if self.no_pue_uj else (2 * self.facility + PPM) // (2 * PPM)

    @property
    def coverage(self) -> float | None:
        """Share of the held time that is measured; `None`: not known, or nothing was held."""
        if not self.wall_ns:
            return None
        return min(self.held_ns / self.wall_ns, 1.0)


NOTHING = Tally()


def added(tallies: Iterable[Tally]) -> Tally:
    """The sum of tallies."""
    every = list(tallies)
    walls = [each.wall_ns for each in every]
    return Tally(
        _sums(each.by_component for each in every),
        _sums(each.by_method for each in every),
        _sums(each.by_evidence for each in every),
        sum(each.idle_uj for each in every),
        sum(each.held_ns for each in every),
        None if None in walls else sum(wall for wall in walls if wall is not None),
        total(each.bill for each in every),
        sum(each.facility for each in every),
        sum(each.no_pue_uj for each in every),
    )


def _sums(parts: Iterable[Mapping[K, int]]) -> dict[K, int]:
    sums: dict[K, int] = {}
    for part in parts:
        for key, amount in part.items():
            sums[key] = sums.get(key, 0) + amount
    return sums


class Run(msgspec.Struct, frozen=True):
    """One workload on all of its nodes: the GPUs it was booked on, and what came to each model.

    The name of a model is empty where it is not known.
    """

    workload: ReportWorkload
    tally: Tally
    nodes: tuple[str, ...] = ()
    gpus: frozenset[tuple[str, Meter]] = frozenset()
    by_model: Mapping[str, Amount] = {}

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
    pue = _pue(account)
    found = []
    for key in postings.keys() | bills.keys():
        workload = workloads.get(key, ReportWorkload(key))
        rows = postings.get(key, [])
        on_gpus = [row for row in rows if row.meter.component is Component.GPU]
        found.append(
            Run(
                workload,
                _booked(rows, total(bills.get(key, [])), pue, _wall_ns(account, rows)),
                tuple(sorted({row.node for row in rows})),
                frozenset((r.node, r.meter) for r in on_gpus if r.meter.name != WHOLE_METER),
                _by_model(account, workload, on_gpus),
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
    pue = _pue(account)
    return {
        reason: _booked(rows.get(reason, []), total(bills.get(reason, [])), pue, 0)
        for reason in sorted(rows.keys() | bills.keys())
    }


def _start(run: Run) -> int:
    return run.workload.started_utc_ns or 0


def _by_model(
    account: ReportData, workload: ReportWorkload, on_gpus: Iterable[Posting]
) -> Mapping[str, Amount]:
    told = workload.extra.get("gpu_model", "")
    sums: dict[str, Amount] = {}
    for row in on_gpus:
        model = account.models.get((row.node, row.meter)) or told
        sums[model] = sums.get(model, ZERO).plus(row.amount)
    return sums


def _pue(account: ReportData) -> Mapping[tuple[str, int], int]:
    """PUE in millionths by node and quarter hour; of several in one, their mean by energy."""
    sums: dict[tuple[str, int], list[int]] = {}
    for row in account.rates:
        if row.used.quantity == "pue":
            both = sums.setdefault((row.node, row.used.quarter_s), [0, 0])
            both[0] += row.energy_uj * row.used.value
            both[1] += row.energy_uj
    return {key: energy // weight for key, (energy, weight) in sums.items() if weight}


def _booked(
    rows: Sequence[Posting],
    bill: Charges,
    pue: Mapping[tuple[str, int], int],
    wall_ns: int | None,
) -> Tally:
    components: dict[Component, int] = {}
    methods: dict[str, int] = {}
    evidence: dict[str, int] = {}
    idle_uj = held_ns = facility = no_pue_uj = 0
    for row in rows:
        component, energy_uj = row.meter.component, row.amount.energy_uj
        components[component] = components.get(component, 0) + energy_uj
        method = UNKNOWN if row.method is None else str(row.method)
        methods[method] = methods.get(method, 0) + energy_uj
        told = row.evidence or UNKNOWN
        evidence[told] = evidence.get(told, 0) + energy_uj
        idle_uj += row.amount.idle_uj
        if component is Component.GPU:
            held_ns += row.amount.held_ns
        ppm = pue.get((row.node, row.quarter_s))
        if ppm is None:
            no_pue_uj += energy_uj
        else:
            facility += energy_uj * ppm
    return Tally(
        components, methods, evidence, idle_uj, held_ns, wall_ns, bill, facility, no_pue_uj
    )


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
            # How much of the device it would have held in a gap is told by the rest of the time.
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
