"""Rates from another Joulebook, which queries the feeds for all nodes.

`RatesDocument` is what `GET /v1/rates?since=SECONDS` answers, as JSON. Values are integers in the
units of `core.money.rates`; `fetched_utc_s` is when the feed behind it last gave a good answer.
"""

from __future__ import annotations

import msgspec

from joulebook.core.money.rates import Point
from joulebook.errors import FeedEmpty, FeedWrong
from joulebook.http_client import Web, basic
from joulebook.rates.contract import DAY_S, ApiKey, Plan, Quantity, decoded

VERSION = 1
PATH = "/v1/rates"

_MAX_TEXT = 200


class QuantityRates(msgspec.Struct, frozen=True):
    """All that is known of one quantity."""

    source: str
    points: tuple[Point, ...]
    fetched_utc_s: int | None = None


class RatesDocument(msgspec.Struct, frozen=True):
    """The answer of the rates service."""

    v: int
    currency: str
    zone: str
    price: QuantityRates | None = None
    carbon: QuantityRates | None = None
    pue: QuantityRates | None = None


_DOCUMENT = msgspec.json.Decoder(RatesDocument)


class RatesServiceFeed:
    """One quantity of the rates service at `url` (`https://rates.lab:9817`)."""

    def __init__(
        self,
        web: Web,
        url: str,
        quantity: Quantity,
        currency: str,
        key: ApiKey,
        every_s: float = 300,
    ) -> None:
        """`key` is `user:password`, asked for only if one is set."""
        self._url = url.rstrip("/")
        self.name = f"rates service {self._url.partition('://')[2]}"
        # Looks as far ahead as the feed behind it does; it says itself what it knows.
        self.plan = Plan(every_s=every_s, ahead_s=2 * DAY_S)
        self._web = web
        self._quantity = quantity
        self._currency = currency
        self._key = key

    def fetch(self, t0_s: int, t1_s: int) -> tuple[Point, ...]:
        """Return what the service knows since t0."""
        headers = basic(self._key.read()) if self._key.is_set else {}
        asked = {"since": t0_s}
        body = self._web.get(f"{self._url}{PATH}", asked, headers, secret=bool(headers))
        said = decoded(body, _DOCUMENT, self.name)
        if said.v != VERSION:
            raise FeedWrong(
                f"{self.name}: has version {said.v}, this node {VERSION}", reason="garbage"
            )
        offers = {Quantity.PRICE: said.price, Quantity.CARBON: said.carbon, Quantity.PUE: said.pue}
        offer = offers.get(self._quantity)
        if offer is None:
            raise FeedEmpty(f"{self.name}: has no {self._quantity} configured")
        if self._quantity is Quantity.PRICE and said.currency != self._currency:
            raise FeedWrong(
                f"{self.name}: prices are in {said.currency!r:.10}, but rates.currency is "
                f"{self._currency}",
                reason="currency",
            )
        if not offer.points:
            raise FeedEmpty(f"{self.name}: has no {self._quantity} now")
        # Sources are shown on every page: not at any length.
        return tuple(
            msgspec.structs.replace(point, source=point.source[:_MAX_TEXT])
            for point in offer.points
        )
