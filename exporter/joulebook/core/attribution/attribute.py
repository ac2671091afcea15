"""From energy in time to who gets it: the second of the three steps of a tick.

GPUs and hosts have modules of their own; what a node consumed beside its measured parts is shared
out here (`[host] other`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from itertools import pairwise
from typing import NamedTuple

from joulebook.core.attribution import gpu, host, outages, spans
from joulebook.core.attribution.claims import Claim, Evidence, Tenure
from joulebook.core.attribution.gpu import Share, apportion
from joulebook.core.energy.intervals import Interval
from joulebook.core.energy.measure import Due, Measured
from joulebook.core.energy.meter import MeterState
from joulebook.core.energy.readings import Component, Meter
from joulebook.core.evidence import (
    DERIVED,
    NO_EVIDENCE,
    Amount,
    Method,
    Remainder,
    Subject,
    counted,
)
from joulebook.core.workloads import INFRASTRUCTURE, WorkloadId

Cut = Callable[[Interval], Iterable[Interval]]
"""Cuts an interval where that must be done before it is shared out (quarter hours, rates)."""


class Known(NamedTuple):
    """What is known of who held devices and used the host while the energy was consumed.

    Attributes:
        claims: The claims on each meter.
        affirmed_ns: Until when each kind of evidence is known to be whole.
        usage: The use of CPU and memory.

    """

    claims: Mapping[Meter, list[Claim]]
    affirmed_ns: Mapping[Evidence, int]
    usage: host.Usage

    def on(self, meter: Meter) -> list[Claim]:
        """The claims on one meter."""
        return self.claims.get(meter, [])

    def tenures(self, interval: Interval, meter: Meter) -> tuple[Tenure, ...]:
        """Who held a meter in an interval."""
        return outages.tenures(interval, self.on(meter), self.affirmed_ns)

    def due(self, state: MeterState, now_ns: int, settle_ns: int) -> Due:
        """What of a meter is due: what has settled, and of an outage what is proven or given up."""
        edges = [*outages.edges(self.on(state.meter)), *spans.edges((*state.pending, *state.held))]
        horizon_ns = now_ns - settle_ns
        for before, reading in pairwise((state.base, *state.pending)):
            awaited = reading.after_outage and now_ns - reading.t_ns <= outages.PROOF_WAIT_NS
            if awaited and not self._is_proven(state.meter, before.t_ns, reading.t_ns):
                return Due(min(horizon_ns, reading.t_ns - 1), edges)
        return Due(horizon_ns, edges)

    def _is_proven(self, meter: Meter, t0_ns: int, t1_ns: int) -> bool:
        """Whether all is known of who held or used a meter in an outage."""
        if meter.component in host.COMPONENTS and not self.usage.heard_again(t0_ns, t1_ns):
            return False
        return outages.proof_is_in(self.on(meter), t1_ns, self.affirmed_ns)


class Booking(NamedTuple):
    """An interval and who gets its energy.

    Attributes:
        interval: The energy; nothing about who gets it changed in its time.
        shares: Who gets how much of it; all of it.
        held: Whether the device was held.
        fault: Why it could not be shared out and goes to `unknown_holder` (empty: it could).

    """

    interval: Interval
    shares: Sequence[Share]
    held: bool = False
    fault: str = ""


def attribute(measured: Measured, known: Known, cut: Cut, split: OtherSplit) -> list[Booking]:
    """Share out all intervals by who held the meter, or used it."""
    booked, node = measured.meters.booked, measured.meters.node
    # The rest of a superchip's module is its GPU, and is held as such.
    modules = {meter for meter, each in node.items() if each.parts}
    node = {meter: each for meter, each in node.items() if not each.parts}
    gpus = [m for m in booked if m.component is Component.GPU and m not in node]
    bookings: list[Booking] = []
    for interval in measured.intervals:
        if interval.meter in node:
            shared = _by_holders_of(gpus, interval, known, cut, split)
        else:
            shared = _by_holder(interval, booked[interval.meter], known, cut)
            if interval.meter in modules:
                shared = _derived(shared)
        bookings += _whole(interval, shared, cut)
    return bookings


def _whole(interval: Interval, shared: Iterator[Booking], cut: Cut) -> list[Booking]:
    """All bookings of an interval; one to `unknown_holder` where it cannot be shared out.

    Its readings and claims are committed: a fault here would meet them at every start again.
    """
    try:
        bookings = list(shared)
        given_uj = sum(share.amount.energy_uj for each in bookings for share in each.shares)
        if given_uj == interval.energy_uj:
            return bookings
        fault = f"{given_uj} of {interval.energy_uj} uJ were shared out"
    except Exception as raised:
        fault = repr(raised)
    fault = f"{interval.meter.component} {interval.meter.name}: {fault}"
    return [
        Booking(piece, [gpu.unowned(piece, Remainder.UNKNOWN_HOLDER)], fault=fault)
        for piece in cut(interval)
    ]


def _by_holders_of(
    gpus: Sequence[Meter], interval: Interval, known: Known, cut: Cut, split: OtherSplit
) -> Iterator[Booking]:
    """Share out what a node's own meter counted beside the meters in it."""
    held = [known.tenures(interval, each) for each in gpus]
    for piece in cut(interval):
        yield Booking(piece, share_out(piece, held, split))


def _derived(shared: Iterable[Booking]) -> Iterator[Booking]:
    """The bookings of a GPU whose energy is what is left of its module."""
    for booking in shared:
        yield booking._replace(
            shares=[
                share if share.evidence == NO_EVIDENCE else share._replace(evidence=DERIVED)
                for share in booking.shares
            ]
        )


def _by_holder(interval: Interval, state: MeterState, known: Known, cut: Cut) -> Iterator[Booking]:
    """Share out what one meter consumed, tenure by tenure."""
    around = spans.around(interval, (*state.pending, *state.held), known.on(interval.meter))
    for tenure in known.tenures(interval, interval.meter):
        for part in spans.pieces(interval.cut(tenure.t0_ns, tenure.t1_ns)):
            for piece in cut(part):
                if piece.meter.component in host.COMPONENTS:
                    shares = host.share_out(piece, state.idle_mw, known.usage)
                else:
                    shares = gpu.share_out(piece, tenure, state.idle_mw, around)
                yield Booking(piece, shares, held=bool(tenure.holders))


def foreign_ns(bookings: Iterable[Booking]) -> Mapping[tuple[Meter, WorkloadId], int]:
    """For how long others than its holders used each held device."""
    return counted(
        ((booking.interval.meter, user), booking.interval.t1_ns - booking.interval.t0_ns)
        for booking in bookings
        for user in _foreign(booking)
    )


def _foreign(booking: Booking) -> set[WorkloadId]:
    if not booking.held or booking.interval.outage:
        return set()
    holders = {INFRASTRUCTURE, *(share.subject for share in booking.shares)}
    users = {process.workload for process in booking.interval.processes}
    return {user for user in users if user is not None and user not in holders}


EVIDENCE = "held-gpus"
"""How it is known who gets a part of `other` (label `evidence`)."""


class OtherSplit(StrEnum):
    """Who gets the energy of `other` (`[host] other`)."""

    NONE = "none"
    HELD_GPUS = "held-gpus"


def share_out(
    interval: Interval, gpus: Sequence[Sequence[Tenure]], split: OtherSplit
) -> list[Share]:
    """Share out an interval of `other`. `gpus` are the tenures in it of each GPU of the node."""
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
