"""The compose file: read by docker-compose, every path in it there and what it must be; and its
nodes and its Prometheus really run, without containers.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.e2e.lab import get, until
from tests.lab.grafana import ROOT, dashboards
from tests.ports import free_port

from joulebook.config import load

HERE = ROOT / "deploy/compose"


@pytest.fixture(scope="module")
def composed() -> dict[str, Any]:
    """What docker-compose makes of the file; it talks to no daemon for that."""
    done = subprocess.run(
        ["docker-compose", "-f", HERE / "compose.yaml", "config"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    read: dict[str, Any] = yaml.safe_load(done.stdout)
    return read


def mounts(service: dict[str, Any]) -> dict[str, Path]:
    """Files of the checkout by where the container sees them."""
    pairs = [volume.rsplit(":", 2) for volume in service["volumes"]]
    return {pair[1]: Path(pair[0]) for pair in pairs if pair[0].startswith("/")}


def test_every_mounted_file_is_there_and_read_only(composed: dict[str, Any]) -> None:
    for name, service in composed["services"].items():
        files = mounts(service)
        assert files, name
        for path in files.values():
            assert path.is_file(), path
        for volume in service["volumes"]:
            assert volume.endswith(":ro") or not volume.startswith("/")
    named = {
        volume.partition(":")[0]
        for service in composed["services"].values()
        for volume in service["volumes"]
        if not volume.startswith("/")
    }
    assert named == set(composed["volumes"])


def test_only_this_machine_can_reach_it(composed: dict[str, Any]) -> None:
    for service in composed["services"].values():
        for port in service.get("ports", ()):
            assert str(port).startswith("127.0.0.1:")


def test_grafana_gets_its_source_and_every_dashboard(composed: dict[str, Any]) -> None:
    grafana = composed["services"]["grafana"]
    files = mounts(grafana)
    sources = yaml.safe_load(
        files["/etc/grafana/provisioning/datasources/joulebook.yaml"].read_text()
    )
    (source,) = sources["datasources"]
    assert source["type"] == "prometheus"
    assert source["isDefault"]
    assert source["url"] == "http://prometheus:9090"
    providers = yaml.safe_load(
        files["/etc/grafana/provisioning/dashboards/joulebook.yaml"].read_text()
    )
    folder = providers["providers"][0]["options"]["path"]
    shown = {
        json.loads(path.read_text())["uid"]
        for place, path in files.items()
        if place.startswith(f"{folder}/")
    }
    on_prometheus = {
        uid
        for uid, board in dashboards().items()
        if board["templating"]["list"][0].get("query") == "prometheus"
    }
    assert shown == on_prometheus
    assert grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] in files


def test_prometheus_gets_its_rules_and_asks_both_nodes(composed: dict[str, Any]) -> None:
    files = mounts(composed["services"]["prometheus"])
    config = yaml.safe_load(files["/etc/prometheus/prometheus.yml"].read_text())
    assert config["rule_files"] == ["/etc/prometheus/rules/*.rules.yaml"]
    assert {p.name for place, p in files.items() if place.startswith("/etc/prometheus/rules/")} == {
        "recording.rules.yaml",
        "alerts.rules.yaml",
    }
    (job,) = config["scrape_configs"]
    assert job["honor_labels"]
    hosts = {target.partition(":")[0] for target in job["static_configs"][0]["targets"]}
    assert hosts == {name for name in composed["services"] if name.startswith("node-")}
    for host in hosts:
        node = composed["services"][host]
        assert Path(node["build"]["context"]) == ROOT
        assert node["environment"]["JOULEBOOK_NODE_NAME"] == host
        assert node["command"] == [
            "run", "--demo=always", "--config", "/etc/joulebook/joulebook.toml",
        ]  # fmt: skip
        load(mounts(node)["/etc/joulebook/joulebook.toml"], {})


def test_it_runs(tmp_path: Path) -> None:
    """Two nodes and Prometheus, as the file starts them, on ports of loopback."""
    with ExitStack() as running:
        targets = []
        for name in ("node-1", "node-2"):
            port = free_port()
            targets.append(f"127.0.0.1:{port}")
            (tmp_path / name).mkdir()
            log = running.enter_context((tmp_path / f"{name}.log").open("wb"))
            command = [sys.executable, "-m", "joulebook", "run", "--demo=always", "--config",
                str(HERE / "joulebook.toml")]  # fmt: skip
            environ = {
                **os.environ,
                "PYTHONPATH": str(ROOT / "exporter"),
                "JOULEBOOK_NODE_NAME": name,
                "JOULEBOOK_SERVER_LISTEN": targets[-1],
            }
            node = subprocess.Popen(
                command, cwd=tmp_path / name, env=environ, stdout=log, stderr=log
            )
            running.callback(node.wait, 30)
            running.callback(node.terminate)
        config = yaml.safe_load((HERE / "prometheus.yml").read_text())
        config["rule_files"] = [str(ROOT / "dashboards/rules/*.rules.yaml")]
        config["scrape_configs"][0]["static_configs"][0]["targets"] = targets
        (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
        url = f"http://127.0.0.1:{free_port()}"
        log = running.enter_context((tmp_path / "prometheus.log").open("wb"))
        prometheus = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={tmp_path}/prometheus.yml",
                f"--storage.tsdb.path={tmp_path}/data",
                f"--web.listen-address={url.removeprefix('http://')}",
            ],
            stdout=log,
            stderr=log,
        )
        running.callback(prometheus.wait, 30)
        running.callback(prometheus.terminate)

        def values(expression: str) -> dict[str, float]:
            status, body = get(f"{url}/api/v1/query?query={expression}")
            assert status == 200, body
            rows = json.loads(body)["data"]["result"]
            return {row["metric"].get("node", ""): float(row["value"][1]) for row in rows}

        both = {"node-1", "node-2"}
        until("Prometheus", lambda: get(f"{url}/-/ready")[0] == 200, 120)
        until(
            "both nodes",
            lambda: values("sum%20by%20(node)(joulebook_gpu_info)").keys() == both,
            120,
        )
        until(
            "energy and what it cost",
            lambda: all(
                {node for node, value in values(f"sum%20by%20(node)({name})").items() if value}
                == both
                for name in (
                    "joulebook_experiment_energy_joules_total",
                    "joulebook_experiment_cost_total",
                    "joulebook_experiment_co2e_grams_total",
                )
            ),
            120,
        )
        assert values("count%20by%20(node)(joulebook_budget)") == {"node-1": 2, "node-2": 2}
        rules = json.loads(get(f"{url}/api/v1/rules")[1])["data"]["groups"]
        names = {rule["name"] for group in rules for rule in group["rules"]}
        assert "JoulebookBooksDoNotBalance" in names
        assert "experiment:joulebook_cost:increase1h" in names
