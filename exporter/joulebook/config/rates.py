"""Keys of the configuration file that turn energy into money and CO2e.

See `config.node` for how they are documented. Nothing about money and carbon has a default
that is used in silence: without a price, an intensity or a PUE there is no figure, and
`joulebook rates` says which key is missing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Literal
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

import msgspec
from msgspec import Meta

from joulebook.config.node import Section, doc


class Privacy(Section, frozen=True):
    """What is shown of people."""

    users: Annotated[
        Literal["plain", "hmac", "none"],
        doc("The label `user`: as it is, a keyed hash of it (one key for the site), or empty."),
    ] = "plain"
    key_file: Annotated[str, doc("File with the key of the hash.")] = ""


_File = Annotated[str, doc("Absolute path of the file of kind csv.")]
_Zone = Annotated[str, doc("Zone as the source names it. Empty: `rates.zone`.")]
_Url = Annotated[
    str, doc("Base address: of kind server, or of a feed that is not at its usual one.")
]
_Source = Annotated[str, doc("Where a constant is from, e.g. a contract; shown beside it.")]
_Keep = Annotated[
    float,
    doc(
        "Seconds for which the last good value is used, as an estimate, once nothing newer is to "
        "be had. After that the rate is not known.",
        ge=0,
        le=2_592_000,
    ),
]
_Every = Annotated[
    float, doc("Seconds from one question to the next. Not set: as suits the source.", ge=60)
]

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
DAY_MINUTES = 24 * 60


class PriceWindow(Section, frozen=True):
    """Hours of the week with a price of their own, by the clock on the wall.

    A window whose `to` is not after its `from` ends on the next day.
    """

    days: Annotated[str, doc('Days on which it begins: "mon-fri", "sat,sun".')] = "mon-sun"
    from_: Annotated[str, doc('When it begins: "08:00".')] = msgspec.field(
        default="00:00", name="from"
    )
    to: Annotated[str, doc('When it ends: "20:00"; "24:00" is the end of the day.')] = "24:00"
    per_kwh: Annotated[float, doc("Money per kilowatt-hour.")] | None = None


class Price(Section, frozen=True):
    """Price of electricity."""

    kind: Annotated[
        Literal["none", "constant", "schedule", "csv", "energy-charts", "entsoe", "server"],
        doc("Where prices come from; with none, no cost of electricity is shown."),
    ] = "none"
    per_kwh: Annotated[float, doc("Money per kilowatt-hour, of kind constant.")] | None = None
    source: _Source = ""
    timezone: Annotated[str, doc('Time zone of kind schedule: "Europe/Berlin".')] = ""
    default: (
        Annotated[float, doc("Money per kilowatt-hour in hours of no window, of kind schedule.")]
        | None
    ) = None
    windows: Annotated[
        tuple[PriceWindow, ...],
        doc(
            "Of kind schedule, the first that fits counts: "
            '[{ days = "mon-fri", from = "08:00", to = "20:00", per_kwh = 0.30 }]'
        ),
    ] = ()
    file: _File = ""
    zone: _Zone = ""
    url: _Url = ""
    token_file: Annotated[
        str,
        doc(
            "File with the key of kind entsoe, or `user:password` of kind server. "
            "Empty: JOULEBOOK_RATES_PRICE_TOKEN in the environment."
        ),
    ] = ""
    keep_s: _Keep = 86_400.0
    every_s: _Every | None = None


class CarbonSection(Section, frozen=True):
    """Carbon intensity of electricity: location-based, average."""

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
        doc("Where intensities come from; with none, no CO2e is shown."),
    ] = "none"
    grams_per_kwh: (
        Annotated[float, doc("Grams of CO2e per kilowatt-hour, of kind constant.", ge=0, le=3000)]
        | None
    ) = None
    source: _Source = ""
    file: _File = ""
    zone: _Zone = ""
    url: _Url = ""
    token_file: Annotated[
        str,
        doc(
            "File with the key of kind electricity-maps, or `user:password` of kind server. "
            "Empty: JOULEBOOK_RATES_CARBON_TOKEN in the environment."
        ),
    ] = ""
    keep_s: _Keep = 86_400.0
    every_s: _Every | None = None


class Hardware(Section, frozen=True):
    """Hourly cost of one GPU model: `per_gpu_hour`, or what it is reckoned from."""

    per_gpu_hour: Annotated[float, doc("Money per GPU and hour held.", ge=0)] | None = None
    price: Annotated[float, doc("Money paid for one GPU.", ge=0)] | None = None
    residual: Annotated[float, doc("Money it is worth at the end of its life.", ge=0)] = 0.0
    life_years: Annotated[float, doc("Years of its life.", gt=0)] | None = None
    utilisation: Annotated[float, doc("Share of its life in which it is held.", gt=0, le=1)] = 1.0


class Rates(Section, frozen=True):
    """What a joule costs, in money and CO2e. Nothing is assumed: no rate, no figure."""

    currency: Annotated[
        str, Meta(description="Currency of all money here (ISO 4217).", pattern="^[A-Z]{3}$")
    ] = "EUR"
    zone: Annotated[
        str, doc("Grid: a country (DE) or a bidding zone (DE-LU), where no section has its own.")
    ] = ""
    pue: (
        Annotated[
            float,
            doc(
                "Facility energy per IT energy; 1.0 is a machine without cooling or losses of its "
                "own. Not set: not known, and then neither are electricity cost and CO2e.",
                ge=1,
                le=10,
            ),
        ]
        | None
    ) = None
    pue_source: Annotated[str, doc("Where the PUE is from; shown beside it.")] = ""
    cache_dir: Annotated[
        str, doc("Folder for the last good answers of feeds. Empty: `rates` beside the ledger.")
    ] = ""
    price: Price = Price()
    carbon: CarbonSection = CarbonSection()
    hardware: Annotated[
        dict[str, Hardware],
        doc(
            "By GPU model, the most specific that fits (`*` stands for anything): "
            '"NVIDIA H100*" = { per_gpu_hour = 1.25 } or { price = 35040, life_years = 4 }'
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
    """What the type of each key alone cannot tell: the key, and what is wrong with it."""
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
            yield key, f'kind = "{kind}" does not use it; it is of kind {" or ".join(takers)}'
    if section.file and not section.file.startswith("/"):
        yield "file", f"{section.file!r}: expected an absolute path"
    if section.url and (problem := _url_problem(section.url)):
        yield "url", problem


def _url_problem(url: str) -> str:
    try:
        parts = urlsplit(url)
        fits = parts.scheme in {"http", "https"} and parts.hostname and (parts.port or 1)
    except ValueError:
        return "expected an address like https://host:port/path"
    if not fits or parts.query or parts.fragment:
        return "expected an address like https://host:port/path"
    if "@" in parts.netloc:
        return "expected no user and password in it: they belong into token_file"
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
            yield f"{where}.per_kwh", "expected money per kilowatt-hour"


def days_of(text: str) -> frozenset[int]:
    """`mon-fri,sun` as days, Monday 0. Raises `ValueError` saying what would be right."""
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
    """`08:30` as minutes after midnight. Raises `ValueError` saying what would be right."""
    match = re.fullmatch(r"(\d{2}):(\d{2})", text, re.ASCII)
    minutes = int(match[1]) * 60 + int(match[2]) if match and int(match[2]) < 60 else last + 1
    if minutes > last:
        raise ValueError(f"{text!r}: expected a time from 00:00 to {last // 60}:{last % 60:02d}")
    return minutes
