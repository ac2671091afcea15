"""The report of one node's ledger: each experiment's energy, cost and CO2e, also at other rates."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from joulebook.config_rates import Rates
from joulebook.core.statement import Line, lines, restate
from joulebook.core.workloads import Labels
from joulebook.rates.assembly import charges
from joulebook.rates.history import rates_of
from joulebook.store.charges import RateRow
from joulebook.store.reader import LedgerReader


class Report(msgspec.Struct, frozen=True):
    """A report on the quarter hours of [since, until) UTC.

    `used` are the rates that energy was charged at when it was booked. `unpriced_uj` is the energy
    for which the new rates say nothing, by item.
    """

    since_s: int
    until_s: int
    lines: list[Line]
    used: list[RateRow]
    unpriced_uj: Mapping[str, int]


def make(
    ledger: Path,
    since_s: int,
    until_s: int,
    *,
    experiment: str = "",
    rates: Rates | None = None,
    environ: Mapping[str, str] | None = None,
) -> Report:
    """Read the ledger and roll it up; with `rates`, charge it anew too.

    Raises `LedgerError`, and for the new rates `ConfigError` and `FeedError`.
    """
    with LedgerReader(ledger) as reader:
        account = reader.account(since_s, until_s)
    posted, booked = account.posted, account.booked
    if experiment:
        posted = [p for p in posted if _is(p.owner, experiment)]
        booked = {owner: bill for owner, bill in booked.items() if _is(owner, experiment)}
    restated = None
    unpriced: dict[str, int] = {}
    if rates is not None:
        # Of the whole ledger it is not known before how far back the rates are needed.
        quarters = [p.quarter_s for p in posted]
        known = rates_of(
            rates, environ or {}, min(quarters, default=0), max(quarters, default=0) + 900
        )
        restated, unpriced = restate(posted, known, account.models, charges(rates))
    return Report(since_s, until_s, lines(posted, booked, restated), list(account.used), unpriced)


def _is(owner: object, experiment: str) -> bool:
    return isinstance(owner, Labels) and owner.experiment == experiment
