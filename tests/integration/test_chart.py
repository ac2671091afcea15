"""The chart, rendered and linted by real helm, of both major versions."""

from __future__ import annotations

import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.integration.helm import PACKAGES, helm

from joulebook.config import load

CHART = Path(__file__).resolve().parents[2] / "helm" / "joulebook"
Objects = dict[str, dict[str, Any]]


@pytest.fixture(scope="module", params=sorted(PACKAGES))
def binary(request: pytest.FixtureRequest, build_dir: Path) -> Path:
    return helm(request.param, build_dir)


def run(binary: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(binary), *arguments], capture_output=True, text=True, check=False, timeout=30
    )


def rendered(binary: Path, *arguments: str, release: str = "lab") -> Objects:
    """The chart's objects by kind."""
    done = run(binary, "template", release, str(CHART), "--namespace", "energy", *arguments)
    assert done.returncode == 0, done.stderr
    objects = [each for each in yaml.safe_load_all(done.stdout) if each]
    by_kind = {each["kind"]: each for each in objects}
    assert len(by_kind) == len(objects)
    return by_kind


def test_lints(binary: Path) -> None:
    done = run(binary, "lint", "--strict", str(CHART))
    assert done.returncode == 0, done.stdout + done.stderr


def test_renders_what_a_node_needs(binary: Path) -> None:
    objects = rendered(binary)
    assert set(objects) == {
        "ClusterRole",
        "ClusterRoleBinding",
        "ConfigMap",
        "DaemonSet",
        "Service",
        "ServiceAccount",
    }
    pod = objects["DaemonSet"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["enableServiceLinks"] is False
    assert pod["serviceAccountName"] == objects["ServiceAccount"]["metadata"]["name"]
    assert container["image"] == "joulebook:0.1.0"
    assert container["securityContext"] == {
        "runAsUser": 0,
        "runAsGroup": 0,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    paths = {v["name"]: v["hostPath"]["path"] for v in pod["volumes"] if "hostPath" in v}
    assert paths == {
        "ledger": "/var/lib/joulebook",
        "pod-resources": "/var/lib/kubelet/pod-resources",
    }
    assert {v["name"] for v in pod["volumes"]} == {m["name"] for m in container["volumeMounts"]}


def test_may_read_pods_and_resource_slices_and_nothing_else(binary: Path) -> None:
    objects = rendered(binary)
    granted = {
        (resource, verb)
        for rule in objects["ClusterRole"]["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert granted == {
        (resource, verb)
        for resource in ("pods", "resourceslices")
        for verb in ("get", "list", "watch")
    }


def test_selectors_meet(binary: Path) -> None:
    objects = rendered(binary, "--set", "serviceMonitor.enabled=true")
    labels = objects["DaemonSet"]["spec"]["template"]["metadata"]["labels"]
    for selector in (
        objects["DaemonSet"]["spec"]["selector"]["matchLabels"],
        objects["Service"]["spec"]["selector"],
    ):
        assert selector.items() <= labels.items()
    monitor = objects["ServiceMonitor"]["spec"]
    service_labels = objects["Service"]["metadata"]["labels"]
    assert monitor["selector"]["matchLabels"].items() <= service_labels.items()
    (endpoint,) = monitor["endpoints"]
    assert endpoint["honorLabels"] is True
    assert endpoint["port"] in {port["name"] for port in objects["Service"]["spec"]["ports"]}


def test_is_scraped_whether_ready_or_not(binary: Path) -> None:
    service = rendered(binary)["Service"]["spec"]
    assert service["publishNotReadyAddresses"] is True
    assert service["clusterIP"] == "None"


def test_configuration_arrives_as_written(binary: Path, tmp_path: Path) -> None:
    config = (
        '# ü "quoted" {{ braces }}\n[exposition]\nlinger_s = 60\n\n[budgets]\n"a/b" = {kwh = 5}\n'
    )
    values = tmp_path / "values.yaml"
    values.write_text(yaml.safe_dump({"config": config, "cluster": "c1", "port": 9900}))
    objects = rendered(binary, "--values", str(values))
    text = objects["ConfigMap"]["data"]["joulebook.toml"]
    assert text == config
    assert tomllib.loads(text)["budgets"] == {"a/b": {"kwh": 5}}
    template = objects["DaemonSet"]["spec"]["template"]
    env = {e["name"]: e.get("value") for e in template["spec"]["containers"][0]["env"]}
    assert env["JOULEBOOK_NODE_CLUSTER"] == "c1"
    assert env["JOULEBOOK_SERVER_LISTEN"] == "0.0.0.0:9900"
    plain = rendered(binary)["DaemonSet"]["spec"]["template"]
    key = "checksum/config"
    assert template["metadata"]["annotations"][key] != plain["metadata"]["annotations"][key]


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ("port=0", "port"),
        ("prot=9816", "prot"),
        ("ledger.hostPath=relative", "hostPath"),
        ("serviceMonitor.interval=15", "interval"),
        ("config=1", "config"),
    ],
)
def test_refuses_values_that_make_no_sense(binary: Path, wrong: str, named: str) -> None:
    done = run(binary, "template", "lab", str(CHART), "--set", wrong)
    assert done.returncode != 0
    assert named in done.stderr


RATES = """\
[rates]
currency = "EUR"
pue = 1.2
[rates.price]
kind = "energy-charts"
zone = "DE-LU"
"""


def test_the_rates_service_is_optional_and_its_own_pod(binary: Path, tmp_path: Path) -> None:
    values = tmp_path / "values.yaml"
    values.write_text(
        yaml.safe_dump({"ratesService": {"enabled": True, "config": RATES, "tokenSecret": "keys"}})
    )
    done = run(binary, "template", "lab", str(CHART), "--values", str(values))
    assert done.returncode == 0, done.stderr
    objects = {
        (each["kind"], each["metadata"]["name"]): each
        for each in yaml.safe_load_all(done.stdout)
        if each
    }
    pod = objects["Deployment", "lab-joulebook-rates"]["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    assert container["args"][2:4] == ["rates", "serve"]
    assert container["image"] == "joulebook:0.1.0", "the same image"
    assert container["securityContext"]["runAsNonRoot"] is True
    labels = pod["metadata"]["labels"]
    service = objects["Service", "lab-joulebook-rates"]["spec"]
    assert service["selector"].items() <= labels.items()
    nodes = objects["Service", "lab-joulebook"]["spec"]["selector"]
    assert not nodes.items() <= labels.items(), "it is not scraped as a node"
    written = objects["ConfigMap", "lab-joulebook-rates"]["data"]["joulebook.toml"]
    config = tmp_path / "joulebook.toml"
    config.write_text(written)
    assert load(config, {}).rates.price.kind == "energy-charts"
