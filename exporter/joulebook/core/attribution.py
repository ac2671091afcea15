"""Who gets the energy of an interval: exact shares by tenure and use.

The rules are those of `docs/how-it-measures.md`: one holder gets everything; several share the
idle floor over the advertised parts of the device and the rest by the time their processes kept
it busy; with no holder, those whose processes run on it share it; with neither, it is nobody's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from joulebook.core.books import NO_EVIDENCE, Amount, Method, Remainder, Subject
from joulebook.core.intervals import Interval
from joulebook.core.readings import ProcessUse
from joulebook.core.tenancy import Evidence, Holder, Tenure
from joulebook.core.workloads import WorkloadId
from joulebook.units import PJ_PER_UJ

_64_BITS = (1 << 64) - 1


class Share(NamedTuple):
    """What one subject gets of one interval."""

    subject: Subject
    amount: Amount
    method: Method
    evidence: str


def apportion(total: int, weights: Sequence[int], salt: int = 0) -> list[int]:
    """Split `total` in proportion to `weights`, in integers that add up to it exactly.

    Largest-remainder rounding. `total` may be negative (a correction); weights must not be, and
    must not all be zero. Equal remainders are ranked by a hash of `salt` and the position, so
    that over many intervals (salted by their time) no position is favoured.
    """
    whole = sum(weights)
    if whole <= 0 or min(weights) < 0:
        raise ValueError(f"weights must be >= 0 and not all 0, not {list(weights)}")
    parts = [total * weight // whole for weight in weights]
    left = total - sum(parts)
    if left:
        ranked = sorted(
            range(len(weights)),
            key=lambda i: (-(total * weights[i] % whole), _lot(salt, i)),
        )
        for i in ranked[:left]:
            parts[i] += 1
    return parts


def _lot(salt: int, position: int) -> int:
    """A well-mixed hash of two integers (splitmix64; a CRC is linear, and would favour some)."""
    z = (salt + position * 0xD1342543DE82EF95 + 0x9E3779B97F4A7C15) & _64_BITS
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _64_BITS
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _64_BITS
    return z ^ (z >> 31)


def share_out(interval: Interval, tenure: Tenure, idle_mw: int | None) -> list[Share]:
    """Share out one interval whose holders did not change (it spans exactly one tenure).

    `idle_mw` is the device's idle floor in milliwatts, `None` while it is not learnt. The
    energies of the shares add up to that of the interval.
    """
    if interval.remainder is not None:
        return [_nobodys(interval, interval.remainder)]
    holders = tenure.holders
    if interval.outage and not holders:
        return [_nobodys(interval, Remainder.DAEMON_DOWN)]
    if len(holders) == 1 and holders[0].parts >= holders[0].of:
        return [_sole(interval, holders[0])]
    if holders:
        return _shared(interval, holders, idle_mw)
    users = _users(interval)
    if users:
        return _used(interval, users)
    return [_nobodys(interval, Remainder.UNALLOCATED)]


def _subject(workload: WorkloadId | None) -> Subject:
    return Remainder.UNKNOWN_HOLDER if workload is None else workload


def _nobodys(interval: Interval, reason: Remainder) -> Share:
    return Share(reason, Amount(interval.energy_uj), interval.method, NO_EVIDENCE)


def _sole(interval: Interval, holder: Holder) -> Share:
    idle_uj = interval.energy_uj if interval.idle else 0
    amount = Amount(interval.energy_uj, idle_uj, interval.t1_ns - interval.t0_ns)
    return Share(_subject(holder.workload), amount, interval.method, holder.evidence.label)


def _shared(interval: Interval, holders: Sequence[Holder], idle_mw: int | None) -> list[Share]:
    """Floor over all advertised parts, the rest by busy time, else by held parts."""
    duration_ns, salt = interval.t1_ns - interval.t0_ns, interval.t0_ns
    of = math.lcm(*(holder.of for holder in holders))
    held = [holder.parts * (of // holder.of) for holder in holders]
    unheld = max(of - sum(held), 0)
    if interval.idle:
        floor_uj = interval.energy_uj
    else:
        floor_uj = min(interval.energy_uj, (idle_mw or 0) * duration_ns // PJ_PER_UJ)
    *floors, spare_uj = apportion(floor_uj, [*held, unheld], salt)
    busy = _busy_ns(interval.processes)
    used = [busy.get(holder.workload, 0) for holder in holders]
    rest = apportion(interval.energy_uj - floor_uj, used if any(used) else held, salt + 1)
    shares = [
        Share(
            _subject(holder.workload),
            Amount(
                floor + active,
                floor + active if interval.idle else 0,
                duration_ns * holder.parts // holder.of,
            ),
            Method.APPORTIONED,
            holder.evidence.label,
        )
        for holder, floor, active in zip(holders, floors, rest, strict=True)
    ]
    if spare_uj or unheld:
        shares.append(
            Share(Remainder.UNALLOCATED, Amount(spare_uj), Method.APPORTIONED, NO_EVIDENCE)
        )
    return shares


def _users(interval: Interval) -> list[WorkloadId | None]:
    """Those whose processes were on the device then, in a stable order.

    A list speaks for the time before it: who came later is left out, and so is who is gone, since
    it may have gone before.
    """
    there = {
        p.workload for p in interval.processes if p.started_ns < interval.t1_ns and not p.ended
    }
    return sorted(there, key=lambda w: w or ("", ""))


def _used(interval: Interval, users: Sequence[WorkloadId | None]) -> list[Share]:
    """No allocation, only use: by busy time, else evenly; marked apportioned if shared."""
    busy = _busy_ns(interval.processes)
    weights = [busy.get(user, 0) for user in users]
    if not any(weights):
        weights = [1] * len(users)
    method = interval.method if len(users) == 1 else Method.APPORTIONED
    energies = apportion(interval.energy_uj, weights, interval.t0_ns)
    times = apportion(interval.t1_ns - interval.t0_ns, [1] * len(users), interval.t0_ns)
    return [
        Share(
            _subject(user),
            Amount(energy_uj, 0, held_ns if user is not None else 0),
            method,
            Evidence.PROCESSES.label,
        )
        for user, energy_uj, held_ns in zip(users, energies, times, strict=True)
    ]


def _busy_ns(processes: Iterable[ProcessUse]) -> dict[WorkloadId | None, int]:
    busy: dict[WorkloadId | None, int] = {}
    for process in processes:
        if process.sm_time_ns is not None:
            busy[process.workload] = busy.get(process.workload, 0) + process.sm_time_ns
    return busy
