"""The doctor on a node of Kubernetes: what is missing, and what to do about it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from tests.fakes.kube_api.server import FakeApi
from tests.fakes.kubelet.kubelet import FakeKubelet

from joulebook.commands.doctor import kubernetes
from joulebook.commands.doctor.checks import Finding, Site, Status
from joulebook.config import Config
from joulebook.config.node import Kubernetes, NodeSection, Tenants
from joulebook.config.workloads import Workloads


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeApi]:
    with FakeApi(tmp_path / "account") as fake:
        for name, value in fake.environment().items():
            monkeypatch.setenv(name, value)
        yield fake


def site(tmp_path: Path, *, name: str = "n1", **given: object) -> Site:
    settings = {
        "pod_resources": str(tmp_path / "kubelet.sock"),
        "cgroup_root": str(tmp_path / "cgroup"),
        "pod_logs": str(tmp_path / "logs"),
        "service_account": str(tmp_path / "account"),
        **given,
    }
    config = msgspec.structs.replace(
        Config(),
        node=NodeSection(name=name),
        tenants=Tenants(kubernetes=Kubernetes(**settings)),  # type: ignore[arg-type]
    )
    (tmp_path / "proc").mkdir(exist_ok=True)
    return Site(config, tmp_path / "joulebook.toml", proc=tmp_path / "proc", environ={})


def found(site: Site) -> list[Finding]:
    return [finding for check in kubernetes.CHECKS for finding in check(site)]


def one(findings: list[Finding], status: Status, pattern: str) -> Finding:
    matching = [f for f in findings if f.status is status and re.search(pattern, f.found)]
    assert len(matching) == 1, findings
    return matching[0]


def test_all_is_well(tmp_path: Path, short_tmp_path: Path, api: FakeApi) -> None:
    (tmp_path / "cgroup/kubepods.slice").mkdir(parents=True)
    (tmp_path / "logs/a_p_0a1b2c3d-1111-2222-3333-444455556666").mkdir(parents=True)
    with FakeKubelet(short_tmp_path / "kubelet.sock") as kubelet:
        kubelet.advertise("nvidia.com/gpu", "GPU-0")
        kubelet.admit("a", "p", {"nvidia.com/gpu": ["GPU-0"]})
        findings = found(site(tmp_path, pod_resources=str(kubelet.socket)))
    assert {f.status for f in findings} == {Status.OK}, findings
    one(findings, Status.OK, "1 pod, 1 device held")
    one(findings, Status.OK, "offer nvidia.com/gpu")


def test_nothing_of_the_kind(tmp_path: Path) -> None:
    findings = found(site(tmp_path, pod_resources=str(tmp_path / "none/kubelet.sock")))
    assert [f.status for f in findings] == [Status.NONE]


def test_what_is_missing_is_said_with_what_to_do(tmp_path: Path, api: FakeApi) -> None:
    api.forbidden.add("pods")
    findings = found(site(tmp_path, name="", enabled=True))
    assert "mount its directory" in one(findings, Status.FAIL, "no socket").todo
    assert "/sys/fs/cgroup" in one(findings, Status.WARN, "no kubepods below").todo
    assert "spec.nodeName" in one(findings, Status.WARN, "JOULEBOOK_NODE_NAME").todo
    assert "ClusterRole" in one(findings, Status.FAIL, "403").todo


def test_no_service_account(tmp_path: Path, api: FakeApi) -> None:
    (tmp_path / "account/token").unlink()
    finding = one(found(site(tmp_path)), Status.FAIL, "API server")
    assert "service account" in finding.todo


def test_no_api_server_by_configuration(tmp_path: Path) -> None:
    assert (
        "/logs" in one(found(site(tmp_path, api=False)), Status.FAIL, "off by configuration").todo
    )
    (tmp_path / "logs/a_p_0a1b2c3d-1111-2222-3333-444455556666").mkdir(parents=True)
    assert one(found(site(tmp_path, api=False)), Status.NONE, "off by configuration")


def test_a_selector_without_a_namespace_is_the_users_word(tmp_path: Path) -> None:
    here = site(tmp_path)
    selectors = ("namespace:kube-system", "app=nvidia-dcgm")
    config = msgspec.structs.replace(
        here.config, workloads=Workloads(infrastructure_selectors=selectors)
    )
    finding = one(
        list(kubernetes.selectors(replace(here, config=config))), Status.WARN, "app=nvidia-dcgm"
    )
    assert "namespace:NAME,app=nvidia-dcgm" in finding.todo
    assert not list(kubernetes.selectors(here))
