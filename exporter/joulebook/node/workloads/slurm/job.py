"""One run of a SLURM job on this host, and what says that it holds GPUs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

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

    def close(self, t_ns: int) -> None:
        """It ended, at `t_ns` unless an earlier end is known."""
        if self.t1_ns is None:
            self.t1_ns = max(t_ns, self.t0_ns)


@dataclass(slots=True, eq=False)
class Job:
    """One run of one job on this host."""

    job_id: str
    started_ns: int
    restart: int | None = None
    uid: int | None = None
    ended_ns: int | None = None
    grants: dict[str, JobGrant] = field(default_factory=dict)
    held: dict[Evidence, set[tuple[str, str]]] = field(default_factory=dict)
    """Nodes and GPUs by evidence, of grants settled long ago too."""
    models: set[str] = field(default_factory=set)
    """Of the devices that it was given, of grants settled long ago too."""
    paths: set[Path] = field(default_factory=set)
    past: set[Path] = field(default_factory=set)
    """Directories of it that are gone."""
    nodes: set[str] = field(default_factory=set)
    """Names of this host's nodes on which its cgroups were seen."""
    hooked: bool = False
    """An event file speaks of it: then nothing else says who owns it or what it holds."""
    facts: dict[str, str] = field(default_factory=dict)
    """user, account, partition, qos, name, array_job_id, array_task_id, cluster, ..."""
    sources: dict[str, str] = field(default_factory=dict)
    """What experiment rules go by."""
    asked: bool = False
    waiting: bool = False
    """For the controller's answer."""
    answered: bool = False
    """The controller gave a credible one."""
    labels_done: bool = False
    alone: bool = False
    """But for its event file nobody on this host speaks of it: no cgroup, no controller."""
    series: int = 0
    """Counts the series of looks at its processes; only the last one goes on."""
    vanished_ns: int | None = None
    ask_again_s: float = 0.0
    env_shards: int | None = None
    changed: int = 1
    sent: int = 0

    @property
    def id(self) -> WorkloadId | None:
        """Its identity; `None` while it is not known which run of the job this is."""
        if self.restart is None:
            return None
        return WorkloadId("slurm", self.job_id + (f".r{self.restart}" if self.restart else ""))

    def give(self, key: str, grant: JobGrant) -> None:
        """Note a new grant."""
        self.grants[key] = grant
        self.held.setdefault(grant.evidence, set()).update((grant.node, g) for g in grant.gpus)
        self.changed += 1

    def was_given(self, models: Iterable[str]) -> None:
        """Note the models of its devices (empty: one that does not tell)."""
        new = {model for model in models if model} - self.models
        if new:
            self.models |= new
            self.changed += 1

    def learn(self, **facts: str) -> None:
        """Take what is not known yet; what came first (from the better source) stays."""
        for name, value in facts.items():
            if value and name not in self.facts:
                self.facts[name] = value
                self.changed += 1

    def source(self, rule: str, value: str) -> None:
        """What an experiment rule may go by; the first value stays."""
        if value and rule not in self.sources:
            self.sources[rule] = value
            self.changed += 1
