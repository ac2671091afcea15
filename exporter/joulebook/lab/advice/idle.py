"""Idle allocations with what they cost: after the last work, on unused cards, and in between."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from joulebook.core.units_text import duration
from joulebook.lab.advice.model import (
    Advice,
    AdviceKind,
    CardUse,
    JobSaving,
    JobUse,
    by_owner,
    greatest,
    idle_part,
    together,
)
from joulebook.units import NS_PER_HOUR

LEAST_NS = NS_PER_HOUR // 10
"""Less idle GPU time than this in a month is not worth a line."""


class IdlePart(NamedTuple):
    """A part of a job's idle GPU time, and its energy."""

    energy_uj: int
    time_ns: int
    cards: int


def parts(job: JobUse) -> dict[AdviceKind, IdlePart]:
    """Return a job's idle time by kind; together they are all of it, each nanosecond once."""
    worked = [card for card in job.cards if card.worked]
    unused = [card for card in job.cards if not card.worked] if worked else []
    found = {
        AdviceKind.GPUS: _sum([(each.idle_uj, each.idle_ns) for each in unused]),
        AdviceKind.AFTER_WORK: _sum([(each.after_uj, each.after_ns) for each in worked]),
    }
    rest_uj = job.gpu.idle_uj - sum(part.energy_uj for part in found.values())
    rest_ns = job.gpu.idle_ns - sum(part.time_ns for part in found.values())
    found[AdviceKind.IDLE] = IdlePart(rest_uj, rest_ns, 0)
    return {kind: part for kind, part in found.items() if part.time_ns > 0}


def _sum(cards: Sequence[tuple[int, int]]) -> IdlePart:
    return IdlePart(sum(e for e, _ in cards), sum(t for _, t in cards), len(cards))


_STEPS = {
    AdviceKind.AFTER_WORK: (
        "End the job when its work is done: exit the notebook or server, or let the script end; "
        "set an idle time-out."
    ),
    AdviceKind.GPUS: "Ask for as many GPUs as the job uses, or start a process for each of them.",
    AdviceKind.IDLE: (
        "Load data ahead and write checkpoints beside the computation; ask for fewer GPUs; do "
        "preparation in a job without GPUs."
    ),
}


def advise(jobs: Sequence[JobUse]) -> Iterator[Advice]:
    """Yield a line for each owner and kind of idle time."""
    for (cluster, labels), mine in by_owner(jobs).items():
        found = [(job, parts(job)) for job in mine]
        held_ns = sum(job.gpu.held_ns for job in mine)
        for kind, step in _STEPS.items():
            of = [(job, split[kind]) for job, split in found if kind in split]
            time_ns = sum(part.time_ns for _, part in of)
            if time_ns < LEAST_NS:
                continue
            savings = [
                JobSaving(job.shown, idle_part(job, part.energy_uj, part.time_ns))
                for job, part in of
            ]
            said = f"{_said(kind, of, time_ns)} of {duration(held_ns)} of GPU time"
            yield Advice(
                kind=kind,
                cluster=cluster,
                labels=labels,
                saving=together(each.saving for each in savings),
                evidence=said.replace("\u202f", " "),
                next_step=step,
                jobs=greatest(savings),
            )


def _said(kind: AdviceKind, of: Sequence[tuple[JobUse, IdlePart]], time_ns: int) -> str:
    """Return what was measured."""
    many = f"{len(of)} job{'s' * (len(of) != 1)}"
    if kind is AdviceKind.AFTER_WORK:
        return f"{many} held GPUs for {duration(time_ns)} after the last work,"
    if kind is AdviceKind.GPUS:
        cards = sum(part.cards for _, part in of)
        held = sum(len(job.cards) for job, _ in of)
        return f"{many} used {held - cards} of {held} GPUs; the others cost {duration(time_ns)}"
    never = sum(not any(map(_worked, job.cards)) for job, _ in of if job.cards)
    more = f" ({never} never worked)" if never else ""
    return f"{many}{more}: GPUs idle for {duration(time_ns)}"


def _worked(card: CardUse) -> bool:
    return card.worked
