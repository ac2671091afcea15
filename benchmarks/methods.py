"""Ways to tell what a job consumed, and how far they are from the truth."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from benchmarks.table import Table, quantile

BANDS: tuple[tuple[str, float, float], ...] = (
    (">= 5 s", 5, 1e9),
    ("0.5-5 s", 0.5, 5),
    ("0.1-0.5 s", 0, 0.5),
)
"""Jobs by length, in seconds: from, and below."""

WINDOW_NS = 10**9
"""What NVML calls power is, from Ampere on, the mean of the last second."""


class Span(NamedTuple):
    """A stretch of time on a card."""

    gpu: int
    t0_ns: int
    t1_ns: int


class Held(NamedTuple):
    """A job that was given a card alone in `[t0, t1)`, and worked on it in `[work0, work1)`."""

    job: str
    gpu: int
    t0_ns: int
    t1_ns: int
    work0_ns: int
    work1_ns: int

    @property
    def allocation(self) -> Span:
        """The time for which the card was its own: what joulebook books."""
        return Span(self.gpu, self.t0_ns, self.t1_ns)

    @property
    def window(self) -> Span:
        """The time in which its program ran: all that a tool inside it can see."""
        return Span(self.gpu, self.work0_ns, self.work1_ns)

    @property
    def lasted_s(self) -> float:
        """How long it held the card."""
        return (self.t1_ns - self.t0_ns) / 1e9


class Cards(Protocol):
    """The truth about all cards, and what their drivers show of it at any instant."""

    def true_uj(self, gpu: int, t0_ns: int, t1_ns: int) -> int:
        """Exact energy."""

    def counter_uj(self, gpu: int, t_ns: int) -> int:
        """What the energy counter shows: the energy at its last step, in whole mJ."""


def in_the_job(cards: Cards, job: Held) -> float:
    """A tool inside the job, that reads the counter when its program begins and when it ends."""
    gpu, t0_ns, t1_ns = job.window
    return cards.counter_uj(gpu, t1_ns) - cards.counter_uj(gpu, t0_ns)


def power_gauge(period_s: float, phase_s: float) -> Callable[[Cards, Held], float]:
    """The gauge of an exporter, scraped every so often: each sample stands for a whole period."""
    period_ns, phase_ns = round(period_s * 1e9), round(phase_s * 1e9)

    def energy_uj(cards: Cards, job: Held) -> float:
        first = -(-(job.t0_ns - phase_ns) // period_ns)
        total = 0.0
        for t_ns in range(first * period_ns + phase_ns, job.t1_ns, period_ns):
            mean_mw = cards.true_uj(job.gpu, t_ns - WINDOW_NS, t_ns) / 1000
            total += mean_mw * 1000 * period_s
        return total

    return energy_uj


class Method(NamedTuple):
    """What says how much a job consumed, and the time that this is held against."""

    energy_uj: Callable[[Cards, Held], float]
    of: Callable[[Held], Span]


def compare(title: str, cards: Cards, jobs: Sequence[Held], booked_uj: Mapping[str, int]) -> Table:
    """The errors of all methods over the same jobs.

    One whose program had no time to run has no window of its own, and is left out of such rows.
    """
    chance = random.Random(2)
    allocation, window = (lambda job: job.allocation), (lambda job: job.window)

    def booked(_: Cards, job: Held) -> float:
        return booked_uj.get(job.job, 0)

    methods = {
        "joulebook, against the allocation": Method(booked, allocation),
        "joulebook, against the job's own window": Method(booked, window),
        "counter read inside the job, against its own window": Method(in_the_job, window),
        "power gauge, 1 s, against the allocation": Method(
            power_gauge(1, chance.random()), allocation
        ),
        "power gauge, 15 s, against the allocation": Method(
            power_gauge(15, 15 * chance.random()), allocation
        ),
    }
    columns = [f"{name}: {figure}" for name, _, _ in BANDS for figure in ("p50 %", "p95 %")]
    table = Table(title, ["method", *columns, "at zero %"])
    for name, method in methods.items():
        off: dict[str, list[float]] = {name: [] for name, _, _ in BANDS}
        zeros = 0
        for job in jobs:
            said, span = method.energy_uj(cards, job), method.of(job)
            if span.t1_ns <= span.t0_ns:
                continue
            truth = cards.true_uj(*span)
            off[_band(job)].append(100 * abs(said - truth) / truth)
            zeros += said <= 0
        cells = [f for found in off.values() for f in (quantile(found, 0.5), quantile(found, 0.95))]
        table.add(name, *cells, 100 * zeros / sum(map(len, off.values())))
    counts = ", ".join(f"{sum(_band(j) == name for j in jobs)} of {name}" for name, _, _ in BANDS)
    table.notes.append(
        f"jobs: {counts}; error of a job's energy against the exact energy of its allocation (from"
        " the event of its begin to that of its end), or of the part of it in which its program ran"
    )
    return table


def _band(job: Held) -> str:
    return next(name for name, least_s, below_s in BANDS if least_s <= job.lasted_s < below_s)


def lengths(chance: random.Random, least_s: float, most_s: float) -> float:
    """A length, as likely to be in one decade as in another."""
    return float(least_s * (most_s / least_s) ** chance.random())
