"""The source as the daemon sees it: claims, ends and facts out of a kubelet and cgroups."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import grpc
import pytest
from tests.fakes.kube_api.server import FakeApi
from tests.unit.node.workloads.kubernetes.pod_world import CARDS, GPU, MIG, World

from joulebook.core.attribution.claims import Evidence
from joulebook.core.workloads import INFRASTRUCTURE, WorkloadId
from joulebook.kubernetes_api.server import ApiServer
from joulebook.node.workloads.host.cgroup_paths import PodPlace
from joulebook.node.workloads.kubernetes.cgroups import PodTree
from joulebook.node.workloads.kubernetes.pods import PodTable

HELD = frozenset({Evidence.POD_RESOURCES})
SECOND = 10**9


@pytest.fixture
def world(request: pytest.FixtureRequest, short_tmp_path: Path) -> Iterator[World]:
    """A node without an API server; a parameter names the cgroup driver."""
    world = World(short_tmp_path, driver=getattr(request, "param", "systemd"))
    yield world.open()
    world.close()


def workload(name: str, uid: str) -> WorkloadId:
    return WorkloadId("kubernetes", f"{name}.{uid[:8]}")


@pytest.mark.parametrize("world", ["systemd", "cgroupfs"], indirect=True)
def test_a_pod_from_its_cgroup_to_its_end(world: World) -> None:
    world.until(lambda found: found.complete == HELD)
    before_ns = world.clock.now_ns()
    uid = world.start("train", {GPU: ["GPU-1", "GPU-0"]})
    found = world.until(lambda found: len(found.claims) == 2)
    assert {c.meter.name for c in found.claims} == {"GPU-0", "GPU-1"}
    (first, second) = found.claims
    assert first.workload == workload("train", uid)
    assert first.evidence is Evidence.POD_RESOURCES
    assert before_ns < first.t0_ns == second.t0_ns < before_ns + SECOND
    (fact,) = found.facts
    assert (fact.labels.account, fact.labels.experiment) == ("a", "train")
    assert (fact.gpu_count, fact.complete) == (2, True)
    world.source.settled()
    assert world.holdings().facts == ()
    world.run(uid, "sidecar")
    world.leave(uid, "main")
    ended_ns = world.clock.now_ns()
    world.leave(uid, "sidecar")
    # The kubelet goes on to list it, but nothing of it runs any more.
    found = world.until(lambda found: found.claims and found.claims[0].t1_ns)
    t1_ns = found.claims[0].t1_ns
    assert t1_ns is not None
    assert abs(t1_ns - ended_ns) < SECOND
    assert found.facts[0].ended_ns == t1_ns
    world.kubelet.end("a", "train")
    world.remove(uid)
    world.until(lambda found: not found.claims and found.complete, settle=True)


def test_a_pod_that_is_only_listed_ends_when_it_is_not(world: World) -> None:
    world.start("remote", {GPU: ["GPU-0"]}, cgroup=False)
    world.until(lambda found: found.claims)
    world.kubelet.end("a", "remote")
    gone_ns = world.clock.now_ns()
    found = world.until(lambda found: found.claims[0].t1_ns)
    assert found.claims[0].t1_ns is not None
    assert abs(found.claims[0].t1_ns - gone_ns) < SECOND


def test_a_kubelet_restart_ends_nothing(world: World) -> None:
    world.start("one", {GPU: ["GPU-0"]})
    world.start("bare", {GPU: ["GPU-1"]}, cgroup=False)
    before = world.until(lambda found: len(found.claims) == 2)
    world.kubelet.restart(down_s=0.3, empty_s=0.6)
    until = time.monotonic() + 3
    while time.monotonic() < until:
        now = world.holdings()
        assert now.claims == before.claims
        time.sleep(0.05)
    world.until(lambda found: found.complete == HELD)


def test_while_the_kubelet_does_not_answer_nothing_is_complete(world: World) -> None:
    world.start("one", {GPU: ["GPU-0"]})
    world.until(lambda found: found.claims)
    world.kubelet.fail(grpc.StatusCode.UNAVAILABLE)
    found = world.until(lambda found: not found.complete)
    assert len(found.claims) == 1
    world.kubelet.fail(None)
    world.until(lambda found: found.complete)


def test_a_fault_of_ours_with_an_answer_is_counted_and_nothing_is_complete(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    world.until(lambda found: found.complete == HELD)
    with monkeypatch.context() as broken:
        broken.setattr(PodTable, "listed", lambda *_: 1 // 0)
        world.until(lambda found: found.rejected.get("fault", 0) >= 3 and not found.complete)
    said = [record for record in caplog.records if "polling the kubelet failed" in record.message]
    assert len(said) == 1, "the same again is only counted"
    world.until(lambda found: found.complete == HELD)


def test_a_fault_of_ours_in_the_cgroups_is_no_storm(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(PodTree, "scan", lambda *_: 1 // 0)
        world.source._rescan_at = 0.0
        world.run(world.start("one", {GPU: ["GPU-0"]}), "second")
        world.until(lambda found: found.rejected)
        time.sleep(0.5)
        assert world.holdings().rejected["fault"] < 5, "it is not tried again at once"
    assert "following pod cgroups failed" in caplog.text
    world.until(lambda found: found.claims)


def test_init_containers_and_restarts_are_one_tenure(world: World) -> None:
    uid = world.start("init", {GPU: ["GPU-0"]})
    world.until(lambda found: found.claims)
    world.leave(uid, "main")
    time.sleep(0.3)
    world.run(uid, "second")
    time.sleep(2.5)
    assert [c.t1_ns for c in world.claims()] == [None]
    # After a pause that was taken for its end it begins again.
    world.leave(uid, "second")
    world.until(lambda found: found.claims[0].t1_ns)
    world.run(uid, "third")
    found = world.until(lambda found: any(c.t1_ns is None for c in found.claims))
    assert len({c.t0_ns for c in found.claims}) == len(found.claims) == 2


def test_a_pod_made_anew_under_its_name_is_another(world: World) -> None:
    old = world.start("db-0", {GPU: ["GPU-0"]})
    world.until(lambda found: found.claims)
    world.remove(old)
    new = world.start("db-0", {GPU: ["GPU-0"]})
    found = world.until(lambda found: len(found.claims) == 2)
    by_id = {c.workload: c.t1_ns for c in found.claims}
    assert by_id[workload("db-0", new)] is None
    assert by_id[workload("db-0", old)] is not None


def test_a_name_and_a_uid_that_are_left_over_belong_together(world: World) -> None:
    world.until(lambda found: found.complete == HELD)
    uid = world.start("alone", {GPU: ["GPU-0"]}, logs=False)
    found = world.until(lambda found: found.claims)
    assert found.claims[0].workload == workload("alone", uid)


def test_of_two_names_and_two_uids_nothing_is_deduced(world: World) -> None:
    uids = [world.start(f"p{n}", {GPU: [f"GPU-{n}"]}, logs=False) for n in range(2)]
    found = world.until(lambda found: len(found.claims) == 2)
    assert {c.workload for c in found.claims} == {None}
    for n, uid in enumerate(uids):
        (world.logs / f"a_p{n}_{uid}").mkdir()
    found = world.until(lambda found: len({c.workload for c in found.claims}) == 3)
    named = {c.workload: c for c in found.claims if c.workload is not None}
    nameless = [c for c in found.claims if c.workload is None]
    assert set(named) == {workload(f"p{n}", uid) for n, uid in enumerate(uids)}
    assert {c.t1_ns for c in nameless} == {c.t0_ns for c in named.values()}


def test_replicas_are_parts_of_what_is_advertised(world: World) -> None:
    shared = "nvidia.com/gpu.shared"
    world.kubelet.advertise(shared, *(f"GPU-0::{n}" for n in range(4)))
    world.start("two", {shared: ["GPU-0::0", "GPU-0::3"]})
    world.start("one", {shared: ["GPU-0::1"]})
    found = world.until(lambda found: len(found.claims) == 2)
    assert {(c.parts, c.of) for c in found.claims} == {(2, 4), (1, 4)}


def test_mig_instances_by_slices(world: World) -> None:
    world.start("mig", {"nvidia.com/mig-3g.20gb": ["MIG-a"]})
    found = world.until(lambda found: found.claims, (MIG,))
    assert [(c.parts, c.of, c.instance) for c in found.claims] == [(3, 7, "MIG-a")]


def test_an_id_that_nobody_can_map_is_somebodys(world: World) -> None:
    world.start("known", {GPU: ["GPU-0"]})
    world.start("odd", {"example.org/card": ["card-b"]})
    found = world.until(lambda found: len(found.claims) == 4)
    nameless = {c.meter.name for c in found.claims if c.workload is None}
    assert nameless == {"GPU-1", "GPU-2", "GPU-3"}
    assert found.rejected == {"gpu_unknown": 1}
    world.start("lost", {GPU: ["GPU-77"]})
    found = world.until(lambda found: "gpu_absent" in found.rejected)
    assert len(found.claims) == 4


def test_a_mig_device_that_nobody_can_map_is_of_a_card_that_is_cut_up(world: World) -> None:
    cards = (MIG, *CARDS[1:])
    world.start("cut", {"nvidia.com/mig-1g.5gb": ["MIG-unheard-of"]})
    found = world.until(lambda found: found.claims, cards)
    assert [(c.workload, c.meter.name) for c in found.claims] == [(None, "GPU-0")]


def test_other_resources_are_none_of_ours(world: World) -> None:
    world.start("net", {"rdma/hca": ["mlx5_0"]})
    world.start("gpu", {GPU: ["GPU-0"]})
    assert len(world.until(lambda found: found.claims).claims) == 1


def test_boundaries_are_told_for_pods_and_containers(world: World) -> None:
    uid = world.start("train", {GPU: ["GPU-0"]})
    world.until(lambda found: found.claims)
    reported = len(world.boundaries)
    before_ns = world.clock.now_ns()
    world.leave(uid, "main")
    deadline = time.monotonic() + 20
    while len(world.boundaries) == reported:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert world.boundaries[-1] >= before_ns
    # One that holds no card begins and ends unheard.
    plain = world.start("plain")
    time.sleep(1.5)
    reported = len(world.boundaries)
    world.leave(plain, "main")
    time.sleep(0.5)
    assert len(world.boundaries) == reported


def test_groups_are_where_the_kernel_counts(world: World) -> None:
    uid = world.start("train", {GPU: ["GPU-0"]})
    world.until(lambda found: found.facts)
    world.until(lambda _: world.source.groups())
    (group,) = world.source.groups()
    assert group.workload == workload("train", uid)
    assert group.directories == (world.pod_folder(uid),)
    world.start("coredns", namespace="kube-system")
    time.sleep(1)
    assert len(world.source.groups()) == 1


def test_what_is_there_at_the_start_is_found(short_tmp_path: Path) -> None:
    world = World(short_tmp_path)
    uid = world.start("early", {GPU: ["GPU-2"]})
    try:
        found = world.open().until(lambda found: found.complete)
        assert [c.workload for c in found.claims] == [workload("early", uid)]
    finally:
        world.close()


def test_an_empty_answer_at_the_start_is_not_believed_while_containers_run(
    short_tmp_path: Path,
) -> None:
    world = World(short_tmp_path)
    world.start("early", {GPU: ["GPU-2"]})
    world.kubelet.empty(2.0)
    try:
        world.open()
        time.sleep(1)
        assert world.holdings().complete == frozenset()
        world.until(lambda found: found.claims and found.complete)
    finally:
        world.close()


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeApi]:
    with FakeApi(tmp_path / "account") as fake:
        for name, value in fake.environment().items():
            monkeypatch.setenv(name, value)
        yield fake


@pytest.fixture
def cluster(api: FakeApi, short_tmp_path: Path) -> Iterator[World]:
    """A node with an API server."""
    world = World(short_tmp_path, server=ApiServer(api.service_account))
    yield world.open()
    world.close()


def test_labels_come_from_the_api_server(api: FakeApi, cluster: World) -> None:
    uid = "11112222-3333-4444-5555-666677778888"
    api.put_pod(
        "a", "train-x", uid=uid, node="n1", labels={"batch.kubernetes.io/job-name": "train"}
    )
    cluster.start("train-x", {GPU: ["GPU-0"]}, uid=uid)
    found = cluster.until(lambda found: found.claims)
    (fact,) = found.facts
    assert fact.labels.experiment == "train"
    assert fact.complete
    assert fact.extra == {
        "uid": uid,
        "image": "example.org/train:1",
        "gpu_model": "NVIDIA A100",
    }


def test_infrastructure_is_no_workload(
    api: FakeApi, cluster: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: tuple[tuple[str, dict[str, Sequence[str]]], ...] = (
        ("monitor", {}), ("train", {GPU: ["GPU-1"]})
    )  # fmt: skip
    uids = {name: cluster.start(name, devices, logs=False) for name, devices in given}
    api.put_pod("a", "monitor", uid=uids["monitor"], node="n1", labels={"app": "monitor"})
    api.put_pod("a", "train", uid=uids["train"], node="n1")
    found = cluster.until(lambda found: found.complete and found.claims)
    assert [c.workload for c in found.claims] == [workload("train", uids["train"])]

    def identify(uid: str) -> WorkloadId | None:
        monkeypatch.setattr(cluster.source._reader, "pod", lambda _pid: PodPlace(uid))
        return cluster.source.identify(1)

    assert identify(uids["monitor"]) == INFRASTRUCTURE
    assert identify(uids["train"]) == workload("train", uids["train"])
    assert identify("00000000-0000-0000-0000-000000000000") is None
    dns = cluster.start("coredns", namespace="kube-system")
    assert identify(dns) == INFRASTRUCTURE
    assert cluster.source.identify(1) == INFRASTRUCTURE


def test_a_short_pod_that_ended_before_its_labels_came_gets_them(
    api: FakeApi, cluster: World
) -> None:
    uid = cluster.start("blink", {GPU: ["GPU-0"]})
    time.sleep(0.4)
    cluster.leave(uid, "main")
    cluster.kubelet.end("a", "blink")
    cluster.remove(uid)
    found = cluster.until(lambda found: found.claims)
    api.put_pod("a", "blink", uid=uid, node="n1", env={"WANDB_PROJECT": "w"}, phase="Succeeded")
    found = cluster.until(lambda found: found.facts and found.facts[0].complete)
    assert found.facts[0].labels.experiment == "w"


def test_a_claim_of_dra_that_two_pods_share(api: FakeApi, cluster: World) -> None:
    api.put_slice("n1", "gpu.nvidia.com", {"gpu-0": {"uuid": "GPU-3"}})
    claim = [("gpu.nvidia.com", "n1", "gpu-0")]
    for name in ("first", "second"):
        uid = cluster.start(name)
        api.put_pod("a", name, uid=uid, node="n1")
        cluster.kubelet.admit("a", name, claims=claim)
        found = cluster.until(lambda found, name=name: any(  # type: ignore[misc]
            c.workload and c.workload.workload.startswith(name) for c in found.claims
        ))  # fmt: skip
    found = cluster.until(lambda found: sum(c.of == 2 for c in found.claims) == 2)
    assert {c.meter.name for c in found.claims} == {"GPU-3"}
    alone = [c for c in found.claims if c.of == 1]
    assert len(alone) == 1
    assert alone[0].t1_ns is not None
    assert {c.t0_ns for c in found.claims if c.of == 2} >= {alone[0].t1_ns}


def test_without_cards_nothing_is_said(cluster: World) -> None:
    cluster.start("train", {GPU: ["GPU-0"]})
    time.sleep(1)
    found = cluster.holdings(())
    assert (found.claims, found.complete) == ((), frozenset())
    assert cluster.holdings(CARDS) is not None
