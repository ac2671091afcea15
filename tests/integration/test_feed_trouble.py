"""Every feed against a server on loopback that misbehaves; urllib3 for real."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.integration.feed_stub import (
    ENVIRON,
    HOUR,
    KEY,
    T0,
    Stub,
    Trouble,
    cut,
    drip,
    endless,
    hang,
    source,
    status,
    truncated,
)
from tests.ports import free_port

from joulebook import http_client
from joulebook.config.rates import CarbonSection, Price, Rates
from joulebook.core.money.rates import Quality
from joulebook.errors import FeedDenied, FeedDown, FeedError, FeedLimited, FeedWrong
from joulebook.http_client import Web
from joulebook.rates.cache import Cache
from joulebook.rates.contract import RateSource
from joulebook.rates.poller import Poller
from joulebook.rates.sources import basis, feeds

FEEDS = [
    "carbon/electricity-maps",
    "carbon/neso",
    "carbon/energy-charts",
    "carbon/server",
    "price/energy-charts",
    "price/entsoe",
    "price/server",
]
KEYED = ["carbon/electricity-maps", "price/entsoe"]


@pytest.fixture
def stub() -> Iterator[Stub]:
    with Stub().running() as running:
        yield running


@pytest.fixture
def web() -> Iterator[Web]:
    made = Web(timeout_s=0.5, deadline_s=1.0, max_bytes=2**20)
    yield made
    made.close()


Make = Callable[[str], RateSource]


@pytest.fixture
def make(stub: Stub, web: Web) -> Make:
    """A source by its quantity and kind."""
    return lambda name: source(name, stub.url, web)


# A server that misbehaves, the same for all feeds


@pytest.mark.parametrize("feed", FEEDS)
@pytest.mark.parametrize(
    ("trouble", "kind", "reason"),
    [
        (status(500), FeedDown, "http_5xx"),
        (status(503), FeedDown, "http_5xx"),
        (status(401), FeedDenied, "denied"),
        (status(403), FeedDenied, "denied"),
        (status(404), FeedWrong, "http_4xx"),
        (status(204), FeedWrong, "http_4xx"),
        (status(429), FeedLimited, "limited"),
        (status(200, b"<html>Wartung</html>"), FeedWrong, "garbage"),
        (status(200, b"\xff\xfe\x00"), FeedWrong, "garbage"),
        (status(200, b"[" * 100_000), FeedWrong, "garbage"),
        (status(200, b'{"price": NaN}'), FeedWrong, "garbage"),
        (status(200, b"x" * (2**20 + 1)), FeedWrong, "too_large"),
        (status(200, b"x", Content_Encoding="gzip"), FeedWrong, "garbage"),
        (truncated, FeedDown, "truncated"),
        (cut, FeedDown, "down"),
        (endless, FeedWrong, "too_large"),
    ],
)
def test_trouble_is_told_apart(
    stub: Stub, make: Make, feed: str, trouble: Trouble, kind: type[FeedError], reason: str
) -> None:
    stub.trouble = trouble
    with pytest.raises(kind) as caught:
        make(feed).fetch(T0, T0 + HOUR)
    assert caught.value.reason == reason
    assert KEY not in repr(caught.value)


@pytest.mark.parametrize("trouble", [hang, drip])
def test_a_server_that_hangs_or_drips_is_left_in_time(
    stub: Stub, make: Make, trouble: Callable[[Stub], Trouble]
) -> None:
    stub.trouble = trouble(stub)
    before = time.monotonic()
    with pytest.raises(FeedDown) as caught:
        make("price/entsoe").fetch(T0, T0 + HOUR)
    assert caught.value.reason == "timeout"
    assert time.monotonic() - before < 25, "30 is what the server would take"


def test_nobody_listens(make: Make, stub: Stub, web: Web) -> None:
    with pytest.raises(FeedDown) as caught:
        web.get(f"http://127.0.0.1:{free_port()}/api", {"securityToken": KEY})
    assert caught.value.reason == "down"
    assert KEY not in str(caught.value)
    with pytest.raises(FeedDown):
        web.get("https" + stub.url.removeprefix("http") + "/api", {"securityToken": KEY})


def test_retry_after_is_heard(stub: Stub, make: Make) -> None:
    for code in (429, 503):
        stub.trouble = status(code, Retry_After="77")
        with pytest.raises(FeedLimited) as caught:
            make("carbon/neso").fetch(T0, T0 + HOUR)
        assert caught.value.retry_after_s == 77


@pytest.mark.parametrize("feed", KEYED)
@pytest.mark.parametrize("code", [301, 302, 307, 308])
def test_a_redirect_is_not_followed_and_no_key_goes_along(
    stub: Stub, make: Make, feed: str, code: int
) -> None:
    with Stub().running() as elsewhere:
        stub.trouble = status(code, Location=f"{elsewhere.url}/x?securityToken={KEY}")
        with pytest.raises(FeedWrong, match="redirects to http://127") as caught:
            make(feed).fetch(T0, T0 + HOUR)
        assert caught.value.reason == "redirect"
        assert KEY not in str(caught.value)
        assert elsewhere.requests == []


@pytest.mark.parametrize("feed", KEYED)
def test_a_key_is_in_no_log_line_and_no_message(
    stub: Stub, make: Make, feed: str, caplog: pytest.LogCaptureFixture
) -> None:
    said = []
    with caplog.at_level(logging.DEBUG):
        for trouble in (
            status(500),
            status(403),
            truncated,
            cut,
            hang(stub),
            status(200, b"{}", **{"X y": "bad header"}),
        ):
            stub.trouble = trouble
            with pytest.raises(FeedError) as caught:
                make(feed).fetch(T0, T0 + HOUR)
            said.append(repr(caught.value) + repr(caught.value.__cause__))
    assert len(stub.requests) == 6
    assert KEY not in "".join(said) + caplog.text
    assert "127.0.0.1" in said[0]


def test_a_key_that_goes_out_unencrypted_is_said_aloud(
    stub: Stub, web: Web, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    port = stub.url.rpartition(":")[2]

    def loopback(host: str, *args: object, **more: object) -> list[object]:
        family = socket.AF_INET
        return [(family, socket.SOCK_STREAM, 6, "", ("127.0.0.1", int(port)))]

    monkeypatch.setattr(socket, "getaddrinfo", loopback)
    for _ in range(2):
        with pytest.raises(FeedWrong):
            web.get(f"http://feed.example:{port}/api", {"securityToken": KEY}, secret=True)
    said = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert said == [f"http://feed.example:{port}/api: the key is sent unencrypted"]
    http_client._once.recovered(f"plain http://feed.example:{port}/api", "")


# All together: from the feed to the rates in force


def test_from_feed_to_rates_through_trouble_and_back(stub: Stub, web: Web, tmp_path: Path) -> None:
    now = [float(T0)]
    rates = Rates(
        pue=1.25,
        price=Price(kind="energy-charts", zone="DE-LU", url=stub.url, keep_s=7200),
        carbon=CarbonSection(kind="neso", url=stub.url),
    )

    def poller() -> Poller:
        return Poller(
            feeds(rates, ENVIRON, web),
            basis(rates),
            Cache(tmp_path / "rates"),
            now_s=lambda: now[0],
            monotonic_s=lambda: now[0],
            jitter=lambda a, b: (a + b) / 2,
        )

    first = poller()
    stub.json("/price", {"unix_seconds": [T0, T0 + HOUR], "price": [100, -20], "unit": "EUR / MWh"})
    first.step()
    in_force = first.current.at(T0)
    assert in_force.electricity == 100_000_000 * 1_250_000
    assert in_force.co2e is None
    assert [(row.quantity, row.up, row.state) for row in first.health()] == [
        ("price", True, "ok"),
        ("carbon", False, "http_4xx"),
    ]
    # A restart while the feed is down: from the cache, then an estimate, then nothing.
    stub.trouble = status(500)
    again = poller()
    for hours, price, quality in (
        (0, 100_000_000, Quality.MEASURED),
        (1, -20_000_000, Quality.MEASURED),
        (2, -20_000_000, Quality.ESTIMATED),
        (3, -20_000_000, Quality.ESTIMATED),
    ):
        now[0] = T0 + hours * HOUR
        again.step()
        found = again.current.at(int(now[0])).price
        assert found is not None
        assert (found.value, found.quality) == (price, quality)
    now[0] = T0 + 4 * HOUR
    again.step()
    assert again.current.at(int(now[0])).price is None
    row = again.health()[0]
    assert (row.state, row.age_s(now[0])) == ("http_5xx", 4 * HOUR)
    assert row.errors["http_5xx"] >= 3
    # And back.
    stub.trouble = None
    stub.json("/price", {"unix_seconds": [T0 + 4 * HOUR], "price": [7], "unit": "EUR / MWh"})
    now[0] += 2 * HOUR - HOUR - 1
    again.step()
    found = again.current.at(int(now[0])).price
    assert found is not None
    assert (found.value, found.quality) == (7_000_000, Quality.MEASURED)
