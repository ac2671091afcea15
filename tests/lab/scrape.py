"""The simulated lab as Prometheus would have scraped it: sample times, and every series.

Names and labels are those of the catalogue, values are floored as the exposition floors them, new
series are held at zero and ended ones linger, scrapes fail, daemons restart.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from random import Random
from typing import NamedTuple

from tests.lab.truth import Key, Truth
from tests.lab.world import (
    AWAY,
    CPU_NODES,
    CURRENCIES,
    DAY_S,
    DOWN,
    END_S,
    FULL_S,
    GPUS,
    HOUR_S,
    JOBS,
    NODES,
    PUE,
    START_S,
    TWICE,
    ZONE,
    Gpu,
    Job,
    cluster_of,
    grams,
    price,
    scrape_s,
)

from joulebook.core.report.footprint import peaks_of
from joulebook.lab.advice.metrics import ADVICE
from joulebook.metrics.catalogue import BY_NAME
from joulebook.metrics.collector import Family
from joulebook.metrics.exposition import Renderer
from joulebook.metrics.metric import Metric, Quantum


def hold_s(t_s: int) -> int:
    """2.5 scrapes, for which a new series shows where it begins."""
    return scrape_s(t_s) * 5 // 2


LINGER_S = 900
UNUSED_S = DAY_S
"""After which an experiment that nobody uses has no series, until somebody does."""
BUDGETS = (("nlp", "llm-pretrain", "kwh", 2500.0), ("vision", "", "EUR", 1600.0))


_METRICS = {**BY_NAME, **{metric.name: metric for metric in ADVICE}}
SAVINGS: tuple[tuple[str, tuple[str, ...], float], ...] = (
    ("advice_energy_joules", ("lab", "nlp", "idle_after_work"), 7.2e7),
    ("advice_energy_joules", ("annex", "vision", "power_limit"), 3.6e8),
    ("advice_cost", ("lab", "nlp", "idle_after_work", "EUR"), 240.5),
    ("advice_cost", ("annex", "vision", "power_limit", "EUR"), -3.25),
    ("advice_cost", ("annex", "vision", "start", "EUR"), 12.0),
    ("advice_co2e_grams", ("lab", "nlp", "idle_after_work"), 8000.0),
    ("advice_co2e_grams", ("annex", "vision", "start"), 25_000.0),
)
"""What the lab server says of last month's advice, which it has beside those of a node."""


class Series(NamedTuple):
    """One series: its metric, labels (without node and cluster), and samples in order."""

    node: str
    metric: Metric
    labels: tuple[str, ...]
    times: Sequence[int]
    values: Sequence[float]
    job: str = ""

    @property
    def prefix(self) -> str:
        """Its name and labels as the exposition writes them, its job, and a blank."""
        block = Renderer(self.node.partition("/")[2], cluster_of(self.node)).block(
            Family(self.metric, [(self.labels, 0)])
        )
        prefix = block.lines.removesuffix("0\n")
        return prefix.replace("{", f'{{job="{self.job}",', 1) if self.job else prefix

    @property
    def names(self) -> dict[str, str]:
        """Its name and labels as Prometheus keeps them."""
        own = dict(zip(self.metric.labels, self.labels, strict=True))
        cluster, _, node = self.node.partition("/")
        common = {"__name__": self.metric.name, "cluster": cluster, "node": node, "job": self.job}
        return {name: value for name, value in (common | own).items() if value}


def metric_of(what: str) -> Metric:
    """The metric by its name without prefix and suffix."""
    names = (f"joulebook_{what}_total", f"joulebook_{what}", what)
    return next(_METRICS[name] for name in names if name in _METRICS)


def scrapes(node: str) -> list[int]:
    """When the node was scraped: not while its daemon was down, and a few scrapes failed."""
    random = Random(node)
    down = DOWN.get(node, ())
    found, t_s = [], START_S + 7 * (NODES.index(node) + 1)
    while t_s <= END_S:
        if random.random() > 0.003 and not any(a <= t_s < b for a, b in (*down, AWAY)):
            found.append(t_s)
        t_s += scrape_s(t_s)
    return found


def floored(quantum: Quantum, values: Iterable[float]) -> list[float]:
    """Values as the exposition floors them."""
    if quantum is Quantum.JOULES:
        return [int(v) if v >= 1000 else int(v * 64) / 64 for v in values]
    if quantum is Quantum.MONEY:
        return [int(v * 1048576) / 1048576 for v in values]
    return [int(v * 1024) / 1024 for v in values]


class Lab:
    """All series of a node in a window of time."""

    def __init__(self, truth: Truth, node: str) -> None:
        self._truth = truth
        self._node = node
        self._times = scrapes(node)
        self._ups = [b for _, b in DOWN.get(node, ())]
        self._gpus = [gpu for gpu in GPUS if gpu.node == node]
        self._jobs = [job for job in JOBS if any(gpu.node == node for gpu in job.gpus)]

    def series(self, t0_s: int, t1_s: int) -> Iterator[Series]:
        """What was scraped in [t0, t1), by one job or by two."""
        node, since_s = TWICE
        for series in self._of_one_job(t0_s, t1_s):
            yield series
            again = bisect_left(series.times, since_s)
            if self._node == node and again < len(series.times):
                yield series._replace(
                    times=series.times[again:], values=series.values[again:], job="again"
                )

    def _of_one_job(self, t0_s: int, t1_s: int) -> Iterator[Series]:
        """Everything of the last month, of before the books."""
        times = [t for t in self._times if t0_s <= t < t1_s]
        if not times:
            return
        full = [t for t in times if t >= FULL_S]
        yield from self._books(times)
        for gpu in self._gpus:
            yield from self._held(gpu, full)
            yield from self._gauges(gpu, full, ("utilization_ratio",))
            yield from self._constants(gpu, times)
            yield from self._gauges(gpu, full, _GAUGES)
        if full:
            yield from self._workloads(full)
            yield from self._health(full)

    def _series(
        self, what: str, labels: tuple[str, ...], times: Sequence[int], values: Iterable[float]
    ) -> Series:
        metric = metric_of(what)
        made = list(values)
        if metric.quantum is not Quantum.NONE:
            made = floored(metric.quantum, made)
        return Series(self._node, metric, labels, times, made)

    def _flat(self, what: str, labels: tuple[str, ...], times: Sequence[int], v: float) -> Series:
        return self._series(what, labels, times, [v] * len(times))

    def _books(self, times: Sequence[int]) -> Iterator[Series]:
        """Counters of experiments while these are used, of remainders and meters; what is pending,
        and what those came to that are not shown.
        """
        pending = {component: [0.0] * len(times) for component in self._components()}
        unexposed = {component: [0.0] * len(times) for component in self._components()}
        for key, curve in self._truth.curves.items():
            if key.node != self._node or key.what.startswith("workload_"):
                continue
            if not key.what.startswith("experiment_"):
                if key.what in _ROLLED_UP or times[-1] >= FULL_S:
                    yield self._series(key.what, key.labels, times, curve.along(times))
                continue
            used = self._used(key)
            seen: list[int] = []
            shown: list[float] = []
            for n, (t_s, value) in enumerate(zip(times, curve.along(times), strict=True)):
                there = any(a <= t_s < b for a, b in used)
                held = self._hold(used, t_s)
                least = curve.at(held) if held else value
                if there:
                    seen.append(t_s)
                    shown.append(least)
                if key.what == "experiment_energy_joules":
                    component = key.labels[-1]
                    pending[component][n] += value - least
                    unexposed[component][n] += 0 if there else least
            if seen:
                yield self._series(key.what, key.labels, seen, shown)
        for component in self._components():
            yield self._series("pending_energy_joules", (component,), times, pending[component])
            aside = unexposed[component]
            yield self._series("unexposed_energy_joules", (component,), times, aside)

    def _components(self) -> tuple[str, ...]:
        return ("gpu", "cpu") if self._node in CPU_NODES else ("gpu",)

    def _used(self, key: Key) -> list[tuple[int, int]]:
        """When the experiment's series are there, all of them together."""
        spans: list[tuple[int, int]] = []
        for job in self._jobs:  # in order of their begin
            if (*job.owner,) == key.labels[:3]:
                end = job.t1_s + UNUSED_S
                if spans and job.t0_s <= spans[-1][1]:
                    spans[-1] = (spans[-1][0], max(spans[-1][1], end))
                else:
                    spans.append((job.t0_s, end))
        return spans

    def _hold(self, used: Sequence[tuple[int, int]], t_s: int) -> int:
        """Since when a series is held (its appearance, or a restart); 0 if it is not."""
        for since in (*(a for a, _ in used), *self._ups):
            if since <= t_s < since + hold_s(t_s):
                return since
        return 0

    def _held(self, gpu: Gpu, times: Sequence[int]) -> Iterator[Series]:
        for job in self._jobs:
            if gpu in job.gpus and (on := _within(times, job.t0_s, job.t1_s)):
                labels = (str(gpu.number), gpu.uuid, "slurm", job.id, *job.owner)
                yield self._flat("gpu_held_ratio", labels, on, job.share)

    def _constants(self, gpu: Gpu, times: Sequence[int]) -> Iterator[Series]:
        labels = (str(gpu.number), gpu.uuid)
        for peak in peaks_of(gpu.model):
            if peak.precision == "fp16":
                yield self._flat(
                    "gpu_peak_flops", (*labels, "fp16", peak.source), times, peak.flops
                )
        about = ("nvidia", gpu.model, "570.86.15", f"0000:{gpu.number + 1:02}:00.0", "false")
        full = [t for t in times if t >= FULL_S]
        if full:
            yield self._flat("gpu_info", (*labels, *about), full, 1)

    def _gauges(self, gpu: Gpu, times: Sequence[int], names: Sequence[str]) -> Iterator[Series]:
        if not times:
            return
        watts, busy = self._power(gpu, times)
        labels = (str(gpu.number), gpu.uuid)
        for name in names:
            values = [_GAUGE[name](gpu, w, b) for w, b in zip(watts, busy, strict=True)]
            yield self._series(f"gpu_{name}", labels, times, values)
        if names == _GAUGES:
            hot = [(t - FULL_S) * 0.004 for t in times]
            yield self._series("gpu_throttle_seconds", (*labels, "sw_power_cap"), times, hot)
            for name, more, per_s in _COUNTED:
                counted = [int((t - FULL_S) * per_s) for t in times]
                yield self._series(f"gpu_{name}", (*labels, *more), times, counted)
            for name, of_busy in _SILICON.items():
                values = [of_busy(share) for share in busy]
                yield self._series(f"gpu_{name}", labels, times, values)

    def _power(self, gpu: Gpu, times: Sequence[int]) -> tuple[list[float], list[float]]:
        """Watts and busy share of a card at each instant."""
        watts, busy = [0.0] * len(times), [0.0] * len(times)
        held = [0.0] * len(times)
        for job in self._jobs:
            if gpu not in job.gpus or job.t1_s <= times[0] or job.t0_s > times[-1]:
                continue
            for phase in job.phases:
                for n in _indices(times, phase.t0_s, phase.t1_s):
                    watts[n] += phase.watts * job.share
                    held[n] += job.share
                    busy[n] += 0.0 if phase.idle else job.share * 0.97
        return [w + gpu.idle_w * (1 - h) for w, h in zip(watts, held, strict=True)], busy

    def _workloads(self, times: Sequence[int]) -> Iterator[Series]:
        by_job: dict[str, list[Key]] = {}
        for key in self._truth.curves:
            if key.node == self._node and key.what.startswith("workload_"):
                by_job.setdefault(key.labels[1], []).append(key)
        for job in self._jobs:
            on = _within(times, job.t0_s, job.t1_s + LINGER_S)
            if not on:
                continue
            who = ("slurm", job.id, *job.owner)
            for key in by_job[job.id]:
                values = list(self._truth.curves[key].along(on))
                for n, t_s in enumerate(on):
                    if t_s >= job.t0_s + hold_s(t_s):
                        break
                    values[n] = 0.0
                yield self._series(key.what, key.labels, on, values)
                if key.what == "workload_gpu_seconds":
                    tensor = [0.4 * value for value in values]
                    yield self._series("workload_tensor_seconds", key.labels, on, tensor)
            cards = [gpu for gpu in job.gpus if gpu.node == self._node]
            live = _within(times, job.t0_s, job.t1_s)
            if live:
                yield self._series("workload_power_watts", (*who, "gpu"), live,
                    [_watts(job, t_s) * len(cards) * job.share for t_s in live])  # fmt: skip
            about = (job.name, "main", "", "", str(len(job.gpus)), cards[0].model, "prolog")
            yield self._flat("workload_info", ("slurm", job.id, *about), on, 1)

    def _health(self, times: Sequence[int]) -> Iterator[Series]:
        for what, labels, value in _HEALTH:
            yield self._flat(what, labels, times, value)
        for account, experiment, unit, amount in BUDGETS:
            yield self._flat("budget", (account, experiment, unit), times, amount)
        yield self._flat("pue_ratio", ("machine room",), times, PUE)
        for what, of, saved in SAVINGS if self._node == NODES[0] else ():
            yield self._flat(what, of, times, saved)
        for what, label, rate in (
            ("electricity_price_per_kwh", CURRENCIES[cluster_of(self._node)], price),
            ("carbon_intensity_grams_per_kwh", ZONE, grams),
        ):
            values = [rate(t // HOUR_S * HOUR_S) for t in times]
            yield self._series(what, (label, "Energy-Charts"), times, values)
        random = Random(self._node)
        ticks = [0.004 + random.random() * 0.002 for _ in times]
        yield self._series("tick_duration_seconds", (), times, ticks)
        if self._node in CPU_NODES:
            yield self._series("sensor_errors", ("nvml", "counter", "timeout"), times,
                [t // 400_000 - FULL_S // 400_000 for t in times])  # fmt: skip


_GAUGES = (
    "power_watts", "power_limit_watts", "memory_used_bytes", "temperature_celsius",
    "sm_clock_hertz",
)  # fmt: skip
_GAUGE: Mapping[str, Callable[[Gpu, float, float], float]] = {
    "power_watts": lambda gpu, watts, busy: watts,
    "power_limit_watts": lambda gpu, watts, busy: gpu.full_w + 10,
    "utilization_ratio": lambda gpu, watts, busy: busy,
    "memory_used_bytes": lambda gpu, watts, busy: int(gpu.memory_gib * (0.02 + 0.8 * busy)) << 30,
    "temperature_celsius": lambda gpu, watts, busy: 31 + int(watts / gpu.full_w * 42),
    "sm_clock_hertz": lambda gpu, watts, busy: 1_410_000_000 if busy > 0.3 else 345_000_000,
}
_COUNTED = (
    ("xid_errors", ("79",), 1e-6),
    ("ecc_errors", ("corrected",), 1e-4),
    ("ecc_errors", ("uncorrected",), 1e-6),
    ("nvlink_errors", ("replay",), 1e-4),
    ("pcie_replay", (), 1e-4),
    ("pcie_bytes", ("transmit",), 1e9),
    ("nvlink_bytes", ("receive",), 1e10),
)
_SILICON: Mapping[str, Callable[[float], float]] = {
    "memory_temperature_celsius": lambda busy: 40 + int(30 * busy),
    "remapped_rows_pending": lambda busy: 0,
    "row_remapping_failed": lambda busy: 0,
    "tensor_active_ratio": lambda busy: 0.4 * busy,
    "sm_active_ratio": lambda busy: 0.9 * busy,
    "dram_active_ratio": lambda busy: 0.5 * busy,
}
_HEALTH = (
    ("build_info", ("0.1.0", "abc1234", "3.12.4"), 1),
    ("sensor_up", ("nvml", "counter"), 1),
    ("overflow", ("exposition", "experiments"), 0),
    ("rejected_inputs", ("slurm", "bad_owner"), 2),
    ("feed_up", ("price", "Energy-Charts"), 1),
    ("feed_age_seconds", ("price", "Energy-Charts"), 1800),
    ("feed_errors", ("price", "Energy-Charts", "timeout"), 3),
    ("unpriced_energy_joules", ("electricity",), 0),
    ("process_resident_memory_bytes", (), 47 << 20),
)
_ROLLED_UP = ("meter_energy_joules", "remainder_energy_joules", "remainder_gpu_seconds",
    "remainder_cost", "remainder_credit")  # fmt: skip


def _indices(times: Sequence[int], t0_s: int, t1_s: int) -> range:
    return range(bisect_left(times, t0_s), bisect_left(times, t1_s))


def _within(times: Sequence[int], t0_s: int, t1_s: int) -> Sequence[int]:
    on = _indices(times, t0_s, t1_s)
    return times[on.start : on.stop]


def _watts(job: Job, t_s: int) -> int:
    return next((p.watts for p in job.phases if p.t0_s <= t_s < p.t1_s), 0)
