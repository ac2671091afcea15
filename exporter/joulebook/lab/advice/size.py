"""The right size: memory that a smaller card has, and time that was asked for and not used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from joulebook.core.units_text import duration
from joulebook.lab.advice.model import Advice, AdviceKind, JobSaving, JobUse, Saving, by_owner
from joulebook.units import NS_PER_S

_TIMES_ASKED = 2
"""A limit of so many times the longest run is worth a line."""
_LEAST_S = 3600
_ROOM = 1.5
"""The limit that is proposed: so many times the longest run, in whole hours."""


class CardSize(NamedTuple):
    """The memory of the cards of a partition (empty: of a model)."""

    cluster: str
    partition: str
    model: str
    card_gib: int

    def __str__(self) -> str:
        name = f"partition {self.partition}" if self.partition else self.model
        return f"{name} ({self.card_gib} GiB a card)"


def memory(jobs: Sequence[JobUse], sizes: Sequence[CardSize]) -> Iterator[Advice]:
    """Yield where all jobs of an experiment would have fitted on a smaller card of the cluster.

    No saving is claimed: how fast the smaller card is, only a run on it tells.
    """
    for (cluster, labels), mine in by_owner(jobs).items():
        known = [job for job in mine if job.memory_gib and job.card_gib]
        if not known or len(known) < len(mine):
            continue
        peak = max(job.memory_gib for job in known)
        card = min(job.card_gib for job in known)
        fits = [s for s in sizes if s.cluster == cluster and peak < s.card_gib < card]
        if not fits:
            continue
        smallest = min(fits, key=lambda size: (size.card_gib, str(size)))
        yield Advice(
            kind=AdviceKind.MEMORY,
            cluster=cluster,
            labels=labels,
            saving=None,
            evidence=f"{_jobs(known)} never used more than {peak} GiB of a card's {card} GiB",
            next_step=f"Try one run on {smallest}, and compare energy and time.",
            jobs=_named(known),
        )


def time_limit(jobs: Sequence[JobUse]) -> Iterator[Advice]:
    """Yield experiments whose jobs asked for far more time than the longest of them took."""
    for (cluster, labels), mine in by_owner(jobs).items():
        known = [j for j in mine if j.asked_s and j.lasted_s and j.outcome in {"", "completed"}]
        if not known:
            continue
        longest, asked = max(j.lasted_s for j in known), min(j.asked_s for j in known)
        hours = -(-int(longest * _ROOM) // 3600)
        if asked < max(_TIMES_ASKED * longest, hours * 3600) or asked - longest < _LEAST_S:
            continue
        said = (
            f"{_jobs(known)} asked for {duration(asked * NS_PER_S)} or more; the longest took "
            f"{duration(longest * NS_PER_S)}"
        )
        yield Advice(
            kind=AdviceKind.TIME_LIMIT,
            cluster=cluster,
            labels=labels,
            saving=None,
            evidence=said.replace("\u202f", " "),
            next_step=f"Ask for --time={hours}:00:00: the scheduler fits shorter jobs into gaps.",
            jobs=_named(known),
        )


def _jobs(jobs: Sequence[JobUse]) -> str:
    return f"{len(jobs)} job{'s' * (len(jobs) != 1)}"


def _named(jobs: Sequence[JobUse]) -> tuple[JobSaving, ...]:
    return tuple(JobSaving(job.shown, Saving()) for job in jobs[:5])
