"""Share out what a node's own meter counted beside the meters in it (`[host] other`)."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from joulebook.core.attribution.claims import Tenure
from joulebook.core.attribution.gpu import Share, apportion
from joulebook.core.energy.intervals import Interval
from joulebook.core.evidence import NO_EVIDENCE, Amount, Method, Remainder, Subject

EVIDENCE = "held-gpus"
"""The evidence for the recipients of `other` (label `evidence`)."""


class OtherSplit(StrEnum):
    """Who gets the energy of `other` (`[host] other`)."""

    NONE = "none"
    HELD_GPUS = "held-gpus"


def share_out(
    interval: Interval, gpus: Sequence[Sequence[Tenure]], split: OtherSplit
) -> list[Share]:
    """Attribute an interval of `other`. `gpus` are the tenures in it of each GPU of the node."""
    if interval.remainder is not None:
        return [Share(interval.remainder, Amount(interval.energy_uj), interval.method, NO_EVIDENCE)]
    if split is OtherSplit.NONE or not gpus:
        rest = Remainder.DAEMON_DOWN if interval.outage else Remainder.SYSTEM
        return [Share(rest, Amount(interval.energy_uj), interval.method, NO_EVIDENCE)]
    held: dict[Subject, int] = {}
    for tenure in (tenure for tenures in gpus for tenure in tenures):
        for holder in tenure.holders:
            who = Remainder.UNKNOWN_HOLDER if holder.workload is None else holder.workload
            time_ns = (tenure.t1_ns - tenure.t0_ns) * holder.parts // holder.of
            held[who] = held.get(who, 0) + time_ns
    whole_ns = sum(tenure.t1_ns - tenure.t0_ns for tenures in gpus for tenure in tenures)
    nobody = Remainder.DAEMON_DOWN if interval.outage else Remainder.UNALLOCATED
    owners = [*held, nobody]
    weights = [*held.values(), max(whole_ns - sum(held.values()), 0)]
    energies = apportion(interval.energy_uj, weights, interval.t0_ns)
    method = interval.method if interval.method is Method.MODELLED else Method.APPORTIONED
    return [
        Share(
            who,
            Amount(energy_uj),
            method if held else interval.method,
            EVIDENCE if who is not nobody else NO_EVIDENCE,
        )
        for who, energy_uj in zip(owners, energies, strict=True)
        if energy_uj
    ]
