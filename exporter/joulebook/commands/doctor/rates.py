"""Checks of money and carbon: missing settings, and whether the rest yields rates."""

from __future__ import annotations

import time
from collections.abc import Iterator

from joulebook.commands.doctor.checks import Check, Finding, Site, fail, nothing, ok, warn
from joulebook.config.rates import Rates, missing
from joulebook.core.money.rates import InForce, RateSet
from joulebook.ledger.query import LedgerReader
from joulebook.rates.build import charges, make_poller


def settings(site: Site) -> Iterator[Finding]:
    """Check which figures are missing for lack of a setting."""
    for lacking in missing(site.config.rates):
        found = f"{lacking.key} is not set: no {lacking.without}"
        # If something is set, the rest is probably wanted, too.
        begun = site.config.rates != Rates()
        yield warn(found, "See `joulebook rates`.") if begun else nothing(found)


def in_force(site: Site) -> Iterator[Finding]:
    """Check that each configured rate is known now, from the cache alone."""
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
                f"{row.quantity}: no current value of {row.source} is cached",
                "`joulebook rates --ask` queries it and shows what is wrong.",
            )
    if rates.hardware:
        yield from _models(site, poller.current)


def _models(site: Site, rates: RateSet) -> Iterator[Finding]:
    models = site.from_ledger(LedgerReader.models) or {}
    for model in sorted(set(models.values())):
        if rates.hardware_for(model) is None:
            yield warn(
                f"no pattern in rates.hardware matches {model}: no hardware cost for it",
                f'Add [rates.hardware."{model}"].',
            )


def balance(site: Site) -> Iterator[Finding]:
    """Check law 1 for money: total charges equal the charges on record."""
    checks = site.from_ledger(LedgerReader.charge_check) or ()
    wrong = [check for check in checks if check.booked != check.rows]
    for check in wrong:
        yield fail(
            f"{check.charge.item}: the total and the record of charges differ",
            "Keep a copy of the file and report this as a bug.",
        )
    if checks and not wrong:
        yield ok("charges balance, in money and CO2e")


CHECKS: tuple[Check, ...] = (settings, in_force, balance)
