"""A web server on loopback that plays every feed, and can be reported to misbehave."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from joulebook.config.rates import CarbonSection, Price, Rates
from joulebook.http_client import Web
from joulebook.rates.contract import RateSource
from joulebook.rates.sources import CARBON_TOKEN, PRICE_TOKEN, feeds

Trouble = Callable[[BaseHTTPRequestHandler], None]

T0 = 1_767_225_600  # 2026-01-01T00:00Z
HOUR = 3600
KEY = "s3cret-token-0001"
ENVIRON = {PRICE_TOKEN: KEY, CARBON_TOKEN: KEY}


def source(name: str, url: str, web: Web) -> RateSource:
    """A source by its quantity and kind (`carbon/neso`), as the configuration makes it."""
    quantity, _, kind = name.partition("/")
    zone = "" if kind in {"neso", "server"} else "DE" if quantity == "carbon" else "DE-LU"
    if quantity == "price":
        rates = Rates(price=Price(kind=kind, zone=zone, url=url))  # type: ignore[arg-type]
    else:
        rates = Rates(carbon=CarbonSection(kind=kind, zone=zone, url=url))  # type: ignore[arg-type]
    (feed,) = feeds(rates, ENVIRON if kind != "server" else {}, web)
    return feed.source


class Stub:
    """Answers `bodies` by path; `trouble`, where it is set, in their place."""

    def __init__(self) -> None:
        self.bodies: dict[str, bytes] = {}
        self.trouble: Trouble | None = None
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.done = threading.Event()
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                headers = {name.lower(): value for name, value in self.headers.items()}
                stub.requests.append((self.path, headers))
                if stub.trouble is not None:
                    stub.trouble(self)
                    return
                body = stub.bodies.get(self.path.partition("?")[0])
                answer(self, 404 if body is None else 200, body or b"")

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def json(self, path: str, body: object) -> None:
        self.bodies[path] = json.dumps(body).encode()

    @contextmanager
    def running(self) -> Iterator[Stub]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield self
        finally:
            self.done.set()
            self._server.shutdown()
            thread.join(10)
            self._server.server_close()


def answer(handler: BaseHTTPRequestHandler, status: int, body: bytes = b"", **headers: str) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    if "Content_Length" not in headers:
        handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def status(code: int, body: bytes = b"", **headers: str) -> Trouble:
    return lambda handler: answer(handler, code, body, **headers)


def hang(stub: Stub) -> Trouble:
    """Accepts the question and says nothing."""

    def trouble(_: BaseHTTPRequestHandler) -> None:
        stub.done.wait(30)

    return trouble


def drip(stub: Stub) -> Trouble:
    """Sends a byte now and then, each well within the time-out of a single wait."""

    def trouble(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000000")
        handler.end_headers()
        try:
            while not stub.done.wait(0.05):
                handler.wfile.write(b" ")
        except OSError:
            handler.close_connection = True

    return trouble


def truncated(handler: BaseHTTPRequestHandler) -> None:
    answer(handler, 200, b'{"zone": "DE", "hist', Content_Length="500")
    handler.close_connection = True


def cut(handler: BaseHTTPRequestHandler) -> None:
    """Closes the connection without a word."""
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True


def endless(handler: BaseHTTPRequestHandler) -> None:
    """A body without a length that goes on and on."""
    handler.send_response(200)
    handler.send_header("Connection", "close")
    handler.end_headers()
    handler.close_connection = True
    until = time.monotonic() + 20
    try:
        while time.monotonic() < until:
            handler.wfile.write(b" " * 65_536)
    except OSError:
        pass
