"""Rules and dashboards of the repository reach Prometheus and Grafana by the chart, unchanged."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import tarfile
from pathlib import Path

import pytest
import yaml
from tests.integration.chart import CHART, Objects, rendered, run
from tests.integration.helm import PACKAGES, helm

DASHBOARDS = sorted((CHART.parents[1] / "dashboards").glob("*.json"))
RULES = {
    kind: yaml.safe_load((CHART.parents[1] / f"dashboards/rules/{kind}.rules.yaml").read_text())
    for kind in ("recording", "alerts")
}
VALUES = {
    "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}},
    "dashboards": {"enabled": True, "users": {"enabled": True}},
    "lab": {"enabled": True, "urlSecretName": "ledger"},
    "handover": {"tokenSecretName": "token"},
}


@pytest.fixture(scope="module", params=sorted(PACKAGES))
def objects(
    request: pytest.FixtureRequest, build_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Objects:
    """Rendered from the packaged chart: what helm packs is all there is."""
    binary = helm(request.param, build_dir)
    out = tmp_path_factory.mktemp("package")
    done = run(binary, "package", str(CHART), "--destination", str(out))
    assert done.returncode == 0, done.stderr
    (package,) = out.glob("*.tgz")
    return rendered(binary, values=VALUES, chart=package)


def test_every_dashboard_is_there_as_it_stands(objects: Objects) -> None:
    found = {
        name: text
        for (kind, _), each in objects.items()
        if kind == "ConfigMap" and each["metadata"]["labels"].get("grafana_dashboard") == "1"
        for name, text in each["data"].items()
    }
    assert len(DASHBOARDS) >= 7
    assert found.keys() == {path.name for path in DASHBOARDS}
    for path in DASHBOARDS:
        assert json.loads(found[path.name]) == json.loads(path.read_text()), path.name
        assert len(found[path.name]) < 2**20, "more than a ConfigMap holds"


def test_the_sidecar_is_told_a_folder_and_billing_needs_postgresql(build_dir: Path) -> None:
    objects = rendered(helm("4", build_dir), values={"dashboards": {"enabled": True}})
    boards = [each for (kind, name), each in objects.items() if "-dashboard-" in name]
    names = {name for each in boards for name in each["data"]}
    others = {"joulebook-billing.json", "joulebook-mine.json", "joulebook-account.json"}
    assert names == {path.name for path in DASHBOARDS} - others
    for each in boards:
        assert each["metadata"]["annotations"]["k8s-sidecar-target-directory"] == "Joulebook"


def test_those_for_users_come_alone_and_to_a_folder_of_their_own(build_dir: Path) -> None:
    objects = rendered(helm("4", build_dir), values={"dashboards": {"users": {"enabled": True}}})
    boards = [each for (kind, name), each in objects.items() if "-dashboard-" in name]
    assert {name for each in boards for name in each["data"]} == {
        *("joulebook-mine.json", "joulebook-account.json"),
    }
    for each in boards:
        folder = each["metadata"]["annotations"]["k8s-sidecar-target-directory"]
        assert folder == "Joulebook for users"


def test_every_rule_is_there_and_promtool_accepts_it(objects: Objects, tmp_path: Path) -> None:
    for kind, rules in RULES.items():
        made = objects["PrometheusRule", f"lab-joulebook-{kind}"]
        assert made["spec"]["groups"] == rules["groups"]
        assert made["metadata"]["labels"]["release"] == "prometheus"
        file = tmp_path / f"{kind}.yaml"
        file.write_text(yaml.safe_dump(made["spec"]))
        done = subprocess.run(
            ["promtool", "check", "rules", str(file)],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "SUCCESS" in done.stdout


def test_alerts_can_be_left_out(build_dir: Path) -> None:
    values = {"prometheusRule": {"enabled": True, "alerts": False}}
    objects = rendered(helm("4", build_dir), values=values)
    assert [name for kind, name in objects if kind == "PrometheusRule"] == [
        "lab-joulebook-recording"
    ]


def test_a_release_fits_into_the_secret_that_helm_keeps_it_in(objects: Objects) -> None:
    """Helm keeps chart and manifest, packed, in a Secret of at most 1 MiB."""
    chart = sum(path.stat().st_size for path in DASHBOARDS)
    manifest = json.dumps(list(objects.values())).encode()
    texts = b"".join(path.read_bytes() for path in DASHBOARDS)
    packed = len(gzip.compress(manifest + texts)) * 4 / 3
    print(f"{chart} bytes of dashboards, {packed:.0f} in the Secret")
    assert packed < 2**19


def test_nothing_but_the_chart_is_packed(build_dir: Path, tmp_path: Path) -> None:
    done = run(helm("4", build_dir), "package", str(CHART), "--destination", str(tmp_path))
    assert done.returncode == 0, done.stderr
    (package,) = tmp_path.glob("*.tgz")
    with tarfile.open(package) as archive:
        names = {name.removeprefix("joulebook/") for name in archive.getnames()}
    strange = {
        name
        for name in names
        if not re.fullmatch(
            r"Chart\.yaml|values\.yaml|values\.schema\.json|\.helmignore|templates/.*"
            r"|examples/[\w-]+\.yaml|dashboards/[\w-]+\.json|dashboards/rules/\w+\.rules\.yaml",
            name,
        )
    }
    assert not strange
