"""A lab of four nodes in two clusters over two months: its cards, who held them when, what they
drew, what the electricity cost. All of it is made from one seed, and all of it is known exactly.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from random import Random
from typing import NamedTuple

from joulebook.core.workloads import Labels

DAY_S, HOUR_S = 86_400, 3_600
END_S = 1_740_997_820
"""2025-03-03 10:30:20 UTC: long past, whatever the clock says (a database refuses the future)."""
DAYS = 62
START_S = (END_S - DAYS * DAY_S) // HOUR_S * HOUR_S
FULL_S = END_S - 32 * DAY_S
"""From here on everything is scraped; before, the site kept the books alone."""
SCRAPE_S = 60
"""How often nodes are scraped in the last three days; see `scrape_s`."""
AWAY = (END_S - 20 * DAY_S, END_S - 20 * DAY_S + 6 * HOUR_S)
"""When Prometheus was down."""

CURRENCIES = {"lab": "EUR", "annex": "CHF"}
"""The clusters, and what they pay in. The annex has a node, ids of jobs and an experiment that are
called like some of the lab."""
ZONE = "DE-LU"
PUE = 1.25
H100, A100 = "NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-40GB"
PER_GPU_HOUR = {H100: 1.9, A100: 0.8}


class Gpu(NamedTuple):
    """A card. Its node is written `cluster/name` here."""

    node: str
    number: int
    model: str
    idle_w: int
    full_w: int
    memory_gib: int

    @property
    def uuid(self) -> str:
        return (
            f"GPU-{self.node[0]}{self.node[-1]}{self.number}3a1c0-0000-4000-8000-{self.full_w:012d}"
        )


GPUS = tuple(
    Gpu(node, index, *kind)
    for node, kind in (
        ("lab/gpu-01", (H100, 72, 690, 80)),
        ("lab/gpu-02", (H100, 70, 680, 80)),
        ("lab/gpu-03", (A100, 55, 400, 40)),
        ("annex/gpu-01", (A100, 52, 395, 40)),
    )
    for index in (0, 1)
)
NODES = tuple(dict.fromkeys(gpu.node for gpu in GPUS))
CPU_NODES = {"lab/gpu-01": 110, "lab/gpu-03": 85}
"""Nodes whose CPU packages are measured, and what those draw without jobs, in watts."""
CPU_OF_JOB_W = 45

DOWN = {
    "lab/gpu-02": ((END_S - 12 * DAY_S, END_S - 12 * DAY_S + 780), (END_S - 7300, END_S - 7060)),
    "lab/gpu-03": ((END_S - 40 * DAY_S, END_S - 40 * DAY_S + 600),),
    "annex/gpu-01": ((END_S - 5 * HOUR_S, END_S - 5 * HOUR_S + 420),),
}
"""When daemons were down (the meters count on)."""


TWICE = ("annex/gpu-01", END_S - 2 * DAY_S)
"""A node, and since when it is a target under two jobs: a ServiceMonitor and a PodMonitor."""


def scrape_s(t_s: int) -> int:
    """How often nodes were scraped at an instant."""
    if t_s >= END_S - 3 * DAY_S:
        return SCRAPE_S
    return 240 if t_s >= FULL_S else 300  # seldom: samples are what takes time to make


def cluster_of(node: str) -> str:
    """The cluster of a node."""
    return node.partition("/")[0]


class Phase(NamedTuple):
    """A stretch of a job: watts of each of its cards, and whether they were idle."""

    t0_s: int
    t1_s: int
    watts: int
    idle: bool


class Job(NamedTuple):
    """A job: whose, on which cards (and which share of them), and its phases one after another."""

    id: str
    name: str
    owner: Labels
    gpus: tuple[Gpu, ...]
    share: float
    phases: tuple[Phase, ...]

    @property
    def cluster(self) -> str:
        return cluster_of(self.gpus[0].node)

    @property
    def t0_s(self) -> int:
        return self.phases[0].t0_s

    @property
    def t1_s(self) -> int:
        return self.phases[-1].t1_s


class Line(NamedTuple):
    """What runs on a slot, over and over: how long, after what pause, and how busily."""

    owner: Labels
    hours: float
    pause_hours: float
    load: float
    busy: float


def _line(user: str, account: str, experiment: str, *how: float) -> Line:
    return Line(Labels(user, account, experiment), *how)


SLOTS: tuple[tuple[tuple[int, ...], float, tuple[Line, ...]], ...] = (
    ((0, 1, 2), 1, (
        _line("ada", "nlp", "llm-pretrain", 27, 9, 0.96, 0.97),
        _line("alan", "nlp", "llm-ablations", 5, 6, 0.9, 0.93),
    )),
    ((3,), 1, (_line("grace", "vision", "vit-sweep", 0.8, 0.9, 0.85, 0.9),)),
    ((4,), 1, (
        _line("katherine", "bio", "protein-fold", 9, 7, 0.8, 0.9),
        _line("grace", "vision", "diffusion-xl", 4, 5, 0.95, 0.95),
    )),
    ((5,), 1, (_line("rosalind", "bio", "cryo-em", 3, 6, 0.7, 0.6),)),
    ((6,), 1, (
        _line("edsger", "robotics", "rl-grasping", 2.5, 5, 0.55, 0.7),
        _line("barbara", "robotics", "sim2real (v2.1+dr)", 1.5, 4, 0.65, 0.8),
        _line("grace", "vision", "vit-sweep", 1.2, 3, 0.7, 0.85),
    )),
    ((7,), 0.5, (_line("margaret", "bio", "notebook", 7, 6, 0.4, 0.12),)),
    ((7,), 0.5, (_line("donald", "vision", "notebook", 10, 8, 0.5, 0.08),)),
)  # fmt: skip
"""The cards of each slot (by index in `GPUS`), the share of them, and what runs there in turn."""


def _phases(random: Random, line: Line, gpu: Gpu, t0_s: int, t1_s: int) -> Iterator[Phase]:
    t_s, idle = t0_s, False
    while t_s < t1_s:
        mean = 1800 if not idle else 1800 * (1 - line.busy) / line.busy
        end = min(t1_s, t_s + max(30, round(random.expovariate(1 / min(mean, 14_000)))))
        watts = gpu.idle_w + 8 if idle else round(gpu.full_w * line.load * random.uniform(0.9, 1))
        yield Phase(t_s, end, watts, idle)
        t_s, idle = end, not idle


def _slot(number: int) -> Iterator[Job]:
    """The jobs of a slot; the pauses between them shrink as the lab grows."""
    random = Random(number)
    cards, share, lines = SLOTS[number]
    prefix = 7 if number == 4 else number + 4  # the annex has some of the lab's ids
    t_s, count = START_S + number * 700, 0
    while True:
        line = lines[count % len(lines)]
        grown = (t_s - START_S) / (DAYS * DAY_S)
        t_s += round(line.pause_hours * HOUR_S * random.uniform(0.6, 1.4) * (1.6 - 1.3 * grown)) + 5
        end = t_s + round(line.hours * HOUR_S * random.uniform(0.7, 1.3)) + 2
        if t_s >= END_S:
            return
        gpus = tuple(GPUS[card] for card in cards)
        phases = tuple(_phases(random, line, gpus[0], t_s, end))
        yield Job(f"{prefix}{count:04}", "train.sh", line.owner, gpus, share, phases)
        t_s, count = end, count + 1


def _tests() -> Iterator[Job]:
    """Jobs of seconds, as unit tests are, in the pauses of a card."""
    busy = [(job.t0_s, job.t1_s) for job in _slot(3)]
    free = [(a[1], b[0]) for a, b in itertools.pairwise(busy) if b[0] - a[1] > 900]
    for n, (t0_s, _) in enumerate(free[::2]):
        phases = (Phase(t0_s + 200, t0_s + 203 + n % 80, 210, False),)
        owner = Labels("alan", "nlp", "tokenizer-tests")
        yield Job(f"2{n:04}", "pytest", owner, (GPUS[5],), 1, phases)


JOBS = tuple(
    sorted((*(j for n in range(len(SLOTS)) for j in _slot(n)), *_tests()), key=lambda j: j.t0_s)
)


def price(hour_s: int) -> float:
    """Money per kWh in the hour: cheap at noon, below zero on Sundays then."""
    hour, day = hour_s % DAY_S / HOUR_S, hour_s // DAY_S
    sun = max(0.0, math.sin((hour - 6) / 12 * math.pi))
    return round(0.31 + 0.12 * math.sin((hour - 14) / 24 * 2 * math.pi)
        - sun * (0.38 if day % 7 == 3 else 0.17), 4)  # fmt: skip


def grams(hour_s: int) -> float:
    """CO2e per kWh in the hour."""
    hour = hour_s % DAY_S / HOUR_S
    return round(380 - 140 * max(0.0, math.sin((hour - 6) / 12 * math.pi)), 1)


def hours(t0_s: int, t1_s: int) -> Iterator[tuple[int, int]]:
    """The stretch, cut at every full hour."""
    while t0_s < t1_s:
        end = min(t1_s, (t0_s // HOUR_S + 1) * HOUR_S)
        yield t0_s, end
        t0_s = end
