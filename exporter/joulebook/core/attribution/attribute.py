"""Attribute energy to its holders: the second of the three steps of a tick.

GPUs, hosts and what a node consumed beyond its metered parts have their own modules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby, pairwise
from operator import attrgetter
from typing import NamedTuple

import msgspec

from joulebook.core.attribution import gpu, host, outages, spans
from joulebook.core.attribution.claims import Claim, Evidence, Holder, Tenure
from joulebook.core.attribution.gpu import Share
from joulebook.core.energy.calibration import power_mw
from joulebook.core.energy.intervals import Interval
from joulebook.core.energy.measure import Due, Measured
from joulebook.core.energy.meter import MeterState
from joulebook.core.energy.readings import Component, Meter
from joulebook.core.evidence import (
    DERIVED,
    NO_EVIDENCE,
    Remainder,
    counted,
)
from joulebook.core.workloads import INFRASTRUCTURE, WorkloadId

Cut = Callable[[Interval], Iterable[Interval]]
"""Cuts an interval where needed before it is attributed (quarter hours, rates)."""


class Known(NamedTuple):
    """Who held devices and used the host while the energy was consumed, as far as known.

    Attributes:
        claims: The claims on each meter.
        affirmed_ns: Until when each kind of evidence is known to be complete.
        usage: The use of CPU and memory.
        edges_ns: When else it changed who pays.

    """

    claims: Mapping[Meter, list[Claim]]
    affirmed_ns: Mapping[Evidence, int]
    usage: host.Usage
    edges_ns: Sequence[int] = ()

    def on(self, meter: Meter) -> list[Claim]:
        """Return the claims on one meter."""
        return self.claims.get(meter, [])

    def tenures(self, interval: Interval, meter: Meter) -> tuple[Tenure, ...]:
        """Return who held a meter in an interval."""
        return outages.tenures(interval, self.on(meter), self.affirmed_ns)

    def tenures_of(self, intervals: Iterable[Interval]) -> Iterator[tuple[Interval, Tenure]]:
        """Yield who held a meter in its own intervals, settled once for consecutive ones."""
        for outage, row in groupby(intervals, key=lambda each: each.outage or each.instances):
            together = list(row)
            if outage is True:
                for each in together:
                    yield from ((each, tenure) for tenure in self.tenures(each, each.meter))
                continue
            whole = msgspec.structs.replace(together[0], t1_ns=max(e.t1_ns for e in together))
            settled = self.tenures(whole, whole.meter)
            for each in together:
                for tenure in settled:
                    if tenure.t0_ns < each.t1_ns and tenure.t1_ns > each.t0_ns:
                        yield each, tenure

    def due(self, state: MeterState, now_ns: int, settle_ns: int) -> Due:
        """What of a meter is due: what has settled, and of an outage what is proven or given up."""
        of_spans = spans.edges((*state.pending, *state.held))
        edges = [*outages.edges(self.on(state.meter)), *of_spans, *self.edges_ns]
        horizon_ns = now_ns - settle_ns
        for before, reading in pairwise((state.base, *state.pending)):
            awaited = reading.after_outage and now_ns - reading.t_ns <= outages.PROOF_WAIT_NS
            if awaited and not self._is_proven(state.meter, before.t_ns, reading.t_ns):
                return Due(min(horizon_ns, reading.t_ns - 1), edges)
        return Due(horizon_ns, edges)

    def _is_proven(self, meter: Meter, t0_ns: int, t1_ns: int) -> bool:
        """Return whether the holders or users of a meter in an outage are fully known."""
        if meter.component in host.COMPONENTS and not self.usage.heard_again(t0_ns, t1_ns):
            return False
        return outages.proof_is_in(self.on(meter), t1_ns, self.affirmed_ns)


class Booking(NamedTuple):
    """An interval and who gets its energy.

    Attributes:
        interval: The energy; its recipients did not change during it.
        shares: How it is split; the shares add up to it.
        held: Whether the device was held.
        fault: Why it could not be attributed and goes to `unknown_holder` (empty: it could).

    """

    interval: Interval
    shares: Sequence[Share]
    held: bool = False
    fault: str = ""


def attribute(measured: Measured, known: Known, cut: Cut, split: host.OtherSplit) -> list[Booking]:
    """Attribute all intervals to those who held the meter, or used it."""
    booked, node = measured.meters.booked, measured.meters.node
    # The rest of a superchip's module is its GPU, and is held like one.
    modules = {meter for meter, each in node.items() if each.parts}
    node = {meter: each for meter, each in node.items() if not each.parts}
    gpus = [m for m in booked if m.component is Component.GPU and m not in node]

    def shared(intervals: Sequence[Interval]) -> Iterable[Booking]:
        meter = intervals[0].meter
        if meter in node:
            return _by_holders_of(gpus, intervals, known, cut, split)
        if meter.component in host.COMPONENTS:
            return _by_use(intervals, booked[meter], known, cut)
        bookings = _by_holder(intervals, booked[meter], known, cut)
        return _derived(bookings) if meter in modules else bookings

    bookings: list[Booking] = []
    for _, intervals in groupby(measured.intervals, key=attrgetter("meter")):
        bookings += _whole(list(intervals), shared, cut)
    return bookings


def _whole(
    intervals: Sequence[Interval],
    shared: Callable[[Sequence[Interval]], Iterable[Booking]],
    cut: Cut,
) -> list[Booking]:
    """Return the bookings of some intervals; to `unknown_holder` where attribution fails.

    Its readings and claims are committed, so an exception here would recur at every start.
    """
    energy_uj = sum(interval.energy_uj for interval in intervals)
    try:
        bookings = list(shared(intervals))
        given_uj = sum(share.amount.energy_uj for each in bookings for share in each.shares)
        if given_uj == energy_uj:
            return [_complete(each) for each in bookings]
        fault = f"{given_uj} of {energy_uj} uJ were shared out"
    except Exception as raised:
        fault = repr(raised)
    if len(intervals) > 1:
        return [each for interval in intervals for each in _whole([interval], shared, cut)]
    interval = intervals[0]
    fault = f"{interval.meter.component} {interval.meter.name}: {fault}"
    return [
        _complete(Booking(piece, [gpu.unowned(piece, Remainder.UNKNOWN_HOLDER)], fault=fault))
        for piece in cut(interval)
    ]


def _complete(booking: Booking) -> Booking:
    return booking._replace(shares=gpu.completed(booking.interval, booking.shares))


def _by_holders_of(
    gpus: Sequence[Meter],
    intervals: Iterable[Interval],
    known: Known,
    cut: Cut,
    split: host.OtherSplit,
) -> Iterator[Booking]:
    """Attribute what a node's own meter counted beyond its child meters."""
    for interval in intervals:
        held = [known.tenures(interval, each) for each in gpus]
        for piece in cut(interval):
            yield Booking(piece, host.split_other(piece, held, split))


def _by_use(
    intervals: Iterable[Interval], state: MeterState, known: Known, cut: Cut
) -> Iterator[Booking]:
    """Attribute what a CPU or memory meter counted, by use."""
    for interval in intervals:
        for piece in cut(interval):
            yield Booking(piece, host.share_out(piece, _floor_mw(state, piece), known.usage))


def _floor_mw(state: MeterState, interval: Interval) -> int | None:
    """The idle floor of a meter, as its energy is booked."""
    return None if state.idle_mw is None else power_mw(interval.calibration, state.idle_mw)


def _derived(shared: Iterable[Booking]) -> Iterator[Booking]:
    """Yield the bookings of a GPU whose energy is the rest of its module."""
    for booking in shared:
        yield booking._replace(
            shares=[
                share if share.evidence == NO_EVIDENCE else share._replace(evidence=DERIVED)
                for share in booking.shares
            ]
        )


class _Piece(NamedTuple):
    """A part of an interval with constant sharers, and what is booked together with it."""

    interval: Interval
    holders: tuple[Holder, ...]
    is_held: bool
    users: tuple[WorkloadId | None, ...]

    def goes_on(self, before: _Piece) -> bool:
        """Return whether it continues another, and neither is exceptional."""
        (t0_ns, t1_ns), others = (before.interval.t0_ns, before.interval.t1_ns), before[1:]
        return (
            t1_ns == self.interval.t0_ns > t0_ns
            and others == self[1:]
            and before.interval.calibration == self.interval.calibration
            and not any(
                each.outage or each.unread or each.charged or each.remainder
                for each in (before.interval, self.interval)
            )
        )


def _by_holder(
    intervals: Sequence[Interval], state: MeterState, known: Known, cut: Cut
) -> Iterator[Booking]:
    """Attribute what one meter consumed: each interval by itself, booked together if alike."""
    alike: list[_Piece] = []
    for piece in _pieces(intervals, state, known, cut):
        if alike and not piece.goes_on(alike[-1]):
            yield from _together(alike, state, cut)
            alike = []
        alike.append(piece)
    if alike:
        yield from _together(alike, state, cut)


def _together(alike: Sequence[_Piece], state: MeterState, cut: Cut) -> Iterator[Booking]:
    """Join the bookings of pieces that are alike and between the same cuts."""
    _, holders, is_held, _ = alike[0]
    intervals = [piece.interval for piece in alike]
    whole = msgspec.structs.replace(
        intervals[0],
        t1_ns=intervals[-1].t1_ns,
        energy_uj=sum(interval.energy_uj for interval in intervals),
        calibration_uj=sum(interval.calibration_uj for interval in intervals),
        tensor_ns=sum(interval.tensor_ns for interval in intervals),
        tensor_known_ns=sum(interval.tensor_known_ns for interval in intervals),
    )
    runs = [intervals] if len(list(cut(whole))) == 1 else [[each] for each in intervals]
    for run in runs:
        shares = gpu.share_among(run, holders, _floor_mw(state, run[0]))
        yield Booking(whole if run is intervals else run[0], shares, held=is_held)


def _pieces(
    intervals: Sequence[Interval], state: MeterState, known: Known, cut: Cut
) -> Iterator[_Piece]:
    """Cut intervals by tenure, span, quarter hour and rate."""
    claims = known.on(state.meter)
    for interval, tenure in known.tenures_of(intervals):
        ask = partial(spans.around, interval, (*state.pending, *state.held), claims)
        t0_ns, t1_ns = max(interval.t0_ns, tenure.t0_ns), min(interval.t1_ns, tenure.t1_ns)
        for part in spans.pieces(interval.cut(t0_ns, t1_ns)):
            for piece in cut(part):
                holders = gpu.sharers(piece, tenure, ask)
                users = tuple(process.workload for process in piece.processes)
                yield _Piece(piece, holders, bool(tenure.holders), users)


def foreign_ns(bookings: Iterable[Booking]) -> Mapping[tuple[Meter, WorkloadId], int]:
    """Return for how long others than its holders used each held device."""
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
