"""The rates service over a real socket: one asks the feed, nodes ask it; and the command."""

from __future__ import annotations

import http.client
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import bcrypt
import pytest
from tests.integration.feed_stub import Stub
from tests.ports import free_port

from joulebook import cli
from joulebook.config.rates import CarbonSection, Price, Rates
from joulebook.core.money.rates import Quality
from joulebook.http_client import Web
from joulebook.lab.rates_service import RatesPages, RatesServer
from joulebook.rates.cache import Cache
from joulebook.rates.poller import Poller
from joulebook.rates.sources import CARBON_TOKEN, PRICE_TOKEN, basis, feeds

HOUR = 3600


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """The command sets up logging for its process; here that is the one of all tests."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def stub() -> Iterator[Stub]:
    with Stub().running() as running:
        yield running


@pytest.fixture
def web() -> Iterator[Web]:
    made = Web(timeout_s=5)
    yield made
    made.close()


def poller(rates: Rates, web: Web, folder: Path, environ: dict[str, str] | None = None) -> Poller:
    return Poller(feeds(rates, environ or {}, web), basis(rates), Cache(folder))


def upstream(stub: Stub) -> Rates:
    hour = int(time.time()) // HOUR * HOUR
    stub.json(
        "/price",
        {
            "unix_seconds": [hour, hour + HOUR, hour + 2 * HOUR],
            "price": [91.5, -3, 10],
            "unit": "EUR / MWh",
        },
    )
    return Rates(
        zone="DE-LU",
        price=Price(kind="energy-charts", url=stub.url),
        carbon=CarbonSection(kind="country", zone="DE"),
    )


def node_rates(port: int, currency: str = "EUR") -> Rates:
    url = f"http://127.0.0.1:{port}"
    return Rates(
        currency=currency,
        pue=1.1,
        price=Price(kind="server", url=url),
        carbon=CarbonSection(kind="server", url=url),
    )


def get(port: int, path: str) -> tuple[int, str, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path)
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, answer.headers.get("Content-Type", ""), body


def test_many_nodes_ask_one_service_and_it_alone_the_feed(
    stub: Stub, web: Web, tmp_path: Path
) -> None:
    service = poller(upstream(stub), web, tmp_path / "service")
    server = RatesServer("127.0.0.1:0", RatesPages(service))
    server.start()
    port = server.port
    try:
        assert get(port, "/readyz")[0] == 503
        service.start()
        until = time.monotonic() + 10
        while get(port, "/readyz")[0] != 200 and time.monotonic() < until:
            time.sleep(0.02)
        assert get(port, "/healthz")[0] == 200
        for i in range(5):
            node = poller(node_rates(port), web, tmp_path / f"node{i}")
            node.step()
            now = node.current.at(int(time.time()))
            assert now.price is not None
            assert now.carbon is not None
            assert now.price.source == "Energy-Charts DE-LU day-ahead"
            assert now.price.quality is Quality.MEASURED
            assert now.electricity == now.price.value * 1_100_000
            assert now.carbon.source.startswith("Germany 2024, Our World in Data")
            assert all(row.up for row in node.health())
        assert len([path for path, _ in stub.requests if path.startswith("/price")]) == 1
        # A node of another currency is reported so.
        other = poller(node_rates(port, "USD"), web, tmp_path / "usd")
        other.step()
        assert [row.state for row in other.health()] == ["currency", "ok"]
    finally:
        server.stop()
        service.stop()
    # The service is gone: nodes go on from what they keep.
    again = poller(node_rates(port), web, tmp_path / "node0")
    again.ask_all()
    assert [row.state for row in again.health()] == ["down", "down"]
    assert again.current.at(int(time.time())).electricity is not None


def test_its_pages(stub: Stub, web: Web, tmp_path: Path) -> None:
    service = poller(upstream(stub), web, tmp_path)
    service.step()
    server = RatesServer("127.0.0.1:0", RatesPages(service))
    server.start()
    try:
        status, kind, body = get(server.port, f"/v1/rates?since={int(time.time()) + HOUR}")
        assert (status, kind) == (200, "application/json")
        document = json.loads(body)
        assert (document["v"], document["currency"]) == (1, "EUR")
        assert len(document["price"]["points"]) == 2
        assert len(json.loads(get(server.port, "/v1/rates")[2])["price"]["points"]) == 3
        for since in ("x", "-1", "1" * 13):
            assert get(server.port, f"/v1/rates?since={since}")[0] == 400
        page = get(server.port, "/")[2]
        assert "Energy-Charts DE-LU" in page
        status, kind, body = get(server.port, "/metrics")
        assert kind.startswith("text/plain")
        assert 'joulebook_feed_up{quantity="price",source="Energy-Charts DE-LU"} 1' in body
    finally:
        server.stop()


def test_a_password_guards_it(stub: Stub, web: Web, tmp_path: Path) -> None:
    digest = bcrypt.hashpw(b"pw", bcrypt.gensalt(4)).decode()
    config = tmp_path / "web.yml"
    config.write_text(f"basic_auth_users:\n  node: {digest}\n")
    service = poller(upstream(stub), web, tmp_path / "service")
    service.step()
    server = RatesServer("127.0.0.1:0", RatesPages(service), config)
    server.start()
    try:
        states: list[object] = []
        for token in ("", "node:wrong", "node:pw"):
            environ = {PRICE_TOKEN: token, CARBON_TOKEN: token}
            node = poller(node_rates(server.port), web, tmp_path / f"n{len(states)}", environ)
            node.step()
            states.append([row.state for row in node.health()])
        assert states == [["denied"] * 2, ["denied"] * 2, ["ok"] * 2]
    finally:
        server.stop()


def written(tmp_path: Path, stub: Stub) -> Path:
    upstream(stub)
    path = tmp_path / "joulebook.toml"
    path.write_text(
        f"""
        [rates]
        cache_dir = "{tmp_path / "cache"}"
        [rates.price]
        kind = "energy-charts"
        zone = "DE-LU"
        url = "{stub.url}"
        [rates.hardware."NVIDIA H100*"]
        per_gpu_hour = 1.25
        """
    )
    return path


def test_the_command_shows_what_is_in_force_and_what_is_missing(
    stub: Stub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, stub)
    assert cli.main(["--config", str(path), "rates"]) == 0
    text = capsys.readouterr().out
    assert "price" in text
    assert "0.0915 EUR/kWh" in text
    assert "Energy-Charts DE-LU day-ahead" in text
    assert "1.25 EUR/GPU-hour" in text
    assert "rates.pue is not set: no cost of electricity, CO2e" in text
    assert "rates.carbon.kind is not set: no CO2e" in text
    assert not (tmp_path / "cache").exists()
    assert cli.main(["--config", str(path), "rates", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["price"]["value"], said["price"]["quality"]) == (0.0915, "measured")
    assert said["carbon"] is None
    assert said["feeds"][0]["state"] == "ok"
    stub.json("/price", {"unix_seconds": [0], "price": [99999], "unit": "EUR / MWh"})
    assert cli.main(["--config", str(path), "rates", "--ask"]) == 0
    assert "price: Energy-Charts DE-LU: all values are absurd" in capsys.readouterr().out


def test_a_wrong_file_is_said_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "prices.csv").write_text("start,per_kwh\n2026-01-01,0.3\n")
    path = tmp_path / "joulebook.toml"
    path.write_text(f'[rates.price]\nkind = "csv"\nfile = "{tmp_path / "prices.csv"}"\n')
    assert cli.main(["--config", str(path), "rates"]) == 2
    assert "prices.csv: line 2: start: '2026-01-01': expected a time" in capsys.readouterr().err


def test_serve_as_a_process_until_sigterm(stub: Stub, tmp_path: Path, repository: Path) -> None:
    port = free_port()
    command = ["-m", "joulebook", "--config", str(written(tmp_path, stub)), "rates", "serve"]
    process = subprocess.Popen(
        [sys.executable, *command, "--listen", f"127.0.0.1:{port}"],
        env={**os.environ, "PYTHONPATH": str(repository / "exporter")},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        until = time.monotonic() + 30
        ready = False
        while not ready and time.monotonic() < until:
            time.sleep(0.05)
            try:
                ready = get(port, "/readyz")[0] == 200
            except OSError:
                continue
        assert ready
        assert json.loads(get(port, "/v1/rates")[2])["price"]["points"]
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=15)
        assert process.returncode == 0
        assert "rates.carbon.kind is not set: no CO2e for the nodes" in said
        assert f"serving rates on port {port}" in said
        assert (tmp_path / "cache" / "price.json").exists()
    finally:
        process.kill()
        process.communicate()
