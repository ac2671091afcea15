"""Who held a device when: claims in, tenures out.

A claim is one piece of evidence. Claims may conflict (an Epilog that never ran, a slurmd pod that
holds what a SLURM job inside it holds), so they are settled: at every instant they are admitted by
rank, and within a rank the latest first, as long as the device has room. The outcome depends only
on the set of claims, never on their order.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from enum import IntEnum
from fractions import Fraction
from itertools import pairwise

import msgspec

from joulebook.core.energy.readings import Meter
from joulebook.core.workloads import WorkloadId


class Evidence(IntEnum):
    """The source of a claim; a smaller number is better evidence (`docs/how-it-measures.md`)."""

    PROLOG = 1
    POD_RESOURCES = 2
    JOB_MAPPING = 3
    GPUSTAT = 4
    SCONTROL = 5
    PROCESSES = 6

    @property
    def label(self) -> str:
        """The value of the label `evidence`."""
        return self.name.lower().replace("_", "-")


ClaimKey = tuple[WorkloadId | None, Meter, Evidence, str, int]


# The order of its fields is the format of the ledger on disk: new ones go last.
class Claim(msgspec.Struct, frozen=True, gc=False, array_like=True, order=True):
    """Evidence that a workload held a part of a meter from `t0_ns` until `t1_ns`.

    Attributes:
        t1_ns: `None` while it still holds it.
        parts: Of `of`, the part of the device: 1 of 1, a replica of those that the device
            plugin advertises, MIG slices, shards.
        workload: `None` if the device was certainly held, but it is unknown by whom
            (`unknown_holder`).
        instance: UUID of the MIG instance that is held (empty: the device, or a replica of it).
            `parts` of `of` are then slices, still of the whole card, since the meter is the card's.

    """

    workload: WorkloadId | None
    meter: Meter
    t0_ns: int
    t1_ns: int | None
    evidence: Evidence
    parts: int = 1
    of: int = 1
    instance: str = ""

    @property
    def key(self) -> ClaimKey:
        """Return what identifies the claim; only its end may become known later."""
        return (self.workload, self.meter, self.evidence, self.instance, self.t0_ns)


class Holder(msgspec.Struct, frozen=True, gc=False):
    """An admitted claim inside one tenure."""

    workload: WorkloadId | None
    evidence: Evidence
    parts: int
    of: int
    instance: str = ""


class Tenure(msgspec.Struct, frozen=True, gc=False):
    """A time `[t0, t1)` of one meter in which its holders did not change."""

    t0_ns: int
    t1_ns: int
    holders: tuple[Holder, ...]


def admit(
    claims: Sequence[Claim], instances: Mapping[str, Fraction] | None = None
) -> tuple[Holder, ...]:
    """Return the holders at one instant, out of all the claims that cover it.

    A workload counts once, by its best evidence (several parts under the same evidence add up,
    those of different MIG instances stay separate). Claims that no longer fit on the device, or on
    their instance, are rejected entirely. `instances` gives the part of the card that each of its
    MIG instances is; a claim on a missing instance is void. If unknown (`None`), an instance is as
    large as the largest claim on it.
    """
    best: dict[WorkloadId | None, Evidence] = {}
    for claim in claims:
        best_known = best.get(claim.workload)
        if best_known is None or claim.evidence < best_known:
            best[claim.workload] = claim.evidence
    wanted = sorted(
        (c for c in claims if c.evidence == best[c.workload]),
        key=lambda c: (c.evidence, -c.t0_ns, c.workload or ("", ""), c.instance, c.parts, c.of),
    )
    # Parts as integers of the same size, since this runs for every interval.
    known = {} if instances is None else instances
    whole = math.lcm(*(c.of for c in wanted), *(part.denominator for part in known.values()))
    room, shares = whole, [claim.parts * (whole // claim.of) for claim in wanted]
    rooms = {name: part.numerator * (whole // part.denominator) for name, part in known.items()}
    if instances is None:
        for claim, share in zip(wanted, shares, strict=True):
            rooms[claim.instance] = max(rooms.get(claim.instance, share), share)
    admitted: dict[tuple[WorkloadId | None, str], Holder] = {}
    for claim, share in zip(wanted, shares, strict=True):
        if share > room or (claim.instance and share > rooms.get(claim.instance, 0)):
            continue
        room -= share
        if claim.instance:
            rooms[claim.instance] -= share
        who = (claim.workload, claim.instance)
        held = admitted.get(who)
        admitted[who] = _together(held, claim) if held is not None else _holder(claim)
    return tuple(admitted.values())


def _holder(claim: Claim) -> Holder:
    return Holder(claim.workload, claim.evidence, claim.parts, claim.of, claim.instance)


def _together(held: Holder, claim: Claim) -> Holder:
    """Return a holder with the parts of several claims."""
    whole = Fraction(held.parts, held.of) + Fraction(claim.parts, claim.of)
    of = max(held.of, claim.of, whole.denominator)
    if of % whole.denominator:
        of = whole.denominator
    return msgspec.structs.replace(held, parts=int(whole * of), of=of)


def settle(
    claims: Sequence[Claim],
    t0_ns: int,
    t1_ns: int,
    instances: Mapping[str, Fraction] | None = None,
) -> tuple[Tenure, ...]:
    """Cut `[t0, t1)` of one meter at every edge of its claims, and settle each piece.

    All `claims` must be of the same meter; `instances` are as in `admit`. Adjacent pieces with the
    same holders are joined.
    """
    live = [c for c in claims if c.t0_ns < t1_ns and (c.t1_ns is None or c.t1_ns > t0_ns)]
    edges = {t0_ns, t1_ns}
    for claim in live:
        if claim.t0_ns > t0_ns:
            edges.add(claim.t0_ns)
        if claim.t1_ns is not None and claim.t1_ns < t1_ns:
            edges.add(claim.t1_ns)
    cuts = sorted(edges)
    tenures: list[Tenure] = []
    for a, b in pairwise(cuts):
        there = [c for c in live if c.t0_ns <= a and (c.t1_ns is None or c.t1_ns >= b)]
        holders = admit(there, instances)
        if tenures and tenures[-1].holders == holders:
            tenures[-1] = Tenure(tenures[-1].t0_ns, b, holders)
        else:
            tenures.append(Tenure(a, b, holders))
    return tuple(tenures)


def _finality(claim: Claim) -> tuple[bool, int, Fraction]:
    return (claim.t1_ns is not None, claim.t1_ns or 0, Fraction(claim.parts, claim.of))


def merge(
    known: Collection[Claim],
    reported: Iterable[Claim],
    complete: frozenset[Evidence],
    affirmed_ns: Mapping[Evidence, int],
) -> tuple[Claim, ...]:
    """Update the claims on record with what workload sources report now.

    A report of a claim that is open on record is that claim, whatever start it gives now: a source
    that was restarted may know it less well. It replaces the one with its key (of two reports of
    one claim, one with an end wins, and of those the later end). An open claim that a *complete*
    report of its evidence no longer mentions ended unseen: it is closed at `affirmed_ns`, the last
    instant at which such evidence was complete and mentioned it (what was consumed later is not
    proven to be its own). A claim on no part of a device is dropped.
    """
    known = [claim for claim in known if claim.parts > 0 and claim.of > 0]
    reported = [claim for claim in reported if claim.parts > 0 and claim.of > 0]
    aligned = list(_aligned(known, reported))
    now = {claim.key: claim for claim in aligned}
    if len(now) < len(aligned):
        now = {claim.key: claim for claim in sorted(aligned, key=_finality)}
    merged: dict[ClaimKey, Claim] = {}
    for claim in known:
        if claim.key in now:
            continue
        if claim.t1_ns is None and claim.evidence in complete:
            end_ns = max(affirmed_ns.get(claim.evidence, claim.t0_ns), claim.t0_ns)
            merged[claim.key] = msgspec.structs.replace(claim, t1_ns=end_ns)
        else:
            merged[claim.key] = claim
    merged.update(now)
    return tuple(merged.values())


def _aligned(known: Iterable[Claim], reported: Iterable[Claim]) -> Iterable[Claim]:
    """Yield the reports, each claim that is open on record with its start on record."""
    begun: dict[tuple[object, ...], int] = {}
    for claim in known:
        if claim.t1_ns is None:
            begun[claim.key[:-1]] = claim.t0_ns
    for claim in sorted(reported, key=lambda c: c.t0_ns):
        t0_ns = begun.pop(claim.key[:-1], claim.t0_ns)
        if t0_ns == claim.t0_ns or (claim.t1_ns is not None and claim.t1_ns <= t0_ns):
            yield claim
        else:
            yield msgspec.structs.replace(claim, t0_ns=t0_ns)
