"""Checks of money and carbon: which setting is missing, and whether what is set gives rates."""

from __future__ import annotations

import time
from collections.abc import Iterator

from joulebook.commands.doctor.checks import Check, Finding, Site, fail, nothing, ok, warn
from joulebook.config.rates import Rates
from joulebook.core.money.rates import InForce, RateSet
from joulebook.errors import LedgerError
from joulebook.ledger.query import LedgerReader
from joulebook.rates.build import charges, make_poller
from joulebook.rates.sources import missing


def settings(site: Site) -> Iterator[Finding]:
    """Which figures are not shown for the lack of a setting."""
    for lacking in missing(site.config.rates):
        found = f"{lacking.key} is not set: no {lacking.without}"
        # Whoever has set something wants to know what else it takes.
        begun = site.config.rates != Rates()
        yield warn(found, "See `joulebook rates`.") if begun else nothing(found)


def in_force(site: Site) -> Iterator[Finding]:
    """Whether each rate that is configured is known now; asks nobody, reads what is kept."""
    rates = site.config.rates
    if not charges(rates):
        return
    poller = make_poller(site.config, site.environ, read_only=True)
    now = poller.current.at(int(time.time()))
    for quantity, point in zip(InForce._fields, now, strict=True):
        if point is not None:
            yield ok(f"{quantity}: from {point.source} ({point.quality})")
    for row in poller.health():
        if getattr(now, row.quantity) is None:
            yield warn(
                f"{row.quantity}: nothing is kept of {row.source} that holds now",
                "`joulebook rates --ask` asks it and says what is wrong.",
            )
    if site.ledger.exists() and rates.hardware:
        yield from _models(site, poller.current)


def _models(site: Site, rates: RateSet) -> Iterator[Finding]:
    with LedgerReader(site.ledger) as ledger:
        models = ledger.models()
    for model in sorted(set(models.values())):
        if rates.hardware_for(model) is None:
            yield warn(
                f"no pattern in rates.hardware fits {model}: no cost of hardware for it",
                f'Add [rates.hardware."{model}"].',
            )


def balance(site: Site) -> Iterator[Finding]:
    """Law 1 for money: what the books say was charged is what is on record."""
    if not site.ledger.exists():
        return
    try:
        with LedgerReader(site.ledger) as ledger:
            checks = ledger.charge_check()
    except LedgerError:
        return  # said by the checks of the ledger
    wrong = [check for check in checks if check.booked != check.rows]
    for check in wrong:
        yield fail(
            f"{check.charge.item}: the books and the record of charges differ",
            "Keep a copy of the file and report this as a bug.",
        )
    if checks and not wrong:
        yield ok("what was charged balances, in money and CO2e")


CHECKS: tuple[Check, ...] = (settings, in_force, balance)
