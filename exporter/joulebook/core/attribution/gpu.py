"""Who gets the energy of an interval: exact shares by tenure and use.

The rules are those of `docs/how-it-measures.md`: one holder gets everything; several share the idle
floor over the advertised parts of the device (the slices of a card in MIG mode) and the rest by the
work they did on it; without a holder, those whose processes run on it share it; without either, it
is unattributed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from operator import add
from typing import NamedTuple

import msgspec

from joulebook.core.attribution.claims import Evidence, Holder, Tenure
from joulebook.core.attribution.spans import there
from joulebook.core.energy.intervals import Interval
from joulebook.core.energy.readings import Component, InstanceUse, ProcessUse
from joulebook.core.evidence import NO_EVIDENCE, Amount, Method, Remainder, Subject
from joulebook.core.workloads import INFRASTRUCTURE, WorkloadId
from joulebook.units import PJ_PER_UJ

HELD_SHARE = "held-share"
"""The evidence for shares of an outage without process data: what each holder held (label
`evidence`).
"""

_64_BITS = (1 << 64) - 1


class Share(NamedTuple):
    """One subject's share of one interval."""

    subject: Subject
    amount: Amount
    method: Method
    evidence: str

    def plus(self, more: Amount) -> Share:
        """Return the share with more of it."""
        return self._replace(amount=self.amount.plus(more))


def apportion(total: int, weights: Sequence[int], salt: int = 0) -> list[int]:
    """Split `total` in proportion to `weights`, in integers that add up to it exactly.

    Largest-remainder rounding. `total` may be negative (a correction); weights must not be, and
    must not all be zero. Equal remainders are ranked by a hash of `salt` and the position, so that
    over many intervals (salted by their time) no position is favored.
    """
    whole = sum(weights)
    if whole <= 0 or min(weights) < 0:
        raise ValueError(f"weights must be >= 0 and not all 0, not {list(weights)}")
    parts = [total * weight // whole for weight in weights]
    left = total - sum(parts)
    if left:
        rests = [total * weight % whole for weight in weights]
        ranked = sorted(range(len(rests)), key=rests.__getitem__, reverse=True)
        last = rests[ranked[left - 1]]
        if last == rests[ranked[left]]:
            ranked.sort(key=lambda i: (-rests[i], _lot(salt, i)))
        for i in ranked[:left]:
            parts[i] += 1
    return parts


def _lot(salt: int, position: int) -> int:
    """Hash two integers with good mixing (splitmix64; a CRC is linear, and would favor some)."""
    z = (salt + position * 0xD1342543DE82EF95 + 0x9E3779B97F4A7C15) & _64_BITS
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _64_BITS
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _64_BITS
    return z ^ (z >> 31)


def completed(interval: Interval, shares: Sequence[Share]) -> Sequence[Share]:
    """Return shares with what calibration added to each, and how tensor cores worked for it."""
    if not interval.calibration_uj and not interval.tensor_known_ns:
        return shares
    weights = [share.amount.energy_uj for share in shares]
    weights = weights if any(weights) else [1] * len(weights)
    added = apportion(interval.calibration_uj, weights, interval.t0_ns)
    found = []
    for (subject, amount, method, evidence), added_uj in zip(shares, added, strict=True):
        more = amount._replace(calibration_uj=added_uj)
        if isinstance(subject, WorkloadId):
            held_ns, duration_ns = amount.held_ns, interval.duration_ns
            more = more._replace(
                tensor_ns=held_ns * interval.tensor_ns // duration_ns,
                tensor_known_ns=held_ns * interval.tensor_known_ns // duration_ns,
            )
        found.append(Share(subject, more, method, evidence))
    return found


def share_out(
    interval: Interval, tenure: Tenure, idle_mw: int | None, around: WorkloadId | None = None
) -> list[Share]:
    """Attribute one interval whose holders did not change (it spans exactly one tenure).

    `idle_mw` is the device's idle floor in milliwatts, `None` until learned. `around` is who was
    alone on it before and after. The energies of the shares add up to that of the interval.
    """
    return share_among([interval], sharers(interval, tenure, lambda: around), idle_mw)


def sharers(
    interval: Interval, tenure: Tenure, around: Callable[[], WorkloadId | None]
) -> tuple[Holder, ...]:
    """Return those who share an interval of one tenure; `around` is called if needed."""
    holders = tenure.holders
    if not interval.outage and all(holder.instance for holder in holders):
        holders = seats(holders, _there(interval), interval.instances or ())
    if not holders and (interval.outage or not interval.idle):
        who = around()
        holders = () if who is None else (Holder(who, Evidence.PROCESSES, 1, 1),)
    return holders


def share_among(
    intervals: Sequence[Interval], holders: Sequence[Holder], idle_mw: int | None
) -> list[Share]:
    """Split intervals with the same sharers, each by itself, and add up the shares."""
    is_one = len(holders) < 2 and all(holder.parts >= holder.of for holder in holders)
    if intervals[0].remainder is None and not is_one:
        return _shared(intervals, holders, idle_mw)
    found: dict[tuple[Subject, Method, str], Share] = {}
    for interval in intervals:
        for share in _unshared(interval, holders, idle_mw):
            key = share.subject, share.method, share.evidence
            known = found.get(key)
            found[key] = share if known is None else known.plus(share.amount)
    return list(found.values())


def _unshared(interval: Interval, holders: Sequence[Holder], idle_mw: int | None) -> list[Share]:
    """Attribute an interval with one holder or none."""
    if interval.remainder is not None:
        return [unowned(interval, interval.remainder)]
    if holders:
        return [_sole(interval, holders[0])]
    if interval.outage:
        return [unowned(interval, Remainder.DAEMON_DOWN)]
    return _unheld(interval, idle_mw)


def seats(
    holders: Sequence[Holder], processes: Sequence[ProcessUse], instances: Sequence[InstanceUse]
) -> tuple[Holder, ...]:
    """Return those who share a device: its holders, and users of what nobody holds.

    Users count as holders of the whole device if it has no holder, else of each MIG instance
    without one (while nobody holds the card as a whole). Several users share it evenly.
    """
    held = {holder.instance for holder in holders}
    if "" in held:
        return tuple(holders)
    found = list(holders)
    left = Fraction(1)
    if instances:
        left -= sum((Fraction(holder.parts, holder.of) for holder in holders), Fraction(0))
    for each in instances:
        users = _users(p for p in processes if p.instance == each.uuid)
        if each.uuid in held or not users:
            continue
        # While a card is repartitioned, old and new instances may exceed the card.
        parts, of = min(Fraction(each.slices, each.of), left).as_integer_ratio()
        left -= Fraction(parts, of)
        found += [
            Holder(user, Evidence.PROCESSES, parts, of * len(users), each.uuid)
            for user in users
            if parts > 0
        ]
    if not found:
        users = _users(processes)
        found = [Holder(user, Evidence.PROCESSES, 1, len(users)) for user in users]
    return tuple(found)


def _there(interval: Interval) -> list[ProcessUse]:
    """Return the processes that were on the device in that interval.

    A list represents the time before it: processes that started later are left out, and so are
    those that ended, since they may have ended before.
    """
    return [p for p in there(interval.processes) if p.started_ns < interval.t1_ns]


def _users(processes: Iterable[ProcessUse]) -> list[WorkloadId | None]:
    """Return the owners of the processes, in a stable order."""
    return sorted({p.workload for p in processes}, key=lambda w: w or ("", ""))


def _subject(workload: WorkloadId | None) -> Subject:
    return Remainder.UNKNOWN_HOLDER if workload is None else workload


def unowned(interval: Interval, reason: Remainder) -> Share:
    """Attribute the energy of an interval, and its GPU time, to no workload."""
    # The time of such energy is in the gap next to it.
    is_timed = interval.remainder is None and interval.meter.component is Component.GPU
    held_ns = interval.t1_ns - interval.t0_ns if is_timed else 0
    amount = Amount(interval.energy_uj, held_ns=held_ns)
    return Share(reason, amount, interval.method, NO_EVIDENCE)


def _unheld(interval: Interval, idle_mw: int | None) -> list[Share]:
    """Attribute what nobody held: a device above its idle floor worked for someone."""
    serves = any(process.workload == INFRASTRUCTURE for process in interval.processes)
    if interval.idle or idle_mw is None or serves:
        return [unowned(interval, Remainder.UNALLOCATED)]
    floor_uj = min(interval.energy_uj, idle_mw * interval.duration_ns // PJ_PER_UJ)
    if floor_uj == interval.energy_uj:
        return [unowned(interval, Remainder.UNALLOCATED)]
    # The time is someone's, whoever it is; only the floor's energy would be there anyway.
    nobodys = Amount(floor_uj)
    somebodys = Amount(interval.energy_uj - floor_uj, held_ns=interval.duration_ns)
    return [
        Share(Remainder.UNALLOCATED, nobodys, interval.method, NO_EVIDENCE),
        Share(Remainder.UNKNOWN_HOLDER, somebodys, interval.method, NO_EVIDENCE),
    ]


def _sole(interval: Interval, holder: Holder) -> Share:
    amount = _amount(interval, holder.workload, interval.energy_uj, interval.t1_ns - interval.t0_ns)
    return Share(_subject(holder.workload), amount, interval.method, holder.evidence.label)


def _amount(
    interval: Interval, workload: WorkloadId | None, energy_uj: int, held_ns: int
) -> Amount:
    """Return the amount of a share; only what a workload holds can be idle."""
    if not interval.idle or workload is None:
        return Amount(energy_uj, held_ns=held_ns)
    return Amount(energy_uj, energy_uj, held_ns, held_ns)


def _shared(
    intervals: Sequence[Interval], holders: Sequence[Holder], idle_mw: int | None
) -> list[Share]:
    """Split the floor over all advertised parts, the rest by work done, else by held parts."""
    whole = math.lcm(*(holder.of for holder in holders))
    parts = [holder.parts * (whole // holder.of) for holder in holders]
    held = [*parts, whole - sum(parts)]
    salt = intervals[0].t0_ns
    floor_uj, floor_idle_uj, time_ns, idle_ns = 0, 0, 0, 0
    active = [0] * len(held)
    unseen = False
    for interval in _joined(intervals):
        duration_ns = interval.t1_ns - interval.t0_ns
        time_ns += duration_ns
        if interval.idle:
            floor_idle_uj += interval.energy_uj
            idle_ns += duration_ns
            continue
        least_uj = min(interval.energy_uj, (idle_mw or 0) * duration_ns // PJ_PER_UJ)
        floor_uj += least_uj
        work = _work(interval, holders, parts)
        unseen |= interval.outage and work is None
        above = apportion(interval.energy_uj - least_uj, work or [*parts, 0], interval.t0_ns + 1)
        active = [*map(add, active, above)]
    # What is held does not change: what it alone splits is split, and rounded, once.
    idle_energy, idle_time = apportion(floor_idle_uj, held, salt), apportion(idle_ns, held, salt)
    floor = map(add, idle_energy, apportion(floor_uj, held, salt))
    energy = [*map(add, floor, active)]
    time = [*map(add, idle_time, apportion(time_ns - idle_ns, held, salt))]
    *amounts, left = map(Amount, energy, idle_energy, time, idle_time)
    shares = [
        Share(
            _subject(holder.workload),
            amount if holder.workload is not None else Amount(amount.energy_uj, 0, amount.held_ns),
            Method.APPORTIONED,
            HELD_SHARE if unseen else holder.evidence.label,
        )
        for holder, amount in zip(holders, amounts, strict=True)
    ]
    if left.energy_uj or held[-1]:
        nobodys = Amount(left.energy_uj, held_ns=left.held_ns)
        shares.append(Share(Remainder.UNALLOCATED, nobodys, Method.APPORTIONED, NO_EVIDENCE))
    return shares


def _joined(intervals: Iterable[Interval]) -> list[Interval]:
    """Join consecutive intervals that are represented by the same list of processes."""
    joined: list[Interval] = []
    for each in intervals:
        last = joined[-1] if joined else None
        if (
            last is not None
            and each.processes is last.processes
            and (each.idle, each.instances) == (last.idle, last.instances)
        ):
            energy_uj = last.energy_uj + each.energy_uj
            joined[-1] = msgspec.structs.replace(last, t1_ns=each.t1_ns, energy_uj=energy_uj)
        else:
            joined.append(each)
    return joined


def _work(interval: Interval, holders: Sequence[Holder], parts: Sequence[int]) -> list[int] | None:
    """Return the weights for the energy above the floor: one per holder, and the unattributed one.

    `None` if the work of one holder is unknown: a comparison would be a guess.
    """
    by_instance = any(holder.instance for holder in holders)
    work = _by_activity(interval, holders, parts) if by_instance else _by_time(interval, holders)
    return work if work is not None and any(work) else None


def _by_activity(
    interval: Interval, holders: Sequence[Holder], parts: Sequence[int]
) -> list[int] | None:
    """Weigh by busy slices of each MIG instance, split by what its holders hold."""
    busy = {
        each.uuid: Fraction(each.slices * each.active_ppm, each.of)
        for each in interval.instances or ()
        if each.active_ppm is not None
    }
    held: Counter[str] = Counter()
    for holder, part in zip(holders, parts, strict=True):
        held[holder.instance] += part
    if not busy.keys() >= held.keys():
        return None
    work = [
        busy[holder.instance] * part / held[holder.instance]
        for holder, part in zip(holders, parts, strict=True)
    ]
    work.append(sum((busy[each] for each in busy.keys() - held.keys()), Fraction(0)))
    of = math.lcm(*(weight.denominator for weight in work))
    return [weight.numerator * (of // weight.denominator) for weight in work]


def _by_time(interval: Interval, holders: Sequence[Holder]) -> list[int] | None:
    """Return the time for which the processes of each holder kept the multiprocessors busy."""
    busy = dict.fromkeys((holder.workload for holder in holders), 0)
    for process in interval.processes:
        who, time_ns = process.workload, process.sm_time_ns
        if who not in busy:
            continue
        if time_ns is not None:
            busy[who] += time_ns
        elif not process.ended:
            return None
    return [*(busy[holder.workload] for holder in holders), 0]
