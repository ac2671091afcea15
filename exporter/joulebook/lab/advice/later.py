"""What jobs that could have waited would have cost at another start, by the site's own curves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime

import msgspec

from joulebook.core import units_text
from joulebook.core.money.rates import NANO, UG_PER_G
from joulebook.lab.advice.model import (
    Advice,
    AdviceKind,
    JobSaving,
    JobUse,
    Saving,
    by_owner,
    electricity_nano,
    greatest,
    together,
)
from joulebook.lab.advice.start import HOUR_S, StartPlanner
from joulebook.units import UJ_PER_KWH

WINDOW_H = 24
"""A job can wait if all of it fits into so many hours from its start."""
_LEAST_GAIN = 0.005
"""Less than this share of the cost is not worth waiting for."""


class SiteCurves(msgspec.Struct, frozen=True):
    """What a cluster's electricity cost and emitted by hour, and the price in which currency.

    Attributes:
        price: In nano-units per kWh of facility energy; `None`: not known.
        carbon: In ug per kWh of facility energy; `None`: not known.
        pue: Facility energy to IT energy.

    """

    price: StartPlanner | None = None
    carbon: StartPlanner | None = None
    currency: str = ""
    pue: float = 1.0

    @property
    def guide(self) -> StartPlanner | None:
        """Return the curve that decides: the price where it changes, else the intensity."""
        changing = [each for each in (self.price, self.carbon) if each and each.changes]
        return changing[0] if changing else None


def advise(
    jobs: Sequence[JobUse], curves: Mapping[str, SiteCurves], now_s: int, window_h: int
) -> Iterator[Advice]:
    """Yield what the jobs of an owner would have saved at a start chosen by what was known."""
    for (cluster, labels), mine in by_owner(jobs).items():
        site = curves.get(cluster, SiteCurves())
        guide = site.guide
        if guide is None:
            continue
        savings, chosen, best, longest = [], 0.0, 0.0, 0
        for job in mine:
            hours = -(-job.lasted_s // HOUR_S)
            if (
                job.started_s is None
                or not job.whole
                or job.scheduler == "process"
                or not 0 < hours < window_h
            ):
                continue
            arrival = job.started_s // HOUR_S
            choice = guide.choice(arrival, hours, window_h)
            if choice is None:
                continue
            longest = max(longest, hours)
            chosen += (choice.at_once - choice.chosen) * job.energy_uj
            best += (choice.at_once - choice.best) * job.energy_uj
            savings.append(JobSaving(job.shown, _saving(job, site, arrival, choice.start, hours)))
        saving = together(each.saving for each in savings)
        if best <= 0 or not _worth(saving, mine):
            continue
        least = _said(site, best / UJ_PER_KWH * site.pue)
        said = f"{chosen / best:.0%} of the {least} that the best starts would have saved"
        yield Advice(
            kind=AdviceKind.START,
            cluster=cluster,
            labels=labels,
            saving=saving,
            evidence=(
                f"{len(savings)} job{'s' * (len(savings) != 1)} of up to {longest} h, begun later "
                f"but over within {window_h} h, at starts chosen by the curves as they were known "
                f"then: {said}"
            ),
            next_step=(
                f"Submit with --begin where a job can wait{_now(site, now_s, longest, window_h)}."
            ),
            jobs=greatest(savings),
        )


def _said(site: SiteCurves, amount: float) -> str:
    """Return an amount of what the curve that decides is of."""
    if site.guide is site.price:
        return units_text.money(int(amount), site.currency).replace("\u202f", " ")
    return f"{units_text.co2e(int(amount))} CO2e".replace("\u202f", " ")


def _saving(job: JobUse, site: SiteCurves, arrival: int, start: int, hours: int) -> Saving:
    """Return what the chosen start saves, in money and CO2e (which may be more than before)."""
    kwh = job.energy_uj / UJ_PER_KWH * site.pue
    money: dict[str, int] = {}
    co2e = None
    if site.price is not None:
        money[site.currency] = int(_less(site.price, arrival, start, hours) * kwh)
    if site.carbon is not None:
        co2e = int(_less(site.carbon, arrival, start, hours) * kwh)
    return Saving(0, money, co2e)


def _less(curve: StartPlanner, arrival: int, start: int, hours: int) -> float:
    """Return by how much the mean over the hours from `start` is below that from `arrival`."""
    there = [(curve.value(arrival + n), curve.value(start + n)) for n in range(hours)]
    known = [a - b for a, b in there if a is not None and b is not None]
    return sum(known) / len(known) if len(known) == hours else 0.0


def _worth(saving: Saving, jobs: Sequence[JobUse]) -> bool:
    if not any(saving.money.values()):
        return (saving.co2e_ug or 0) > 0
    paid = sum(abs(nano) for job in jobs for nano in electricity_nano(job).values())
    return sum(saving.money.values()) > _LEAST_GAIN * paid


def _now(site: SiteCurves, now_s: int, hours: int, window_h: int) -> str:
    when = next_start(site, now_s, hours, window_h)
    return f"; one of {hours} h now best starts {when}" if when else ""


def next_start(site: SiteCurves, now_s: int, hours: int, window_h: int) -> str:
    """Describe when a job that is submitted now should start, and what that is expected to save.

    Empty: nothing is known of the last weeks, so nothing follows for the next hours.
    """
    guide, now = site.guide, -(-now_s // HOUR_S)
    if guide is None or not guide.knows(now):
        return ""
    wait = window_h - hours
    start = guide.best_start(now, hours, wait)
    expected = guide.forecast(now, wait + hours)
    soon, then = (sum(expected[n : n + hours]) / hours for n in (0, start - now))
    when = datetime.fromtimestamp(start * HOUR_S, UTC).strftime("%Y-%m-%dT%H:%M")
    if site.price is guide:
        per, unit = NANO, f"{site.currency}/kWh"
    else:
        per, unit = UG_PER_G, "g CO2e/kWh"
    said = f"{then / per:.3g} {unit}, against {soon / per:.3g} at once"
    return f"{when} UTC ({said})" if start > now else f"at once ({soon / per:.3g} {unit})"
