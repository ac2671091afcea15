"""Who held a meter while its energy waited to be booked, an outage of the daemon included.

Conflicts of claims are settled in `core.attribution.claims`. This module adds what late booking
needs: which claims provably lasted through an outage, and when a claim may be dropped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction

from joulebook.core.attribution.claims import Claim, Evidence, Tenure, settle
from joulebook.core.energy.intervals import Interval
from joulebook.core.energy.meter import MeterState
from joulebook.core.energy.node_meter import NodeMeter
from joulebook.core.energy.readings import Meter
from joulebook.units import NS_PER_S

PROOF_WAIT_NS = 60 * NS_PER_S
"""How long the energy of an outage waits for its holders to be confirmed."""

KEEP_CLAIM_NS = 35 * 86_400 * NS_PER_S
"""How long a card that vanished may take to return with its holders still charged."""

NODE_WAIT_NS = 900 * NS_PER_S
"""How long claims are kept for a node meter without readings."""


def by_meter(claims: Iterable[Claim]) -> dict[Meter, list[Claim]]:
    """Return the claims on each meter, in their order."""
    found: dict[Meter, list[Claim]] = {}
    for claim in claims:
        found.setdefault(claim.meter, []).append(claim)
    return found


def edges(claims: Iterable[Claim]) -> list[int]:
    """Return the instants (ns of node time) at which one of them begins or ends."""
    return [t for c in claims for t in (c.t0_ns, c.t1_ns) if t is not None]


def proof_is_in(claims: Iterable[Claim], t1_ns: int, affirmed: Mapping[Evidence, int]) -> bool:
    """Return whether it is known which claims lasted through an outage that ended at `t1_ns`."""
    return all(
        affirmed.get(claim.evidence, 0) >= t1_ns
        for claim in claims
        if claim.t1_ns is None and claim.t0_ns < t1_ns
    )


def tenures(
    interval: Interval, claims: list[Claim], affirmed: Mapping[Evidence, int]
) -> tuple[Tenure, ...]:
    """Return who held the meter; through an outage, only those who provably did throughout.

    The proof: the claim was open before the outage, and evidence of its kind, complete again after
    the outage, still mentions it (else `merge` has closed it). No one gets it just because a better
    claim is not proven.
    """
    instances = None
    if interval.instances is not None:
        instances = {i.uuid: Fraction(i.slices, i.of) for i in interval.instances}
    if not interval.outage:
        return settle(claims, interval.t0_ns, interval.t1_ns, instances)
    proven = [
        claim
        for claim in claims
        if (claim.t1_ns is None and affirmed.get(claim.evidence, 0) >= interval.t1_ns)
        or (claim.t1_ns is not None and claim.t1_ns >= interval.t1_ns)
    ]
    lasted = settle(proven, interval.t0_ns, interval.t1_ns, instances)
    everybody = settle(claims, interval.t0_ns, interval.t1_ns, instances)
    if len(lasted) == 1 and lasted == everybody:
        return lasted
    return (Tenure(interval.t0_ns, interval.t1_ns, ()),)


def prune(
    claims: Iterable[Claim],
    meters: Mapping[Meter, MeterState],
    node_meters: Mapping[Meter, NodeMeter],
    now_ns: int,
) -> tuple[Claim, ...]:
    """Drop claims that ended before everything that is still to be booked.

    A claim on a meter that was never read is kept while it is open, since the meter may still
    appear. One on a meter that has not come back is kept as long as experiments are. The energy of
    a node meter is attributed by the claims on GPUs, and later than theirs.
    """
    waits_ns = min(
        (each.edge_ns for each in node_meters.values() if each.edge_ns > now_ns - NODE_WAIT_NS),
        default=now_ns,
    )
    kept = []
    for claim in claims:
        state = meters.get(claim.meter)
        waiting = (
            claim.t1_ns is not None
            and state is not None
            and claim.t1_ns > min(max(state.base.t_ns, now_ns - KEEP_CLAIM_NS), waits_ns)
        )
        if claim.t1_ns is None or waiting:
            kept.append(claim)
    return tuple(
        sorted(kept, key=lambda c: (c.meter, c.t0_ns, c.evidence, c.workload or (), c.instance))
    )
