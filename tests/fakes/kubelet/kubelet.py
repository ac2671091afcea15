"""A kubelet's pod-resources service over real gRPC: answers what it is reported, and can misbehave.

In a test:

    with FakeKubelet(folder / "kubelet.sock") as kubelet:
        kubelet.advertise("nvidia.com/gpu", "GPU-0", "GPU-1")
        kubelet.admit("team-a", "train-x", {"nvidia.com/gpu": ["GPU-0"]})
        kubelet.restart()          # UNAVAILABLE, then an empty list for a while, then the truth

As a process on a socket, answering with recorded answers:

    python -m tests.fakes.kubelet.kubelet /run/fake/kubelet.sock \\
        --list tests/data/podresources/list_v1.36.pb \\
        --allocatable tests/data/podresources/allocatable_v1.36.pb

The files are read again for every call, so replacing one (by rename) changes the answer; without
them the lists are empty. It says `ready` on standard output, and ends with SIGTERM. It needs
grpcio and protobuf, and `exporter/` on PYTHONPATH.
"""

from __future__ import annotations

import argparse
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc

from joulebook.node.workloads.kubernetes import podresources_pb2 as messages

RECORDED = Path(__file__).parents[2] / "data" / "podresources"
SERVICE = "v1.PodResourcesLister"


class FakeKubelet:
    """The service on a socket. What it answers may be changed at any time."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.calls: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._pods: dict[tuple[str, str], Any] = {}
        self._offered: dict[str, list[str]] = {}
        self._answers: dict[str, Callable[[], bytes]] = {}
        self._broken: grpc.StatusCode | None = None
        self._delay_s = 0.0
        self._empty_until = 0.0
        self._server: grpc.Server | None = None

    # -- what it answers

    def load(self, listed: Path, allocatable: Path | None = None) -> None:
        """Begin with recorded answers; `admit`, `end` and `advertise` go on from there."""
        for pod in messages.ListPodResourcesResponse.FromString(listed.read_bytes()).pod_resources:
            self._pods[pod.namespace, pod.name] = pod
        if allocatable is not None:
            answer = messages.AllocatableResourcesResponse.FromString(allocatable.read_bytes())
            for entry in answer.devices:
                self._offered.setdefault(entry.resource_name, []).extend(entry.device_ids)

    def admit(
        self,
        namespace: str,
        name: str,
        devices: Mapping[str, Sequence[str]] | None = None,
        *,
        claims: Sequence[tuple[str, str, str]] = (),
        container: str = "main",
        numa: bool = True,
    ) -> None:
        """A pod with devices by resource, and DRA devices as (driver, pool, name).

        With `numa` each device is an entry of its own, as with a topology manager.
        """
        pod = messages.PodResources(name=name, namespace=namespace)
        inside = pod.containers.add(name=container)
        for resource, ids in (devices or {}).items():
            for entry in [[each] for each in ids] if numa else [list(ids)]:
                inside.devices.add(resource_name=resource, device_ids=entry)
        for driver, pool, device in claims:
            dynamic = inside.dynamic_resources.add(
                claim_name=f"{name}-claim", claim_namespace=namespace
            )
            dynamic.claim_resources.add(driver_name=driver, pool_name=pool, device_name=device)
        with self._lock:
            self._pods[namespace, name] = pod

    def end(self, namespace: str, name: str) -> None:
        """The pod is not listed any more."""
        with self._lock:
            self._pods.pop((namespace, name), None)

    def advertise(self, resource: str, *ids: str) -> None:
        """What a device plugin offers, in all."""
        with self._lock:
            self._offered[resource] = list(ids)

    def listed(self) -> list[str]:
        """The pods that it lists, as namespace/name."""
        with self._lock:
            return [f"{namespace}/{name}" for namespace, name in self._pods]

    # -- how it misbehaves

    def fail(self, code: grpc.StatusCode | None) -> None:
        """Answer every call with this code; `None`: be well again."""
        self._broken = code

    def delay(self, seconds: float) -> None:
        """Take so long for every answer."""
        self._delay_s = seconds

    def empty(self, seconds: float) -> None:
        """List no pods for so long, as a kubelet does that has just started."""
        self._empty_until = time.monotonic() + seconds

    def restart(self, *, down_s: float = 0.3, empty_s: float = 0.4) -> None:
        """UNAVAILABLE, then OK with no pods, then the truth."""
        self.stop()
        time.sleep(down_s)
        self.empty(empty_s)
        self.start()

    # -- the server

    def start(self) -> FakeKubelet:
        """Listen."""
        self.socket.parent.mkdir(parents=True, exist_ok=True)
        self.socket.unlink(missing_ok=True)
        self._server = grpc.server(ThreadPoolExecutor(4))
        self._server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(
                    SERVICE,
                    {
                        name: grpc.unary_unary_rpc_method_handler(
                            self._handler(name, answer),
                            request_deserializer=bytes,
                            response_serializer=bytes,
                        )
                        for name, answer in (
                            ("List", self._list),
                            ("GetAllocatableResources", self._allocatable),
                        )
                    },
                ),
            )
        )
        self._server.add_insecure_port(f"unix:{self.socket}")
        self._server.start()
        return self

    def stop(self) -> None:
        """Be gone, and the socket too."""
        if self._server is not None:
            self._server.stop(0).wait()
            self._server = None
        self.socket.unlink(missing_ok=True)

    def __enter__(self) -> FakeKubelet:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def answer_from(self, method: str, file: Path) -> None:
        """Answer with what is in `file` at the time of each call."""
        self._answers[method] = file.read_bytes

    def _handler(
        self, name: str, answer: Callable[[], bytes]
    ) -> Callable[[bytes, grpc.ServicerContext], bytes]:
        def handle(_request: bytes, context: grpc.ServicerContext) -> bytes:
            self.calls[name] += 1
            if self._delay_s:
                time.sleep(self._delay_s)
            if self._broken is not None:
                context.abort(self._broken, "reported to")
            if name == "List" and time.monotonic() < self._empty_until:
                return b""
            return self._answers.get(name, answer)()

        return handle

    def _list(self) -> bytes:
        with self._lock:
            answer = messages.ListPodResourcesResponse(pod_resources=self._pods.values())
        return bytes(answer.SerializeToString())

    def _allocatable(self) -> bytes:
        answer = messages.AllocatableResourcesResponse()
        with self._lock:
            for resource, ids in self._offered.items():
                for each in ids:
                    answer.devices.add(resource_name=resource, device_ids=[each])
        return bytes(answer.SerializeToString())


def main() -> None:
    """Serve recorded answers until SIGTERM."""
    parser = argparse.ArgumentParser(description="A kubelet's pod-resources service, made up.")
    parser.add_argument("socket", type=Path)
    parser.add_argument("--list", type=Path, help="a serialized ListPodResourcesResponse")
    parser.add_argument(
        "--allocatable", type=Path, help="a serialized AllocatableResourcesResponse"
    )
    args = parser.parse_args()
    kubelet = FakeKubelet(args.socket)
    for method, file in (("List", args.list), ("GetAllocatableResources", args.allocatable)):
        if file is not None:
            kubelet.answer_from(method, file)
    over = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: over.set())
    with kubelet:
        print("ready", flush=True)
        over.wait()


if __name__ == "__main__":
    main()
