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
    ],
)
def test_refuses_values_that_make_no_sense(binary: Path, wrong: str, named: str, why: str) -> None:
    done = run(binary, "template", "lab", str(CHART), "--set", wrong)
    assert done.returncode != 0
    assert named in done.stderr
    assert why in done.stderr.lower().replace("greater than or equal to", "minimum").replace(
        "does not match pattern", "pattern"
    )
