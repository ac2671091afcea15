"""The pod-resources client against a server that speaks the protocol, and recorded answers."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import grpc
import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import StreamEnded
from h2.exceptions import H2Error
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


def test_an_answer_that_is_the_same_again_is_not_decoded_again(
    fake: FakeKubelet, kubelet: Kubelet
) -> None:
    fake.admit("a", "first", {"nvidia.com/gpu": U[:1]})
    pods = kubelet.pods()
    assert kubelet.pods() is pods
    fake.admit("a", "second", {"nvidia.com/gpu": U[1:2]})
    assert [pod.name for pod in kubelet.pods()] == ["first", "second"]


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


Reply = Callable[[H2Connection, int], None]
"""Answers one call: on which connection, and in which stream."""


class Odd:
    """A server that answers one call after the other as functions of its connection say."""

    def __init__(self, path: Path, *answers: Reply) -> None:
        self._answers = iter(answers)
        self.connections = self.calls = 0
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                peer, _ = self._listener.accept()
                self.connections += 1
                with peer, suppress(OSError, H2Error):
                    self._talk(peer)

    def _talk(self, peer: socket.socket) -> None:
        http = H2Connection(H2Configuration(client_side=False))
        http.initiate_connection()
        peer.sendall(http.data_to_send())
        while raw := peer.recv(65_536):
            for event in http.receive_data(raw):
                if isinstance(event, StreamEnded):
                    self.calls += 1
                    next(self._answers)(http, event.stream_id)
            for byte in http.data_to_send():  # in pieces as small as can be
                peer.sendall(bytes([byte]))

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(20)


OK = [(":status", "200"), ("content-type", "application/grpc")]


def reply(data: bytes, status: str = "0", headers: Sequence[tuple[str, str]] = OK) -> Reply:
    def answer(http: H2Connection, stream: int) -> None:
        http.send_headers(stream, headers)
        http.send_data(stream, data)
        http.send_headers(stream, [("grpc-status", status)], end_stream=True)

    return answer


def refuse_at_once(http: H2Connection, stream: int) -> None:
    http.send_headers(stream, [*OK, ("grpc-status", "12")], end_stream=True)


def go_away(http: H2Connection, _stream: int) -> None:
    http.close_connection()


def reset(http: H2Connection, stream: int) -> None:
    http.reset_stream(stream)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (refuse_at_once, "unimplemented"),
        (go_away, "unavailable"),
        (reset, "unavailable"),
        (reply(b"\0\0\0\0\0", status="2"), "refused"),
        (reply(b"\0\0\0\0\0", status="99"), "refused"),
        (reply(b"\0\0\0\0\0", status="x"), "refused"),
        (reply(b"\0\0\0\0\0", headers=[(":status", "503")]), "refused"),
        (reply(b""), "refused"),  # no message at all
        (reply(b"\0\0\0\0\2x"), "refused"),  # cut short
        (reply(b"\1\0\0\0\0"), "refused"),  # compressed
        (reply(b"\0\0\0\0\1\xff"), "refused"),  # no such message
    ],
)
def test_answers_that_are_none_are_refused_and_the_next_one_counts(
    short_tmp_path: Path, answer: Reply, reason: str
) -> None:
    odd = Odd(short_tmp_path / "s", answer, reply(b"\0\0\0\0\0"))
    kubelet = Kubelet(short_tmp_path / "s", timeout_s=20)
    with pytest.raises(KubeletError) as caught:
        kubelet.pods()
    assert caught.value.reason == reason
    assert kubelet.pods() == ()
    kubelet.close()
    odd.close()


def test_a_kubelet_that_hung_up_meanwhile_is_dialled_again(short_tmp_path: Path) -> None:
    well = reply(b"\0\0\0\0\0")
    odd = Odd(short_tmp_path / "s", well, go_away, well)
    kubelet = Kubelet(short_tmp_path / "s", timeout_s=20)
    assert kubelet.pods() == kubelet.pods() == ()
    assert (odd.connections, odd.calls) == (2, 3)
    kubelet.close()
    odd.close()


def test_a_socket_that_speaks_something_else_is_refused(short_tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(short_tmp_path / "s"))
        listener.listen()
        kubelet = Kubelet(short_tmp_path / "s", timeout_s=20)

        def serve() -> None:
            with listener.accept()[0] as peer:
                peer.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
                peer.recv(65_536)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(KubeletError) as caught:
            kubelet.pods()
        thread.join(20)
    assert caught.value.reason in {"refused", "unavailable"}
    with pytest.raises(KubeletError) as caught:
        kubelet.pods()  # nobody listens any more
    assert caught.value.reason == "unavailable"


def test_the_fake_runs_as_a_process_too(repository: Path, short_tmp_path: Path) -> None:
    path = short_tmp_path / "kubelet.sock"
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.fakes.kubelet.kubelet", str(path),
         "--list", str(RECORDED / "list_v1.36.pb")],
        cwd=repository,
        env={**os.environ, "PYTHONPATH": "exporter"},
        stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        client = Kubelet(path, timeout_s=20)
        assert [pod.name for pod in client.pods()] == ["solo", "train-dpjw7"]
        assert client.advertised() == ()
        client.close()
    finally:
        process.terminate()
        assert process.wait(20) == 0
        assert process.stdout is not None
        process.stdout.close()
