"""The poller that a configuration asks for, and what is charged with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from joulebook.config import Config
from joulebook.config.rates import Rates
from joulebook.core.bills import Charge, Item
from joulebook.rates.cache import Cache
from joulebook.rates.poller import Poller
from joulebook.rates.sources import basis, feeds


def cache_dir(config: Config) -> Path:
    """Where the last good answers are kept."""
    return Path(config.rates.cache_dir or Path(config.ledger.path).parent / "rates")


def make_poller(config: Config, environ: Mapping[str, str], *, read_only: bool = False) -> Poller:
    """The poller that the configuration asks for; not started. Raises `ConfigError`."""
    cache = Cache(cache_dir(config), read_only=read_only)
    return Poller(feeds(config.rates, environ), basis(config.rates), cache)


def charges(rates: Rates) -> frozenset[Charge]:
    """What is charged once its rates are known: that for which every setting is made."""
    found = set()
    if rates.pue is not None:
        if rates.price.kind != "none":
            found.add(Charge(Item.ELECTRICITY, rates.currency))
        if rates.carbon.kind != "none":
            found.add(Charge(Item.CO2E))
    if rates.hardware:
        found.add(Charge(Item.HARDWARE, rates.currency))
    return frozenset(found)
