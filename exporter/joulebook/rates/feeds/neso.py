"""The Carbon Intensity API of Great Britain's system operator (NESO): no key.

https://carbon-intensity.github.io/api-definitions: gCO2 per kWh of half hours, `actual` once it is
known, `forecast` up to two days ahead.
"""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from joulebook.core.money.rates import UG_PER_KWH, Point, Quality
from joulebook.errors import FeedEmpty, FeedWrong
from joulebook.http_client import Web
from joulebook.rates.contract import DAY_S, Plan, decoded, grams_ug, utc_s

URL = "https://api.carbonintensity.org.uk"

_MOST_S = 14 * DAY_S - 3600
"""The longest stretch that one question may be about."""


class _Intensity(msgspec.Struct):
    forecast: float | None = None
    actual: float | None = None


class _Half(msgspec.Struct, rename={"begin": "from", "end": "to"}):
    begin: str
    end: str
    intensity: _Intensity


class _Answer(msgspec.Struct):
    data: list[_Half]


_ANSWER = msgspec.json.Decoder(_Answer)


class Neso:
    """Great Britain as a whole."""

    name = "NESO Great Britain"

    def __init__(self, web: Web, url: str = "", every_s: float = 900) -> None:
        self.plan = Plan(every_s=every_s, ahead_s=DAY_S)
        self._web = web
        self._url = url or URL

    def fetch(self, t0_s: int, t1_s: int) -> tuple[Point, ...]:
        """Half hours: actual where it is known, else forecast."""
        t0_s = max(t0_s, t1_s - _MOST_S)
        body = self._web.get(f"{self._url}/intensity/{_minute(t0_s)}/{_minute(t1_s)}")
        points = []
        for half in decoded(body, _ANSWER, self.name).data:
            said = half.intensity
            figure = said.forecast if said.actual is None else said.actual
            if figure is None:
                continue
            quality = Quality.FORECAST if said.actual is None else Quality.MEASURED
            try:
                start, end = utc_s(half.begin), utc_s(half.end)
            except ValueError as error:
                raise FeedWrong(f"{self.name}: {error}", reason="garbage") from None
            value = grams_ug(figure, self.name)
            points.append(Point(start, value, UG_PER_KWH, self.name, quality, end))
        if not points:
            raise FeedEmpty(f"{self.name}: no value for that time")
        return tuple(points)


def _minute(t_s: int) -> str:
    return datetime.fromtimestamp(t_s, UTC).strftime("%Y-%m-%dT%H:%MZ")
