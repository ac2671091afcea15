"""Build the poller of a configuration, and read past rates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from joulebook.config import Config
from joulebook.config.rates import Rates
from joulebook.core.money.amounts import Charge, Item
from joulebook.core.money.rates import (
    UL_PER_KWH,
    UL_PER_L,
    Point,
    Quality,
    RateSet,
    StepCurve,
    overlay,
    whole,
)
from joulebook.errors import ConfigError, FeedEmpty, FeedError
from joulebook.rates.cache import Cache
from joulebook.rates.contract import DAY_S, Quantity, sift
from joulebook.rates.feeds.csv import CsvFile
from joulebook.rates.poller import Poller
from joulebook.rates.sources import Feed, basis, feeds

_MOST_S = 7 * DAY_S
"""The time range requested from a feed at once."""


class KnownRates(NamedTuple):
    """Rates of a stretch of time, and which feed did not give all of its own, and why."""

    rates: RateSet
    problems: Mapping[str, str]


def rates_of(rates: Rates, environ: Mapping[str, str], t0_s: int, t1_s: int) -> KnownRates:
    """Return the rates in [t0, t1) UTC; a failing feed is a hole. Raises `ConfigError`."""
    curves: dict[Quantity, StepCurve] = {}
    problems: dict[str, str] = {}
    for feed in feeds(rates, environ):
        points: list[Point] = []
        try:
            for more in _points(feed, rates.currency, t0_s, t1_s):
                points = list(more)
        except FeedError as error:
            what = f"{feed.quantity} of {feed.source.name} is not known for all of this time"
            problems[what] = str(error)
        curves[feed.quantity] = StepCurve(tuple(points))
    known = basis(rates)
    found = RateSet(
        known.currency,
        known.zone,
        curves.get(Quantity.PRICE, StepCurve()),
        curves.get(Quantity.CARBON, StepCurve()),
        curves.get(Quantity.PUE, known.pue),
        known.hardware,
    )
    return KnownRates(found, problems)


def water_of(rates: Rates) -> dict[Quantity, StepCurve]:
    """Return the curves of water that are set. Raises `ConfigError` for a file."""
    found = {}
    water = rates.water
    for quantity, number, file, source in (
        (Quantity.WATER_SITE, water.site_l_per_kwh, water.site_file, water.site_source),
        (Quantity.WATER_GRID, water.grid_l_per_kwh, water.grid_file, water.grid_source),
    ):
        if file:
            try:
                found[quantity] = StepCurve(CsvFile(Path(file), quantity, "").fetch(0, 0))
            except FeedError as error:
                raise ConfigError(f"rates.water: {error}") from None
        elif number is not None:
            value = whole(number, UL_PER_L)
            point = Point(0, value, UL_PER_KWH, source, Quality.ESTIMATED)
            found[quantity] = StepCurve((point,))
    return found


def _points(feed: Feed, currency: str, t0_s: int, t1_s: int) -> Iterator[tuple[Point, ...]]:
    """Yield all that is known after each answer of a feed."""
    step_s = max(t1_s - t0_s, 1) if feed.source.plan.local else _MOST_S
    points: tuple[Point, ...] = ()
    for start_s in range(t0_s, t1_s, step_s):
        try:
            said = feed.source.fetch(start_s, min(start_s + step_s, t1_s))
        except FeedEmpty:
            continue
        good, _ = sift(said, feed.quantity, currency)
        points = overlay(points, good)
        yield points


def cache_dir(config: Config) -> Path:
    """Return where the last good answers are kept."""
    return Path(config.rates.cache_dir or Path(config.ledger.path).parent / "rates")


def make_poller(config: Config, environ: Mapping[str, str], *, read_only: bool = False) -> Poller:
    """Return the configured poller, not started. Raises `ConfigError`."""
    cache = Cache(cache_dir(config), read_only=read_only)
    return Poller(feeds(config.rates, environ), basis(config.rates), cache)


def charges(rates: Rates) -> frozenset[Charge]:
    """Return the items to charge: those with all their settings."""
    found = set()
    if rates.has_pue:
        if rates.price.kind != "none":
            found.add(Charge(Item.ELECTRICITY, rates.currency))
        if rates.carbon.kind != "none":
            found.add(Charge(Item.CO2E))
    if rates.hardware:
        found.add(Charge(Item.HARDWARE, rates.currency))
    return frozenset(found)
