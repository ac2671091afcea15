"""Electricity Maps: average carbon intensity by zone, with a key.

https://portal.electricitymaps.com/docs/api (v3, `carbon-intensity/history` and `/latest`): gCO2eq
per kWh, hourly, `isEstimated` where a model stands in for a late meter.
"""

from __future__ import annotations

import msgspec

from joulebook.core.money.rates import UG_PER_KWH, Point, Quality
from joulebook.errors import FeedEmpty, FeedWrong
from joulebook.http_client import Web
from joulebook.rates.contract import HOUR_S, ApiKey, Plan, decoded, grams_ug, utc_s

URL = "https://api.electricitymaps.com"


class _Entry(msgspec.Struct):
    datetime: str
    carbonIntensity: float | None = None
    emissionFactorType: str = ""
    isEstimated: bool | None = None


class _Latest(_Entry):
    zone: str = ""


class _History(msgspec.Struct):
    zone: str
    history: list[_Entry]


_HISTORY = msgspec.json.Decoder(_History)
_LATEST = msgspec.json.Decoder(_Latest)


class ElectricityMaps:
    """One zone, like `DE` or `US-CAL-CISO`."""

    def __init__(
        self, web: Web, zone: str, key: ApiKey, url: str = "", every_s: float = 900
    ) -> None:
        self.name = f"Electricity Maps {zone}"
        # An hour's value comes within the hour after it, an estimate before.
        self.plan = Plan(every_s=every_s, late_s=2 * HOUR_S)
        self._web = web
        self._zone = zone
        self._key = key
        self._url = url or URL

    def fetch(self, t0_s: int, t1_s: int) -> tuple[Point, ...]:
        """Return the last 24 hours, and the newest hour if that is not among them."""
        history = decoded(self._get("history"), _HISTORY, self.name)
        self._same_zone(history.zone)
        points = self._points(history.history)
        if not points or (points[-1].end_utc_s or 0) < t1_s:
            latest = decoded(self._get("latest"), _LATEST, self.name)
            self._same_zone(latest.zone)
            points += self._points([latest])
        if not points:
            raise FeedEmpty(f"{self.name}: no value in the last 24 hours")
        return tuple(points)

    def _get(self, what: str) -> bytes:
        return self._web.get(
            f"{self._url}/v3/carbon-intensity/{what}",
            {"zone": self._zone},
            {"auth-token": self._key.read()},
            secret=True,
        )

    def _same_zone(self, zone: str) -> None:
        if zone != self._zone:
            raise FeedWrong(f"{self.name}: returned zone {zone!r:.40}", reason="garbage")

    def _points(self, entries: list[_Entry]) -> list[Point]:
        points = []
        for entry in entries:
            if entry.carbonIntensity is None:
                continue
            try:
                start = utc_s(entry.datetime)
            except ValueError as error:
                raise FeedWrong(f"{self.name}: {error}", reason="garbage") from None
            source = f"{self.name}, {entry.emissionFactorType or 'average'}"
            quality = Quality.ESTIMATED if entry.isEstimated else Quality.MEASURED
            value = grams_ug(entry.carbonIntensity, self.name)
            points.append(Point(start, value, UG_PER_KWH, source, quality, start + HOUR_S))
        return sorted(points, key=lambda point: point.start_utc_s)
