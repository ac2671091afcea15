"""Attribute the energy of CPU and DRAM by what the kernel counted for each workload.

A CPU package is not held as a GPU is. Instead, *snapshots* are taken of what each workload has used
since it began (CPU time, current memory), and of the whole node. Between two snapshots use is
assumed even, and each interval of a meter is split by the use in it:

    the idle floor    by allocated cores (DRAM: by resident bytes) of all that the node has
    the rest          by CPU time (DRAM: by resident bytes) of all that was used

What no workload used or was allocated is the remainder `system`; of an outage, `daemon_down`.

What a node's own meter counted beside the meters in it (`other`) is split as `[host] other` says.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import NamedTuple

import msgspec

from joulebook.core.attribution.claims import Tenure
from joulebook.core.attribution.gpu import Share, apportion
from joulebook.core.energy.host_usage import HostSnapshot, Use
from joulebook.core.energy.intervals import Interval
from joulebook.core.energy.readings import Component, Reading
from joulebook.core.evidence import NO_EVIDENCE, Amount, Method, Remainder, Subject
from joulebook.core.workloads import WorkloadId
from joulebook.units import PJ_PER_UJ

COMPONENTS = frozenset({Component.CPU, Component.DRAM})
"""The components attributed here."""

EVIDENCE = "cgroup"
"""The evidence for the shares of CPU and DRAM energy (label `evidence`)."""


def watched(reading: Reading, busy: bool | None) -> Reading:
    """Return a reading of CPU or DRAM with the snapshot's data on the node (`None`: no data)."""
    if reading.meter.component not in COMPONENTS or reading.busy is not None:
        return reading
    return msgspec.structs.replace(reading, busy=busy)


def present(snapshots: Sequence[HostSnapshot]) -> frozenset[WorkloadId]:
    """Return the workloads that use the host now, whether or not they use any CPU time."""
    return frozenset(use.workload for use in snapshots[-1].uses) if snapshots else frozenset()


def share_out(interval: Interval, idle_mw: int | None, usage: Usage) -> list[Share]:
    """Attribute one interval of a CPU or DRAM meter; the shares add up to its energy.

    `idle_mw` is the meter's learned idle floor (`None`: not yet; then everything is split by use).
    """
    if interval.remainder is not None:
        return [_rest(interval, interval.remainder)]
    rest = Remainder.DAEMON_DOWN if interval.outage else Remainder.SYSTEM
    used, node, installed = usage.between(interval.t0_ns, interval.t1_ns)
    if not used:
        return [_rest(interval, rest)]
    duration_ns, salt = interval.t1_ns - interval.t0_ns, interval.t0_ns
    floor_uj = interval.energy_uj
    if not interval.idle:
        floor_uj = min(floor_uj, (idle_mw or 0) * duration_ns // PJ_PER_UJ)
    if interval.meter.component is Component.DRAM:
        held = active = [each.byte_ns for each in used.values()]
        of, whole = installed, node.byte_ns
    else:
        held = [each.core_milli_ns for each in used.values()]
        active = [each.cpu_ns for each in used.values()]
        of, whole = node.core_milli_ns, node.cpu_ns
    *floors, floor_left = _split(floor_uj, held, of, salt)
    *actives, active_left = _split(interval.energy_uj - floor_uj, active, whole, salt + 1)
    owners: list[Subject] = [*used, rest]
    energies = [a + b for a, b in zip([*floors, floor_left], [*actives, active_left], strict=True)]
    shares = [
        Share(
            owner,
            Amount(energy_uj, energy_uj if interval.idle and owner is not rest else 0),
            interval.method if interval.method is Method.MODELLED else Method.APPORTIONED,
            NO_EVIDENCE if owner is rest else EVIDENCE,
        )
        for owner, energy_uj in zip(owners, energies, strict=True)
        if energy_uj
    ]
    return shares or [_rest(interval, rest)]


def _rest(interval: Interval, reason: Remainder) -> Share:
    return Share(reason, Amount(interval.energy_uj), interval.method, NO_EVIDENCE)


def _split(total: int, parts: Sequence[int], whole: int, salt: int) -> list[int]:
    """Split `total` by `parts` of `whole`; the last item is the rest (0 if parts exceed the
    whole).
    """
    left = max(whole - sum(parts), 0)
    weights = [*parts, left]
    return apportion(total, weights if any(weights) else [*(0 for _ in parts), 1], salt)


class UsageCurve:
    """A quantity that only grows, known at some instants and even between them.

    Before the first instant and after the last it is constant. A decrease (a counter reset) counts
    nothing.
    """

    def __init__(self, points: Iterable[tuple[int, int]]) -> None:
        self._times: list[int] = []
        self._values: list[int] = []
        shift, last = 0, 0
        for t_ns, value in points:
            if self._times and t_ns <= self._times[-1]:
                continue
            if self._times and value + shift < last:
                shift = last - value
            last = value + shift
            self._times.append(t_ns)
            self._values.append(last)

    def at(self, t_ns: int) -> int:
        """Return the value at an instant (0 if nothing is known)."""
        i = bisect_right(self._times, t_ns)
        if i == 0 or i == len(self._times):
            return self._values[min(i, len(self._times)) - 1 if i else 0] if self._values else 0
        t0, t1 = self._times[i - 1], self._times[i]
        v0, v1 = self._values[i - 1], self._values[i]
        return v0 + (v1 - v0) * (t_ns - t0) // (t1 - t0)

    def between(self, t0_ns: int, t1_ns: int) -> int:
        """Return by how much it grew; the parts of a time range add up to it."""
        return self.at(t1_ns) - self.at(t0_ns)


class HostUsage(NamedTuple):
    """What one workload, or the node, used over some time."""

    cpu_ns: int
    core_milli_ns: int
    """Allocated cores (thousandths) x time; of the node: all it has."""
    byte_ns: int
    """Resident memory x time."""


class _Curves(NamedTuple):
    cpu: UsageCurve
    cores: UsageCurve
    memory: UsageCurve

    def between(self, t0_ns: int, t1_ns: int) -> HostUsage:
        return HostUsage(*(curve.between(t0_ns, t1_ns) for curve in self))


class Usage:
    """The use of the host over time, from the snapshots of one boot."""

    def __init__(self, snapshots: Sequence[HostSnapshot]) -> None:
        """Take `snapshots` in order of time."""
        self._found: dict[WorkloadId, _Curves] | None = None
        self._snapshots = snapshots

    @property
    def _workloads(self) -> dict[WorkloadId, _Curves]:
        if self._found is None:
            points: dict[WorkloadId, list[tuple[int, Use]]] = {}
            for snapshot in self._snapshots:
                for use in snapshot.uses:
                    points.setdefault(use.workload, []).append((snapshot.t_ns, use))
            self._found = {who: _curves(seen) for who, seen in points.items()}
            self._node = _node_curves(self._snapshots)
        return self._found

    def heard_again(self, t0_ns: int, t1_ns: int) -> bool:
        """Return whether every workload in the last snapshot before an outage is in one after
        it.
        """
        before = [snapshot for snapshot in self._snapshots if snapshot.t_ns <= t0_ns][-1:]
        after = {use.workload for c in self._snapshots if c.t_ns >= t1_ns for use in c.uses}
        return all(use.workload in after for snapshot in before for use in snapshot.uses)

    def between(self, t0_ns: int, t1_ns: int) -> tuple[dict[WorkloadId, HostUsage], HostUsage, int]:
        """Return the use of each workload and the node in `[t0, t1)`, and the node's byte-time."""
        used = {who: curves.between(t0_ns, t1_ns) for who, curves in self._workloads.items()}
        used = {who: each for who, each in used.items() if any(each)}
        if not self._snapshots:
            return used, HostUsage(0, 0, 0), 0
        duration_ns, last = t1_ns - t0_ns, self._snapshots[-1]
        node = HostUsage(
            self._node.cpu.between(t0_ns, t1_ns),
            1000 * last.cores * duration_ns,
            self._node.memory.between(t0_ns, t1_ns),
        )
        return used, node, last.installed_bytes * duration_ns


def _curves(seen: Sequence[tuple[int, Use]]) -> _Curves:
    """Return a workload's curves. If it was found late, its use is spread since its start."""
    first_ns, first = seen[0]
    if 0 < first.since_ns < first_ns:
        seen = [(first.since_ns, msgspec.structs.replace(first, cpu_ns=0)), *seen]
    return _Curves(
        UsageCurve((t_ns, use.cpu_ns) for t_ns, use in seen),
        UsageCurve(_area([(t_ns, use.cores_milli) for t_ns, use in seen])),
        UsageCurve(_area([(t_ns, use.memory_bytes) for t_ns, use in seen])),
    )


def _node_curves(snapshots: Sequence[HostSnapshot]) -> _Curves:
    return _Curves(
        UsageCurve((c.t_ns, c.busy_ns) for c in snapshots),
        UsageCurve(()),
        UsageCurve(_area([(c.t_ns, c.resident_bytes) for c in snapshots])),
    )


def _area(points: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the sum of a quantity over time, by trapezoids."""
    area, total = [], 0
    for i, (t_ns, value) in enumerate(points):
        if i:
            before_ns, before = points[i - 1]
            total += (before + value) * (t_ns - before_ns) // 2
        area.append((t_ns, total))
    return area


OTHER_EVIDENCE = "held-gpus"
"""The evidence for the recipients of `other` (label `evidence`)."""


class OtherSplit(StrEnum):
    """Who gets the energy of `other` (`[host] other`)."""

    NONE = "none"
    HELD_GPUS = "held-gpus"


def split_other(
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
            OTHER_EVIDENCE if who is not nobody else NO_EVIDENCE,
        )
        for who, energy_uj in zip(owners, energies, strict=True)
        if energy_uj
    ]
