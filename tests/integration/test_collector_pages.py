"""What the collector shows of itself, over its real server and read by promtool."""

from __future__ import annotations

import http.client
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.integration.collect_lab import LiveNode
from tests.ports import free_port
from tests.unit.ledger.samples import JOB

from joulebook.cli import main
from joulebook.config import Config
from joulebook.config.lab import Collect
from joulebook.errors import ConfigError
from joulebook.lab.collect.client import TargetList
from joulebook.lab.collect.collector import Collector
from joulebook.lab.collect.metrics import COLLECTOR, CollectorPages, CollectorServer, make_collector
from joulebook.lab.collected.database import connect


@pytest.fixture
def node(tmp_path: Path) -> Iterator[LiveNode]:
    made = LiveNode(tmp_path / "nodes", "n0")
    made.tick()
    yield made
    made.close()


def collector(tmp_path: Path, *targets: str) -> Collector:
    token = str(tmp_path / "nodes/token")
    url = f"sqlite://{tmp_path}/collected.db"
    return make_collector(Collect(targets=targets, token_file=token, url=url, timeout_s=2))


def get(port: int, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path)
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, body


def test_pages(node: LiveNode, tmp_path: Path) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    made = collector(tmp_path, node.target, nobody)
    assert made.once() is False
    server = CollectorServer(Config(collect=Collect(listen="127.0.0.1:0")), CollectorPages(made))
    server.start()
    try:
        status, text = get(server.port, "/metrics")
        assert status == 200
        values = {
            (sample.name, sample.labels.get("target", "")): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
        good, bad = f"http://{node.target}", f"http://{nobody}"
        assert values["joulebook_collect_targets", ""] == 2
        assert values["joulebook_collect_target_up", good] == 1
        assert values["joulebook_collect_target_up", bad] == 0
        assert values["joulebook_collect_errors_total", bad] == 1
        assert values["joulebook_collect_target_behind", good] == 0
        assert values["joulebook_collect_pages_total", ""] >= 1
        assert values["joulebook_collect_database_up", ""] == 1
        stamp = values["joulebook_collect_target_last_success_timestamp_seconds", good]
        assert abs(stamp - time.time()) < 600
        assert {name for name, _ in values} == {metric.name for metric in COLLECTOR}
        promtool = shutil.which("promtool")
        assert promtool
        checked = subprocess.run(
            [promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False
        )
        assert checked.returncode == 0, checked.stdout + checked.stderr
        assert get(server.port, "/readyz")[0] == 200
        assert get(server.port, "/healthz")[0] == 200
        assert bad in get(server.port, "/")[1]
        made.database_problem = "the database is down"
        assert get(server.port, "/readyz") == (503, "the database is down\n")
        made.turned -= 10_000
        assert get(server.port, "/healthz")[0] == 503
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        (Collect(), "collect.url is not set"),
        (Collect(url="sqlite:////x/y"), "nothing to collect from"),
        (Collect(url="sqlite:////x/y", targets=("a:1",)), "collect.token_file is not set"),
        (
            Collect(url="sqlite:////x/y", targets=("a:1",), token_file="/nowhere"),
            "/nowhere: cannot be read",
        ),
    ],
)
def test_what_is_missing_is_said_at_the_start(settings: Collect, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        make_collector(settings)


def test_a_database_that_is_none_of_ours_is_left_alone(node: LiveNode) -> None:
    """A node's own ledger, given by mistake."""
    from joulebook.errors import LedgerError

    with pytest.raises(LedgerError, match="not part of a collected ledger"):
        connect(f"sqlite://{node.path}", create=True)
    node.tick()


def test_failures_wait_longer_each_time() -> None:
    states = TargetList(lot=lambda: 0.5)
    states.renew(["a", "b"], 0.0, spread_s=10)
    assert states.due(4.9, 9) == []
    assert states.due(5.0, 1) == ["a"]
    assert (states.due(5.0, 9), states.asked) == (["b"], 2)
    assert states.due(5.0, 9) == []
    waits = []
    for _ in range(9):
        states.failed("a", 0.0, 300.0, "down", "no answer")
        waits.append(states.targets["a"].due)
    assert waits == [5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 300.0, 300.0, 300.0]
    states.went_well("a", 100.0, 0.0, 300.0, behind=0)
    assert states.targets["a"].due == 400.0
    states.went_well("a", 100.0, 0.0, 300.0, behind=7)
    assert states.targets["a"].due == 100.0
    assert (states.due(99.0, 9), states.due(100.0, 9), states.asked) == ([], ["a"], 2)
    states.again("b", 100.0)
    assert states.due(100.0, 9) == ["b"]


def test_two_targets_that_are_one_node() -> None:
    states = TargetList(lot=lambda: 0.5)
    states.renew(["a", "b"], 0.0, spread_s=10)
    states.found("a", ("", "n1"), "1")
    assert states.twin("b", ("", "n1"), "2") == "a"
    assert states.twin("b", ("", "n1"), "1") == states.twin("a", ("", "n1"), "2") == ""
    states.found("a", ("", "n7"), "1")
    assert states.twin("b", ("", "n1"), "2") == ""
    states.renew(["b"], 0.0, spread_s=10)
    assert states.twin("b", ("", "n7"), "2") == ""


def test_a_report_that_waits_collects_first(
    node: LiveNode, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert collector(tmp_path, node.target).once()
    node.tick()
    config = tmp_path / "joulebook.toml"
    config.write_text(
        f"""
[collect]
targets = ["{node.target}", "localhost:{free_port()}"]
token_file = "{tmp_path}/nodes/token"
url = "sqlite://{tmp_path}/collected.db"
timeout_s = 2
"""
    )
    asked = ["--config", str(config), "report", "--workload", JOB.workload, "--format", "json"]
    booked = []
    for source in (["--collected"], ["--ledger", str(node.path)], ["--collected", "--wait"]):
        assert main([*asked, *source]) == 0
        said = capsys.readouterr()
        booked.append(json.loads(said.out)["runs"][0]["energy_uj"])
    assert booked[0] < booked[1] == booked[2]
    assert "not every node was collected" in said.err
