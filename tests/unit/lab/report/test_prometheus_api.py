"""What speaks Prometheus's API may be slow, partial, huge, somewhere else, or something else."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
import trustme

from joulebook.core.report.dataset import Selection
from joulebook.errors import ConfigError, SourceError
from joulebook.lab.report import prometheus_api
from joulebook.lab.report.prometheus import PrometheusSource
from joulebook.lab.report.prometheus_api import (
    Access,
    Late,
    PrometheusApi,
    exact,
    matcher,
    quoted,
    selector,
)

Say = Callable[[BaseHTTPRequestHandler], None]


class Stub(ThreadingHTTPServer):
    """Says what the test wants it to; keeps what it was asked."""

    daemon_threads = True

    def __init__(self, say: Say, tls: ssl.SSLContext | None = None) -> None:
        self.say = say
        self.asked: list[tuple[str, dict[str, str], dict[str, list[str]]]] = []
        super().__init__(("127.0.0.1", 0), Handler)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_side=True)
        self.url = f"{'http' if tls is None else 'https'}://localhost:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is no news."""


class Handler(BaseHTTPRequestHandler):
    server: Stub

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.server.asked.append((self.path, dict(self.headers), parse_qs(body)))
        self.server.say(self)

    def log_message(self, format: str, *args: object) -> None:
        pass


def answer(body: object, status: int = 200, **headers: str) -> Say:
    def say(handler: BaseHTTPRequestHandler) -> None:
        text = body if isinstance(body, bytes) else json.dumps(body).encode()
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(text)))
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(text)

    return say


Serve = Callable[..., Stub]


@pytest.fixture
def serve() -> Iterator[Serve]:
    started: list[Stub] = []

    def start(say: Say, tls: ssl.SSLContext | None = None) -> Stub:
        stub = Stub(say, tls)
        threading.Thread(target=stub.serve_forever, daemon=True).start()
        started.append(stub)
        return stub

    yield start
    for stub in started:
        stub.shutdown()
        stub.server_close()


def vector(**more: Any) -> dict[str, Any]:
    row = {"metric": {"node": "n1"}, "value": [1, "2.5"]}
    return {"status": "success", "data": {"resultType": "vector", "result": [row]}, **more}


def test_an_answer_and_its_warnings(serve: Serve) -> None:
    stub = serve(answer(vector(warnings=["store down"], infos=["odd name"], isPartial=True)))
    api = PrometheusApi(f"{stub.url}/prom", Access())
    (row,) = api.instant("up", 1_700_000_000)
    assert (row.labels, row.value) == ({"node": "n1"}, 2.5)
    api.instant("up", 1_700_000_000)
    assert list(api.warnings) == [
        "store down", "odd name", "the answer is partial: a part of the storage did not reply",
    ]  # fmt: skip
    path, _, form = stub.asked[0]
    assert path == "/prom/api/v1/query"
    assert form == {"query": ["up"], "time": ["1700000000"], "timeout": ["60s"]}


def test_headers_and_token(serve: Serve, tmp_path: Path) -> None:
    stub = serve(answer(vector()))
    token = tmp_path / "token"
    token.write_text("s3cret\n")
    access = Access({"X-Scope-OrgID": "lab"}, token)
    PrometheusApi(stub.url, access).instant("up", 1)
    token.write_text("user:pass")
    PrometheusApi(stub.url, access).instant("up", 1)
    first, second = (headers for _, headers, _ in stub.asked)
    assert first["X-Scope-OrgID"] == "lab"
    assert first["Authorization"] == "Bearer s3cret"
    assert second["Authorization"] == "Basic dXNlcjpwYXNz"
    token.write_text("two\nlines")
    with pytest.raises(ConfigError, match="expected a token or user:password, one line"):
        PrometheusApi(stub.url, access)


def test_tls_is_checked(serve: Serve, tmp_path: Path) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    stub = serve(answer(vector()), context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    with pytest.raises(SourceError, match="TLS failed"):
        PrometheusApi(stub.url, Access()).instant("up", 1)
    assert PrometheusApi(stub.url, Access(ca=tmp_path / "ca.pem")).instant("up", 1)
    assert PrometheusApi(stub.url, Access(insecure=True)).instant("up", 1)
    with pytest.raises(ConfigError, match=r"--ca .*nothing\.pem: not a certificate file"):
        PrometheusApi(stub.url, Access(ca=tmp_path / "nothing.pem"))


@pytest.mark.parametrize(
    ("say", "message"),
    [
        (answer({"status": "error", "error": "too many samples"}, 422), "too many samples"),
        (answer(b"<html>login</html>"), "not an answer of Prometheus's API"),
        (answer(b"", 502), "it returned status 502"),
        (answer(b"[" * 100_000), "not an answer of Prometheus's API"),
        (answer(b"", 302, Location="http://elsewhere/"), "redirects; not followed"),
        (answer({"status": "error", "error": "\x1b[2J"}, 400), "joulebook"),
    ],
)
def test_what_is_no_answer(serve: Serve, say: Say, message: str) -> None:
    with pytest.raises(SourceError) as error:
        PrometheusApi(serve(say).url, Access()).instant("up", 1)
    assert message in str(error.value) or message == "joulebook"
    assert "\x1b" not in str(error.value)


def test_more_than_can_be_kept(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prometheus_api, "MOST_BYTES", 1 << 20)
    stub = serve(answer(b" " * (2 << 20)))
    with pytest.raises(SourceError, match="more than 1048576 bytes; narrow it"):
        PrometheusApi(stub.url, Access()).instant("up", 1)


def test_one_that_never_ends(serve: Serve) -> None:
    held = threading.Event()
    stub = serve(lambda _: held.wait(30) and None)
    try:
        with pytest.raises(SourceError, match=r"timed out after 0.3 s \(--timeout\)"):
            PrometheusApi(stub.url, Access(timeout_s=0.3)).instant("up", 1)
    finally:
        held.set()


def test_names_in_queries() -> None:
    assert quoted('a"\\\n') == '"a\\"\\\\\\n"'
    assert quoted("\ud800") == '"?"'
    assert matcher("user", {"ada"}) == 'user="ada"'
    assert matcher("user", {"a.b", "c|d"}) == r'user=~"a\\.b|c\\|d"'
    wanted = Selection(experiments=frozenset({"x"}), workloads=frozenset({"slurm/101_7"}))
    assert selector("m", wanted) == 'm{experiment="x",workload="101_7"}'
    last = "max by (node) (last_over_time(m{}[60s]))"
    before = "max by (node) (last_over_time(m{}[900s] offset 60s))"
    assert exact("m", Selection(), ("node",), 60) == (
        f"{last} - (({before} <= {last}) or {last} * 0)"
    )
    first = 'min by (node) (min_over_time(m{node="n1"}[10s] offset 50s))'
    assert exact("m", Selection(), ("node",), 60, Late(frozenset({"n1"}), 50, 10)) == (
        f"{last} - ((({before} or {first}) <= {last}) or {last} * 0)"
    )


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"metric": {}, "value": [1, "NaN"]}, "'NaN' is not the value of a counter"),
        ({"metric": {}, "value": [1, "+Inf"]}, "'+Inf' is not the value of a counter"),
        (
            {"metric": {"component": "warp\x1b", "node": "n"}, "value": [1, "1"]},
            "a series that joulebook did not write",
        ),
    ],
)
def test_series_that_are_not_ours(serve: Serve, row: dict[str, Any], said: str) -> None:
    stub = serve(answer({"status": "success", "data": {"result": [row]}}))
    source = PrometheusSource(PrometheusApi(stub.url, Access()))
    with pytest.raises(SourceError) as error:
        source.account(1_700_000_100, 1_700_001_000, Selection())
    assert said in str(error.value)
    assert "\x1b" not in str(error.value)
