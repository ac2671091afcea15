"""The rate sources by `kind` in the configuration.

A new feed is one file, one line in `PRICES` or `CARBON`, and its kind in `config.rates`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple
from zoneinfo import ZoneInfo

from joulebook.config.rates import (
    CarbonSection,
    Hardware,
    Price,
    PueSection,
    Rates,
    days_of,
    minutes_of,
)
from joulebook.core.money.rates import (
    NANO,
    PPM,
    RATIO_PPM,
    UG_PER_G,
    UG_PER_KWH,
    HardwareRate,
    Point,
    Quality,
    RateSet,
    StepCurve,
    hourly_nano,
    nano_per_kwh,
    whole,
)
from joulebook.http_client import Web
from joulebook.rates.contract import ApiKey, Quantity, RateSource
from joulebook.rates.feeds.csv import CsvFile
from joulebook.rates.feeds.electricity_maps import ElectricityMaps
from joulebook.rates.feeds.energy_charts import EnergyChartsCarbon, EnergyChartsPrice
from joulebook.rates.feeds.entsoe import Entsoe
from joulebook.rates.feeds.neso import Neso
from joulebook.rates.feeds.server import RatesServiceFeed
from joulebook.rates.tariff import Country, Fixed, Schedule, TariffWindow

PRICE_TOKEN = "JOULEBOOK_RATES_PRICE_TOKEN"  # noqa: S105 - the name of a variable
CARBON_TOKEN = "JOULEBOOK_RATES_CARBON_TOKEN"  # noqa: S105
PUE_TOKEN = "JOULEBOOK_RATES_PUE_TOKEN"  # noqa: S105

_Kind = Price | CarbonSection | PueSection


class FeedContext(NamedTuple):
    """What factories get in addition to their section."""

    rates: Rates
    web: Web
    key: ApiKey

    def zone(self, section: _Kind) -> str:
        """Return the section's zone, else that of all."""
        return getattr(section, "zone", "") or self.rates.zone


def _pace(section: _Kind, default: float) -> float:
    return default if section.every_s is None else section.every_s


def _constant_price(price: Price, site: FeedContext) -> RateSource:
    unit = nano_per_kwh(site.rates.currency)
    source = price.source or "rates.price.per_kwh"
    return Fixed(whole(price.per_kwh or 0.0, NANO), unit, Quality.MEASURED, source)


def _schedule(price: Price, site: FeedContext) -> RateSource:
    windows = [
        TariffWindow(
            days_of(window.days),
            minutes_of(window.from_),
            minutes_of(window.to),
            whole(window.per_kwh or 0.0, NANO),
        )
        for window in price.windows
    ]
    return Schedule(
        ZoneInfo(price.timezone),
        whole(price.default or 0.0, NANO),
        windows,
        nano_per_kwh(site.rates.currency),
        price.source or "rates.price.windows",
    )


def _constant_carbon(carbon: CarbonSection, site: FeedContext) -> RateSource:
    source = carbon.source or "rates.carbon.grams_per_kwh"
    value = whole(carbon.grams_per_kwh or 0.0, UG_PER_G)
    return Fixed(value, UG_PER_KWH, Quality.ESTIMATED, source)


PRICES: dict[str, Callable[[Price, FeedContext], RateSource]] = {
    "constant": _constant_price,
    "schedule": _schedule,
    "csv": lambda p, site: CsvFile(Path(p.file), Quantity.PRICE, site.rates.currency, _pace(p, 60)),
    "energy-charts": lambda p, site: EnergyChartsPrice(
        site.web, site.zone(p), site.rates.currency, p.url.rstrip("/"), _pace(p, 3600)
    ),
    "entsoe": lambda p, site: Entsoe(
        site.web, site.zone(p), site.rates.currency, site.key, p.url.rstrip("/"), _pace(p, 3600)
    ),
    "server": lambda p, site: RatesServiceFeed(
        site.web, p.url, Quantity.PRICE, site.rates.currency, site.key, _pace(p, 300)
    ),
}

CARBON: dict[str, Callable[[CarbonSection, FeedContext], RateSource]] = {
    "constant": _constant_carbon,
    "country": lambda c, site: Country(site.zone(c)),
    "csv": lambda c, site: CsvFile(
        Path(c.file), Quantity.CARBON, site.rates.currency, _pace(c, 60)
    ),
    "electricity-maps": lambda c, site: ElectricityMaps(
        site.web, site.zone(c), site.key, c.url.rstrip("/"), _pace(c, 900)
    ),
    "neso": lambda c, site: Neso(site.web, c.url.rstrip("/"), _pace(c, 900)),
    "energy-charts": lambda c, site: EnergyChartsCarbon(
        site.web, site.zone(c), c.url.rstrip("/"), _pace(c, 900)
    ),
    "server": lambda c, site: RatesServiceFeed(
        site.web, c.url, Quantity.CARBON, site.rates.currency, site.key, _pace(c, 300)
    ),
}

PUES: dict[str, Callable[[PueSection, FeedContext], RateSource]] = {
    "csv": lambda p, _: CsvFile(Path(p.file), Quantity.PUE, "", _pace(p, 60)),
    "server": lambda p, site: RatesServiceFeed(
        site.web, p.url, Quantity.PUE, site.rates.currency, site.key, _pace(p, 300)
    ),
}


class Feed(NamedTuple):
    """A source, and its configuration."""

    quantity: Quantity
    source: RateSource
    keep_s: int
    identity: str
    """What its answers are about: answers kept of another source are not this one's."""


def feeds(rates: Rates, environ: Mapping[str, str], web: Web | None = None) -> list[Feed]:
    """Return the sources of a (valid) configuration. Raises `ConfigError`."""
    web = Web() if web is None else web
    found = []
    price, carbon = rates.price, rates.carbon
    if price.kind != "none":
        site = FeedContext(rates, web, _key(price.token_file, PRICE_TOKEN, environ))
        found.append(_feed(Quantity.PRICE, PRICES[price.kind](price, site), price, site))
    if carbon.kind != "none":
        site = FeedContext(rates, web, _key(carbon.token_file, CARBON_TOKEN, environ))
        found.append(_feed(Quantity.CARBON, CARBON[carbon.kind](carbon, site), carbon, site))
    if rates.pue_curve.kind != "none":
        curve = rates.pue_curve
        site = FeedContext(rates, web, _key(curve.token_file, PUE_TOKEN, environ))
        found.append(_feed(Quantity.PUE, PUES[curve.kind](curve, site), curve, site))
    return found


def _feed(quantity: Quantity, source: RateSource, section: _Kind, site: FeedContext) -> Feed:
    about = (section.kind, site.zone(section), section.url, site.rates.currency)
    return Feed(quantity, source, int(section.keep_s), "|".join(about))


def _key(file: str, variable: str, environ: Mapping[str, str]) -> ApiKey:
    return ApiKey(Path(file) if file else None, variable, environ)


def basis(rates: Rates) -> RateSet:
    """Return the rates known without a query: currency, zone, PUE, hardware."""
    pue = StepCurve()
    if rates.pue is not None:
        source = rates.pue_source or "rates.pue"
        pue = StepCurve((Point(0, whole(rates.pue, PPM), RATIO_PPM, source, Quality.ESTIMATED),))
    hardware = tuple(_hardware(pattern, gpu) for pattern, gpu in rates.hardware.items())
    return RateSet(rates.currency, rates.zone, pue=pue, hardware=hardware)


def _hardware(pattern: str, gpu: Hardware) -> HardwareRate:
    where = f'rates.hardware."{pattern}"'
    if gpu.per_gpu_hour is not None:
        return HardwareRate(pattern, whole(gpu.per_gpu_hour, NANO), f"{where}.per_gpu_hour")
    nano = hourly_nano(
        whole(gpu.price or 0.0, NANO),
        whole(gpu.residual, NANO),
        Decimal(str(gpu.life_years)),
        Decimal(str(gpu.utilisation)),
    )
    return HardwareRate(pattern, nano, f"{where}.price")
