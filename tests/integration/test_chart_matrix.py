"""Every object of the chart, for every kind of cluster, against the schemas of Kubernetes."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from tests.integration.chart import EVERYTHING, MATRIX, OLDER, POD_MONITOR, Objects, rendered
from tests.integration.helm import PACKAGES, helm
from tests.integration.operator_crds import Models, faults, operator_models

OLDEST = (1, 27)
NEWEST = tuple(int(part) for part in kubernetes_validate.latest_version().split(".")[:2])
VERSIONS = [f"1.{minor}" for minor in range(OLDEST[1], NEWEST[1] + 1)]
SPANS = (VERSIONS[:3], VERSIONS[3:])
"""Versions for which the chart renders the same: from 1.30 on mounts are read-only all the way."""


@pytest.fixture(scope="module")
def binaries(build_dir: Path) -> list[Path]:
    return [helm(major, build_dir) for major in sorted(PACKAGES)]


@pytest.fixture(scope="module")
def models(build_dir: Path) -> Models:
    return operator_models(build_dir)


def test_the_matrix_goes_from_1_27_to_the_newest() -> None:
    assert len(VERSIONS) >= 11
    assert VERSIONS[0] == "1.27"
    assert set(MATRIX) >= {"plain", "gpu-operator", "gpu-operator-nri", "gke", "eks", "k3s"}


@pytest.mark.parametrize("name", MATRIX)
def test_every_object_is_valid(name: str, binaries: list[Path], models: Models) -> None:
    checked = 0
    for span in SPANS:
        old, new = (
            rendered(binary, "--kube-version", f"{span[0]}.0", values=MATRIX[name])
            for binary in binaries
        )
        assert old == new, "helm 3 and helm 4 agree"
        for version, thing in itertools.product(span, new.values()):
            if not thing["apiVersion"].startswith("monitoring.coreos.com/"):
                kubernetes_validate.validate(thing, version, strict=True)
                checked += 1
    assert checked >= 4 * len(VERSIONS)
    wrong = [
        fault
        for thing in new.values()
        if thing["apiVersion"] == "monitoring.coreos.com/v1"
        for fault in faults(thing, thing["kind"], models)
    ]
    assert not wrong


def test_every_object_is_the_releases_and_named_for_it(binaries: list[Path]) -> None:
    for thing in rendered(binaries[0], values=EVERYTHING).values():
        labels = thing["metadata"]["labels"]
        assert labels["app.kubernetes.io/instance"] == "lab"
        assert labels["app.kubernetes.io/managed-by"] == "Helm"
        assert thing["metadata"]["name"].startswith("lab-joulebook")
        cluster_wide = {"ClusterRole", "ClusterRoleBinding", "PriorityClass"}
        if thing["kind"] in cluster_wide:
            # Two releases in two namespaces do not meet.
            assert thing["metadata"]["name"].endswith("-energy")
        else:
            assert thing["metadata"]["namespace"] == "energy"


def test_unknown_keys_are_found(models: Models) -> None:
    """The checks of the checks: both kinds of schema refuse a typo."""
    monitor: dict[str, Any] = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "ServiceMonitor",
        "metadata": {"name": "x"},
        "spec": {"selector": {}, "endpoints": [{"port": "a", "honourLabels": True}]},
    }
    assert faults(monitor, "ServiceMonitor", models) == [
        "ServiceMonitor.spec.endpoints[0]: unknown key honourLabels"
    ]
    rule = {"spec": {"groups": [{"rules": [{"record": "a"}]}]}, "kind": "PrometheusRule"}
    found = faults(rule, "PrometheusRule", models)
    assert "PrometheusRule.spec.groups[0]: no name" in found
    assert "PrometheusRule.spec.groups[0].rules[0]: no expr" in found
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "x"},
        "spec": {"selectr": {}},
    }
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(service, VERSIONS[-1], strict=True)


def selected(objects: Objects, kind: str, name: str) -> Objects:
    """The DaemonSets and Deployments whose pods a Service or monitor means."""
    spec = objects[kind, name]["spec"]
    selector = spec.get("selector") or spec["podSelector"]
    selector = selector.get("matchLabels", selector)
    return {
        key: each
        for key, each in objects.items()
        if "template" in each.get("spec", {})
        and selector.items() <= each["spec"]["template"]["metadata"]["labels"].items()
    }


def test_selectors_meet_what_they_mean_and_nothing_else(binaries: list[Path]) -> None:
    objects = rendered(binaries[0], values=EVERYTHING)
    node = {("DaemonSet", "lab-joulebook")}
    assert set(selected(objects, "DaemonSet", "lab-joulebook")) == node
    assert set(selected(objects, "Service", "lab-joulebook")) == node
    pod_monitor = rendered(binaries[0], values=POD_MONITOR)
    assert set(selected(pod_monitor, "PodMonitor", "lab-joulebook")) == node
    lab = {("Deployment", "lab-joulebook-lab")}
    assert set(selected(objects, "Service", "lab-joulebook-lab")) == lab
    older = rendered(binaries[0], values=OLDER)
    for name in ("lab", "collector", "rates"):
        assert set(selected(older, "Service", f"lab-joulebook-{name}")) == lab
    policy = objects["NetworkPolicy", "lab-joulebook"]["spec"]
    daemon_labels = objects["DaemonSet", "lab-joulebook"]["spec"]["template"]["metadata"]["labels"]
    assert policy["podSelector"]["matchLabels"].items() <= daemon_labels.items()
    monitor = objects["ServiceMonitor", "lab-joulebook"]["spec"]
    found = {
        name
        for (kind, name), each in objects.items()
        if kind == "Service"
        and monitor["selector"]["matchLabels"].items() <= each["metadata"]["labels"].items()
    }
    assert found == {"lab-joulebook"}
    for made in (objects, older):
        assert set(selected(made, "NetworkPolicy", "lab-joulebook-lab")) == lab
        wanted = made["ServiceMonitor", "lab-joulebook-lab"]["spec"]
        (service,) = (
            each
            for (kind, _), each in made.items()
            if kind == "Service"
            and wanted["selector"]["matchLabels"].items() <= each["metadata"]["labels"].items()
        )
        assert wanted["endpoints"][0]["port"] in {one["name"] for one in service["spec"]["ports"]}
    ports = {port["name"] for port in objects["Service", "lab-joulebook"]["spec"]["ports"]}
    for spec in (
        objects["ServiceMonitor", "lab-joulebook"]["spec"]["endpoints"],
        pod_monitor["PodMonitor", "lab-joulebook"]["spec"]["podMetricsEndpoints"],
    ):
        (endpoint,) = spec
        assert endpoint["honorLabels"] is True
        node, dropped, theirs = endpoint["relabelings"]  # else each new pod begins series again
        assert theirs == {"targetLabel": "site", "replacement": "north"}
        assert node["sourceLabels"] == ["__meta_kubernetes_pod_node_name"]
        assert node["targetLabel"] == "instance"
        assert (dropped["action"], dropped["regex"]) == ("labeldrop", "pod|container")
        assert endpoint["port"] in ports
        assert endpoint["scheme"] == "https"


def test_policies_let_in_who_is_named_and_our_own_that_ask(binaries: list[Path]) -> None:
    objects = rendered(binaries[0], values=EVERYTHING)

    def pods(name: str, kind: str = "Deployment") -> dict[str, str]:
        spec = objects[kind, name]
        spec = spec["spec"]["template"] if kind != "Pod" else spec
        labels: dict[str, str] = spec["metadata"]["labels"]
        return labels

    node = pods("lab-joulebook", "DaemonSet")
    tester = pods("lab-joulebook-test", "Pod")
    lab = pods("lab-joulebook-lab")

    def let_in(name: str) -> list[str]:
        (rule,) = objects["NetworkPolicy", name]["spec"]["ingress"]
        assert rule["from"][0] == EVERYTHING["networkPolicy"]["from"][0]
        wanted = [each["podSelector"]["matchLabels"] for each in rule["from"][1:]]
        callers = {"node": node, "test": tester, "lab": lab}
        return [
            caller
            for caller, labels in callers.items()
            if any(each.items() <= labels.items() for each in wanted)
        ]

    assert let_in("lab-joulebook") == ["test", "lab"]
    assert let_in("lab-joulebook-lab") == ["node"]
