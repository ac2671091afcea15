"""Energy-Charts of Fraunhofer ISE: day-ahead prices and carbon intensities of Europe, no key.

https://api.energy-charts.info: `/price?bzn=` (unit said with it, nulls occur) and `/co2eq?country=`
(grams CO2eq per kWh, lifecycle; `co2eq_forecast` beside it).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import msgspec

from joulebook.core.money.rates import UG_PER_KWH, Point, Quality, nano_per_kwh
from joulebook.errors import FeedEmpty, FeedWrong
from joulebook.http_client import Web
from joulebook.rates.contract import DAY_S, HOUR_S, Plan, decoded, grams_ug, price_nano

URL = "https://api.energy-charts.info"


class _Prices(msgspec.Struct):
    unix_seconds: list[int]
    price: list[float | None]
    unit: str


class _Intensities(msgspec.Struct):
    unix_seconds: list[int]
    co2eq: list[float | None]
    co2eq_forecast: list[float | None] = []


_PRICES = msgspec.json.Decoder(_Prices)
_INTENSITIES = msgspec.json.Decoder(_Intensities)


class EnergyChartsPrice:
    """Day-ahead prices of a bidding zone, like `DE-LU`; tomorrow's come in the afternoon."""

    def __init__(
        self, web: Web, zone: str, currency: str, url: str = "", every_s: float = HOUR_S
    ) -> None:
        self.name = f"Energy-Charts {zone}"
        self.plan = Plan(every_s=every_s, ahead_s=2 * DAY_S)
        self._web = web
        self._zone = zone
        self._currency = currency
        self._url = url or URL

    def fetch(self, t0_s: int, t1_s: int) -> tuple[Point, ...]:
        """Return a point for each hour or quarter hour that has a price."""
        asked: dict[str, str | int] = {"bzn": self._zone, "start": t0_s, "end": t1_s}
        body = self._web.get(f"{self._url}/price", asked)
        said = decoded(body, _PRICES, self.name)
        unit = nano_per_kwh(self._currency)
        points = tuple(
            Point(
                start,
                price_nano(figure, said.unit, self._currency, self.name),
                unit,
                f"{self.name} day-ahead",
                Quality.MEASURED,
                end,
            )
            for start, end, figure in _steps(said.unix_seconds, said.price, self.name)
            if figure is not None
        )
        if not points:
            raise FeedEmpty(f"{self.name}: no price for that time")
        return points


class EnergyChartsCarbon:
    """Carbon intensity of a country, like `de`."""

    def __init__(self, web: Web, country: str, url: str = "", every_s: float = 900) -> None:
        self._country = country.partition("-")[0].lower()  # Its zone may be DE-LU for prices.
        self.name = f"Energy-Charts {self._country}"
        # Generation is known some two hours later; the forecast stands in.
        self.plan = Plan(every_s=every_s, ahead_s=DAY_S, late_s=3 * HOUR_S)
        self._web = web
        self._url = url or URL

    def fetch(self, t0_s: int, t1_s: int) -> tuple[Point, ...]:
        """Quarter hours: computed from generation where known, else the forecast."""
        asked: dict[str, str | int] = {"country": self._country, "start": t0_s, "end": t1_s}
        said = decoded(self._web.get(f"{self._url}/co2eq", asked), _INTENSITIES, self.name)
        forecasts = said.co2eq_forecast or [None] * len(said.unix_seconds)
        points = []
        for (start, end, actual), (_, _, forecast) in zip(
            _steps(said.unix_seconds, said.co2eq, self.name),
            _steps(said.unix_seconds, forecasts, self.name),
            strict=True,
        ):
            figure = forecast if actual is None else actual
            if figure is not None:
                quality = Quality.FORECAST if actual is None else Quality.MEASURED
                value = grams_ug(figure, self.name)
                points.append(
                    Point(start, value, UG_PER_KWH, f"{self.name}, lifecycle", quality, end)
                )
        if not points:
            raise FeedEmpty(f"{self.name}: no value for that time")
        return tuple(points)


def _steps(
    starts: Sequence[int], figures: Sequence[float | None], name: str
) -> Iterator[tuple[int, int, float | None]]:
    """Start, end and figure of each step; the last is as long as the one before it."""
    if len(starts) != len(figures):
        what = f"{len(starts)} times and {len(figures)} figures"
        raise FeedWrong(f"{name}: {what}", reason="garbage")
    if any(a >= b for a, b in itertools.pairwise(starts)):
        raise FeedWrong(f"{name}: times out of order", reason="garbage")
    if not starts:
        return
    step = starts[-1] - starts[-2] if len(starts) > 1 else HOUR_S
    ends = [*starts[1:], starts[-1] + min(step, HOUR_S)]
    for start, end, figure in zip(starts, ends, figures, strict=True):
        # Where entries are left out, the one before them does not grow over the hole.
        yield start, min(end, start + HOUR_S), figure
