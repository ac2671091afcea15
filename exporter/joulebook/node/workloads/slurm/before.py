"""What the ledger held of SLURM's jobs when the daemon stopped."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby
from typing import NamedTuple

import msgspec

from joulebook.core.attribution.claims import Claim, Evidence
from joulebook.core.workloads import WorkloadFacts, WorkloadId
from joulebook.node.workloads.contract import Before

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
        """Its claims by kind of evidence, less those that their own files tell again."""
        told_again = {Evidence.JOB_MAPPING, Evidence.GPUSTAT}
        for evidence, claims in groupby(self.claims, key=lambda claim: claim.evidence):
            if evidence not in told_again:
                yield evidence, tuple(claims)

    def ended(self, t_ns: int, because: str) -> WorkloadFacts:
        """What is to be said of it where it ended unseen."""
        extra = {**self.facts.extra, "ended": because} if because else self.facts.extra
        return msgspec.structs.replace(self.facts, ended_ns=t_ns, complete=True, extra=extra)


def kept_jobs(before: Before) -> list[Kept]:
    """The runs of SLURM's jobs that were open."""
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
