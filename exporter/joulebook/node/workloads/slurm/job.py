"""One run of a SLURM job on this host, the evidence for its GPUs, and what the ledger kept."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import msgspec

from joulebook.core.attribution.claims import Claim, Evidence
from joulebook.core.workloads import WorkloadFacts, WorkloadId
from joulebook.node.workloads.contract import Before
from joulebook.node.workloads.slurm.event_file import WallTime
from joulebook.node.workloads.slurm.job_record import JobAnswer
from joulebook.units import NS_PER_S


@dataclass(slots=True)
class JobGrant:
    """Evidence that a job holds GPUs of one node, from `t0_ns` until `t1_ns` (node time)."""

    evidence: Evidence
    node: str
    gpus: tuple[str, ...]
    t0_ns: int
    t1_ns: int | None = None
    gpu_ids: str = "gres"
    shards: dict[str, int] = field(default_factory=dict)
    """Shards by gres position, where the job was given shards of it."""
    parts: tuple[int, int] = (1, 1)
    claims: tuple[Claim, ...] | None = None
    """Once it is clear which meters these are: that does not change while a job runs."""
    told_ns: int = 0
    """The start (wall clock) in the event file, which distinguishes it from later ones."""
    by_processes: bool = False
    """Only its processes will show its end: the file was removed, or never existed."""

    def close(self, t_ns: int) -> None:
        """It ended, at `t_ns` unless an earlier end is known."""
        if self.t1_ns is None:
            self.t1_ns = max(t_ns, self.t0_ns)


@dataclass(slots=True, eq=False)
class Job:
    """One run of one job on this host.

    Attributes:
        start_s: UTC second of its start as first known to this node; part of its identity.
        restart: How often it was requeued; `None` while unknown.
        held: Nodes and GPUs by evidence, including settled grants.
        models: Models of its devices, including settled grants.
        past: Directories of it that are gone.
        seen_ns: When its first process was seen, or that of its last step.
        nodes: Names of this host's nodes on which its cgroups were seen.
        hooked: Whether an event file exists: then it alone gives its owner and devices.
        facts: user, account, partition, qos, name, array_job_id, array_task_id, cluster, ...
        sources: The input of experiment rules.
        asking: Whether a query to the controller is pending.
        asked: How often the controller was queried.
        heard: Whether the controller has nothing more to report.
        gone: How often in a row the controller did not know the job.
        answered: Whether the controller gave a credible answer.
        polls: Counts series of polls of its processes; only the last one continues.
        watch: Counts series of queries whether it is over; only the last one continues.
        unproven: Whether it was found at the start without processes, so that its file is to be
            confirmed.
        extern: Whether SLURM's own step was seen, which lives as long as the job holds this node.
        vanished_ns: When the last of its processes was gone.
        alive_ns: The last instant at which it is known to have been alive.
        presumed_ns: When it was assumed over without an Epilog or the end of SLURM's own step.
        lost: What it held at that time.

    """

    job_id: str
    started_ns: int
    start_s: int = 0
    restart: int | None = None
    uid: int | None = None
    ended_ns: int | None = None
    grants: dict[str, JobGrant] = field(default_factory=dict)
    held: dict[Evidence, set[tuple[str, str]]] = field(default_factory=dict)
    models: set[str] = field(default_factory=set)
    paths: set[Path] = field(default_factory=set)
    past: set[Path] = field(default_factory=set)
    nodes: set[str] = field(default_factory=set)
    hooked: bool = False
    facts: dict[str, str] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    scheduler_start_s: int = 0
    seen_ns: int = 0
    asking: bool = False
    asked: int = 0
    heard: bool = False
    gone: int = 0
    answered: bool = False
    labels_done: bool = False
    polls: int = 0
    watch: int = 0
    unproven: bool = False
    extern: bool = False
    vanished_ns: int | None = None
    alive_ns: int = 0
    presumed_ns: int | None = None
    lost: dict[str, JobGrant] = field(default_factory=dict)
    env_shards: int | None = None
    changed: int = 1
    sent: int = 0

    @property
    def id(self) -> WorkloadId | None:
        """Its identity; `None` while it is not known which run of the job this is."""
        if self.restart is None:
            return None
        number = self.job_id + (f".r{self.restart}" if self.restart else "")
        return WorkloadId("slurm", number, self.start_s)

    @property
    def filed(self) -> bool:
        """Return whether a file reports that it holds GPUs, and will report the end."""
        return any(
            g.t1_ns is None and g.evidence is not Evidence.SCONTROL and not g.by_processes
            for g in self.grants.values()
        )

    def give(self, key: str, grant: JobGrant) -> None:
        """Note a new grant."""
        self.grants[key] = grant
        self.held.setdefault(grant.evidence, set()).update((grant.node, g) for g in grant.gpus)
        self.changed += 1

    def was_given(self, models: Iterable[str]) -> None:
        """Record the models of its devices (empty: unknown)."""
        new = {model for model in models if model} - self.models
        if new:
            self.models |= new
            self.changed += 1

    def learn(self, **facts: str) -> None:
        """Add unknown facts; earlier ones (from a better source) stay."""
        self.correct(**{name: value for name, value in facts.items() if name not in self.facts})

    def correct(self, **facts: str) -> None:
        """Take what goes before anything known."""
        for name, value in facts.items():
            if value and self.facts.get(name) != value:
                self.facts[name] = value
                self.changed += 1

    def source(self, rule: str, value: str, *, better: bool = False) -> None:
        """What an experiment rule may go by; the first value stays, unless this is a `better`."""
        if value and (better or rule not in self.sources) and self.sources.get(rule) != value:
            self.sources[rule] = value
            self.changed += 1

    def unheard(self) -> None:
        """Which run this is stays unknown: its start identifies it."""
        self.heard = True
        self.restart = self.restart or 0
        self.changed += 1

    def end(self, t_ns: int) -> None:
        """It holds nothing any more."""
        self.ended_ns = max(t_ns, self.started_ns)
        for grant in self.grants.values():
            grant.close(self.ended_ns)
        self.changed += 1

    def presume_over(self, t_ns: int, now_ns: int) -> None:
        """Assume that it ended at `t_ns`, although nothing on this host reported it."""
        self.lost = {k: replace(g) for k, g in self.grants.items() if g.t1_ns is None}
        self.presumed_ns = now_ns
        self.end(t_ns)

    def revive(self, t_ns: int) -> None:
        """Revive it: it holds again what it held, until its processes are gone."""
        self.ended_ns = self.presumed_ns = None
        for key, grant in self.lost.items():
            claims = grant.claims and tuple(
                msgspec.structs.replace(claim, t0_ns=t_ns) for claim in grant.claims
            )
            again = replace(grant, t0_ns=t_ns, claims=claims, by_processes=True)
            self.give(f"{key}@{t_ns}", again)
        self.lost = {}


_NAME = re.compile(r"^(\d+)(?:\.r(\d+))?$")


class KeptJob(NamedTuple):
    """One run that was open in the ledger."""

    job_id: str
    restart: int
    facts: WorkloadFacts
    claims: tuple[Claim, ...]

    @property
    def id(self) -> WorkloadId:
        """Its identity, which stays."""
        return self.facts.id

    @property
    def begun_ns(self) -> int:
        """When it began, as far as the ledger knows (0: it does not)."""
        return min(
            [t for t in (self.facts.started_ns, *(c.t0_ns for c in self.claims)) if t] or [0]
        )

    def claims_of(self, evidence: Evidence) -> tuple[Claim, ...]:
        """Its claims by one kind of evidence."""
        return tuple(claim for claim in self.claims if claim.evidence is evidence)

    def by_evidence(self) -> Iterator[tuple[Evidence, tuple[Claim, ...]]]:
        """Return its claims by kind of evidence, except those that their own files report again."""
        told_again = {Evidence.JOB_MAPPING, Evidence.GPUSTAT}
        for evidence, claims in groupby(self.claims, key=lambda claim: claim.evidence):
            if evidence not in told_again:
                yield evidence, tuple(claims)

    def end_ns(self, answer: JobAnswer | None, wall: WallTime, last_ns: int) -> int:
        """Return its end by the controller, else `last_ns`: when it was last known to live."""
        if answer is None or not answer.over or (answer.run or 0) != self.restart:
            return last_ns
        if self.facts.scheduler_start_s not in {0, answer.start_s}:
            return last_ns
        return max(last_ns, wall.node_ns(answer.end_s * NS_PER_S, None))

    def ended(self, t_ns: int, because: str) -> tuple[WorkloadFacts, tuple[Claim, ...]]:
        """Return its facts if it ended unseen."""
        claims = tuple(msgspec.structs.replace(claim, t1_ns=t_ns) for claim in self.claims)
        extra = {**self.facts.extra, "ended": because} if because else self.facts.extra
        facts = msgspec.structs.replace(self.facts, ended_ns=t_ns, complete=True, extra=extra)
        return facts, claims


class KeptJobs:
    """The runs that were open in the ledger, until something here is found to be them."""

    def __init__(self, before: Before) -> None:
        self.last_ns = before.last_ns
        self._kept = _kept_jobs(before)

    def adopt(self, job: Job, begun_ns: int, restart: int | None) -> KeptJob | None:
        """Resume the run that is open in the ledger, if this is it.

        Two runs of a number are never on one node at once: what began before the daemon stopped
        is the one of which the ledger knew.
        """
        if begun_ns > self.last_ns:
            return None
        for kept in self._kept:
            if kept.job_id == job.job_id and restart in {None, kept.restart}:
                self._go_on(job, kept)
                return kept
        return None

    def recognise(self, job: Job, answer: JobAnswer | None) -> None:
        """Resume the run that is open in the ledger, if the controller confirms it."""
        if answer is None or job.restart is not None or not answer.start_s:
            return
        for kept in self._kept:
            same = (job.job_id, answer.run or 0) == (kept.job_id, kept.restart)
            if same and kept.facts.scheduler_start_s == answer.start_s:
                self._go_on(job, kept)
                return

    def unclaimed(self, in_doubt: Collection[str]) -> list[tuple[KeptJob, bool]]:
        """Return what the ledger held and nothing here speaks of, once, and whether it is over.

        Where another run of its number is `in_doubt`, it may be it after all, and only its claims
        are over: whose they are now the controller must say.
        """
        lost = [(kept, kept.job_id not in in_doubt) for kept in self._kept]
        self._kept = [kept._replace(claims=()) for kept, over in lost if not over]
        return [(kept, over) for kept, over in lost if over or kept.claims]

    def _go_on(self, job: Job, kept: KeptJob) -> None:
        self._kept.remove(kept)
        job.restart, job.start_s = kept.restart, kept.id.start
        job.started_ns = kept.begun_ns or job.started_ns
        job.alive_ns = max(job.alive_ns, self.last_ns)
        job.changed += 1


def _kept_jobs(before: Before) -> list[KeptJob]:
    """Return the runs of SLURM's jobs that were open."""
    claims: dict[WorkloadId, list[Claim]] = {}
    for claim in before.claims:
        if claim.workload is not None and claim.workload.scheduler == "slurm":
            claims.setdefault(claim.workload, []).append(claim)
    facts = {fact.id: fact for fact in before.facts if fact.id.scheduler == "slurm"}
    kept = []
    for id_ in facts.keys() | claims.keys():
        named = _NAME.match(id_.workload)
        if named is not None:
            held = tuple(sorted(claims.get(id_, ()), key=lambda claim: claim.evidence))
            kept.append(
                KeptJob(named[1], int(named[2] or 0), facts.get(id_) or WorkloadFacts(id_), held)
            )
    return sorted(kept, key=lambda each: -each.begun_ns)
