"""What a lower power limit saves, from a site's own runs of one experiment at different limits.

A run is compared with other runs of the same experiment on as many GPUs of the same model. Only
limits with three runs or more count, and only where the spread of the runs leaves the difference
within `MOST_ERROR` (95 %): nothing is claimed from runs that differ for other reasons.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from joulebook.lab.advice.model import (
    Advice,
    AdviceKind,
    JobSaving,
    JobUse,
    Saving,
    co2e_part,
    electricity_nano,
    greatest,
    hardware_nano,
    together,
)

LEAST_RUNS = 3
"""Runs at a limit; of two that are alike by chance, nothing would follow."""
MOST_ERROR = 0.02
"""Half the width of what is claimed, as a share: 0.02 are two points."""
_T95 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23)
"""Student's t for 95 %, by degrees of freedom from 1; further ones are below 2.2."""


class CappedRun(NamedTuple):
    """A run at one power limit: its energy and its GPU time (any unit, the same for all)."""

    limit_w: int
    energy: float
    time: float


class LimitEffect(NamedTuple):
    """What runs at one limit took compared with those at the highest one.

    `saved` and `slower` are shares, of energy and time; `error` is the bound of both (95 %).
    """

    from_w: int
    to_w: int
    from_runs: int
    to_runs: int
    saved: float
    slower: float
    error: float


def effects(runs: Sequence[CappedRun]) -> list[LimitEffect]:
    """Return the effect of each limit for which it is known, the lowest limit first."""
    at: dict[int, list[CappedRun]] = {}
    for run in runs:
        if run.energy > 0 and run.time > 0:
            at.setdefault(run.limit_w, []).append(run)
    at = {limit: some for limit, some in sorted(at.items()) if len(some) >= LEAST_RUNS}
    if len(at) < 2:
        return []
    freedom = sum(len(some) - 1 for some in at.values())
    spread = max(_spread(at.values(), freedom, name) for name in ("energy", "time"))
    t95 = _T95[freedom - 1] if freedom <= len(_T95) else 2.2
    top = max(at)
    found = []
    for limit, some in at.items():
        energy, time = (_ratio(some, at[top], name) for name in ("energy", "time"))
        error = t95 * spread * math.sqrt(1 / len(some) + 1 / len(at[top])) * max(energy, time)
        if limit < top and error <= MOST_ERROR:
            saved, slower = 1 - energy, time - 1
            found.append(LimitEffect(top, limit, len(at[top]), len(some), saved, slower, error))
    return found


def _logs(runs: Sequence[CappedRun], name: str) -> list[float]:
    return [math.log(getattr(run, name)) for run in runs]


def _ratio(runs: Sequence[CappedRun], others: Sequence[CappedRun], name: str) -> float:
    """Return the ratio of geometric means."""
    means = (statistics.fmean(_logs(some, name)) for some in (runs, others))
    return math.exp(next(means) - next(means))


def _spread(groups: Iterable[Sequence[CappedRun]], freedom: int, name: str) -> float:
    """Return the standard deviation of the logarithm within a limit, from all limits."""
    squares = 0.0
    for some in groups:
        logs = _logs(some, name)
        squares += statistics.pvariance(logs) * len(logs)
    return math.sqrt(squares / freedom)


def advise(month: Sequence[JobUse], runs: Sequence[JobUse]) -> Iterator[Advice]:
    """Yield the limit with the least energy of each experiment; `runs` reach further back."""
    comparable: dict[tuple[object, ...], list[JobUse]] = {}
    for job in runs:
        # Jobs that name no experiment are not runs of the same one.
        if (
            job.labels.experiment
            and job.whole
            and len(job.limits_w) == 1
            and job.outcome in {"", "completed"}
        ):
            comparable.setdefault(_key(job), []).append(job)
    for key, mine in comparable.items():
        found = effects([CappedRun(min(j.limits_w), j.energy_uj, j.gpu.held_ns) for j in mine])
        best = max(found, key=lambda each: each.saved, default=None)
        if best is None or best.saved <= best.error:
            continue
        at_top = [j for j in month if _key(j) == key and j.limits_w == frozenset({best.from_w})]
        savings = [JobSaving(job.shown, _saving(job, best)) for job in at_top]
        yield Advice(
            kind=AdviceKind.POWER_LIMIT,
            cluster=mine[0].cluster,
            labels=mine[0].labels,
            saving=together(each.saving for each in savings),
            evidence=(
                f"{best.to_runs} runs at {best.to_w} W against {best.from_runs} at {best.from_w} W:"
                f" {best.saved:.1%} less energy, {best.slower:+.1%} time"
                f" (within {max(best.error * 100, 0.1):.1f} points)"
            ),
            next_step=(
                f"Ask the administrators for a power limit of {best.to_w} W for this experiment "
                f"(nvidia-smi -pl {best.to_w}); it ran {best.from_w} W {len(at_top)} times "
                "in this month."
            ),
            jobs=greatest(savings),
        )


def _key(job: JobUse) -> tuple[object, ...]:
    return (job.labels, job.cluster, job.model, job.gpu_count)


def _saving(job: JobUse, effect: LimitEffect) -> Saving:
    """Return what a run would have saved: its electricity, less the hardware's longer time."""
    energy_uj = int(job.energy_uj * effect.saved)
    hardware = hardware_nano(job)
    money = {
        currency: int(nano * effect.saved - hardware.get(currency, 0) * effect.slower)
        for currency, nano in electricity_nano(job).items()
    }
    return Saving(energy_uj, money, co2e_part(job, energy_uj))
