"""The data of a report: postings, charges and facts, from one node or from many.

It consists of plain values: what was booked to whom, where the data is from, and by name what the
source cannot know, so that a report never takes missing data for zero.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

import msgspec

from joulebook.core.attribution.claims import Evidence
from joulebook.core.energy.audit import Audit
from joulebook.core.energy.readings import Component, Meter
from joulebook.core.evidence import Amount, Method, Remainder, Subject
from joulebook.core.money.amounts import Charge, Exact, RateUsed
from joulebook.core.report.serving import ServedMonth
from joulebook.core.workloads import Labels, WorkloadId
from joulebook.units import NS_PER_S

WHOLE_METER = "*"
"""The name of a meter if a source knows a node's component only as a whole."""


class Selection(msgspec.Struct, frozen=True):
    """The selected workloads; an empty set selects all.

    `workloads` are ids or displayed names (`101_7`). `jobs` are ids of jobs, including their tasks,
    requeues and components. Remainders belong to no one, so they are included only if nothing is
    selected.
    """

    experiments: frozenset[str] = frozenset()
    users: frozenset[str] = frozenset()
    accounts: frozenset[str] = frozenset()
    workloads: frozenset[str] = frozenset()
    clusters: frozenset[str] = frozenset()
    jobs: frozenset[str] = frozenset()

    @property
    def everything(self) -> bool:
        """Return whether nothing was selected, so that remainders count, too."""
        return self == Selection()

    def takes(self, workload: ReportWorkload) -> bool:
        """Return whether a workload is selected."""
        user, account, experiment = workload.labels
        return (
            (not self.experiments or experiment in self.experiments)
            and (not self.users or user in self.users)
            and (not self.accounts or account in self.accounts)
            and (not self.workloads or not self.workloads.isdisjoint(workload.names))
            and (not self.clusters or workload.of_cluster in self.clusters)
            and (not self.jobs or any(_is_of(name, workload.names) for name in self.jobs))
        )


FAMILY = ("_", ".r", "+")
"""Separates a job's id from the task of an array, the number of a requeue, and the component of a
heterogeneous job: `101_7`, `101.r1`, `101+1`.
"""


def _is_of(job: str, names: Iterable[str]) -> bool:
    return any(
        name == job or name.startswith(tuple(f"{job}{mark}" for mark in FAMILY)) for name in names
    )


def family_patterns(job: str) -> list[str]:
    r"""Return SQL LIKE patterns (ESCAPE `\`) for everything selected by a job's id."""
    safe = re.sub(r"([%_\\])", r"\\\1", job)
    return [safe, rf"{safe}\_%", f"{safe}.r%", f"{safe}+%"]


class ReportWorkload(msgspec.Struct, frozen=True):
    """What a source knows of one workload; times are UTC ns, `None`: unknown."""

    id: WorkloadId
    display: str = ""
    name: str = ""
    labels: Labels = Labels()
    started_utc_ns: int | None = None
    ended_utc_ns: int | None = None
    gpu_count: int = 0
    evidence: str = ""
    extra: Mapping[str, str] = {}
    cluster: str = ""
    scheduler_start_s: int = 0
    named: bool = False
    stage: str = ""
    outcome: str = ""

    @property
    def of_cluster(self) -> str:
        """Return the cluster it ran in: the site's name, else the scheduler's; empty: unknown."""
        return self.cluster or self.extra.get("cluster", "")

    @property
    def named_in_code(self) -> bool:
        """Return whether it is a span opened in the researcher's own code."""
        return self.id.scheduler == "process" and self.id.workload.startswith(("span-", "mark."))

    @property
    def shown(self) -> str:
        """Return its displayed name."""
        return self.display or self.id.workload

    @property
    def names(self) -> frozenset[str]:
        """Return all names that select it."""
        return frozenset({self.id.workload, self.shown, str(self.id)})

    def held_within(self, since_s: int, until_s: int) -> tuple[int, int] | None:
        """Return from when to when (UTC ns) of that time a scheduler gave it GPUs, if it is over.

        Then it counts though nothing was booked to it, as to a job that began and ended while the
        daemon was away: its energy is not zero, but not known.
        """
        if self.gpu_count == 0 or self.evidence in {"", Evidence.PROCESSES.label}:
            return None
        if self.started_utc_ns is None or self.ended_utc_ns is None:
            return None
        began_ns = max(self.started_utc_ns, since_s * NS_PER_S)
        ended_ns = min(self.ended_utc_ns, until_s * NS_PER_S)
        return (began_ns, ended_ns) if began_ns < ended_ns else None

    def and_of(self, other: ReportWorkload) -> ReportWorkload:
        """Return the combined data of two nodes: first start and last end.

        A job ends on all of its nodes; a node that was restarted, or is collected late, has no end.
        """
        starts = [t for t in (self.started_utc_ns, other.started_utc_ns) if t is not None]
        ends = [t for t in (self.ended_utc_ns, other.ended_utc_ns) if t is not None]
        labels = Labels(*(a or b for a, b in zip(self.labels, other.labels, strict=True)))
        if other.named and not self.named:
            labels = labels._replace(experiment=other.labels.experiment)
        return ReportWorkload(
            id=self.id,
            display=self.display or other.display,
            name=self.name or other.name,
            labels=labels,
            started_utc_ns=min(starts, default=None),
            ended_utc_ns=max(ends, default=None),
            # Each node reports the GPUs that it saw held.
            gpu_count=self.gpu_count + other.gpu_count,
            evidence=self.evidence or other.evidence,
            extra={**other.extra, **self.extra},
            cluster=self.cluster or other.cluster,
            scheduler_start_s=self.scheduler_start_s or other.scheduler_start_s,
            named=self.named or other.named,
            stage=self.stage or other.stage,
            outcome=self.outcome or other.outcome,
        )


def owners(workloads: Iterable[ReportWorkload]) -> dict[str, set[str]]:
    """Return whose an experiment of one name is: several of a kind are several experiments.

    It is its cluster's and account's; its user's where there are no accounts.
    """
    found: dict[str, set[str]] = {"cluster": set(), "account": set(), "user": set()}
    for each in workloads:
        found["cluster"].add(each.of_cluster)
        found["account"].add(each.labels.account)
        found["user"].add("" if each.labels.account else each.labels.user)
    return {kind: names - {""} for kind, names in found.items()}


def is_theirs(workload: ReportWorkload, whose: Mapping[str, set[str]]) -> bool:
    """Return whether a workload is of these owners, as far as it says whose it is."""
    return all(
        not names or names <= whose[kind] or not whose[kind]
        for kind, names in owners([workload]).items()
    )


class Posting(NamedTuple):
    """Energy of one meter in one quarter hour, to one workload or remainder.

    `quarter_s` is the UTC start of its quarter hour, or of the whole report if the source has no
    finer resolution. `method` and `evidence` are `None` if unknown.
    """

    node: str
    subject: Subject
    meter: Meter
    quarter_s: int
    amount: Amount
    method: Method | None
    evidence: str | None

    @classmethod
    def of_row(cls, node: str, subject: Subject, values: Sequence[Any]) -> Posting:
        """A ledger's meter, quarter hour, amount, method and evidence."""
        component, name, quarter_s, *amount, method, evidence = values
        meter = Meter(Component(component), name)
        return cls(node, subject, meter, quarter_s, Amount(*amount), Method(method), evidence)


class Charged(NamedTuple):
    """Money or CO2e charged for one quarter hour on one node, as it was booked."""

    node: str
    subject: Subject
    quarter_s: int
    charge: Charge
    amount: Exact


class UsedRate(NamedTuple):
    """A rate that was used, and the energy (uJ) or held time (ns) that was charged at it there."""

    used: RateUsed
    energy_uj: int
    held_ns: int
    node: str = ""


class LostStretch(NamedTuple):
    """A time (UTC ns) in which a meter was not read, or its readings were rejected."""

    node: str
    meter: Meter
    reason: str
    t0_utc_ns: int
    t1_utc_ns: int

    @classmethod
    def of_row(cls, node: str, values: Sequence[Any]) -> LostStretch:
        """A ledger's meter, the reason, and from when to when."""
        component, name, *lost = values
        return cls(node, Meter(Component(component), name), *lost)


class Unknowable(StrEnum):
    """What a source may be unable to know; the values are displayed."""

    TIMES = "start and end of runs"
    METHOD = "method"
    EVIDENCE = "evidence"
    COVERAGE = "coverage"
    QUARTERS = "energy by quarter hour"
    RATES = "rates used"
    GAPS = "gaps"
    MODELS = "GPU models"


class ReportData(msgspec.Struct, frozen=True):
    """The data of a source for a report on the quarter hours in [since, until), UTC seconds.

    Attributes:
        source: Its displayed name ("ledger of n1").
        known_until_s: Up to when each node has booked its readings, which is where a running run
            ends for now.
        unknown: What it cannot know, and why.
        error_ratio: Bound of the relative error added by the source; 0: figures are exactly as
            booked.
        warnings: Its own warnings, such as a partial response.
        replayed: Meters that replayed a recorded trace.
        cut: Workloads known to reach beyond [since, until) although their times are unknown.
        audits: What is known of each counter against power, now.
        served: Models that were served, by month.

    """

    source: str
    since_s: int
    until_s: int
    postings: tuple[Posting, ...] = ()
    charges: tuple[Charged, ...] = ()
    workloads: Mapping[WorkloadId, ReportWorkload] = {}
    rates: tuple[UsedRate, ...] = ()
    gaps: tuple[LostStretch, ...] = ()
    models: Mapping[tuple[str, Meter], str] = {}
    known_until_s: Mapping[str, int] = {}
    unknown: Mapping[Unknowable, str] = {}
    error_ratio: float = 0.0
    warnings: tuple[str, ...] = ()
    replayed: frozenset[tuple[str, Meter]] = frozenset()
    cut: frozenset[WorkloadId] = frozenset()
    audits: Mapping[tuple[str, Meter], Audit] = {}
    served: tuple[ServedMonth, ...] = ()

    @property
    def unread(self) -> dict[WorkloadId, int]:
        """The workloads that nothing was booked to, and for how long they held GPUs (ns)."""
        booked = {row.subject for rows in (self.postings, self.charges) for row in rows}
        spans = {
            key: each.held_within(self.since_s, self.until_s)
            for key, each in self.workloads.items()
            if key not in booked
        }
        return {
            key: self.workloads[key].gpu_count * (span[1] - span[0])
            for key, span in spans.items()
            if span is not None
        }

    @property
    def nodes(self) -> tuple[str, ...]:
        """The nodes that booked anything."""
        return tuple(sorted({posting.node for posting in self.postings}))


def replay_warning(source: str, replayed: Iterable[Meter]) -> tuple[str, ...]:
    """Return the warning that the energy of meters is from a recorded trace, if any."""
    names = sorted({meter.name for meter in replayed})
    if not names:
        return ()
    return (
        f"{source} has data from a recorded trace (demo or replay): no figure of "
        f"{', '.join(names)} was measured on this machine, and its jobs may be simulated",
    )


def subject_of(number: int, remainder: str, known: Mapping[int, ReportWorkload]) -> Subject:
    """Whose a row of a ledger is: a remainder's, else that of the workload with that number."""
    if remainder:
        return Remainder(remainder)
    return known[number].id if number in known else WorkloadId("", str(number))
