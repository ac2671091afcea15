"""Workloads: their identity, facts, labels and budgets."""

from __future__ import annotations

from typing import NamedTuple

import msgspec


class Allowance(NamedTuple):
    """A budget of an experiment, or of the whole account if the experiment is empty.

    `unit` is `kwh` (as metered) or the code of a currency.
    """

    account: str
    experiment: str
    unit: str
    amount: float


class WorkloadId(NamedTuple):
    """The identity under which a node books energy.

    The displayed name is `WorkloadFacts.shown`, which has no start.

    Attributes:
        scheduler: `slurm`, `kubernetes` or `process`.
        workload: The SLURM job id with `.rN` after the N-th requeue, `name.<first 8 of uid>` of a
            pod, the cgroup of a bare process.
        start: UTC seconds of its start as first known to this node, which distinguishes reused
            names (such as SLURM's job ids). It never changes afterwards; 0 if the name alone is
            unique for all time.

    """

    scheduler: str
    workload: str
    start: int = 0

    def __str__(self) -> str:
        return f"{self.scheduler}/{self.workload}"


INFRASTRUCTURE = WorkloadId("infrastructure", "")
"""The owner of processes that serve everyone (the cluster itself, a display server, an exporter):
it holds nothing, and nothing is booked for it.
"""


class Labels(NamedTuple):
    """The owner and the experiment of a workload, as on its counters.

    `user` and `account` come from the scheduler only; `experiment` from the experiment rules. Empty
    means unknown.
    """

    user: str = ""
    account: str = ""
    experiment: str = ""


class WorkloadFacts(msgspec.Struct, frozen=True, gc=False):
    """What workload sources know of one workload; they send it again when they learn more.

    `started_ns`/`ended_ns` are node time (0 and `None`: unknown, still running). `complete`: no
    more labels are expected, so its series need not wait for them. `extra` goes to
    `joulebook_workload_info` and the ledger: `partition`, `image`, `array`, `qos`, `node_count`,
    ... (names and values already cleaned).

    Attributes:
        scheduler_start_s: The scheduler's start time (UTC seconds), the same on every node of a
            job, which joins the parts of a job on several nodes; 0: unknown.
        named: Whether a person named the experiment; else the name was derived.
        stage: The purpose of the run (`train`, `eval`, ...), if stated.
        outcome: `completed`, `failed`, `cancelled`, `preempted`, or empty: not known.
        named_ns: Since when (node time) the experiment is what its owner says; 0: it is a name for
            want of his. A later change is his, and counts from then on.

    """

    id: WorkloadId
    display: str = ""
    name: str = ""
    labels: Labels = Labels()
    started_ns: int = 0
    ended_ns: int | None = None
    complete: bool = False
    gpu_count: int = 0
    evidence: str = ""
    extra: dict[str, str] = {}
    scheduler_start_s: int = 0
    named: bool = False
    stage: str = ""
    outcome: str = ""
    named_ns: int = 0

    @property
    def shown(self) -> str:
        """The value of the label `workload`."""
        return self.display or self.id.workload


def is_reserved(name: str) -> bool:
    """Return whether a name is reserved: `(overflow)`, `(unallocated)`, any in parentheses.

    Users must not hide behind them.
    """
    name = name.strip()
    return name.startswith("(") and name.endswith(")")


def merged(known: WorkloadFacts, reported: WorkloadFacts) -> WorkloadFacts:
    """Merge newly reported facts; nothing known is forgotten.

    A restarted source knows less than before (its controller may not respond), so empty fields mean
    nothing, the earliest start stays, and a known owner never changes. The experiment only changes
    to a better one: from the workload's own name to a derived one to one that a person gave; and to
    an equal one until the labels are complete. No workload ends before it starts.
    """
    if reported == known:
        return known
    had, has = _rank(known), _rank(reported)
    renamed = has > had or (has == had and not known.complete)
    begins = [t for t in (known.started_ns, reported.started_ns) if t]
    started_ns = min(begins, default=0)
    ended_ns = known.ended_ns if reported.ended_ns is None else reported.ended_ns
    if (
        known.ended_ns is not None
        and reported.ended_ns is None
        and reported.started_ns > known.ended_ns
    ):
        ended_ns = None  # it was restarted
    return WorkloadFacts(
        id=known.id,
        display=reported.display or known.display,
        name=reported.name or known.name,
        labels=Labels(
            known.labels.user or reported.labels.user,
            known.labels.account or reported.labels.account,
            reported.labels.experiment if renamed else known.labels.experiment,
        ),
        started_ns=started_ns,
        ended_ns=None if ended_ns is None else max(ended_ns, started_ns),
        complete=reported.complete or known.complete,
        gpu_count=reported.gpu_count or known.gpu_count,
        evidence=reported.evidence or known.evidence,
        extra={**known.extra, **{key: value for key, value in reported.extra.items() if value}},
        scheduler_start_s=known.scheduler_start_s or reported.scheduler_start_s,
        named=reported.named if renamed else known.named,
        stage=reported.stage or known.stage,
        outcome=reported.outcome or known.outcome,
        named_ns=max(reported.named_ns, known.named_ns),
    )


def _rank(facts: WorkloadFacts) -> int:
    """Rank how good the name of the experiment is: none, the workload's own, derived, given."""
    experiment = facts.labels.experiment
    if not experiment:
        return 0
    if facts.named:
        return 3
    return 1 if experiment in {facts.id.workload, facts.shown, facts.name} else 2
