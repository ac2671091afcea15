"""The advice of a month: all its lines, ranked by what they would have saved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from joulebook.core import units_text
from joulebook.core.money.rates import NANO, RateSet
from joulebook.core.units_text import decimal
from joulebook.lab.advice import caps, idle, later, read, size
from joulebook.lab.advice.model import TITLES, Advice, AdviceKind, JobUse, Saving, together
from joulebook.lab.advice.read import EVERYBODY, Rows
from joulebook.lab.collected import months
from joulebook.lab.collected.database import Database
from joulebook.units import UJ_PER_KWH

_RUNS_S = 92 * months.DAY_S
"""So far back runs at other power limits count."""

SortBy = Literal["money", "kwh", "co2e"]


class KnownToCome(msgspec.Struct, frozen=True):
    """What the feeds of this machine know, and the kind of its price (`rates.price.kind`)."""

    rates: RateSet = RateSet()
    price_kind: str = ""


NOTHING_TO_COME = KnownToCome()


class MonthAdvice(msgspec.Struct, frozen=True):
    """The advice of a month, the greatest saving first.

    Attributes:
        missing: What cannot be advised on, since it is not in the ledger.

    """

    month: int
    lines: tuple[Advice, ...]
    missing: tuple[str, ...]


def of_month(
    database: Database,
    month: int,
    now_s: int,
    rows: Rows = EVERYBODY,
    to_come: KnownToCome = NOTHING_TO_COME,
    window_h: int = later.WINDOW_H,
) -> MonthAdvice:
    """Return the advice on the jobs of a month that may be seen."""
    if months.begin_s(month) >= now_s:
        return MonthAdvice(month, (), ())
    span = (months.begin_s(month), min(months.begin_s(months.after(month)), now_s))
    jobs = read.jobs(database, span, rows)
    runs = read.jobs(database, (span[1] - _RUNS_S, span[1]), rows, detailed=False)
    sizes = read.sizes(database, span[0])
    curves = read.curves(database, span, now_s, to_come.rates, to_come.price_kind)
    lines = [
        *idle.advise(jobs),
        *size.memory(jobs, sizes),
        *size.time_limit(jobs),
        *later.advise(jobs, curves, now_s, window_h),
        *caps.advise(jobs, runs),
    ]
    missing = tuple(_missing(jobs, curves, window_h))
    return MonthAdvice(month, tuple(ranked(lines, "money")), missing)


def _missing(
    jobs: Sequence[JobUse], curves: Mapping[str, later.SiteCurves], window_h: int
) -> Iterator[str]:
    """Yield what is not known of any job, so that no advice on it can be given."""
    if not jobs:
        return
    if not any(job.asked_s for job in jobs):
        yield "time limits: no scheduler reported any"
    if not any(job.memory_gib for job in jobs):
        yield "memory: no card that a job held alone reported any"
    if len({limit for job in jobs for limit in job.limits_w}) < 2:
        yield "power limits: no two limits were in use"
    sites = [curves.get(job.cluster) for job in jobs]
    if not any(site is not None and site.guide is not None for site in sites):
        yield "starts: no price or intensity that changes by the hour is in the ledger"
    elif not any(0 < job.lasted_s < (window_h - 1) * 3600 for job in jobs):
        yield f"starts: no job that ended takes less than {window_h} h"


def ranked(lines: Sequence[Advice], by: SortBy) -> list[Advice]:
    """Return lines by their saving, those that claim none last.

    Money is compared within a currency: that of most lines comes first.
    """
    lines_in = Counter(
        currency for line in lines if line.saving is not None for currency in line.saving.money
    )
    order = sorted(lines_in, key=lambda currency: (-lines_in[currency], currency))

    def currency_of(saving: Saving) -> int:
        return next((n for n, each in enumerate(order) if each in saving.money), len(order))

    sizes: dict[SortBy, Callable[[Saving], int]] = {
        "money": lambda saving: next((saving.money[c] for c in order if c in saving.money), 0),
        "kwh": lambda saving: saving.energy_uj,
        "co2e": lambda saving: saving.co2e_ug or 0,
    }

    def rank(line: Advice) -> tuple[bool, int, int, int, str, AdviceKind]:
        saving = line.saving or Saving()
        return (
            line.saving is None,
            currency_of(saving) if by == "money" else 0,
            -sizes[by](saving),
            -saving.energy_uj,
            f"{line.cluster} {line.labels}",
            line.kind,
        )

    return sorted(lines, key=rank)


def by_kind(advice: MonthAdvice) -> dict[tuple[str, str, AdviceKind], Saving]:
    """Return what each kind of advice would have saved in the month, by cluster and account."""
    found: dict[tuple[str, str, AdviceKind], list[Saving]] = {}
    for line in advice.lines:
        if line.saving is not None:
            key = (line.cluster, line.labels.account, line.kind)
            found.setdefault(key, []).append(line.saving)
    return {key: together(savings) for key, savings in sorted(found.items())}


@dataclass(frozen=True)
class SavingOut:
    """What would have been saved in the month; decimals in kWh, units of a currency, and kg."""

    kwh: str
    money: dict[str, str]
    co2e_kg: str | None


@dataclass(frozen=True)
class AdviceJobOut:
    """A job that a line is about."""

    job: str
    saving: SavingOut


@dataclass(frozen=True)
class AdviceOut:
    """One line of advice; `saving` is `null` where nothing is claimed."""

    kind: str
    title: str
    cluster: str
    account: str
    user: str
    experiment: str
    saving: SavingOut | None
    evidence: str
    next_step: str
    jobs: list[AdviceJobOut]


@dataclass(frozen=True)
class MonthAdviceOut:
    """The advice of a month, the greatest saving first, and what is not known."""

    month: str
    advice: list[AdviceOut]
    missing: list[str]


def answer(advice: MonthAdvice, by: SortBy) -> MonthAdviceOut:
    """Return the advice as programs read it."""
    return MonthAdviceOut(
        months.shown(advice.month),
        [
            AdviceOut(
                line.kind.value,
                TITLES[line.kind],
                line.cluster,
                line.labels.account,
                line.labels.user,
                line.labels.experiment,
                None if line.saving is None else _saving(line.saving),
                line.evidence,
                line.next_step,
                [AdviceJobOut(job.shown, _saving(job.saving)) for job in line.jobs],
            )
            for line in ranked(advice.lines, by)
        ],
        list(advice.missing),
    )


def _saving(saving: Saving) -> SavingOut:
    return SavingOut(
        decimal(saving.energy_uj, UJ_PER_KWH),
        {currency: decimal(nano, NANO) for currency, nano in saving.money.items()},
        None if saving.co2e_ug is None else decimal(saving.co2e_ug, NANO),
    )


def said(saving: Saving | None) -> str:
    """Describe a saving: `1.2 kWh, 12.40 EUR, 0.4 kg CO2e`."""
    if saving is None:
        return "not claimed"
    parts = [units_text.energy(saving.energy_uj)] if saving.energy_uj else []
    parts += [units_text.money(nano, currency) for currency, nano in saving.money.items()]
    if saving.co2e_ug is not None:
        parts.append(f"{units_text.co2e(saving.co2e_ug)} CO2e")
    return ", ".join(parts).replace("\u202f", " ") or "nothing"
