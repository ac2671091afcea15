"""The pod-resources client against a server that speaks the protocol, and recorded answers."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from tests.fakes.kubelet.kubelet import RECORDED, FakeKubelet

from joulebook.node.workloads.kubernetes import podresources_pb2 as messages
from joulebook.node.workloads.kubernetes.device_ids import KubeletDevice, KubeletError, ListedPod
from joulebook.node.workloads.kubernetes.kubelet import Kubelet

U = [f"GPU-0000000{i}-1111-2222-3333-44444444444{i}" for i in range(4)]


@pytest.fixture
def fake(short_tmp_path: Path) -> Iterator[FakeKubelet]:
    with FakeKubelet(short_tmp_path / "kubelet.sock") as kubelet:
        yield kubelet


@pytest.fixture
def kubelet(fake: FakeKubelet) -> Iterator[Kubelet]:
    client = Kubelet(fake.socket, timeout_s=20)
    yield client
    client.close()


def test_what_a_real_kubelet_answered(fake: FakeKubelet, kubelet: Kubelet) -> None:
    fake.load(RECORDED / "list_v1.36_dra.pb", RECORDED / "allocatable_v1.36.pb")
    assert kubelet.pods() == (
        ListedPod(
            "team-a", "train-vhj4z", tuple(KubeletDevice("nvidia.com/gpu", U[i]) for i in (1, 0))
        ),
        ListedPod("team-a", "solo", (KubeletDevice("nvidia.com/gpu", U[2]),)),
        ListedPod("team-a", "dra", (KubeletDevice("", "gpu.nvidia.com/h4-node/gpu-0"),)),
    )
    assert kubelet.advertised() == tuple(KubeletDevice("nvidia.com/gpu", uuid) for uuid in U)


def test_our_messages_are_what_a_real_kubelet_sent() -> None:
    # Nothing that we read is lost when it is written again, down to the names of claims.
    raw = (RECORDED / "list_v1.36.pb").read_bytes()
    answer = messages.ListPodResourcesResponse.FromString(raw)
    assert [c.name for pod in answer.pod_resources for c in pod.containers] == [
        "c", "trainer", "side",
    ]  # fmt: skip
    dra = messages.ListPodResourcesResponse.FromString(
        (RECORDED / "list_v1.36_dra.pb").read_bytes()
    )
    claim = dra.pod_resources[2].containers[0].dynamic_resources[0]
    assert (claim.claim_namespace, claim.claim_name) == ("team-a", "dra-g-qm45g")


def test_entries_of_one_resource_are_one_list(fake: FakeKubelet, kubelet: Kubelet) -> None:
    devices = {"nvidia.com/gpu": U[:3]}
    fake.admit("a", "numa", devices)
    fake.admit("a", "flat", devices, numa=False)
    numa, flat = kubelet.pods()
    assert numa.devices == flat.devices == tuple(KubeletDevice("nvidia.com/gpu", u) for u in U[:3])


def test_an_answer_of_more_than_4_mib_is_read_and_of_more_than_the_bound_refused(
    fake: FakeKubelet, kubelet: Kubelet, tmp_path: Path
) -> None:
    entry = messages.ContainerDevices(resource_name="nvidia.com/gpu", device_ids=["x" * 200] * 10)
    container = messages.ContainerResources(name="c", devices=[entry] * 3000)
    pod = messages.PodResources(name="p", namespace="a", containers=[container])
    answer = messages.ListPodResourcesResponse(pod_resources=[pod])
    file = tmp_path / "list.pb"
    file.write_bytes(answer.SerializeToString())
    assert file.stat().st_size > 5 * 2**20
    fake.answer_from("List", file)
    assert kubelet.pods()[0].devices == (KubeletDevice("nvidia.com/gpu", "x" * 200),)
    file.write_bytes(messages.ListPodResourcesResponse(pod_resources=[pod] * 6).SerializeToString())
    with pytest.raises(KubeletError) as caught:
        kubelet.pods()
    assert caught.value.reason == "too_large"


def test_one_channel_survives_a_restart(fake: FakeKubelet, kubelet: Kubelet) -> None:
    fake.admit("a", "p", {"nvidia.com/gpu": ["GPU-0"]})
    assert len(kubelet.pods()) == 1
    fake.stop()
    with pytest.raises(KubeletError) as caught:
        kubelet.pods()
    assert caught.value.reason == "missing"
    assert "pod_resources" in caught.value.remedy
    fake.start()
    for _ in range(100):
        try:
            assert len(kubelet.pods()) == 1
            break
        except KubeletError:
            time.sleep(0.1)
    else:
        pytest.fail("did not come back")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (grpc.StatusCode.UNAVAILABLE, "unavailable"),
        (grpc.StatusCode.UNIMPLEMENTED, "unimplemented"),
        (grpc.StatusCode.UNKNOWN, "refused"),
    ],
)
def test_what_went_wrong_is_said(
    fake: FakeKubelet, kubelet: Kubelet, code: grpc.StatusCode, reason: str
) -> None:
    fake.fail(code)
    with pytest.raises(KubeletError) as caught:
        kubelet.advertised()
    assert caught.value.reason == reason
    assert code.name in str(caught.value)


def test_a_kubelet_that_hangs_is_not_waited_for(fake: FakeKubelet) -> None:
    fake.delay(3)
    client = Kubelet(fake.socket, timeout_s=0.2)
    with pytest.raises(KubeletError) as caught:
        client.pods()
    client.close()
    assert caught.value.reason == "timeout"


def test_the_fake_runs_as_a_process_too(repository: Path, short_tmp_path: Path) -> None:
    socket = short_tmp_path / "kubelet.sock"
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.fakes.kubelet.kubelet", str(socket),
         "--list", str(RECORDED / "list_v1.36.pb")],
        cwd=repository,
        env={**os.environ, "PYTHONPATH": "exporter"},
        stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        client = Kubelet(socket, timeout_s=20)
        assert [pod.name for pod in client.pods()] == ["solo", "train-dpjw7"]
        assert client.advertised() == ()
        client.close()
    finally:
        process.terminate()
        assert process.wait(20) == 0
        assert process.stdout is not None
        process.stdout.close()
