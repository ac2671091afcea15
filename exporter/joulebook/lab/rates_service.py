"""The rates service: it queries the feeds, and the nodes query it.

`GET /v1/rates?since=SECONDS` answers the `RatesDocument` of `feeds/server.py`, `/` a page for
people, `/healthz` and `/readyz` the probes. TLS and passwords are those of the daemon's own server.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from joulebook.metrics.catalogue import BY_NAME
from joulebook.metrics.collector import Family, Sample
from joulebook.metrics.exposition import Renderer, body, negotiate
from joulebook.metrics.page.markup import text
from joulebook.rates.contract import Quantity
from joulebook.rates.feeds.server import PATH, VERSION, QuantityRates, RatesDocument
from joulebook.rates.poller import Poller
from joulebook.server.auth import HostNames
from joulebook.server.routes import App, Pages
from joulebook.server.server import Server
from joulebook.server.web_config import WebConfig
from joulebook.server.worker_pool import WorkerPool


class RatesPages:
    """What the service answers, from what its poller knows."""

    def __init__(self, poller: Poller, now_s: Callable[[], float] = time.time) -> None:
        self._poller = poller
        self._now_s = now_s

    def document(self, since_s: int) -> bytes:
        """Return all that is known of the time from `since_s` on, as JSON."""
        rates, offers = self._poller.current, self._poller.offers
        known = (
            _since(offers.get(quantity), since_s)
            for quantity in (Quantity.PRICE, Quantity.CARBON, Quantity.PUE)
        )
        return msgspec.json.encode(RatesDocument(VERSION, rates.currency, rates.zone, *known))

    def metrics(self, accept: str) -> tuple[bytes, str]:
        """Return how the feeds do."""
        style = negotiate(accept)
        renderer = Renderer("")
        return body([renderer.block(each) for each in self.families()], style), style.value

    def families(self) -> list[Family]:
        """Return how the feeds do, as metrics of no node."""
        rows = self._poller.health()
        values: dict[str, list[Sample]] = {
            "up": [((row.quantity, row.source), int(row.up)) for row in rows],
            "age_seconds": [
                ((row.quantity, row.source), round(age_s))
                for row in rows
                if (age_s := row.age_s(self._now_s())) is not None
            ],
            "errors_total": [
                ((row.quantity, row.source, reason), count)
                for row in rows
                for reason, count in sorted(row.errors.items())
            ],
        }
        return [
            Family(msgspec.structs.replace(BY_NAME[f"joulebook_feed_{name}"], bare=True), samples)
            for name, samples in values.items()
        ]

    def ready(self) -> tuple[bool, str]:
        """Return whether every quantity that is configured is known now."""
        now = self._poller.current.at(int(self._now_s()))
        known = now._asdict()
        lacking = [str(row.quantity) for row in self._poller.health() if not known[row.quantity]]
        return not lacking, f"not known: {', '.join(lacking)}" if lacking else "ready"

    def healthy(self) -> tuple[bool, str]:
        """Return whether the thread that queries the feeds is alive."""
        return self._poller.alive, "ok" if self._poller.alive else "the poller has ended"

    def index(self) -> bytes:
        """Return the sources and how they do, for people."""
        rows = "".join(
            f"<tr><td>{row.quantity}<td>{text(row.source, 300)}<td>{text(row.state, 300)}"
            f"<td>{_age(row.age_s(self._now_s()))}<td>{text(row.message, 300)}"
            for row in self._poller.health()
        )
        return (
            '<!doctype html><html lang="en"><title>Joulebook rates</title><h1>Rates</h1>'
            "<table><tr><th>of<th>source<th>state<th>last good answer<th>said"
            f'{rows}</table><p>For nodes: <a href="{PATH}">{PATH}</a></html>\n'
        ).encode()


class RatesServer(Server):
    """The daemon's HTTP server with `/v1/rates`. Rates are public."""

    reveals = ""

    def __init__(self, listen: str, pages: RatesPages, web_config: Path | None = None) -> None:
        """Raises `ConfigError` if `listen` or the web configuration file cannot be used."""
        super().__init__(listen, pages, web_config)
        self._rates = pages

    def _app(self) -> App:
        return RatesApp(self._rates, self._rates, self._current, self._count)


class RatesApp(App):
    """An ASGI application with `/v1/rates` beside its pages."""

    def __init__(
        self,
        rates: RatesPages,
        pages: Pages,
        web: Callable[[], WebConfig],
        rejected: Callable[[str], None],
        hosts: HostNames | None = None,
    ) -> None:
        super().__init__(pages, web, rejected, hosts=hosts)
        self._rates = rates
        self._documents = WorkerPool("rates", threads=2, line=64, timeout_s=10)
        self._router.routes.append(Route(PATH, self._document))

    def close(self) -> None:
        """End the threads, as far as they are not in a call."""
        super().close()
        self._documents.close()

    async def _document(self, request: Request) -> Response:
        since = request.query_params.get("since", "0")
        if not re.fullmatch(r"\d{1,12}", since, re.ASCII):
            return PlainTextResponse("since: expected seconds since the Unix epoch\n", 400)
        answer = await self._ask(
            self._documents, "v1/rates", lambda: self._rates.document(int(since))
        )
        if isinstance(answer, Response):
            return answer
        headers = {"Cache-Control": "no-store"}
        return Response(answer, headers=headers, media_type="application/json")


def _since(offer: QuantityRates | None, since_s: int) -> QuantityRates | None:
    if offer is None:
        return None
    points = tuple(p for p in offer.points if p.end_utc_s is None or p.end_utc_s > since_s)
    return msgspec.structs.replace(offer, points=points)


def _age(age_s: float | None) -> str:
    return "never" if age_s is None else f"{age_s:,.0f} s ago"
