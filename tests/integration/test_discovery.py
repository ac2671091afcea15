"""Targets from the files and addresses that Prometheus reads, and from a Kubernetes API server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.fakes.kube_api.server import FakeApi
from tests.integration.collect_lab import CollectorProcess, LiveNode, collected, truth, until
from tests.integration.feed_stub import Stub, status

from joulebook.errors import InputError
from joulebook.http_client import Web
from joulebook.kubernetes_api.server import ApiServer
from joulebook.lab.collect import discovery
from joulebook.lab.collect.discovery import FileSd, HttpSd, Targets


@pytest.fixture
def stub() -> Iterator[Stub]:
    with Stub().running() as running:
        yield running


def written(path: Path, *targets: str, **labels: str) -> Path:
    path.write_text(json.dumps([{"targets": list(targets), "labels": labels}]))
    return path


def test_files_json_and_yaml_by_pattern(tmp_path: Path) -> None:
    written(tmp_path / "a.json", "n1:9816", "n2:9816", rack="7")
    written(tmp_path / "b.json", "n2:9816", "[::1]:9816", __scheme__="https")
    (tmp_path / "c.yml").write_text("- targets: ['n3:9816']\n- targets: []\n")
    targets = Targets([FileSd(f"{tmp_path}/*.json", "http"), FileSd(f"{tmp_path}/c.yml", "http")])
    assert targets.look() == {
        "http://n1:9816",
        "http://n2:9816",
        "https://n2:9816",
        "https://[::1]:9816",
        "http://n3:9816",
    }
    assert targets.failing == {}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.json", "[{]"),
        ("x.json", '{"targets": ["a:1"]}'),
        ("x.json", '[{"targets": ["a b:1"]}]'.replace("a b", "a/b")),
        ("x.json", '[{"targets": ["me:pw@host:1"]}]'),
        ("x.yml", "a: [b"),
        ("x.yaml", "- targets: 7"),
    ],
)
def test_a_file_that_breaks_leaves_what_it_said_last(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text('[{"targets": ["n1:9816"]}]')
    targets = Targets([FileSd(str(path), "http")])
    assert targets.look() == {"http://n1:9816"}
    path.write_text(text)
    assert targets.look() == {"http://n1:9816"}
    assert str(path) in targets.failing[str(path)]
    path.unlink()
    assert targets.look() == {"http://n1:9816"}
    path.write_text("[]")
    assert targets.look() == set()


def test_http_sd(stub: Stub) -> None:
    stub.json("/targets", [{"targets": ["n1:9816"], "labels": {}}])
    targets = Targets([HttpSd(f"{stub.url}/targets", "https", Web(timeout_s=5))])
    assert targets.look() == {"https://n1:9816"}
    stub.trouble = status(500)
    assert targets.look() == {"https://n1:9816"}
    assert "status 500" in targets.failing[f"{stub.url}/targets"]


def test_a_running_collector_follows_its_file(tmp_path: Path) -> None:
    nodes = [LiveNode(tmp_path / "nodes", f"n{i}") for i in range(2)]
    sd = written(tmp_path / "sd.json", nodes[0].target)
    url = f"sqlite://{tmp_path}/collected.db"
    collector = CollectorProcess(tmp_path / "c", url, file_sd=[str(sd)])
    for node in nodes:
        node.tick()
    collector.start()
    try:
        until("the first", lambda: Path(f"{tmp_path}/collected.db").exists())
        until("the first", lambda: _known(url) and collected(url) == truth(nodes[:1]))
        written(sd, *(node.target for node in nodes))
        until("the second", lambda: collected(url) == truth(nodes))
        assert collector.stop() == 0
    finally:
        if collector.process:
            collector.kill()
        for node in nodes:
            node.close()


def _known(url: str) -> bool:
    from joulebook.errors import LedgerError

    try:
        collected(url)
    except LedgerError:
        return False
    return True


def put(
    api: FakeApi, name: str, *hosts: str, port: str = "http", service: str = "joulebook"
) -> None:
    """An EndpointSlice as an API server has it, fields beside included."""
    api.put(
        "endpointslices",
        {
            "metadata": {
                "name": name, "uid": name, "labels": {"kubernetes.io/service-name": service}
            },
            "addressType": "IPv4",
            "endpoints": [
                {"addresses": [host], "conditions": {"ready": not n}, "nodeName": "a"}
                for n, host in enumerate(hosts)
            ] or None,
            "ports": [
                {"name": port, "port": 9816, "protocol": "TCP"},
                {"name": "other", "port": 1, "protocol": "TCP"},
            ] if hosts else None,
        },
    )  # fmt: skip


def test_endpoint_slices_are_listed_once_and_watched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeApi(tmp_path / "account") as api:
        for name, value in api.environment().items():
            monkeypatch.setenv(name, value)
        put(api, "joulebook-4", "10.0.0.1", "10.0.0.2")
        put(api, "joulebook-6", "fd00::1")
        put(api, "empty")
        put(api, "others", "10.9.9.9", service="grafana")
        server = ApiServer(api.service_account)
        found = discovery.EndpointSlices(server, "joulebook", "monitoring", "http", "http")
        first = {"http://10.0.0.1:9816", "http://10.0.0.2:9816", "http://[fd00::1]:9816"}
        assert set(found.targets()) == first
        put(api, "joulebook-4", "10.0.0.3")
        api.delete("endpointslices", "joulebook-6")
        until("the change", lambda: set(found.targets()) == {"http://10.0.0.3:9816"})
        for _ in range(5):
            found.targets()
        assert api.calls == {"list endpointslices": 1, "watch endpointslices": 1}
        targets = Targets([found])
        targets.look()
        api.stop()
        until("the outage", lambda: targets.look() and targets.failing)
        assert targets.look() == {"http://10.0.0.3:9816"}, "what it said last counts"
        found.close()


def test_endpoint_slices_that_may_not_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(discovery, "_PATIENCE_S", 2.0)
    with FakeApi(tmp_path / "account") as api:
        for name, value in api.environment().items():
            monkeypatch.setenv(name, value)
        api.forbidden.add("endpointslices")
        server = ApiServer(api.service_account)
        found = discovery.EndpointSlices(server, "joulebook", "a/b", "http", "http")
        with pytest.raises(InputError, match=r"endpoints of a/b/joulebook: .*403"):
            found.targets()
        assert "list and watch on endpointslices" in caplog.text
        found.close()


def test_an_api_server_by_its_kubeconfig(
    stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client signs in as its kubeconfig says; only the API server is a stand-in."""
    config = tmp_path / "kubeconfig"
    cluster = {"name": "c", "cluster": {"server": stub.url}}
    user = {"name": "u", "user": {"token": "api-token"}}
    context = {"name": "x", "context": {"cluster": "c", "user": "u"}}
    config.write_text(
        json.dumps(
            {"apiVersion": "v1", "kind": "Config", "current-context": "x", "clusters": [cluster],
             "users": [user], "contexts": [context]}
        )
    )  # fmt: skip
    monkeypatch.setenv("KUBECONFIG", str(config))
    stub.json("/api/v1/pods", {"items": []})
    answer = discovery.api_server().get("/api/v1/pods", {"limit": "1"}, read_s=10)
    assert json.loads(answer.whole(1000)) == {"items": []}
    asked, headers = stub.requests[0]
    assert asked.endswith("?limit=1")
    assert headers["authorization"] == "Bearer api-token"


def test_outside_of_a_pod_the_namespace_must_be_named() -> None:
    with pytest.raises(InputError, match="kubernetes_namespace"):
        discovery.namespace_of_this_pod()
