"""Who consumes energy: identity of a workload, what is known about it, labels and budgets."""

from __future__ import annotations

from typing import NamedTuple

import msgspec


class Allowance(NamedTuple):
    """An amount that an experiment may use in all; of the whole account, if that is empty.

    `unit` says of what: `kwh`, as the meters read them, or the code of a currency.
    """

    account: str
    experiment: str
    unit: str
    amount: float


class WorkloadId(NamedTuple):
    """The identity under which energy is booked; the same on every node of a job.

    `scheduler` is `slurm`, `kubernetes` or `process`. `workload` is unique in the cluster for
    all time: the SLURM job id with `.rN` after the N-th requeue, `name.<first 8 of uid>` of a
    pod, the cgroup of a bare process. What people are shown may be another name
    (`WorkloadFacts.display`, for example `101_7` of an array).
    """

    scheduler: str
    workload: str

    def __str__(self) -> str:
        return f"{self.scheduler}/{self.workload}"


class Labels(NamedTuple):
    """The owner and the experiment of a workload as they stand on its counters.

    `user` and `account` come from the scheduler alone; `experiment` from the experiment rules.
    Empty means not known.
    """

    user: str = ""
    account: str = ""
    experiment: str = ""


class WorkloadFacts(msgspec.Struct, frozen=True, gc=False):
    """All that tenants have learnt of one workload; they send it again when they learn more.

    `started_ns`/`ended_ns` are node time (0 and `None`: not known, still running). `complete`
    says that no more labels are expected, so that its series need not wait for them.
    `extra` holds what goes to `joulebook_workload_info` and the ledger: `partition`, `image`,
    `array`, `qos`, `node_count`, ... (names and values already cleaned).
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

    @property
    def shown(self) -> str:
        """The value of the label `workload`."""
        return self.display or self.id.workload


def merged(known: WorkloadFacts, told: WorkloadFacts) -> WorkloadFacts:
    """What is known after being told more; nothing that is known is forgotten.

    A source that restarts knows less than it did before (its controller may be silent), so what
    is empty says nothing, and an experiment that is only the workload's own name gives way.
    """
    if told == known:
        return known
    named = told.labels.experiment not in {"", told.id.workload, told.shown}
    labels = Labels(
        told.labels.user or known.labels.user,
        told.labels.account or known.labels.account,
        told.labels.experiment if named or not known.labels.experiment else known.labels.experiment,
    )
    return WorkloadFacts(
        id=known.id,
        display=told.display or known.display,
        name=told.name or known.name,
        labels=labels,
        started_ns=told.started_ns or known.started_ns,
        ended_ns=known.ended_ns if told.ended_ns is None else told.ended_ns,
        complete=told.complete or known.complete,
        gpu_count=told.gpu_count or known.gpu_count,
        evidence=told.evidence or known.evidence,
        extra={**known.extra, **{key: value for key, value in told.extra.items() if value}},
    )
