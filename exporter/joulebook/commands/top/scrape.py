"""Read what `joulebook top` shows from the text of /metrics."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from joulebook.errors import InputError

P = "joulebook_"
Labels = Mapping[str, str]


class Gpu(msgspec.Struct, frozen=True):
    """One GPU; `values` as in `DeviceStatus`, `holders` with their shares."""

    index: str
    uuid: str
    model: str = ""
    values: Mapping[str, float] = {}
    holders: tuple[tuple[Labels, float], ...] = ()


class ScrapedWorkload(msgspec.Struct, frozen=True):
    """One workload with a series; `power_w` is `None` unless it holds something now.

    `coverage` is the share of the GPU time held for which energy is known, if not all.
    """

    labels: Labels
    power_w: float | None = None
    energy_j: float = 0.0
    idle_j: float = 0.0
    gpu_s: float = 0.0
    coverage: float | None = None


class Sums(NamedTuple):
    """The two sides of the balance in joules, and the most that rounding may make them differ."""

    read_j: float
    experiments_j: float
    remainders_j: float
    pending_j: float
    slack_j: float

    @property
    def difference_j(self) -> float:
        """Return what the meters show beyond what was booked."""
        return self.read_j - self.experiments_j - self.remainders_j - self.pending_j

    @property
    def balanced(self) -> bool:
        """Return whether the two sides differ by no more than the rounding of exposed values."""
        return abs(self.difference_j) <= self.slack_j


class NodeScrape(msgspec.Struct, frozen=True):
    """One node at one scrape."""

    node: str
    cluster: str
    version: str
    gpus: tuple[Gpu, ...]
    workloads: tuple[ScrapedWorkload, ...]
    sums: Sums
    sensors: Mapping[str, bool]
    gaps_s: float = 0.0

    @property
    def power_w(self) -> float | None:
        """Return the power of all GPUs; `None` if none reports it."""
        known = [g.values["power_watts"] for g in self.gpus if "power_watts" in g.values]
        return sum(known) if known else None


def read_board(text: str) -> NodeScrape:
    """Parse an exposition. Raises `InputError` if it is not Joulebook's."""
    samples = _samples(text)
    build = samples.get("build_info", [])
    if not build:
        raise InputError("the server there is not Joulebook", reason="exposition")
    labels = build[0][0]
    return NodeScrape(
        labels.get("node", ""),
        labels.get("cluster", ""),
        labels.get("version", ""),
        _gpus(samples),
        _workloads(samples),
        _sums(samples),
        {each["sensor"]: value > 0 for each, value in samples.get("sensor_up", [])},
        sum(value for _, value in samples.get("gap_seconds_total", [])),
    )


Samples = Mapping[str, list[tuple[Labels, float]]]


def _samples(text: str) -> Samples:
    samples: dict[str, list[tuple[Labels, float]]] = defaultdict(list)
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name.startswith(P):
                    samples[sample.name.removeprefix(P)].append((sample.labels, sample.value))
    except (ValueError, KeyError, IndexError) as error:
        raise InputError(
            f"the response is not an exposition: {error}", reason="exposition"
        ) from None
    return samples


def _gpus(samples: Samples) -> tuple[Gpu, ...]:
    infos = {(each["gpu"], each["uuid"]): each for each, _ in samples.get("gpu_info", [])}
    values: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    holders: dict[tuple[str, str], list[tuple[Labels, float]]] = defaultdict(list)
    for name, found in samples.items():
        if not name.startswith("gpu_") or name == "gpu_info":
            continue
        for labels, value in found:
            key = (labels.get("gpu", ""), labels.get("uuid", ""))
            if name == "gpu_held_ratio":
                holders[key].append((labels, value))
            else:
                values[key][name.removeprefix("gpu_")] = value
    keys = sorted({*infos, *values, *holders}, key=lambda key: (_number(key[0]), key))
    return tuple(
        Gpu(
            *key,
            infos.get(key, {}).get("model", ""),
            values.get(key, {}),
            tuple(sorted(holders.get(key, []), key=lambda held: -held[1])),
        )
        for key in keys
    )


def _workloads(samples: Samples) -> tuple[ScrapedWorkload, ...]:
    identities: dict[tuple[str, ...], Labels] = {}
    sums: dict[tuple[str, ...], dict[str, float]] = defaultdict(dict)
    for name in (
        "power_watts",
        "energy_joules_total",
        "idle_energy_joules_total",
        "gpu_seconds_total",
        "coverage_ratio",
    ):
        for key, labels, value in _owned(samples, f"workload_{name}"):
            identities.setdefault(key, labels)
            sums[key][name] = sums[key].get(name, 0.0) + value
    workloads = [
        ScrapedWorkload(
            labels,
            sums[key].get("power_watts"),
            sums[key].get("energy_joules_total", 0.0),
            sums[key].get("idle_energy_joules_total", 0.0),
            sums[key].get("gpu_seconds_total", 0.0),
            sums[key].get("coverage_ratio"),
        )
        for key, labels in identities.items()
    ]
    return tuple(
        sorted(workloads, key=lambda w: (w.power_w is None, -(w.power_w or 0), -w.energy_j))
    )


def _owned(samples: Samples, name: str) -> Iterator[tuple[tuple[str, ...], Labels, float]]:
    for labels, value in samples.get(name, []):
        names = ("scheduler", "workload", "user", "account", "experiment")
        yield tuple(labels.get(each, "") for each in names), labels, value


def _sums(samples: Samples) -> Sums:
    def both(name: str) -> tuple[float, int]:
        found = samples.get(name, [])
        return sum(value for _, value in found), len(found)

    read, meters = both("meter_energy_joules_total")
    experiments, some = both("experiment_energy_joules_total")
    remainders, more = both("remainder_energy_joules_total")
    pending, rest = both("pending_energy_joules")
    # Every series is floored to a joule or less, so each may hide that much.
    slack = float(max(meters, some + more + rest))
    return Sums(read, experiments, remainders, pending, slack)


def _number(text: str) -> int:
    return int(text) if text.isdecimal() and len(text) < 10 else 1 << 30
