"""A collector maps our names to OpenTelemetry's; an agent's remote write loses no label."""

from __future__ import annotations

import http.server
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from tests.e2e.lab import get, until
from tests.ports import free_port

from joulebook.metrics.catalogue import BY_NAME

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "packaging/otel-collector.yaml"
PAGE = ROOT / "docs/opentelemetry.md"
GOLDEN = (ROOT / "tests/unit/metrics/golden.prom").read_text()

RELEASE = "v0.161.0"
CONTRIB = "github.com/open-telemetry/opentelemetry-collector-contrib"
CORE = "go.opentelemetry.io/collector"
BUILD = {
    "dist": {"name": "otelcol", "output_path": "./build"},
    "receivers": [{"gomod": f"{CONTRIB}/receiver/prometheusreceiver {RELEASE}"}],
    "processors": [
        {"gomod": f"{CONTRIB}/processor/{name}processor {RELEASE}"}
        for name in ("transform", "groupbyattrs")
    ],
    "exporters": [
        {"gomod": f"{CONTRIB}/exporter/fileexporter {RELEASE}"},
        {"gomod": f"{CORE}/exporter/otlphttpexporter {RELEASE}"},
    ],
    "providers": [
        {"gomod": f"{CORE}/confmap/provider/{name}provider v1.67.0"}
        for name in ("file", "env", "yaml")
    ],
}


@contextmanager
def served(text: str) -> Iterator[int]:
    """A daemon's /metrics as it was once."""

    class Metrics(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Metrics)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def running(place: Path, *command: str) -> Iterator[None]:
    place.mkdir(exist_ok=True)
    with (place / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=place, stdout=log, stderr=log)
        try:
            yield
        finally:
            process.terminate()
            process.wait(30)


def renamed() -> dict[str, str]:
    """What the collector's configuration calls each of our metrics."""
    text = CONFIG.read_text()
    return dict(
        (ours, theirs)
        for theirs, ours in re.findall(r'set\(name, "([^"]+)"\) where name == "([^"]+)"', text)
    )


def test_the_collector_renames_metrics_that_there_are_as_the_page_says() -> None:
    names = renamed()
    assert len(names) >= 12 and set(names) <= set(BY_NAME)
    rows = [
        row.split("|") for row in PAGE.read_text().splitlines() if row.startswith("| `joulebook")
    ]
    on_page = {
        ours: theirs
        for row in rows
        for group in [re.findall(r"`([^`]+)`", row[2].partition(",")[0] + row[2].partition(",")[2])]
        for number, ours in enumerate(re.findall(r"`([^`]+)`", row[1]))
        for theirs in [group[min(number, len(group) - 1)]]
    }
    assert on_page == names
    # Points are chosen by an expression: it takes those, and no others.
    (chosen,) = re.findall(
        r'IsMatch\(metric\.name, "(\^joulebook_gpu_[^"]+)"\)', CONFIG.read_text()
    )
    gpus = {name for name in names if name.startswith("joulebook_gpu_")}
    assert {name for name in BY_NAME if re.search(chosen, name)} == gpus


def test_units_are_set_before_names_and_for_all_of_them() -> None:
    text = CONFIG.read_text()
    patterns = re.findall(r'set\(unit, "[^"]+"\) where (?:IsMatch\(name, |name == )"([^"]+)"', text)
    assert [name for name in renamed() if not any(re.search(p, name) for p in patterns)] == []
    assert text.rindex("set(unit") < text.index("set(name")


def test_what_an_agent_writes_has_every_label(tmp_path: Path) -> None:
    """The page's own configuration, from a Prometheus in agent mode to another Prometheus."""
    (block,) = re.findall(r"(?ms)^```yaml prometheus\n(.*?)^```", PAGE.read_text())
    port, agent = free_port(), free_port()
    url = f"http://127.0.0.1:{port}"
    with served(GOLDEN) as target:
        config = yaml.safe_load(block)
        config["global"]["scrape_interval"] = "1s"
        config["scrape_configs"][0]["static_configs"][0]["targets"] = [f"127.0.0.1:{target}"]
        config["remote_write"][0]["url"] = f"{url}/api/v1/write"
        (tmp_path / "agent.yml").write_text(yaml.safe_dump(config))
        (tmp_path / "storage.yml").write_text("scrape_configs: []\n")
        storage = [
            *["prometheus", f"--config.file={tmp_path}/storage.yml", "--storage.tsdb.path=data"],
            *["--web.enable-remote-write-receiver", f"--web.listen-address=127.0.0.1:{port}"],
        ]
        writer = [
            *["prometheus", "--enable-feature=agent", f"--config.file={tmp_path}/agent.yml"],
            *["--storage.agent.path=data", f"--web.listen-address=127.0.0.1:{agent}"],
        ]
        with running(tmp_path / "storage", *storage), running(tmp_path / "agent", *writer):
            until("the storage", lambda: get(f"{url}/-/ready")[0] == 200, 60)
            until("every series with its labels", lambda: asked(url) == exposed(), 120)


def exposed() -> set[frozenset[tuple[str, str]]]:
    """The series of the exposition, by name and labels; what the agent adds with them."""
    added = {"site": "example", "instance": "n1", "job": "joulebook"}
    return {
        frozenset(
            (key, value)
            for key, value in {**sample.labels, **added, "__name__": sample.name}.items()
            if value  # Prometheus keeps no empty label
        )
        for family in text_string_to_metric_families(GOLDEN)
        for sample in family.samples
        if sample.name.startswith("joulebook_")
    }


def asked(url: str) -> set[frozenset[tuple[str, str]]]:
    body = json.loads(get(f"{url}/api/v1/query?query=%7B__name__%3D~%22joulebook_.%2B%22%7D")[1])
    return {frozenset(row["metric"].items()) for row in body["data"]["result"]}


@pytest.mark.nightly
@pytest.mark.timeout(7200)
def test_the_real_collector_gives_the_conventions_names(tmp_path: Path, build_dir: Path) -> None:
    go = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
    if go is None:
        pytest.skip("no Go here to build the collector with")
    binary = build_dir / f"otelcol-{RELEASE}"
    if not binary.exists():
        (tmp_path / "build.yaml").write_text(yaml.safe_dump(BUILD))
        builder = f"go.opentelemetry.io/collector/cmd/builder@{RELEASE}"
        subprocess.run([go, "run", builder, "--config", "build.yaml"], cwd=tmp_path, check=True)
        shutil.copy(tmp_path / "build/otelcol", binary)
    config: dict[str, Any] = yaml.safe_load(CONFIG.read_text())
    config["exporters"]["file"] = {"path": str(tmp_path / "out.json")}
    config["service"]["pipelines"]["metrics"]["exporters"] = ["file"]
    config["service"]["telemetry"] = {"metrics": {"level": "none"}}
    scrape = config["receivers"]["prometheus"]["config"]["scrape_configs"][0]
    with served(GOLDEN) as target:
        scrape |= {"scrape_interval": "1s", "scrape_timeout": "1s"}
        scrape["static_configs"] = [{"targets": [f"127.0.0.1:{target}"]}]
        (tmp_path / "collector.yaml").write_text(yaml.safe_dump(config))
        with running(tmp_path / "run", str(binary), "--config", str(tmp_path / "collector.yaml")):
            found = until("metrics", lambda: collected(tmp_path / "out.json"), 120)
    present = {ours for ours in renamed() if re.search(rf"(?m)^{ours}[{{ ]", GOLDEN)}
    assert {"joulebook_meter_energy_joules_total", "joulebook_gpu_power_watts"} <= present
    names = {metric["name"] for _, metric in found}
    assert {renamed()[ours] for ours in present} <= names
    assert not present & names
    assert "joulebook_experiment_energy_joules_total" in names
    for host, metric in found:
        if metric["name"].startswith("hw."):
            assert host and metric["unit"]
            for point in (metric.get("sum") or metric["gauge"])["dataPoints"]:
                keys = {each["key"] for each in point["attributes"]}
                assert {"hw.id", "hw.type"} <= keys or metric["name"] == "hw.host.energy"
                assert not keys & {"uuid", "gpu", "meter", "component", "node"}


def collected(file: Path) -> list[tuple[str, dict[str, Any]]]:
    """Every metric that the collector wrote, with its host."""
    if not file.exists():
        return []
    return [
        (host, metric)
        for line in file.read_text().splitlines()
        for resource in json.loads(line)["resourceMetrics"]
        for host in [
            next(
                (
                    each["value"]["stringValue"]
                    for each in resource["resource"].get("attributes", ())
                    if each["key"] == "host.name"
                ),
                "",
            )
        ]
        for scope in resource["scopeMetrics"]
        for metric in scope["metrics"]
    ]
