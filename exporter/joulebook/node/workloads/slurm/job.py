"""One run of a SLURM job on this host, and the evidence that it holds GPUs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from joulebook.core.attribution.claims import Claim, Evidence
from joulebook.core.workloads import WorkloadId


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
        looks: Counts series of polls of its processes; only the last one continues.
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
    looks: int = 0
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
