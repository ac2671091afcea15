"""What advice is made of: what a job used, and a line of advice with its saving and evidence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from functools import reduce
from typing import NamedTuple

import msgspec

from joulebook.core.evidence import Amount
from joulebook.core.money.amounts import Charges, Exact, Item
from joulebook.core.report.rollup import net
from joulebook.core.workloads import Labels
from joulebook.lab.figures import CO2E


class AdviceKind(StrEnum):
    """What a line of advice is about; the values are labels and JSON."""

    AFTER_WORK = "idle_after_work"
    """GPUs held after the last work of a job."""
    IDLE = "idle"
    """GPUs that were idle between work, or never worked."""
    GPUS = "unused_gpus"
    """GPUs of a job that did nothing while others of it worked."""
    MEMORY = "memory"
    """Cards with more memory than was ever used, where smaller ones exist."""
    TIME_LIMIT = "time_limit"
    START = "start"
    POWER_LIMIT = "power_limit"


TITLES = {
    AdviceKind.AFTER_WORK: "Held after the last work",
    AdviceKind.IDLE: "Allocated but idle",
    AdviceKind.GPUS: "GPUs that were not used",
    AdviceKind.MEMORY: "Larger cards than needed",
    AdviceKind.TIME_LIMIT: "Time limit far above use",
    AdviceKind.START: "A later start",
    AdviceKind.POWER_LIMIT: "A lower power limit",
}


class CardUse(NamedTuple):
    """What a job did with one card: energy in uJ, held time in ns.

    `after_ns` and `after_uj` are the time and energy after the last work of the whole job.
    """

    energy_uj: int
    idle_uj: int
    held_ns: int
    idle_ns: int
    after_uj: int
    after_ns: int

    @property
    def worked(self) -> bool:
        """Return whether it did: idle for all but a hundredth of the time is not."""
        return self.idle_ns * 100 < self.held_ns * 99


class JobUse(msgspec.Struct, frozen=True, kw_only=True):
    """One job in the month.

    Attributes:
        shown: Its displayed name.
        started_s, ended_s: UTC seconds; `None`: not known, not over.
        whole: Whether it started and ended within the time that was asked for.
        asked_s: Its time limit (0: not known, or none).
        memory_gib: The most memory used on one card, and `card_gib` what its smallest card has
            (0: not known).
        limits_w: The power limits that its cards had.
        gpu: Of its GPUs, `energy_uj` of all components.
        cards: Empty: not read, since it idled little.

    """

    shown: str
    labels: Labels
    cluster: str = ""
    scheduler: str = ""
    partition: str = ""
    model: str = ""
    outcome: str = ""
    gpu_count: int = 0
    started_s: int | None = None
    ended_s: int | None = None
    whole: bool = False
    asked_s: int = 0
    memory_gib: int = 0
    card_gib: int = 0
    limits_w: frozenset[int] = frozenset()
    gpu: Amount = Amount(0)
    energy_uj: int = 0
    charges: Charges = {}
    cards: tuple[CardUse, ...] = ()

    @property
    def lasted_s(self) -> int:
        """Return its duration; 0: not known."""
        if self.started_s is None or self.ended_s is None:
            return 0
        return self.ended_s - self.started_s


class Saving(msgspec.Struct, frozen=True):
    """Energy (uJ), money (nano-units by currency) and CO2e (ug; `None`: no intensity known)."""

    energy_uj: int = 0
    money: Mapping[str, int] = {}
    co2e_ug: int | None = None

    def plus(self, other: Saving) -> Saving:
        """Return the sum."""
        known = [each for each in (self.co2e_ug, other.co2e_ug) if each is not None]
        currencies = {*self.money, *other.money}
        return Saving(
            self.energy_uj + other.energy_uj,
            {c: self.money.get(c, 0) + other.money.get(c, 0) for c in sorted(currencies)},
            sum(known) if known else None,
        )


NO_SAVING = Saving()


def together(savings: Iterable[Saving]) -> Saving:
    """Return the sum of savings."""
    return reduce(Saving.plus, savings, NO_SAVING)


class JobSaving(NamedTuple):
    """One job of a line of advice, and what it would have saved."""

    shown: str
    saving: Saving


class Advice(msgspec.Struct, frozen=True, kw_only=True):
    """One line of advice, for one owner and experiment of a cluster.

    Attributes:
        saving: In the month; `None`: nothing is claimed.
        evidence: What was measured.
        next_step: What to do.
        jobs: The jobs that it is about, those that would save most first.

    """

    kind: AdviceKind
    cluster: str
    labels: Labels
    saving: Saving | None
    evidence: str
    next_step: str
    jobs: tuple[JobSaving, ...] = ()


MOST_JOBS_SHOWN = 5


def greatest(jobs: Iterable[JobSaving]) -> tuple[JobSaving, ...]:
    """Return the jobs that would save most."""

    def rank(job: JobSaving) -> tuple[int, int]:
        return (-sum(job.saving.money.values()), -job.saving.energy_uj)

    return tuple(sorted(jobs, key=rank)[:MOST_JOBS_SHOWN])


def by_owner(jobs: Sequence[JobUse]) -> dict[tuple[str, Labels], list[JobUse]]:
    """Return the jobs of each owner and experiment of a cluster."""
    found: dict[tuple[str, Labels], list[JobUse]] = {}
    for job in jobs:
        found.setdefault((job.cluster, job.labels), []).append(job)
    return found


def idle_part(job: JobUse, energy_uj: int, idle_ns: int) -> Saving:
    """Return what a part of a job's idle time cost: electricity by energy, hardware by time."""
    money: dict[str, int] = {}
    for (item, currency), amount in job.charges.items():
        if item is Item.IDLE_ELECTRICITY and job.gpu.idle_uj:
            money[currency] = money.get(currency, 0) + amount.floor * energy_uj // job.gpu.idle_uj
        if item is Item.IDLE_HARDWARE and job.gpu.idle_ns:
            money[currency] = money.get(currency, 0) + amount.floor * idle_ns // job.gpu.idle_ns
    return Saving(energy_uj, money, co2e_part(job, energy_uj))


def co2e_part(job: JobUse, energy_uj: int) -> int | None:
    """Return the part of a job's CO2e that is of so much of its energy."""
    emitted: Exact | None = job.charges.get(CO2E)
    if emitted is None or not job.energy_uj:
        return None
    return emitted.floor * energy_uj // job.energy_uj


def hardware_nano(job: JobUse) -> dict[str, int]:
    """Return what a job's GPU time cost without electricity, by currency."""
    return {
        currency: amount.floor
        for (item, currency), amount in job.charges.items()
        if item is Item.HARDWARE
    }


def electricity_nano(job: JobUse) -> dict[str, int]:
    """Return what a job's electricity cost, less credits, by currency."""
    hardware = hardware_nano(job)
    return {c: amount.floor - hardware.get(c, 0) for c, amount in net(job.charges).items()}
