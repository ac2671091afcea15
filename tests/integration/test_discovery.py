"""Targets from the files and addresses that Prometheus reads, and from a Kubernetes API server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.collect_lab import CollectorProcess, LiveNode, collected, truth, until
from tests.integration.feed_stub import Stub, status

from joulebook.errors import InputError
from joulebook.http_client import Web
from joulebook.lab.collect import kubernetes
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
    assert "answers 500" in targets.failing[f"{stub.url}/targets"]


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


def slices(port: str = "http") -> dict[str, Any]:
    """EndpointSlices as an API server lists them, fields beside included."""
    return {
        "kind": "EndpointSliceList",
        "apiVersion": "discovery.k8s.io/v1",
        "metadata": {"resourceVersion": "1"},
        "items": [
            {
                "metadata": {"name": "joulebook-x"},
                "addressType": "IPv4",
                "endpoints": [
                    {"addresses": ["10.0.0.1"], "conditions": {"ready": True}, "nodeName": "a"},
                    {"addresses": ["10.0.0.2"], "conditions": {"ready": False}},
                ],
                "ports": [
                    {"name": port, "port": 9816, "protocol": "TCP"},
                    {"name": "other", "port": 1, "protocol": "TCP"},
                ],
            },
            {"addressType": "IPv6", "endpoints": [{"addresses": ["fd00::1"]}],
             "ports": [{"name": port, "port": 9816}]},
            {"addressType": "IPv4", "endpoints": None, "ports": None},
        ],
    }  # fmt: skip


def test_endpoint_slices_over_the_real_client(
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
    path = "/apis/discovery.k8s.io/v1/namespaces/monitoring/endpointslices"
    stub.json(path, slices())
    found = kubernetes.EndpointSlices(
        kubernetes.api_server(), "joulebook", "monitoring", "http", "http"
    )
    assert set(found.targets()) == {
        "http://10.0.0.1:9816",
        "http://10.0.0.2:9816",
        "http://[fd00::1]:9816",
    }
    asked, headers = stub.requests[0]
    assert "labelSelector=kubernetes.io%2Fservice-name%3Djoulebook" in asked
    assert headers["authorization"] == "Bearer api-token"
    stub.trouble = status(403)
    with pytest.raises(InputError, match="may the service account list endpointslices"):
        found.targets()


def test_endpoint_slices_in_several_pages() -> None:
    asked = []

    def get(path: str) -> bytes:
        asked.append(path)
        more = {"continue": "next page"} if len(asked) == 1 else {}
        return json.dumps({**slices(), "metadata": more}).encode()

    found = kubernetes.EndpointSlices(get, "joulebook", "a/b", "http", "https")
    assert len(set(found.targets())) == 3
    assert asked[1].endswith("&continue=next%20page")
    assert "/namespaces/a%2Fb/" in asked[0]
    with pytest.raises(InputError, match="endpoints of a/b/joulebook"):
        kubernetes.EndpointSlices(lambda _: b"{", "joulebook", "a/b", "http", "http").targets()


def test_outside_of_a_pod_the_namespace_must_be_named() -> None:
    with pytest.raises(InputError, match="kubernetes_namespace"):
        kubernetes.namespace_of_this_pod()
