"""What the ledger held of SLURM's jobs when the daemon stopped."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from itertools import groupby
from typing import NamedTuple

import msgspec

from joulebook.core.attribution.claims import Claim, Evidence
from joulebook.core.workloads import WorkloadFacts, WorkloadId
from joulebook.node.workloads.contract import Before
from joulebook.node.workloads.slurm.job import Job
from joulebook.node.workloads.slurm.job_record import JobAnswer

_NAME = re.compile(r"^(\d+)(?:\.r(\d+))?$")


class Kept(NamedTuple):
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

    def adopt(self, job: Job, begun_ns: int, restart: int | None) -> Kept | None:
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

    def recognise(self, job: Job, answer: JobAnswer) -> None:
        """Resume the run that is open in the ledger, if the controller confirms it."""
        if job.restart is not None or not answer.start_s:
            return
        for kept in self._kept:
            same = (job.job_id, answer.run or 0) == (kept.job_id, kept.restart)
            if same and kept.facts.scheduler_start_s == answer.start_s:
                self._go_on(job, kept)
                return

    def unclaimed(self, in_doubt: Collection[str]) -> list[tuple[Kept, bool]]:
        """Return what the ledger held and nothing here speaks of, once, and whether it is over.

        Where another run of its number is `in_doubt`, it may be it after all, and only its claims
        are over: whose they are now the controller must say.
        """
        lost = [(kept, kept.job_id not in in_doubt) for kept in self._kept]
        self._kept = [kept._replace(claims=()) for kept, over in lost if not over]
        return [(kept, over) for kept, over in lost if over or kept.claims]

    def _go_on(self, job: Job, kept: Kept) -> None:
        self._kept.remove(kept)
        job.restart, job.start_s = kept.restart, kept.id.start
        job.started_ns = kept.begun_ns or job.started_ns
        job.alive_ns = max(job.alive_ns, self.last_ns)
        job.changed += 1


def _kept_jobs(before: Before) -> list[Kept]:
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
                Kept(named[1], int(named[2] or 0), facts.get(id_) or WorkloadFacts(id_), held)
            )
    return sorted(kept, key=lambda each: -each.begun_ns)
