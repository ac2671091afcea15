"""Pods that were here when the daemon stopped, until it is clear what became of them.

Resume holders from the ledger while they are provably alive: a cgroup of the UID has processes, and
the kubelet lists no other pod under the name. One that does not live and that the kubelet does not
list ended when it was last known to live.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from joulebook.core.attribution.claims import Claim, Evidence
from joulebook.core.workloads import WorkloadFacts, WorkloadId
from joulebook.node.workloads.contract import Before
from joulebook.node.workloads.kubernetes.allocation import DeviceGrant, PodCgroup
from joulebook.node.workloads.kubernetes.device_ids import DevicePart, base
from joulebook.node.workloads.kubernetes.pod_object import SCHEDULER
from joulebook.node.workloads.kubernetes.pods import PodTable


@dataclass(slots=True, eq=False)
class KeptPod:
    """A pod as the ledger has it, and its cgroups. `ended_ns` is when they went.

    `lives`: it is proven to be alive, as it was at `alive_ns`.
    """

    facts: WorkloadFacts
    claims: tuple[Claim, ...]
    cgroup: PodCgroup | None = None
    lives: bool = False
    alive_ns: int = 0
    ended_ns: int | None = None


class Resumption:
    """Pods known from the ledger only."""

    def __init__(self, before: Before) -> None:
        claims: dict[WorkloadId, list[Claim]] = {}
        for claim in before.claims:
            if claim.workload is not None and claim.evidence is Evidence.POD_RESOURCES:
                claims.setdefault(claim.workload, []).append(claim)
        self._sharers = Counter(
            (claim.meter, claim.instance) for held in claims.values() for claim in held
        )
        self._kept = [
            KeptPod(facts, tuple(claims.get(facts.id, ())), alive_ns=before.last_ns)
            for facts in before.facts
            if facts.id.scheduler == SCHEDULER
        ]

    def review(self, table: PodTable, now_ns: int, cgroups: bool) -> None:
        """Look what became of them; what the pods that are listed hold has been found out.

        `cgroups`: those of pods are seen here.
        """
        self._kept = [k for k in self._kept if not self._is_clear(k, table, now_ns, cgroups)]
        table.reserved = {kept.cgroup.uid for kept in self._kept if kept.cgroup is not None}

    def claims(self) -> list[Claim]:
        """Return the claims of those that live, and of those that ended since."""
        return [
            msgspec.structs.replace(claim, t1_ns=kept.ended_ns)
            for kept in self._kept
            if kept.lives or kept.ended_ns is not None
            for claim in kept.claims
        ]

    def facts(self) -> list[WorkloadFacts]:
        """Return the ends."""
        return [
            msgspec.structs.replace(kept.facts, ended_ns=kept.ended_ns, complete=True)
            for kept in self._kept
            if kept.ended_ns is not None
        ]

    def settled(self) -> None:
        """Confirm that the last `claims` and `facts` are durable."""
        self._kept = [kept for kept in self._kept if kept.ended_ns is None]

    def _is_clear(self, kept: KeptPod, table: PodTable, now_ns: int, cgroups: bool) -> bool:
        if kept.ended_ns is not None:
            return False  # It is yet to be handed over.
        facts = kept.facts
        # A workload's name has the start of a uid only, which two pods may have in common.
        uid = facts.extra.get("uid") or facts.id.workload.rpartition(".")[2]
        if kept.cgroup is None:
            kept.cgroup = table.body_like(uid)
        cgroup, was_alive = kept.cgroup, kept.lives
        kept.lives = cgroup is not None and cgroup.lives(frozenset())
        if kept.lives:
            kept.alive_ns = now_ns
        elif was_alive and cgroup is not None:
            ended_ns = cgroup.ended_ns(frozenset()) or cgroup.left_ns(frozenset())
            kept.alive_ns = ended_ns or kept.alive_ns
            if cgroup.gone_ns is not None:
                kept.ended_ns = kept.alive_ns
                return False
        allocation = table.here(facts.labels.account, facts.name)
        if cgroup is None and cgroups:
            kept.ended_ns = max(kept.alive_ns, facts.started_ns)
            return False
        if cgroup is None or not kept.lives:
            if allocation is not None and (not allocation.uid or allocation.uid.startswith(uid)):
                return bool(allocation.uid)
            if table.heard:
                kept.ended_ns = max(kept.alive_ns, facts.started_ns)
            return False
        if allocation is None or (allocation.uid and allocation.uid != cgroup.uid):
            return False  # The kubelet does not list it, and yet it lives.
        held = [grant for grant in allocation.grants if grant.t1_ns is None]
        if not allocation.uid and any(grant.part is None and not grant.rejected for grant in held):
            return False
        is_same = self._is_same(held, kept.claims)
        if is_same and not allocation.uid:  # else it is another of that name, as StatefulSets make
            table.bind(allocation, cgroup.uid, now_ns)
        return True

    def _is_same(self, grants: Sequence[DeviceGrant], claims: Sequence[Claim]) -> bool:
        """Return whether a pod holds what is in the ledger; an unknown device counts as such.

        Such a device is then known: a pod keeps what it was given. Replicas of one card are one
        claim.
        """
        parts = {(g.part.meter, g.part.instance) for g in grants if g.part is not None}
        rest = [claim for claim in claims if (claim.meter, claim.instance) not in parts]
        unreported: dict[str, list[DeviceGrant]] = {}
        for grant in grants:
            if grant.part is None:
                unreported.setdefault(base(grant.device.id), []).append(grant)
        if len(rest) != len(unreported) or not parts <= {(c.meter, c.instance) for c in claims}:
            return False
        if any(c.parts % len(g) for c, g in zip(rest, unreported.values(), strict=True)):
            return False
        for claim, alike in zip(rest, unreported.values(), strict=True):
            for grant in alike:
                # The claim's part is a sharer's, of those that there were.
                sharers = self._sharers[claim.meter, claim.instance] if grant.device.is_dra else 1
                of = max(claim.of // sharers, 1)
                grant.part = DevicePart(claim.meter, claim.parts // len(alike), of, claim.instance)
        return True
