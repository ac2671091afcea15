"""Who shares each device just now, and which part of its power each of them draws.

By the same rules as energy is booked by, so that the gauges agree with the counters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import msgspec

from joulebook.core.attribution.claims import Holder, Tenure, admit
from joulebook.core.attribution.gpu import seats, share_out
from joulebook.core.attribution.outages import by_meter
from joulebook.core.attribution.spans import there
from joulebook.core.energy.intervals import Interval
from joulebook.core.energy.meter import MeterState
from joulebook.core.energy.readings import DeviceStatus, InstanceUse, Meter, ProcessUse
from joulebook.core.evidence import Method, Remainder
from joulebook.core.ledger.state import Books
from joulebook.core.workloads import WorkloadId
from joulebook.units import MW_PER_W, NS_PER_S, UJ_PER_MJ


class Sharing(NamedTuple):
    """Who holds or uses a device, and the part of its power that each draws (`None`: unknown)."""

    holders: tuple[Holder, ...]
    draws: Mapping[WorkloadId | None, float]


class _Seats(NamedTuple):
    meter: Meter
    holders: tuple[Holder, ...]
    processes: tuple[ProcessUse, ...]
    instances: tuple[InstanceUse, ...]


def sharing(
    books: Books, devices: Mapping[Meter, DeviceStatus], now_ns: int
) -> dict[Meter, Sharing]:
    """Return every device that is held or used now."""
    return {
        each.meter: _as_booked(
            Sharing(each.holders, _draws(each, books, devices.get(each.meter))), books
        )
        for each in _seats(books, devices, now_ns)
    }


def is_shared(books: Books, devices: Mapping[Meter, DeviceStatus], now_ns: int) -> bool:
    """Return whether several hold or use one device now, so that their use splits its energy."""
    return any(len(each.holders) > 1 for each in _seats(books, devices, now_ns))


def _seats(books: Books, devices: Mapping[Meter, DeviceStatus], now_ns: int) -> Iterator[_Seats]:
    claims = by_meter(
        claim
        for claim in books.claims
        if claim.t0_ns <= now_ns and (claim.t1_ns is None or claim.t1_ns > now_ns)
    )
    for meter in sorted({*claims, *books.meters}):
        status = devices.get(meter)
        held = admit(claims.get(meter, ()), None if status is None else status.rooms)
        processes, instances = _last_told(books.meters.get(meter))
        if holders := seats(held, processes, instances):
            yield _Seats(meter, holders, processes, instances)


def _as_booked(shared: Sharing, books: Books) -> Sharing:
    """Name holders as they are booked to now."""
    if not books.renamed:
        return shared

    def booked_to(who: WorkloadId | None) -> WorkloadId | None:
        return None if who is None else books.booked_to(who)

    return Sharing(
        tuple(
            msgspec.structs.replace(holder, workload=booked_to(holder.workload))
            for holder in shared.holders
        ),
        {booked_to(who): part for who, part in shared.draws.items()},
    )


def _last_told(
    state: MeterState | None,
) -> tuple[tuple[ProcessUse, ...], tuple[InstanceUse, ...]]:
    """Return the processes and instances of the last poll with process lists."""
    readings = (*reversed(state.pending), state.base) if state is not None else ()
    processes = next((r.processes for r in readings if r.processes is not None), ())
    instances = next((r.instances for r in readings if r.instances is not None), ())
    return tuple(there(processes)), instances


def _draws(
    shared: _Seats, books: Books, status: DeviceStatus | None
) -> dict[WorkloadId | None, float]:
    """Return the power shared out as if it were the energy of a second."""
    watts = 0.0 if status is None else status.values.get("power_watts", 0.0)
    second_uj = round(watts * MW_PER_W) * UJ_PER_MJ
    if not second_uj:
        return {}
    state = books.meters.get(shared.meter)
    piece = Interval(
        shared.meter,
        0,
        NS_PER_S,
        second_uj,
        Method.COUNTER,
        processes=shared.processes,
        instances=shared.instances,
    )
    draws: dict[WorkloadId | None, float] = {}
    idle_mw = None if state is None else state.idle_mw
    for share in share_out(piece, Tenure(0, NS_PER_S, shared.holders), idle_mw):
        if share.subject is Remainder.UNALLOCATED:
            continue
        who = None if isinstance(share.subject, Remainder) else share.subject
        draws[who] = draws.get(who, 0.0) + share.amount.energy_uj / second_uj
    return draws
