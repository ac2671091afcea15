"""Token counters from real servers over HTTP into the ledger, and out of a running lab server."""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tests.integration.llama_cpp import llama_server
from tests.integration.postgresql import PostgreSql
from tests.ports import free_port
from tests.unit.lab.collected.nodes import Node
from tests.unit.lab.collected.test_served import NOW_S, PODS, T, collect, node, read

from joulebook.config.lab_server import ServingSection
from joulebook.core.report.serving import Produced
from joulebook.lab.collected import served, served_query
from joulebook.lab.collected.database import connect, opened
from joulebook.lab.serving.find import ModelServer
from joulebook.lab.serving.reader import MAX_BYTES, ServingReader
from joulebook.lab.web.grants import GrantKind, Grants
from joulebook.units import NS_PER_S

ROOT = Path(__file__).parents[2]
METRICS = 'vllm:generation_tokens_total{{model_name="m"}} {}\nprocess_start_time_seconds {}\n'


class _Models(BaseHTTPRequestHandler):
    """Answers as model servers do, and as hostile ones might."""

    asked: list[tuple[str, str]]

    def do_GET(self) -> None:
        type(self).asked.append((self.path, str(self.headers)))
        count = len(type(self).asked) * 10
        if self.path == "/redirect":
            self.send_response(302)
            self.send_header("Location", "/metrics")
            self.end_headers()
            return
        self.send_response(200)
        self.end_headers()
        with contextlib.suppress(OSError):
            if self.path == "/huge":
                for _ in range(MAX_BYTES // 65_536 + 2):
                    self.wfile.write(b"# nothing\n" * 6554)
            elif self.path == "/drip":
                # Until the reader has enough of it; the limit is only for a reader that has not.
                for _ in range(600):
                    self.wfile.write(b"#\n")
                    self.wfile.flush()
                    time.sleep(0.1)
            else:
                self.wfile.write(METRICS.format(count, time.time() - 60).encode())

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def models() -> Iterator[tuple[str, type[_Models]]]:
    """A server, and what it was asked."""

    class Own(_Models):
        asked: list[tuple[str, str]] = []

    server = ThreadingHTTPServer(("127.0.0.1", 0), Own)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", Own
    server.shutdown()
    server.server_close()


class Found:
    """A finder of those servers."""

    def __init__(self, *urls: str) -> None:
        self._urls = urls

    def servers(self) -> list[ModelServer]:
        return [ModelServer(PODS[0], "", self._urls)]


@pytest.mark.parametrize(
    ("path", "reason"), [("/redirect", "redirect"), ("/huge", "too_large"), ("/drip", "timeout")]
)
def test_a_server_leads_nowhere_and_is_bounded(
    tmp_path: Path, models: tuple[str, type[_Models]], path: str, reason: str
) -> None:
    url = f"sqlite://{tmp_path}/all.db"
    with connect(url, create=True) as database:
        collect(database, node())
    made = ServingReader(
        ServingSection(timeout_s=0.5),
        functools.partial(connect, url),
        [Found(models[0] + path)],
        lambda: NOW_S,
    )
    made.once()
    assert made.errors == {reason: 1}
    ((asked, headers),) = models[1].asked
    assert asked == path
    assert "Authorization" not in headers
    assert "Cookie" not in headers


def test_tokens_on_postgresql(postgresql: PostgreSql) -> None:
    with connect(postgresql.new(), create=True) as database:
        made = node()
        made.burn(T, 9_000_000, PODS[0])
        collect(database, made)
        for when_s, count in ((T, 0), (T + 900, 500)):
            read(database, PODS[0], when_s, {"m": {Produced.OUTPUT: count}})
        assert served.settle(database, NOW_S) == 1
        assert served.settle(database, NOW_S) == 0
        (found,) = served_query.models(database, (T, T + 900), "o.account = ?", ["nlp"])
        assert found.counts == {Produced.OUTPUT: 500}
        assert found.energy_uj == {"gpu": 9_000_000}
        assert [each.month for each in served_query.by_month(database, (0, NOW_S), "1 = 1", [])]


def test_a_lab_server_reads_counts_and_exposes(
    tmp_path: Path, models: tuple[str, type[_Models]]
) -> None:
    """A server that started just now is counted from its start, at the first reading."""
    url, port = f"sqlite://{tmp_path}/all.db", free_port()
    now_s = int(time.time())
    made = Node("n1", "a" * 32)
    made.label("101", "nlp", "ada", "llama", started_utc_ns=(now_s - 600) * NS_PER_S)
    made.burn(now_s - 600, 1_000_000, "101")
    with connect(url, create=True) as database:
        collect(database, made, now_s)
    token = tmp_path / "token"
    token.write_text("collect-0123456789abcdef\n")
    token.chmod(0o600)
    (tmp_path / "lab.toml").write_text(
        f'[collect]\nlisten = "127.0.0.1:{free_port()}"\nurl = "{url}"\n'
        f'token_file = "{token}"\ntargets = ["127.0.0.1:9"]\n'
        f'[lab]\nlisten = "127.0.0.1:{port}"\nmunge = false\n'
        f'[rates]\ncache_dir = "{tmp_path}/rates"\n'
        '[serving]\nevery_s = 5\ncost_limits."*" = 0.5\n'
        f'[serving.targets.llama]\nurl = "{models[0]}/metrics"\nworkload = "101"\n'
    )
    with opened(url) as database:
        secret = Grants(database, time.time).make(GrantKind.TOKEN, "root", "token", 3600)
    headers = {"Authorization": f"Bearer {secret}"}
    with subprocess.Popen(
        [sys.executable, "-m", "joulebook", "lab", "--config", str(tmp_path / "lab.toml")],
        env={**os.environ, "PYTHONPATH": str(ROOT / "exporter")},
    ) as server:
        try:
            shown = _until(f"http://127.0.0.1:{port}/metrics", headers, "serving_tokens_total{")
        finally:
            server.terminate()
    labels = 'account="nlp",experiment="llama",model_name="m"'
    assert f'joulebook_serving_tokens_total{{{labels},kind="output"}} 10\n' in shown
    assert f'joulebook_serving_cost_limit{{{labels},currency="EUR"}} 0.5' in shown
    assert "joulebook_serving_servers 1" in shown
    with opened(url) as database:
        assert database.rows("SELECT count(*) FROM serving_counters") == [(1,)]


def _until(url: str, headers: dict[str, str], text: str) -> str:
    """What a page shows, once it has a text."""
    for _ in range(300):
        with contextlib.suppress(urllib.error.URLError, OSError):
            request = urllib.request.Request(url, headers=headers)
            with urllib.request.urlopen(request, timeout=10) as answer:
                shown = answer.read().decode()
                if text in shown:
                    return str(shown)
        time.sleep(0.2)
    raise AssertionError(f"{url}: no {text}")


def test_llama_cpp_is_read_as_it_is(tmp_path: Path, build_dir: Path) -> None:
    """Its real server: what it wrote is what is counted, prompts apart, and no requests."""
    url = f"sqlite://{tmp_path}/all.db"
    with connect(url, create=True) as database:
        collect(database, node())
    clock = [NOW_S]
    with llama_server(tmp_path, build_dir) as server:
        made = ServingReader(
            ServingSection(),
            functools.partial(connect, url),
            [Found(f"{server.url}/metrics")],
            lambda: clock[0],
        )
        for tokens in (0, 7, 5):
            if tokens:
                server.complete(tokens)
            made.once()
            clock[0] += 60
    assert made.errors == {}
    with opened(url) as database:
        counted: dict[str, int] = dict(database.rows("SELECT item, whole FROM serving_totals"))
    assert counted.pop("prompt") > 0
    assert counted == {"output": 12}
