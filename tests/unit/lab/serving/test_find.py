"""Which address of a pod is asked: its own, or none."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from joulebook.kubernetes_api.server import ApiServer
from joulebook.lab.serving.find import PODS, ServingPod, ServingPods, server_of


def pod(
    annotations: dict[str, str] | None = None,
    ports: list[dict[str, object]] | None = None,
    ip: str = "10.1.2.3",
    phase: str = "Running",
    **spec: object,
) -> ServingPod:
    """A pod as the API server sends it."""
    sent = {
        "metadata": {
            "name": "llama-0", "namespace": "nlp", "uid": "0123456789",
            "annotations": {f"prometheus.io/{k}": v for k, v in (annotations or {}).items()},
        },
        "spec": {"containers": [{"name": "vllm", "ports": ports}], **spec},
        "status": {
            "phase": phase, "podIP": ip,
            "containerStatuses": [
                {"name": "vllm", "state": {"running": {"startedAt": "2026-11-11T00:00:00Z"}}}
            ],
        },
    }  # fmt: skip
    return PODS.item.decode(msgspec.json.encode(sent))


def asked(
    annotations: dict[str, str] | None = None,
    ports: list[dict[str, object]] | None = None,
    ip: str = "10.1.2.3",
    phase: str = "Running",
    **spec: object,
) -> tuple[str, ...]:
    """Where a pod is asked."""
    found = server_of(pod(annotations, ports, ip, phase, **spec))
    assert found is None or found.workload == "llama-0.01234567"
    return () if found is None else found.urls


HTTP = [{"name": "http", "containerPort": 8000}]
BOTH = [*HTTP, {"name": "metrics", "containerPort": 9000}]


@pytest.mark.parametrize(
    ("annotations", "ports", "where"),
    [
        ({"scrape": "true", "port": "8000", "path": "/m"}, None, ("10.1.2.3:8000/m",)),
        ({"scrape": "true", "port": "8000"}, None,
         ("10.1.2.3:8000/metrics", "10.1.2.3:8000/prometheus/metrics")),
        ({"path": "/m"}, HTTP, ("10.1.2.3:8000/m",)),
        ({"path": "/m"}, BOTH, ("10.1.2.3:9000/m",)),
        # A single port without a name, where the annotation asks for it.
        ({"scrape": "true", "path": "/m"}, [{"containerPort": 8000}], ("10.1.2.3:8000/m",)),
        ({"path": "/m"}, [{"containerPort": 8000}], ()),
        ({"scrape": "false", "path": "/m"}, HTTP, ()),
        ({"scheme": "https", "path": "/m"}, HTTP, ()),
        # What a user writes never leads anywhere else.
        ({"port": "80@evil.example"}, HTTP, ()),
        ({"port": "99999"}, HTTP, ()),
        ({"port": "0"}, HTTP, ()),
        ({"port": "٣"}, HTTP, ()),
        ({"path": "@evil.example/"}, HTTP,
         ("10.1.2.3:8000/metrics", "10.1.2.3:8000/prometheus/metrics")),
        ({"path": "/../x"}, HTTP,
         ("10.1.2.3:8000/metrics", "10.1.2.3:8000/prometheus/metrics")),
        ({"path": "/a?b=c"}, HTTP,
         ("10.1.2.3:8000/metrics", "10.1.2.3:8000/prometheus/metrics")),
        ({}, None, ()),
    ],
)  # fmt: skip
def test_annotations_choose_a_port_of_the_pod(
    annotations: dict[str, str], ports: list[dict[str, object]] | None, where: tuple[str, ...]
) -> None:
    assert asked(annotations, ports) == tuple(f"http://{each}" for each in where)


@pytest.mark.parametrize("ip", ["", "127.0.0.1", "169.254.169.254", "::1", "fe80::1", "0.0.0.0"])
def test_addresses_that_no_pod_has_are_not_asked(ip: str) -> None:
    assert asked(ports=HTTP, ip=ip) == ()


def test_ipv6_and_the_network_of_the_node() -> None:
    assert asked({"path": "/m"}, HTTP, "fd00::7") == ("http://[fd00::7]:8000/m",)
    # There other ports are other programs of the node.
    assert asked({"port": "10250"}, HTTP, hostNetwork=True) == ()
    assert asked({"path": "/m"}, HTTP, hostNetwork=True) == ("http://10.1.2.3:8000/m",)
    assert asked({"path": "/m"}, HTTP, phase="Pending") == ()


def test_pods_come_change_and_go(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = ServingPods(ApiServer(tmp_path), "app=llm")
    monkeypatch.setattr(found._watch, "start", lambda: None)
    found.listed([pod({"path": "/m"}, HTTP)])
    (server,) = found.servers()
    assert server.urls == ("http://10.1.2.3:8000/m",)
    assert server.started_s == 1_794_355_200
    found.changed(pod({"path": "/m"}, HTTP, "10.9.9.9"))
    assert found.servers()[0].urls == ("http://10.9.9.9:8000/m",)
    found.changed(pod({"scrape": "false"}, HTTP))
    assert found.servers() == []
    found.changed(pod({"path": "/m"}, HTTP))
    found.deleted(pod())
    assert found.servers() == []
