"""The list of owners: each experiment's energy, cost and CO2e, as booked and at other rates."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from joulebook.config.rates import Rates
from joulebook.core.report.dataset import ReportData, Selection, Unknowable, UsedRate
from joulebook.core.report.rollup import (
    Level,
    Recharged,
    ReportLine,
    lines,
    own_rates,
    recharged,
    with_water,
)
from joulebook.errors import ConfigError
from joulebook.lab.report.sources import ReportSource
from joulebook.rates.build import charges, rates_of, water_of
from joulebook.units import NS_PER_S, QUARTER_NS


class OwnerReport(msgspec.Struct, frozen=True):
    """A report on the quarter hours of [since, until) UTC.

    `used` are the rates at booking. `unpriced_uj` is the energy without a new rate, by item.
    `warnings` are the source's own.
    """

    since_s: int
    until_s: int
    lines: list[ReportLine]
    used: tuple[UsedRate, ...]
    unpriced_uj: Mapping[str, int]
    warnings: tuple[str, ...] = ()


def make(
    source: ReportSource,
    since_s: int,
    until_s: int,
    selection: Selection,
    *,
    level: Level = Level.EXPERIMENT,
    rates: Rates | None = None,
    environ: Mapping[str, str] | None = None,
) -> OwnerReport:
    """Query the source and total its data; with `rates`, recompute the charges, too.

    Raises what the source raises, and for the new rates `ConfigError`.
    """
    data = source.account(since_s, until_s, selection)
    anew = None if rates is None else charged_anew(data, rates, environ or {})
    return OwnerReport(
        since_s,
        until_s,
        lines(data, None if anew is None else anew.account, level),
        own_rates(data),
        {} if anew is None else anew.unpriced_uj,
        (*data.warnings, *(() if anew is None else anew.problems)),
    )


def charged_anew(data: ReportData, rates: Rates, environ: Mapping[str, str]) -> Recharged:
    """Return the account at other rates, as far as their feeds answer. Raises `ConfigError`."""
    if why := data.unknown.get(Unknowable.QUARTERS):
        raise ConfigError(f"--rates: {Unknowable.QUARTERS} is not known from {data.source}: {why}")
    # Of a whole ledger it is not known before how far back the rates are needed.
    quarters = [row.quarter_s for row in data.postings]
    known, problems = rates_of(
        rates, environ, min(quarters, default=0), max(quarters, default=0) + QUARTER_NS // NS_PER_S
    )
    found = recharged(data, known, charges(rates))
    watered = msgspec.structs.replace(found.account, rates=with_site_water(found.account, rates))
    return found._replace(account=watered, problems=problems)


def with_site_water(data: ReportData, rates: Rates) -> tuple[UsedRate, ...]:
    """Return the account's rates, and the site's water per energy. Raises `ConfigError`."""
    return with_water(data, {str(each): curve for each, curve in water_of(rates).items()})
