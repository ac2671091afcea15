"""List and watch against an API server in small, over TLS, with all that goes wrong there."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.fakes.kube_api.server import FakeApi

from joulebook.kubernetes_api import watch as watching
from joulebook.kubernetes_api.server import ApiError, ApiServer, in_cluster
from joulebook.kubernetes_api.watch import Watch
from joulebook.node.workloads.contract import Rejections
from joulebook.node.workloads.kubernetes.device_ids import Described
from joulebook.node.workloads.kubernetes.informer import REMEDIES, SliceTable, pods_of, slices_of
from joulebook.node.workloads.kubernetes.pod_object import PodObject


class Seen:
    """What a listener was reported, as the names that there are."""

    def __init__(self) -> None:
        self.lists = 0
        self.pods: dict[str, PodObject] = {}

    def listed(self, items: list[PodObject]) -> None:
        self.lists += 1
        self.pods = {item.metadata.uid: item for item in items}

    def changed(self, item: PodObject) -> None:
        self.pods[item.metadata.uid] = item

    def deleted(self, item: PodObject) -> None:
        self.pods.pop(item.metadata.uid, None)

    def names(self) -> list[str]:
        return sorted(pod.metadata.name for pod in list(self.pods.values()))


def until(done: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not done():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.02)


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeApi]:
    monkeypatch.setattr(watching, "RETRY_FIRST_S", 0.05)
    monkeypatch.setattr(watching, "RETRY_MOST_S", 0.2)
    with FakeApi(tmp_path / "account", bookmark_s=0.1) as fake:
        for name, value in fake.environment().items():
            monkeypatch.setenv(name, value)
        fake.put_pod("a", "one", uid="u1", node="n1")
        fake.put_pod("a", "elsewhere", uid="u9", node="n2")
        yield fake


@pytest.fixture
def seen(api: FakeApi) -> Iterator[tuple[Watch[PodObject], Seen]]:
    found = Seen()
    watch = Watch(ApiServer(api.service_account), pods_of("n1"), found, Rejections().fault)
    watch.start()
    until(lambda: watch.synced)
    yield watch, found
    watch.stop()
    assert not watch.is_alive()


def test_only_the_pods_of_the_node_with_one_list_and_one_watch(
    api: FakeApi, seen: tuple[Watch[PodObject], Seen]
) -> None:
    _, found = seen
    until(lambda: found.names() == ["one"])
    api.put_pod("a", "two", uid="u2", node="n1")
    api.put_pod("a", "elsewhere-too", uid="u8", node="n2")
    until(lambda: found.names() == ["one", "two"])
    api.put_pod("a", "two", uid="u2", node="n1", phase="Succeeded")
    until(lambda: found.pods["u2"].status.phase == "Succeeded")
    api.delete("pods", "u1")
    until(lambda: found.names() == ["two"])
    assert api.calls == {"list pods": 1, "watch pods": 1}


def test_a_broken_connection_goes_on_where_it_was(
    api: FakeApi, seen: tuple[Watch[PodObject], Seen]
) -> None:
    _, found = seen
    api.drop()
    api.put_pod("a", "two", uid="u2", node="n1")
    until(lambda: found.names() == ["one", "two"])
    assert (found.lists, api.calls["list pods"]) == (1, 1)


def test_after_410_all_is_listed_anew(api: FakeApi, seen: tuple[Watch[PodObject], Seen]) -> None:
    _, found = seen
    with api.changed:
        api.delete("pods", "u1")
        api.put_pod("a", "two", uid="u2", node="n1")
        api.compact()
        api.drop()
    until(lambda: found.names() == ["two"])
    assert found.lists == 2


def test_bookmarks_save_a_list(api: FakeApi, seen: tuple[Watch[PodObject], Seen]) -> None:
    _, found = seen
    time.sleep(0.2)
    # Nothing of this node happens, but versions go on, and then history is forgotten.
    api.put_pod("a", "elsewhere", uid="u9", node="n2", phase="Failed")
    api.compact()
    time.sleep(0.5)  # a few bookmarks
    api.drop()
    api.put_pod("a", "two", uid="u2", node="n1")
    until(lambda: found.names() == ["one", "two"])
    assert found.lists == 1


def test_a_token_that_was_rotated_is_read_anew(
    api: FakeApi, seen: tuple[Watch[PodObject], Seen]
) -> None:
    _, found = seen
    api.rotate_token()
    api.drop()
    api.put_pod("a", "two", uid="u2", node="n1")
    until(lambda: found.names() == ["one", "two"])
    assert found.lists == 1


def test_403_is_said_once_with_what_to_do(
    api: FakeApi, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(watching, "FORBIDDEN_S", 0.05)
    api.forbidden.add("pods")
    found = Seen()
    watch = Watch(
        ApiServer(api.service_account), pods_of("n1"), found, Rejections().fault, REMEDIES
    )
    with caplog.at_level(logging.INFO, "joulebook"):
        watch.start()
        until(lambda: api.calls["list pods"] >= 3)
        said = [record.getMessage() for record in caplog.records]
        assert len(said) == 1
        assert "403" in said[0]
        assert "ClusterRole" in said[0]
        assert not watch.synced
        api.forbidden.clear()
        until(lambda: found.names() == ["one"])
    watch.stop()


def test_an_outage_is_outlived(
    api: FakeApi, seen: tuple[Watch[PodObject], Seen], caplog: pytest.LogCaptureFixture
) -> None:
    watch, found = seen
    api.stop()
    until(lambda: caplog.records)
    assert not watch.synced
    api.put_pod("a", "two", uid="u2", node="n1")
    api.start()
    until(lambda: found.names() == ["one", "two"])
    assert watch.synced
    assert len([r for r in caplog.records if r.levelno >= logging.WARNING]) == 1


def test_a_fault_of_ours_with_a_pod_is_counted_and_all_is_listed_anew(
    api: FakeApi, caplog: pytest.LogCaptureFixture
) -> None:
    found, refuse = Seen(), Rejections()
    found.changed = lambda item: 1 // 0  # type: ignore[assignment, method-assign]
    watch = Watch(ApiServer(api.service_account), pods_of("n1"), found, refuse.fault)
    watch.start()
    for n in range(3):
        until(lambda: watch.synced)
        api.put_pod("a", f"more-{n}", uid=f"m{n}", node="n1")
        until(lambda n=n: refuse.counts().get("fault", 0) > n)  # type: ignore[misc]
    until(lambda: "more-2" in found.names())
    watch.stop()
    assert len([r for r in caplog.records if "watching pods failed" in r.message]) == 1


def test_no_service_account(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    watch = Watch(ApiServer(tmp_path), pods_of("n1"), Seen(), Rejections().fault, REMEDIES)
    watch.start()
    until(lambda: caplog.records)
    watch.stop()
    assert str(tmp_path) in caplog.text
    assert "tenants.kubernetes.api = false" in caplog.text


@pytest.mark.parametrize("version", ["v1", "v1beta1"])
def test_slices_of_either_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    with FakeApi(tmp_path / "account", dra=version) as api:
        for name, value in api.environment().items():
            monkeypatch.setenv(name, value)
        api.put_slice("n1", "gpu.nvidia.com", {"gpu-0": {"uuid": "GPU-0", "type": "gpu"}})
        api.put_slice("n2", "gpu.nvidia.com", {"gpu-0": {"uuid": "GPU-9"}})
        table = SliceTable()
        watch = Watch(ApiServer(api.service_account), slices_of("n1"), table, Rejections().fault)
        watch.start()
        until(lambda: table.described)
        assert table.described == {"gpu.nvidia.com/n1/gpu-0": Described("GPU-0")}
        mig = {"gpu.nvidia.com/parentUUID": "GPU-0", "profile": "1g.10gb"}
        api.put_slice("n1", "gpu.nvidia.com", {"gpu-0-mig-1": mig}, generation=2)
        until(lambda: "gpu.nvidia.com/n1/gpu-0-mig-1" in table.described)
        assert table.described == {
            "gpu.nvidia.com/n1/gpu-0-mig-1": Described("", "GPU-0", "1g.10gb")
        }
        watch.stop()


def test_a_daemon_in_a_pod_never_imports_the_kubernetes_package(
    api: FakeApi, repository: Path, short_tmp_path: Path
) -> None:
    """It would be 15 MiB that every node would pay."""
    code = """
import sys, time
from joulebook.clock import NodeClock
from joulebook.config import load
from joulebook.node.assembly.workloads import kubernetes_tenants
source = kubernetes_tenants(load(None, __import__("os").environ), NodeClock())
source.open(lambda _: None)
while source._table.info("u1") is None:
    time.sleep(0.05)
source.close()
heavy = {"kubernetes", "pydantic", "requests", "oauthlib", "websocket", "aiohttp"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    settings = {
        "NODE_NAME": "n1",
        "TENANTS_KUBERNETES_SERVICE_ACCOUNT": str(api.service_account),
        "TENANTS_KUBERNETES_POD_RESOURCES": str(short_tmp_path / "kubelet.sock"),
        "TENANTS_KUBERNETES_CGROUP_ROOT": str(short_tmp_path),
    }
    env = {
        **os.environ,
        **api.environment(),
        **{f"JOULEBOOK_{name}": value for name, value in settings.items()},
        "PYTHONPATH": str(repository / "exporter"),
    }
    subprocess.run([sys.executable, "-c", code], env=env, check=True, timeout=60)


def test_a_pod_signs_in_by_the_files_of_its_service_account(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HOST", "PORT"):
        monkeypatch.delenv(f"KUBERNETES_SERVICE_{name}", raising=False)
    with pytest.raises(ApiError, match="KUBERNETES_SERVICE_HOST") as caught:
        in_cluster(tmp_path)
    assert caught.value.reason == "no_account"
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    with pytest.raises(ApiError, match=r"ca\.crt"):
        in_cluster(tmp_path)
    FakeApi(tmp_path)  # writes both files
    found = in_cluster(tmp_path)
    assert found.host == "https://[fd00::1]:443"
    (tmp_path / "token").write_text("one\n")
    assert found.headers() == {"Authorization": "Bearer one"}
    (tmp_path / "token").write_text("two")
    assert found.headers() == {"Authorization": "Bearer two"}
    for wrong in (b"", b"a\r\nX: y", b"\xff"):
        (tmp_path / "token").write_bytes(wrong)
        with pytest.raises(ApiError, match="token"):
            found.headers()


def test_the_stand_in_runs_as_a_process_too(repository: Path, tmp_path: Path) -> None:
    objects = tmp_path / "pods.json"
    objects.write_text(
        '[{"metadata": {"name": "p", "namespace": "a", "uid": "u"}, "spec": {"nodeName": "n1"}}]'
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.fakes.kube_api.server", str(tmp_path / "account"),
         "--objects", str(objects)],
        cwd=repository, env={**os.environ, "PYTHONPATH": "exporter"}, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        word, host, port = process.stdout.readline().split()
        assert word == b"ready"
        found = Seen()
        environ = {
            "KUBERNETES_SERVICE_HOST": host.decode(),
            "KUBERNETES_SERVICE_PORT": port.decode(),
        }
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environ.items():
                patch.setenv(name, value)
            watch = Watch(ApiServer(tmp_path / "account"), pods_of("n1"), found, Rejections().fault)
            watch.start()
            until(lambda: found.names() == ["p"])
            watch.stop()
    finally:
        process.terminate()
        assert process.wait(20) == 0
        assert process.stdout is not None
        process.stdout.close()
