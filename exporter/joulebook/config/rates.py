"""Keys that turn energy into money and CO2e.

No value for money or carbon is assumed: without a price, an intensity or a PUE there is no figure,
and `joulebook rates` names the missing key.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Literal, NamedTuple
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

import msgspec
from msgspec import Meta

from joulebook.config.node import Section, doc


class Privacy(Section, frozen=True):
    """What is exposed about users."""

    users: Annotated[
        Literal["plain", "hmac", "none"],
        doc(
            "The label `user`: the plain name, a keyed hash of it (use one key for the whole "
            "site), or empty."
        ),
    ] = "plain"
    key_file: Annotated[str, doc("File with the key for the hash.")] = ""


_File = Annotated[str, doc("Absolute path of the file (kind csv).")]
_Zone = Annotated[str, doc("Zone, as the source names it. Empty: `rates.zone`.")]
_Url = Annotated[str, doc("Base URL (kind server, or to override a feed's default).")]
_Source = Annotated[str, doc("Source of a constant, such as a contract; shown next to it.")]
_Keep = Annotated[
    float,
    doc(
        "Seconds to keep using the last good value, as an estimate, if the source has nothing "
        "newer. After that, the rate is unknown.",
        ge=0,
        le=2_592_000,
    ),
]
_Every = Annotated[
    float, doc("Seconds between requests. Not set: a suitable value for the source.", ge=60)
]

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
DAY_MINUTES = 24 * 60


class PriceWindow(Section, frozen=True):
    """Hours of the week with their own price, in local time.

    If `to` is not after `from`, the window ends on the next day.
    """

    days: Annotated[str, doc('Days on which the window starts: "mon-fri", "sat,sun".')] = "mon-sun"
    from_: Annotated[str, doc('Start: "08:00".')] = msgspec.field(default="00:00", name="from")
    to: Annotated[str, doc('End: "20:00"; "24:00" is the end of the day.')] = "24:00"
    per_kwh: Annotated[float, doc("Money per kilowatt-hour.")] | None = None


class Price(Section, frozen=True):
    """Price of electricity."""

    kind: Annotated[
        Literal["none", "constant", "schedule", "csv", "energy-charts", "entsoe", "server"],
        doc('Source of prices. With "none", no electricity cost is shown.'),
    ] = "none"
    per_kwh: Annotated[float, doc("Price per kWh (kind constant).")] | None = None
    source: _Source = ""
    timezone: Annotated[str, doc('Time zone of the schedule: "Europe/Berlin" (kind schedule).')] = (
        ""
    )
    default: Annotated[float, doc("Price per kWh outside all windows (kind schedule).")] | None = (
        None
    )
    windows: Annotated[
        tuple[PriceWindow, ...],
        doc(
            "Kind schedule; the first match wins: "
            '[{ days = "mon-fri", from = "08:00", to = "20:00", per_kwh = 0.30 }]'
        ),
    ] = ()
    file: _File = ""
    zone: _Zone = ""
    url: _Url = ""
    token_file: Annotated[
        str,
        doc(
            "File with the API key (kind entsoe) or `user:password` (kind server). Empty: "
            "JOULEBOOK_RATES_PRICE_TOKEN from the environment."
        ),
    ] = ""
    keep_s: _Keep = 86_400.0
    every_s: _Every | None = None


class CarbonSection(Section, frozen=True):
    """Carbon intensity of electricity (location-based, average)."""

    kind: Annotated[
        Literal[
            "none",
            "constant",
            "country",
            "csv",
            "electricity-maps",
            "neso",
            "energy-charts",
            "server",
        ],
        doc('Source of intensities. With "none", no CO2e is shown.'),
    ] = "none"
    grams_per_kwh: (
        Annotated[float, doc("Grams of CO2e per kWh (kind constant).", ge=0, le=3000)] | None
    ) = None
    source: _Source = ""
    file: _File = ""
    zone: _Zone = ""
    url: _Url = ""
    token_file: Annotated[
        str,
        doc(
            "File with the API key (kind electricity-maps) or `user:password` (kind server). "
            "Empty: JOULEBOOK_RATES_CARBON_TOKEN from the environment."
        ),
    ] = ""
    keep_s: _Keep = 86_400.0
    every_s: _Every | None = None


class Hardware(Section, frozen=True):
    """Hourly cost of one GPU model: either `per_gpu_hour`, or `price` and `life_years`."""

    per_gpu_hour: Annotated[float, doc("Cost per GPU-hour held.", ge=0)] | None = None
    price: Annotated[float, doc("Purchase price of one GPU.", ge=0)] | None = None
    residual: Annotated[float, doc("Value of one GPU at the end of its life.", ge=0)] = 0.0
    life_years: Annotated[float, doc("Service life in years.", gt=0)] | None = None
    utilisation: Annotated[float, doc("Share of its life for which it is held.", gt=0, le=1)] = 1.0


class Rates(Section, frozen=True):
    """What a joule costs, in money and CO2e. Nothing is assumed: no rate, no figure."""

    currency: Annotated[
        str, Meta(description="Currency of all amounts (ISO 4217).", pattern="^[A-Z]{3}$")
    ] = "EUR"
    zone: Annotated[
        str,
        doc(
            "Electricity grid: a country (DE) or a bidding zone (DE-LU). The default for `price` "
            "and `carbon`."
        ),
    ] = ""
    pue: (
        Annotated[
            float,
            doc(
                "Power usage effectiveness: facility energy / IT energy; 1.0 means no cooling "
                "and no losses. Not set: unknown, and so are electricity cost and CO2e.",
                ge=1,
                le=10,
            ),
        ]
        | None
    ) = None
    pue_source: Annotated[str, doc("Source of the PUE; shown next to it.")] = ""
    cache_dir: Annotated[
        str,
        doc("Directory for the last good responses of feeds. Empty: `rates` next to the ledger."),
    ] = ""
    price: Price = Price()
    carbon: CarbonSection = CarbonSection()
    hardware: Annotated[
        dict[str, Hardware],
        doc(
            'Cost by GPU model; the most specific match wins (`*` matches anything): "NVIDIA '
            'H100*" = { per_gpu_hour = 1.25 } or { price = 35040, life_years = 4 }'
        ),
    ] = {}


NEEDS: dict[str, dict[str, tuple[str, ...]]] = {
    "price": {
        "none": (),
        "constant": ("per_kwh",),
        "schedule": ("timezone", "default"),
        "csv": ("file",),
        "energy-charts": ("zone",),
        "entsoe": ("zone",),
        "server": ("url",),
    },
    "carbon": {
        "none": (),
        "constant": ("grams_per_kwh",),
        "country": ("zone",),
        "csv": ("file",),
        "electricity-maps": ("zone",),
        "neso": (),
        "energy-charts": ("zone",),
        "server": ("url",),
    },
}
_FEED = ("url", "keep_s", "every_s")
_TAKES: dict[str, tuple[str, ...]] = {
    "constant": ("source",),
    "schedule": ("windows", "source"),
    "csv": ("keep_s", "every_s"),
    "energy-charts": _FEED,
    "entsoe": (*_FEED, "token_file"),
    "electricity-maps": (*_FEED, "token_file"),
    "neso": _FEED,
    "server": (*_FEED, "token_file"),
}


def conflicts(rates: Rates) -> Iterator[tuple[str, str]]:
    """Check what the types of single keys cannot: yield the key, and what is wrong with it."""
    for name, section in (("price", rates.price), ("carbon", rates.carbon)):
        for key, what in _misfits(section, NEEDS[name], rates.zone):
            yield f"rates.{name}.{key}", what
    if rates.price.kind == "schedule":
        for key, what in _schedule(rates.price):
            yield f"rates.price.{key}", what
    if rates.cache_dir and not rates.cache_dir.startswith("/"):
        yield "rates.cache_dir", f"{rates.cache_dir!r}: expected an absolute path"
    for pattern, gpu in rates.hardware.items():
        where = f'rates.hardware."{pattern}"'
        bought = gpu.price is not None and gpu.life_years is not None
        if (gpu.per_gpu_hour is not None) == bought or (
            gpu.per_gpu_hour is not None and gpu.price is not None
        ):
            yield where, "expected either per_gpu_hour, or price and life_years"
        elif gpu.price is not None and gpu.residual > gpu.price:
            yield f"{where}.residual", f"{gpu.residual:g}: expected at most price, {gpu.price:g}"


def _misfits(
    section: Price | CarbonSection, needs: dict[str, tuple[str, ...]], zone: str
) -> Iterator[tuple[str, str]]:
    kind = section.kind
    unset = type(section)()
    for key in section.__struct_fields__:
        given = getattr(section, key) != getattr(unset, key)
        if key in needs[kind] and not given and not (key == "zone" and zone):
            right = "expected a value here or in rates.zone" if key == "zone" else "expected one"
            yield key, f'{right}, since kind = "{kind}"'
        elif given and key not in ("kind", *needs[kind], *_TAKES.get(kind, ())):
            takers = [k for k in needs if key in (*needs[k], *_TAKES.get(k, ()))]
            yield key, f'kind = "{kind}" does not use it; it belongs to kind {" or ".join(takers)}'
    if section.file and not section.file.startswith("/"):
        yield "file", f"{section.file!r}: expected an absolute path"
    if section.url and (problem := _url_problem(section.url)):
        yield "url", problem


def _url_problem(url: str) -> str:
    try:
        parts = urlsplit(url)
        fits = parts.scheme in {"http", "https"} and parts.hostname and (parts.port or 1)
    except ValueError:
        return "expected a URL like https://host:port/path"
    if not fits or parts.query or parts.fragment:
        return "expected a URL like https://host:port/path"
    if "@" in parts.netloc:
        return "expected a URL without user and password: put them in token_file"
    return ""


def _schedule(price: Price) -> Iterator[tuple[str, str]]:
    if price.timezone:
        try:
            ZoneInfo(price.timezone)
        except (OSError, ValueError, KeyError):  # ZoneInfoNotFoundError is a KeyError.
            yield (
                "timezone",
                f"{price.timezone!r}: expected a name like Europe/Berlin that this machine knows "
                "(in /usr/share/zoneinfo, package tzdata)",
            )
    for i, window in enumerate(price.windows):
        where = f"windows[{i}]"
        try:
            days_of(window.days)
        except ValueError as error:
            yield f"{where}.days", str(error)
        for key, text, last in (
            ("from", window.from_, DAY_MINUTES - 1),
            ("to", window.to, DAY_MINUTES),
        ):
            try:
                minutes_of(text, last)
            except ValueError as error:
                yield f"{where}.{key}", str(error)
        if window.per_kwh is None:
            yield f"{where}.per_kwh", "expected a price per kWh"


def days_of(text: str) -> frozenset[int]:
    """Parse `mon-fri,sun` into days, Monday being 0. Raises `ValueError` with what is expected."""
    days: set[int] = set()
    for part in text.lower().split(","):
        first, dash, last = (word.strip() for word in part.partition("-"))
        if first not in DAYS or (dash and last not in DAYS):
            raise ValueError(f'{text!r}: expected days like "mon-fri" or "sat,sun"')
        begin = DAYS.index(first)
        length = (DAYS.index(last) - begin) % 7 if dash else 0
        days.update((begin + i) % 7 for i in range(length + 1))
    return frozenset(days)


def minutes_of(text: str, last: int = DAY_MINUTES) -> int:
    """Parse `08:30` into minutes after midnight. Raises `ValueError` with what is expected."""
    match = re.fullmatch(r"(\d{2}):(\d{2})", text, re.ASCII)
    minutes = int(match[1]) * 60 + int(match[2]) if match and int(match[2]) < 60 else last + 1
    if minutes > last:
        raise ValueError(f"{text!r}: expected a time from 00:00 to {last // 60}:{last % 60:02d}")
    return minutes


class Missing(NamedTuple):
    """A setting without which a figure cannot be shown."""

    key: str
    without: str
    """What is not shown for the lack of it."""


def missing(rates: Rates) -> tuple[Missing, ...]:
    """The settings that are not made, and what is therefore not known."""
    found = []
    if rates.price.kind == "none":
        found.append(Missing("rates.price.kind", "cost of electricity"))
    if rates.carbon.kind == "none":
        found.append(Missing("rates.carbon.kind", "CO2e"))
    if rates.pue is None:
        found.append(Missing("rates.pue", "cost of electricity, CO2e, energy of the facility"))
    if not rates.hardware:
        found.append(Missing("rates.hardware", "cost of hardware"))
    return tuple(found)
