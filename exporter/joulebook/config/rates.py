"""Keys that turn energy into money and CO2e.

No value for money or carbon is assumed: without a price, an intensity or a PUE there is no figure,
and `joulebook rates` names the missing key.
"""

import re
from typing import Annotated, Literal, NamedTuple

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
    "pue_curve": {"none": (), "csv": ("file",), "server": ("url",)},
}
"""The keys that each kind of a section needs."""

_FEED = ("url", "keep_s", "every_s")
TAKES: dict[str, tuple[str, ...]] = {
    "constant": ("source",),
    "schedule": ("windows", "source"),
    "csv": ("keep_s", "every_s"),
    "energy-charts": _FEED,
    "entsoe": (*_FEED, "token_file"),
    "electricity-maps": (*_FEED, "token_file"),
    "neso": _FEED,
    "server": (*_FEED, "token_file"),
}
"""What each kind may have as well."""


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


class PueSection(Section, frozen=True):
    """PUE that changes over time, instead of the number `rates.pue`."""

    kind: Annotated[
        Literal["none", "csv", "server"],
        doc('Source of PUE over time. With "none", `rates.pue` counts.'),
    ] = "none"
    file: _File = ""
    url: _Url = ""
    token_file: Annotated[
        str,
        doc(
            "File with `user:password` (kind server). Empty: JOULEBOOK_RATES_PUE_TOKEN from the "
            "environment."
        ),
    ] = ""
    keep_s: _Keep = 86_400.0
    every_s: _Every | None = None


class Water(Section, frozen=True):
    """Water per energy, for statements: IT energy x WUE of the site + facility energy x WUE of the
    grid.
    """

    site_l_per_kwh: (
        Annotated[
            float,
            doc("Litres that cooling consumes per kWh of IT energy; 0: none.", ge=0, le=100),
        ]
        | None
    ) = None
    site_file: Annotated[
        str, doc("CSV file with `start,l_per_kwh` instead, if it changes over time.")
    ] = ""
    site_source: Annotated[str, doc("Source of the site's figure; required with it.")] = ""
    grid_l_per_kwh: (
        Annotated[
            float,
            doc("Litres that power plants consume per kWh of electricity.", ge=0, le=100),
        ]
        | None
    ) = None
    grid_file: Annotated[
        str, doc("CSV file with `start,l_per_kwh` instead, if it changes over time.")
    ] = ""
    grid_source: Annotated[str, doc("Source of the grid's figure; required with it.")] = ""


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
    pue_curve: PueSection = PueSection()
    price: Price = Price()
    carbon: CarbonSection = CarbonSection()
    water: Water = Water()
    hardware: Annotated[
        dict[str, Hardware],
        doc(
            'Cost by GPU model; the most specific match wins (`*` matches anything): "NVIDIA '
            'H100*" = { per_gpu_hour = 1.25 } or { price = 35040, life_years = 4 }'
        ),
    ] = {}

    @property
    def has_pue(self) -> bool:
        """Return whether a PUE is set, as a number or over time."""
        return self.pue is not None or self.pue_curve.kind != "none"


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
    if not rates.has_pue:
        found.append(Missing("rates.pue", "cost of electricity, CO2e, energy of the facility"))
    if not rates.hardware:
        found.append(Missing("rates.hardware", "cost of hardware"))
    return tuple(found)
