"""Wrong values are refused before anything reaches a cluster, in words that name the key."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.integration.chart import CHART, run
from tests.integration.helm import PACKAGES, helm


@pytest.fixture(scope="module", params=sorted(PACKAGES))
def binary(request: pytest.FixtureRequest, build_dir: Path) -> Path:
    return helm(request.param, build_dir)


@pytest.mark.parametrize(
    ("wrong", "named", "why"),
    [
        ("port=0", "port", "minimum"),
        ("prot=9816", "prot", "additional propert"),
        ("hostPid=true", "hostPid", "additional propert"),
        ("ledger.hostpath=/x", "hostpath", "additional propert"),
        ("ledger.hostPath=relative", "hostPath", "pattern"),
        ("serviceMonitor.interval=15", "interval", "string"),
        ("config=1", "config", "string"),
        ("nvidia.access=privileged", "access", "one of"),
        ("web.users.ada=plaintext", "users", "pattern"),
        ("image.digest=latest", "digest", "pattern"),
        ("hostPID=yes", "hostPID", "boolean"),
        ("extraEnv[0].value=x", "extraEnv", "name"),
        ("updateStrategy.maxUnavailable=0", "maxUnavailable", "minimum"),
        ("dashboards.label.x=y", "label", "additional propert"),
        ("securityContext.runAsUser=abc", "runAsUser", "integer"),
        ("podSecurityContext.fsGroup=-1", "fsGroup", "minimum"),
        ("podSecurityContext.runAsNonRoot=no", "runAsNonRoot", "boolean"),
        ("lab.publicUrl=joules.example.org", "publicUrl", "pattern"),
        ("lab.replicas=0", "replicas", "minimum"),
        ("collector.replicas=2", "replicas", "additional propert"),
        ("serviceMonitor.relabelings.a=b", "relabelings", "array"),
    ],
)
def test_refuses_values_that_make_no_sense(binary: Path, wrong: str, named: str, why: str) -> None:
    done = run(binary, "template", "lab", str(CHART), "--set", wrong)
    assert done.returncode != 0
    assert named in done.stderr
    assert why in done.stderr.lower().replace("greater than or equal to", "minimum").replace(
        "does not match pattern", "pattern"
    )


@pytest.mark.parametrize("key", ["config", "ratesService.config", "collector.config", "lab.config"])
def test_refuses_a_configuration_that_no_daemon_can_read(binary: Path, key: str) -> None:
    part = key.rpartition(".")[0] or "ratesService"
    enabled = f"{part}.enabled=true,handover.tokenSecretName=token"
    wrong = ("template", "lab", str(CHART), "--set", enabled, "--set-string")
    done = run(binary, *wrong, f"{key}=[rates")
    assert done.returncode != 0
    assert f"{key}: expected TOML" in done.stderr
    done = run(binary, *wrong, f'{key}=[rates]\ncurrency = "EUR"\n')
    assert done.returncode == 0, done.stderr


def test_refuses_two_monitors_of_the_same_daemons(binary: Path) -> None:
    both = "serviceMonitor.enabled=true,podMonitor.enabled=true"
    done = run(binary, "template", "lab", str(CHART), "--set", both)
    assert done.returncode != 0
    assert "podMonitor.enabled: serviceMonitor.enabled is true as well" in done.stderr
