"""The HTTP server over real sockets: what it serves, whom it lets in, whom it cuts."""

from __future__ import annotations

import base64
import contextlib
import gzip
import http.client
import logging
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import bcrypt
import pytest
import trustme

from joulebook.errors import ConfigError
from joulebook.server import auth, connections
from joulebook.server.routes import RunsPage
from joulebook.server.server import Limits, Server

OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
TEXT = "text/plain; version=0.0.4; charset=utf-8"


class FakePages:
    """Pages whose every answer can be set, made slow or made to fail."""

    def __init__(self) -> None:
        self.body = b"joulebook_build_info 1\n"
        self.hold = threading.Event()
        self.hold.set()
        self.is_ready = True
        self.held = 0
        self.accepts: list[str] = []

    def metrics(self, accept: str) -> tuple[bytes, str]:
        self.accepts.append(accept)
        self.held += 1
        self.hold.wait(60)
        self.held -= 1
        return self.body, OPENMETRICS if "openmetrics" in accept else TEXT

    def ready(self) -> tuple[bool, str]:
        return self.is_ready, "ready" if self.is_ready else "no tick for 31 s: nvml hangs"

    def healthy(self) -> tuple[bool, str]:
        return True, "ok"

    def index(self) -> bytes:
        if not self.is_ready:
            raise RuntimeError("no view")
        return b"<!doctype html><title>Joulebook</title>"


@pytest.fixture
def pages() -> FakePages:
    return FakePages()


@pytest.fixture
def serve(pages: FakePages) -> Iterator[Callable[..., Server]]:
    """Starts a server on a free port of the loopback; all are stopped at the end."""
    with contextlib.ExitStack() as stack:
        stack.callback(pages.hold.set)

        def start(
            web_config: Path | None = None,
            *,
            listen: str = "127.0.0.1:0",
            runs: RunsPage | None = None,
            **limits: float,
        ) -> Server:
            bounds = Limits(**{"sweep_s": 0.1, **limits})  # type: ignore[arg-type]
            server = Server(listen, pages, web_config, bounds, runs=runs)
            server.start()
            stack.callback(server.stop)
            return server

        yield start


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    renew(tmp_path, authority)
    client = trustme.CA.from_pem(authority.cert_pem.bytes(), authority.private_key_pem.bytes())
    client.issue_cert("prometheus").private_key_and_cert_chain_pem.write_to_path(
        tmp_path / "client.pem"
    )
    trustme.CA().issue_cert("stranger").private_key_and_cert_chain_pem.write_to_path(
        tmp_path / "stranger.pem"
    )
    return tmp_path


def renew(folder: Path, authority: trustme.CA) -> None:
    issued = authority.issue_cert("localhost", "127.0.0.1")
    issued.private_key_pem.write_to_path(folder / "key.pem")
    issued.cert_chain_pems[0].write_to_path(folder / "cert.pem")


def web(folder: Path, text: str) -> Path:
    """Write the web configuration file whole, as an editor or a kubelet does."""
    (folder / "new.yml").write_text(text)
    (folder / "new.yml").rename(folder / "web.yml")
    return folder / "web.yml"


TLS = "tls_server_config: {cert_file: cert.pem, key_file: key.pem}\n"
MUTUAL = TLS.replace("}", ", client_auth_type: RequireAndVerifyClientCert, client_ca_file: ca.pem}")


def users(password: str) -> str:
    digest = bcrypt.hashpw(password.encode(), bcrypt.gensalt(5)).decode()
    return f"basic_auth_users: {{ada: {digest}}}\n"


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def trusting(folder: Path, certificate: str | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=folder / "ca.pem")
    if certificate is not None:
        context.load_cert_chain(folder / certificate)
    return context


def get(
    server: Server,
    path: str = "/metrics",
    headers: dict[str, str] | None = None,
    *,
    method: str = "GET",
    tls: ssl.SSLContext | None = None,
) -> tuple[int, http.client.HTTPMessage, bytes]:
    if tls is None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    else:
        connection = http.client.HTTPSConnection("127.0.0.1", server.port, timeout=10, context=tls)
    with contextlib.closing(connection):
        connection.request(method, path, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()


def eventually(condition: Callable[[], bool], within_s: float = 60) -> None:
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end, "not within time"
        time.sleep(0.02)


def cut(client: socket.socket, within_s: float = 60) -> bool:
    """Whether the server closes the connection, whatever it had to say before."""
    client.settimeout(within_s)
    try:
        while client.recv(65536):
            pass
    except TimeoutError:
        return False
    except OSError:
        return True
    return True


def connected(server: Server, said: bytes = b"") -> socket.socket:
    client = socket.create_connection(("127.0.0.1", server.port), timeout=10)
    if said:
        client.sendall(said)
    return client


# What is served


def test_metrics(serve: Callable[..., Server], pages: FakePages) -> None:
    status, headers, body = get(serve())
    assert (status, body) == (200, pages.body)
    assert headers["Content-Type"] == TEXT
    assert headers["Content-Length"] == str(len(body))
    assert headers["Vary"] == "Accept, Accept-Encoding"
    assert "Date" in headers
    assert "Server" not in headers


def test_accept_is_passed_on(serve: Callable[..., Server], pages: FakePages) -> None:
    accept = "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"
    _, headers, _ = get(serve(), headers={"Accept": accept})
    assert headers["Content-Type"] == OPENMETRICS
    assert pages.accepts == [accept]


@pytest.mark.parametrize(
    ("accepted", "packed"),
    [
        ("gzip", True),
        ("deflate, GZIP;q=0.5", True),
        ("*", True),
        ("gzip;q=0", False),
        ("br", False),
    ],
)
def test_gzip(serve: Callable[..., Server], pages: FakePages, accepted: str, packed: bool) -> None:
    pages.body = b"joulebook_meter_energy_joules_total 1\n" * 10_000
    server = serve()
    for _ in range(2):
        _, headers, body = get(server, headers={"Accept-Encoding": accepted})
        assert headers.get("Content-Encoding") == ("gzip" if packed else None)
        assert (gzip.decompress(body) if packed else body) == pages.body
        assert (len(body) < len(pages.body) / 10) == packed
        pages.body += b"# another snapshot\n"


def test_head(serve: Callable[..., Server], pages: FakePages) -> None:
    status, headers, body = get(serve(), method="HEAD")
    assert (status, body) == (200, b"")
    assert headers["Content-Length"] == str(len(pages.body))


def test_index(serve: Callable[..., Server]) -> None:
    status, headers, body = get(serve(), "/")
    assert status == 200
    assert b"Joulebook" in body
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert headers["Cache-Control"] == "no-store"
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "script" not in headers["Content-Security-Policy"]


def test_probes(serve: Callable[..., Server], pages: FakePages) -> None:
    server = serve()
    assert get(server, "/healthz")[::2] == (200, b"ok\n")
    assert get(server, "/readyz")[::2] == (200, b"ready\n")
    pages.is_ready = False
    assert get(server, "/readyz")[::2] == (503, b"no tick for 31 s: nvml hangs\n")
    assert get(server, "/metrics")[0] == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/metrics/", 404),
        ("GET", "/../etc/passwd", 404),
        ("POST", "/metrics", 405),
        ("DELETE", "/", 405),
        ("OPTIONS", "/healthz", 405),
    ],
)
def test_other_paths_and_methods(
    serve: Callable[..., Server], method: str, path: str, status: int
) -> None:
    assert get(serve(), path, method=method)[0] == status


def test_a_page_that_fails(
    serve: Callable[..., Server], pages: FakePages, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve()
    pages.is_ready = False
    for _ in range(3):
        status, _, body = get(server, "/")
        assert status == 500
        assert b"no view" not in body
    pages.is_ready = True
    assert get(server, "/")[0] == 200
    assert sum("no view" in record.getMessage() for record in caplog.records) == 1


def test_requests_that_are_none(
    serve: Callable[..., Server], caplog: pytest.LogCaptureFixture
) -> None:
    server = serve()
    for said in (
        b"\x16\x03\x01\x00\xa5\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/1.1\r\nA: " + b"x" * 99999,
    ):
        with connected(server, said) as client:
            assert cut(client)
    assert get(server)[0] == 200
    assert not caplog.records


def test_keep_alive_and_pipelining(serve: Callable[..., Server], pages: FakePages) -> None:
    server = serve()
    request = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    with connected(server, request * 3) as client:
        received = b""
        while received.count(b"ok\n") < 3:
            received += client.recv(65536)
        client.sendall(request)
        while received.count(b"ok\n") < 4:
            received += client.recv(65536)


# Where it listens


def test_ipv6(serve: Callable[..., Server]) -> None:
    server = serve(listen="[::1]:0")
    with socket.create_connection(("::1", server.port), timeout=10) as client:
        client.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("listen", ["[::]:0", ":0"])
def test_all_addresses(serve: Callable[..., Server], listen: str) -> None:
    server = serve(listen=listen)
    assert get(server)[0] == 200
    with socket.create_connection(("::1", server.port), timeout=10) as client:
        client.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 200")


def test_an_open_server_says_so(
    serve: Callable[..., Server], caplog: pytest.LogCaptureFixture
) -> None:
    serve(listen="0.0.0.0:0")
    assert "server.web_config" in caplog.text


def test_a_port_in_use(serve: Callable[..., Server], pages: FakePages) -> None:
    port = serve().port
    second = Server(f"127.0.0.1:{port}", pages)
    with pytest.raises(ConfigError, match=r"server\.listen: .*in use; is another daemon running"):
        second.start()


@pytest.mark.parametrize("listen", ["203.0.113.1:0", "no-such-host.invalid:1", "x" * 80 + ":1"])
def test_an_address_that_cannot_be_had(pages: FakePages, listen: str) -> None:
    with pytest.raises(ConfigError, match=r"^server\.listen: cannot listen on"):
        Server(listen, pages).start()


def test_a_listen_that_is_none(pages: FakePages) -> None:
    with pytest.raises(ConfigError, match="host:port"):
        Server("9816", pages)


def test_stop_and_start_again(serve: Callable[..., Server], pages: FakePages) -> None:
    server = serve()
    port = server.port
    with connected(server) as client:
        server.stop()
        server.stop()
        assert cut(client)
    assert not server.alive
    again = serve(listen=f"127.0.0.1:{port}")
    assert get(again)[0] == 200


# Who is let in


def test_basic_auth(serve: Callable[..., Server], folder: Path) -> None:
    server = serve(web(folder, users("secret")))
    status, headers, _ = get(server)
    assert status == 401
    assert headers["WWW-Authenticate"].startswith('Basic realm="joulebook"')
    assert get(server, headers=basic("ada", "wrong"))[0] == 401
    assert get(server, headers=basic("eve", "secret"))[0] == 401
    assert get(server, headers=basic("ada", "secret"))[0] == 200
    assert get(server, "/")[0] == 401
    assert get(server, "/nothing")[0] == 401
    assert get(server, "/healthz")[0] == 200
    assert get(server, "/readyz")[0] == 200
    assert server.rejected == {"unauthorized": 5}


def test_basic_auth_changes_with_the_file(serve: Callable[..., Server], folder: Path) -> None:
    server = serve(web(folder, users("secret")))
    assert get(server, headers=basic("ada", "secret"))[0] == 200
    web(folder, users("other"))
    eventually(lambda: get(server, headers=basic("ada", "secret"))[0] == 401)
    assert get(server, headers=basic("ada", "other"))[0] == 200


def test_guessing_does_not_delay_a_known_scraper(
    serve: Callable[..., Server], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(web(folder, users("secret")))
    assert get(server, headers=basic("ada", "secret"))[0] == 200
    checking, go_on = threading.Event(), threading.Event()

    def slow(password: bytes, digest: bytes) -> bool:
        checking.set()
        go_on.wait(60)
        return False

    monkeypatch.setattr(auth, "_matches", slow)
    guesses = [
        threading.Thread(target=get, args=(server, "/metrics", basic("ada", f"guess{n}")))
        for n in range(10)
    ]
    for guess in guesses:
        guess.start()
    assert checking.wait(60)
    assert get(server, headers=basic("ada", "secret"))[0] == 200
    assert all(guess.is_alive() for guess in guesses)
    go_on.set()
    for guess in guesses:
        guess.join()


def test_headers_of_the_file(serve: Callable[..., Server], folder: Path) -> None:
    text = "http_server_config: {headers: {Content-Security-Policy: none, X-Frame-Options: deny}}"
    _, headers, _ = get(serve(web(folder, text)), "/")
    assert headers.get_all("Content-Security-Policy") == ["none"]
    assert headers["X-Frame-Options"] == "deny"


def test_tls(serve: Callable[..., Server], folder: Path, pages: FakePages) -> None:
    pages.body = os.urandom(3_000_000)
    server = serve(web(folder, TLS))
    assert get(server, tls=trusting(folder))[2] == pages.body
    with pytest.raises((OSError, http.client.HTTPException)):
        get(server)
    eventually(lambda: server.rejected.get("handshake") == 1)


def test_client_certificates(serve: Callable[..., Server], folder: Path) -> None:
    server = serve(web(folder, MUTUAL))
    assert get(server, tls=trusting(folder, "client.pem"))[0] == 200
    for certificate in (None, "stranger.pem"):
        with pytest.raises(OSError, match=r".*"):
            get(server, "/healthz", tls=trusting(folder, certificate))
    assert get(server, tls=trusting(folder, "client.pem"))[0] == 200


def test_who_speaks_plain_http_to_tls_is_named_once(
    serve: Callable[..., Server], folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    connections._told.clear()
    server = serve(web(folder, TLS))
    for _ in range(2):
        with pytest.raises((OSError, http.client.HTTPException)):
            get(server)
    assert get(server, tls=trusting(folder))[0] == 200
    assert [record.getMessage() for record in caplog.records] == [
        "127.0.0.1 asks by plain http, but this port speaks TLS: it must use https:// (in "
        "Prometheus `scheme: https`)"
    ]


def test_a_name_that_points_here_and_is_not_ours_reads_nothing(
    serve: Callable[..., Server], folder: Path, pages: FakePages
) -> None:
    rebound = {"Host": "rebind.evil.example:9816"}
    server = serve()
    for path in ("/", "/metrics", "/nothing"):
        status, _, body = get(server, path, rebound)
        assert (status, b"joulebook_" in body) == (421, False)
    assert server.rejected["host"] == 3
    # Probes carry no data; with TLS or a password such a page gets nothing anyway.
    assert get(server, "/healthz", rebound)[0] == 200
    guarded = serve(web(folder, users("secret")))
    assert get(guarded, "/metrics", {**rebound, **basic("ada", "secret")})[0] == 200


def test_a_new_certificate_is_picked_up(serve: Callable[..., Server], folder: Path) -> None:
    server = serve(web(folder, TLS))
    before = trusting(folder)
    assert get(server, tls=before)[0] == 200
    raw = socket.create_connection(("127.0.0.1", server.port), timeout=10)
    idle = before.wrap_socket(raw, server_hostname="localhost")
    authority = trustme.CA()
    renew(folder, authority)
    authority.cert_pem.write_to_path(folder / "ca.pem")

    def renewed() -> bool:
        try:
            return get(server, tls=trusting(folder))[0] == 200
        except ssl.SSLError:
            return False

    eventually(renewed)
    with pytest.raises(ssl.SSLCertVerificationError):
        get(server, tls=before)
    with idle:
        assert cut(idle)


def test_a_broken_file_keeps_the_old_one(
    serve: Callable[..., Server], folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    server = serve(web(folder, TLS))
    web(folder, "tls_server_config: {cert_file: none.pem, key_file: key.pem}\n")
    eventually(lambda: server.rejected.get("web_config") == 1)
    time.sleep(0.3)
    assert server.rejected["web_config"] == 1
    assert get(server, tls=trusting(folder))[0] == 200
    web(folder, users("secret"))
    eventually(lambda: "in use again" in caplog.text)
    assert get(server)[0] == 401
    assert caplog.text.count("the last good one stays") == 1


def test_a_broken_file_at_the_start_is_an_error(folder: Path, pages: FakePages) -> None:
    with pytest.raises(ConfigError, match=r"web\.yml"):
        Server("127.0.0.1:0", pages, web(folder, "nonsense: 1"))


# Who is cut, and who is not delayed by whom


@pytest.mark.parametrize("secure", [False, True])
def test_nobody_delays_a_scrape(
    serve: Callable[..., Server], folder: Path, pages: FakePages, secure: bool
) -> None:
    pages.body = os.urandom(4_000_000)
    server = serve(web(folder, TLS) if secure else None)
    tls = trusting(folder) if secure else None
    request = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
    with contextlib.ExitStack() as stack:
        stalled = [
            stack.enter_context(connected(server, b"\x16\x03\x01" if n % 2 else b""))
            for n in range(50)
        ]
        for _ in range(50):
            slow: socket.socket = connected(server)
            if tls is not None:
                slow = tls.wrap_socket(slow, server_hostname="localhost")
            slow.sendall(b"GET /metrics HTTP/1.1\r\nHo")
            stalled.append(stack.enter_context(slow))
        for _ in range(5):
            greedy: socket.socket = connected(server)
            if tls is not None:
                greedy = tls.wrap_socket(greedy, server_hostname="localhost")
            greedy.sendall(request * 20)
            stalled.append(stack.enter_context(greedy))
        for _ in range(5):
            assert get(server, "/healthz", tls=tls)[0] == 200
            assert get(server, tls=tls)[2] == pages.body
        # Nobody had to go to make room, and no limit of time has run out.
        assert not server.rejected


def test_stalled_handshakes_are_cut(serve: Callable[..., Server], folder: Path) -> None:
    server = serve(web(folder, TLS), handshake_s=0.3)
    with connected(server) as silent, connected(server, b"\x16\x03\x01") as partial:
        assert cut(silent)
        assert cut(partial)
    eventually(lambda: server.rejected.get("handshake") == 2)


def test_slow_heads_are_cut(serve: Callable[..., Server]) -> None:
    server = serve(head_s=0.5)
    with connected(server, b"GET /metrics HTTP/1.1\r\n") as client, pytest.raises(OSError):
        while True:
            client.sendall(b"X")
            time.sleep(0.05)
    assert server.rejected == {"slow_head": 1}


def test_slow_heads_are_cut_on_a_kept_connection(serve: Callable[..., Server]) -> None:
    server = serve(head_s=0.5)
    with connected(server, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n") as client:
        assert b"200" in client.recv(65536)
        time.sleep(1)
        client.sendall(b"GET")
        assert cut(client)
    assert server.rejected == {"slow_head": 1}


def test_a_body_without_end_is_cut(serve: Callable[..., Server]) -> None:
    server = serve(head_s=0.5)
    said = b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n"
    with connected(server, said) as client, pytest.raises(OSError):
        while True:
            client.sendall(b"X" * 1000)
            time.sleep(0.05)


def test_idle_connections_are_closed(serve: Callable[..., Server]) -> None:
    server = serve(idle_s=1)
    with connected(server, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n") as client:
        assert cut(client)
    assert not server.rejected


@pytest.mark.parametrize("secure", [False, True])
def test_greedy_readers_are_cut(
    serve: Callable[..., Server], folder: Path, pages: FakePages, secure: bool
) -> None:
    pages.body = os.urandom(20_000_000)
    server = serve(web(folder, TLS) if secure else None, answer_s=0.5)
    client: socket.socket = connected(server)
    if secure:
        client = trusting(folder).wrap_socket(client, server_hostname="localhost")
    with client:
        client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        eventually(lambda: server.rejected == {"slow_answer": 1})


@pytest.mark.parametrize("secure", [False, True])
def test_a_reader_that_leaves_only_the_last_bytes_is_cut(
    serve: Callable[..., Server], folder: Path, pages: FakePages, secure: bool
) -> None:
    pages.body = os.urandom(1_000_000)
    server = serve(web(folder, TLS) if secure else None, answer_s=5)
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(10)
    client.connect(("127.0.0.1", server.port))
    if secure:
        client = trusting(folder).wrap_socket(client, server_hostname="localhost")
    with client:
        client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        received = 0
        while received < len(pages.body) - 20_000:
            chunk = client.recv(16384)
            assert chunk, "cut while it still reads"
            received += len(chunk)
        eventually(lambda: sum(server.rejected.values()) == 1)


def test_the_one_that_waits_longest_makes_room(serve: Callable[..., Server], folder: Path) -> None:
    server = serve(web(folder, TLS), connections=10)
    with contextlib.ExitStack() as stack:
        stalled = [stack.enter_context(connected(server)) for _ in range(30)]
        assert get(server, tls=trusting(folder))[0] == 200
        assert cut(stalled[0])
        assert not cut(stalled[-1], within_s=0.2)
    assert server.rejected["evicted"] >= 21


def test_idle_connections_make_room(serve: Callable[..., Server], pages: FakePages) -> None:
    server = serve(connections=10)
    pages.hold.clear()
    request = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
    with contextlib.ExitStack() as stack:
        working = stack.enter_context(connected(server, request))
        eventually(lambda: len(pages.accepts) == 1)
        for _ in range(30):
            stack.enter_context(connected(server))
        assert get(server, "/healthz")[0] == 200
        pages.hold.set()
        assert b"200" in working.recv(65536)


def test_metrics_that_hang_block_nothing_else(
    serve: Callable[..., Server], pages: FakePages
) -> None:
    server = serve()
    pages.hold.clear()
    with contextlib.ExitStack() as stack:
        for _ in range(40):
            stack.enter_context(connected(server, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"))
        eventually(lambda: len(pages.accepts) == 2)
        assert get(server, "/healthz")[0] == 200
        assert get(server, "/")[0] == 200
        status, headers, _ = get(server)
        assert status == 503
        assert "Retry-After" in headers
        pages.hold.set()
        eventually(lambda: get(server)[0] == 200)
    server.stop()


def test_stop_does_not_wait_for_a_page_that_hangs(
    serve: Callable[..., Server], pages: FakePages
) -> None:
    server = serve()
    pages.hold.clear()
    with connected(server, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"):
        eventually(lambda: len(pages.accepts) == 1)
        server.stop()
        assert not pages.hold.is_set() and pages.held == 1
    assert not server.alive


def test_a_flood_of_connections(serve: Callable[..., Server]) -> None:
    server = serve(connections=20)
    with contextlib.ExitStack() as stack:
        for _ in range(300):
            stack.enter_context(connected(server))
        assert get(server)[0] == 200


def test_runs_are_answered_to_whoever_may_read_the_metrics(
    serve: Callable[..., Server], folder: Path
) -> None:
    asked: list[dict[str, str]] = []

    def runs(query: Mapping[str, str]) -> bytes | str:
        asked.append(dict(query))
        return b"{}" if "job" in query else "expected job=ID"

    server = serve(runs=runs)
    status, headers, body = get(server, "/v1/runs?job=500%2B1&user=ada")
    assert (status, headers["Content-Type"], body) == (200, "application/json", b"{}")
    assert asked == [{"job": "500+1", "user": "ada"}]
    status, _, body = get(server, "/v1/runs")
    assert (status, body) == (400, b"expected job=ID\n")
    assert get(serve(), "/v1/runs?job=1")[0] == 404
    guarded = serve(web_config=web(folder, users("secret")), runs=runs)
    assert get(guarded, "/v1/runs?job=1")[0] == 401
    assert get(guarded, "/v1/runs?job=1", basic("ada", "secret"))[0] == 200
    assert get(server, "/v1/runs?job=1", {"Host": "evil.example"})[0] == 421
