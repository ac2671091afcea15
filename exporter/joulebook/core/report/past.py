"""Energy from what another exporter left in a Prometheus: counters and gauges as they were scraped.

A device is one key, however many series there are of it: one for each pod that held it, one for
each target that scraped it. Of targets that overlap one counts (`Track`). A counter that fell
within a target was reset, and gives what it counted since; energy that no device can have consumed
in the time gives none. Over a time without samples a counter goes on counting, and its energy is
booked evenly, to nobody: a gauge leaves a gap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import pairwise
from typing import NamedTuple

import msgspec

from joulebook.core.energy.readings import Component
from joulebook.core.evidence import Method
from joulebook.units import NS_PER_S, UJ_PER_J, UJ_PER_MJ

GAP_S = 300.0
"""Samples farther apart than Prometheus' own lookback say nothing of the time between."""
HANDOVER_S = 90.0
"""So long another target must be silent before the next one counts."""
_QUARTER_S = 900


class ForeignMetric(msgspec.Struct, frozen=True):
    """A metric of another exporter's.

    Attributes:
        unit_uj: Microjoules in a unit of the counter; in a second at one unit of the gauge.
        most_w: More than this a device cannot consume: a rise beyond is not believed.
        rank: Of several kinds for a component of a node the least counts.
        by_pod: A share of the node's energy that the exporter itself gave to a pod.

    """

    metric: str
    exporter: str
    component: Component
    method: Method
    unit_uj: int = UJ_PER_J
    most_w: float = 3_000.0
    rank: int = 0
    by_pod: bool = False


_GPU, _CPU, _DRAM = Component.GPU, Component.CPU, Component.DRAM
_COUNTER, _GAUGE = Method.COUNTER, Method.INTEGRATED
_NODE_W = 30_000.0

KINDS = {
    kind.metric: kind
    for kind in (
        ForeignMetric(
            "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "dcgm-exporter", _GPU, _COUNTER, UJ_PER_MJ
        ),
        ForeignMetric("DCGM_FI_DEV_POWER_USAGE", "dcgm-exporter", _GPU, _GAUGE, rank=1),
        ForeignMetric(
            "nvidia_smi_power_draw_average_watts", "nvidia_gpu_exporter", _GPU, _GAUGE, rank=2
        ),
        ForeignMetric("nvidia_smi_power_draw_watts", "nvidia_gpu_exporter", _GPU, _GAUGE, rank=3),
        ForeignMetric(
            "nvidia_smi_power_draw_instant_watts", "nvidia_gpu_exporter", _GPU, _GAUGE, rank=4
        ),
        ForeignMetric(
            "kepler_node_gpu_joules_total", "Kepler", _GPU, _COUNTER, most_w=_NODE_W, rank=5
        ),
        ForeignMetric("kepler_node_cpu_joules_total", "Kepler", _CPU, _COUNTER, most_w=_NODE_W),
        ForeignMetric(
            "kepler_node_package_joules_total", "Kepler", _CPU, _COUNTER, most_w=_NODE_W, rank=1
        ),
        ForeignMetric("kepler_node_dram_joules_total", "Kepler", _DRAM, _COUNTER, most_w=_NODE_W),
        *(
            ForeignMetric(
                name, "Kepler", component, Method.APPORTIONED, most_w=_NODE_W, by_pod=True
            )
            for name, component in (
                ("kepler_pod_gpu_joules_total", _GPU),
                ("kepler_container_gpu_joules_total", _GPU),
                ("kepler_pod_cpu_joules_total", _CPU),
                ("kepler_container_package_joules_total", _CPU),
                ("kepler_container_dram_joules_total", _DRAM),
            )
        ),
    )
}


class Device(NamedTuple):
    """What a counter or gauge is of; `name` is a UUID where there is one."""

    node: str
    component: Component
    name: str


class Sampled(NamedTuple):
    """One sample: of which target, and who held the device by its labels (empty: not said)."""

    t_s: float
    value: float
    target: tuple[tuple[str, str], ...]
    holder: str


class Piece(NamedTuple):
    """Energy of a device within one quarter hour. `bridged`: no samples are from that time."""

    t0_s: float
    t1_s: float
    energy_uj: int
    holder: str
    bridged: bool


class Track:
    """What is known of one device's series up to now."""

    def __init__(self, kind: ForeignMetric) -> None:
        """Nothing was seen yet."""
        self._kind = kind
        self._last: Sampled | None = None
        self.resets = 0
        self.gap_s = 0.0
        self.rejected = 0
        self.targets: set[tuple[tuple[str, str], ...]] = set()

    def feed(
        self, samples: Iterable[Sampled], better: frozenset[tuple[tuple[str, str], ...]]
    ) -> Iterator[Piece]:
        """Take samples in order of time; yield the energy between them.

        Targets in `better` come before others: their samples name pods.
        """
        for sample in _by_instant(samples):
            self.targets.add(sample.target)
            last = self._last
            if last is None:
                self._last = sample
            elif sample.t_s > last.t_s and self._takes(sample, last, better):
                yield from self._between(last, sample)

    def _takes(
        self, new: Sampled, last: Sampled, better: frozenset[tuple[tuple[str, str], ...]]
    ) -> bool:
        return (
            new.target == last.target
            or new.t_s - last.t_s >= HANDOVER_S
            or (new.target in better and last.target not in better)
        )

    def _between(self, last: Sampled, new: Sampled) -> Iterator[Piece]:
        kind, seconds = self._kind, new.t_s - last.t_s
        is_gap = seconds > GAP_S
        self._last = new
        if kind.method is _GAUGE:
            if is_gap:
                self.gap_s += seconds
                return
            units = (last.value + new.value) / 2 * seconds
        else:
            units = new.value - last.value
            if units < 0 and new.target != last.target and not is_gap:
                # An older copy of the same counter, by another way.
                units, self._last = 0.0, new._replace(value=last.value)
            elif units < 0:
                self.resets += 1
                units = new.value
        energy_uj = round(units * kind.unit_uj)
        if energy_uj > kind.most_w * seconds * UJ_PER_J:
            self.rejected += 1
            self.gap_s += seconds
            return
        holder = new.holder if new.holder == last.holder and not is_gap else ""
        yield from spread(last.t_s, new.t_s, energy_uj, holder, bridged=is_gap)


def _by_instant(samples: Iterable[Sampled]) -> Iterator[Sampled]:
    """Yield samples by time; those of one scrape that name several pods name nobody."""
    merged: dict[tuple[float, tuple[tuple[str, str], ...]], Sampled] = {}
    for sample in samples:
        key = (sample.t_s, sample.target)
        known = merged.get(key)
        if known is None:
            merged[key] = sample
        elif sample.holder != known.holder:
            names = {known.holder, sample.holder} - {""}
            merged[key] = known._replace(holder=names.pop() if len(names) == 1 else SEVERAL)
    yield from sorted(merged.values(), key=lambda each: each.t_s)


SEVERAL = "(several)"
"""The holder of a device that one scrape shows with more than one pod."""


def spread(
    t0_s: float, t1_s: float, energy_uj: int, holder: str, *, bridged: bool
) -> Iterator[Piece]:
    """Yield energy evenly over a time, cut at quarter hours, to the microjoule."""
    holder = "" if holder == SEVERAL else holder
    begin_s, booked_uj = t0_s, 0
    while begin_s < t1_s:
        end_s = min(t1_s, (begin_s // _QUARTER_S + 1) * _QUARTER_S)
        upto_uj = energy_uj if end_s == t1_s else round(energy_uj * (end_s - t0_s) / (t1_s - t0_s))
        yield Piece(begin_s, end_s, upto_uj - booked_uj, holder, bridged)
        begin_s, booked_uj = end_s, upto_uj


class Allocation(NamedTuple):
    """A job that held all GPUs of its nodes, if `gpus` is what was seen on them."""

    job: str
    nodes: frozenset[str]
    gpus: int
    start_s: int
    end_s: int


class Jobs:
    """Which job alone was given GPUs of a node, and when."""

    def __init__(self, jobs: Iterable[Allocation]) -> None:
        """Take all jobs that held GPUs, in any order."""
        self._by_node: dict[str, list[Allocation]] = {}
        for job in sorted(jobs, key=lambda each: each.start_s):
            for node in job.nodes:
                self._by_node.setdefault(node, []).append(job)

    def cut(self, node: str, piece: Piece) -> Iterator[tuple[Piece, Allocation | None]]:
        """Yield a piece cut where jobs start and end, with the job that was alone on the node."""
        near = [
            job
            for job in self._by_node.get(node, ())
            if job.start_s < piece.t1_s and job.end_s > piece.t0_s
        ]
        edges = sorted(
            {piece.t0_s, piece.t1_s}
            | {
                float(t)
                for job in near
                for t in (job.start_s, job.end_s)
                if piece.t0_s < t < piece.t1_s
            }
        )
        booked_uj, whole_s = 0, piece.t1_s - piece.t0_s
        for a_s, b_s in pairwise(edges):
            there = [job for job in near if job.start_s <= a_s and job.end_s >= b_s]
            upto_uj = round(piece.energy_uj * (b_s - piece.t0_s) / whole_s)
            yield (
                piece._replace(t0_s=a_s, t1_s=b_s, energy_uj=upto_uj - booked_uj),
                there[0] if len(there) == 1 else None,
            )
            booked_uj = upto_uj


def chosen(
    devices: Mapping[Device, Iterable[ForeignMetric]],
) -> Callable[[Device, ForeignMetric], bool]:
    """Return whether a kind counts for a device.

    Of several kinds for a component of a node, one does; shares of pods do where their node's does.
    """
    best: dict[tuple[str, Component], ForeignMetric] = {}
    for device, kinds in devices.items():
        place = (device.node, device.component)
        for kind in kinds:
            if not kind.by_pod and (place not in best or kind.rank < best[place].rank):
                best[place] = kind

    def counts(device: Device, kind: ForeignMetric) -> bool:
        found = best.get((device.node, device.component))
        return found is not None and (
            found.exporter == kind.exporter if kind.by_pod else found.rank == kind.rank
        )

    return counts


def held_ns(piece: Piece) -> int:
    """Return for how long a piece's device was there."""
    return round((piece.t1_s - piece.t0_s) * NS_PER_S)
