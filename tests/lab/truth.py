"""What is true of the simulated lab: every counter of every node as an exact curve."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import NamedTuple

from tests.lab.curve import Curve
from tests.lab.world import (
    CPU_NODES,
    CPU_OF_JOB_W,
    CURRENCIES,
    DOWN,
    END_S,
    GPUS,
    JOBS,
    NODES,
    PER_GPU_HOUR,
    PUE,
    START_S,
    Gpu,
    Job,
    cluster_of,
    grams,
    hours,
    price,
)

J_PER_KWH = 3_600_000

Labels = tuple[str, ...]


class Key(NamedTuple):
    """A counter: its node (`cluster/name`), its metric without `joulebook_` and `_total`, and its
    labels.
    """

    node: str
    what: str
    labels: Labels


class Truth:
    """All counters. Labels stand in the order of the catalogue."""

    def __init__(self) -> None:
        self.curves: dict[Key, Curve] = {}
        for node in NODES:
            self._node(node)

    def _add(self, node: str, what: str, labels: Labels, t0: int, t1: int, rate: float) -> None:
        key = Key(node, what, labels)
        curve = self.curves.get(key)
        if curve is None:
            curve = self.curves[key] = Curve()
        curve.add(t0, t1, rate)

    def _node(self, node: str) -> None:
        for gpu in GPUS:
            if gpu.node == node:
                self._card(gpu)
        if node in CPU_NODES:
            self._cpu(node)
        for t0, t1 in DOWN.get(node, ()):
            for meter in [g.uuid for g in GPUS if g.node == node]:
                key = Key(node, "gap_seconds", ("gpu", meter, "daemon_down"))
                self.curves.setdefault(key, Curve()).jump(t1, t1 - t0)

    def _card(self, gpu: Gpu) -> None:
        """Jobs that hold the card, each with its share; the rest of it is nobody's."""
        held = [job for job in JOBS if gpu in job.gpus]
        for job in held:
            for phase in job.phases:
                watts = phase.watts * job.share
                self._burn(gpu.node, "gpu", gpu.uuid, job, phase.t0_s, phase.t1_s, watts,
                    idle=phase.idle)  # fmt: skip
                if phase.idle:
                    self._hold(gpu, job, phase.t0_s, phase.t1_s, "idle_")
            self._hold(gpu, job, job.t0_s, job.t1_s)
        shares = {job.share for job in held}
        for share in shares:
            for n in range(round(1 / share)):
                mine = [j for j in held if j.share == share and _lane(j) == n]
                for t0, t1 in _free([(j.t0_s, j.t1_s) for j in mine]):
                    self._waste(gpu.node, "gpu", gpu.uuid, t0, t1, gpu.idle_w * share)
                    self._unheld(gpu, t0, t1, share)

    def _hold(self, gpu: Gpu, job: Job, t0: int, t1: int, part: str = "") -> None:
        for whose, who in _whose(job):
            self._add(gpu.node, f"{whose}_{part}gpu_seconds", who, t0, t1, job.share)
            paid = (*who, "hardware", CURRENCIES[job.cluster])
            rate = PER_GPU_HOUR[gpu.model] / 3600 * job.share
            self._add(gpu.node, f"{whose}_{part}cost", paid, t0, t1, rate)

    def _unheld(self, gpu: Gpu, t0: int, t1: int, share: float) -> None:
        """Time that nobody held; while the daemon was down it is a gap."""
        for a, b, why in _cut(gpu.node, t0, t1, "unallocated"):
            if why == "unallocated":
                self._add(gpu.node, "remainder_gpu_seconds", (why,), a, b, share)
                paid = (why, "hardware", CURRENCIES[cluster_of(gpu.node)])
                rate = PER_GPU_HOUR[gpu.model] / 3600 * share
                self._add(gpu.node, "remainder_cost", paid, a, b, rate)

    def _cpu(self, node: str) -> None:
        meter = "package-0"
        for job in JOBS:
            if any(gpu.node == node for gpu in job.gpus):
                self._burn(node, "cpu", meter, job, job.t0_s, job.t1_s, CPU_OF_JOB_W, idle=False)
        self._waste(node, "cpu", meter, START_S, END_S, CPU_NODES[node], "system")

    def _burn(
        self, node: str, component: str, meter: str, job: Job, t0: int, t1: int, watts: float,
        *, idle: bool,
    ) -> None:  # fmt: skip
        shared = job.share < 1 or component == "cpu"
        self._add(node, "meter_energy_joules", (component, meter), t0, t1, watts)
        self._add(node, "evidence_energy_joules", ("prolog",), t0, t1, watts)
        method = "apportioned" if shared else "counter"
        self._add(node, "method_energy_joules", (method,), t0, t1, watts)
        for whose, who in _whose(job):
            self._add(node, f"{whose}_energy_joules", (*who, component), t0, t1, watts)
            if idle:
                self._add(node, f"{whose}_idle_energy_joules", (*who, component), t0, t1, watts)
            self._charge(node, whose, who, t0, t1, watts, idle=idle)

    def _waste(
        self, node: str, component: str, meter: str, t0: int, t1: int, watts: float,
        reason: str = "unallocated",
    ) -> None:  # fmt: skip
        for a, b, why in _cut(node, t0, t1, reason):
            self._add(node, "meter_energy_joules", (component, meter), a, b, watts)
            self._add(node, "evidence_energy_joules", ("none",), a, b, watts)
            self._add(node, "method_energy_joules", ("counter",), a, b, watts)
            self._add(node, "remainder_energy_joules", (component, why), a, b, watts)
            self._charge(node, "remainder", (why,), a, b, watts)

    def _charge(
        self, node: str, whose: str, who: Labels, t0: int, t1: int, watts: float,
        *, idle: bool = False,
    ) -> None:  # fmt: skip
        currency = CURRENCIES[cluster_of(node)]
        for a, b in hours(t0, t1):
            hour = a // 3600 * 3600
            facility = watts * PUE / J_PER_KWH
            money = facility * price(hour)
            if money >= 0:
                self._add(node, f"{whose}_cost", (*who, "electricity", currency), a, b, money)
                if idle:
                    paid = (*who, "electricity", currency)
                    self._add(node, f"{whose}_idle_cost", paid, a, b, money)
            else:
                self._add(node, f"{whose}_credit", (*who, currency), a, b, -money)
            self._add(node, f"{whose}_co2e_grams", who, a, b, facility * grams(hour))

    def total(
        self, what: str, t0_s: int, t1_s: int, fits: Callable[[Key], bool] = lambda _key: True
    ) -> float:
        """By how much all counters `what` that fit grew in a window."""
        return sum(
            curve.between(t0_s, t1_s)
            for key, curve in self.curves.items()
            if key.what == what and fits(key)
        )

    def sums(self, what: str, t0_s: int, t1_s: int, by: Callable[[Key], str]) -> dict[str, float]:
        """The same, for each name that `by` gives; those that did not grow are left out."""
        found: dict[str, float] = {}
        for key, curve in self.curves.items():
            if key.what == what and (grown := curve.between(t0_s, t1_s)):
                name = by(key)
                found[name] = found.get(name, 0.0) + grown
        return found


def _whose(job: Job) -> Iterable[tuple[str, Labels]]:
    yield "experiment", (*job.owner,)
    yield "workload", ("slurm", job.id, *job.owner)


def _lane(job: Job) -> int:
    """Which of two halves of a card: the slots 5 and 6 of the world share one."""
    return 0 if job.share == 1 or job.id.startswith("9") else 1


def _free(busy: list[tuple[int, int]]) -> Iterable[tuple[int, int]]:
    t_s = START_S
    for t0, t1 in sorted(busy):
        if t0 > t_s:
            yield t_s, t0
        t_s = max(t_s, t1)
    if t_s < END_S:
        yield t_s, END_S


def _cut(node: str, t0: int, t1: int, reason: str) -> Iterable[tuple[int, int, str]]:
    """Nobody's energy while the daemon was down has a reason of its own."""
    for a, b in DOWN.get(node, ()):
        if t0 < b and t1 > a:
            if t0 < a:
                yield t0, a, reason
            yield max(t0, a), min(t1, b), "daemon_down"
            t0 = min(t1, b)
    if t0 < t1:
        yield t0, t1, reason


@functools.cache
def truth() -> Truth:
    """The lab, worked out once."""
    return Truth()
