"""The kubelet's pod-resources service: which pod of this node was given which device.

One channel to a UNIX socket, kept open; it finds the socket again when the kubelet restarts. The
stubs are of messages only (`podresources.proto`): a method is called by its name, which ties us to
no version of gRPC's own generator. Import this module late: gRPC is ten megabytes of memory that a
node without a kubelet need not carry.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import grpc
from google.protobuf.message import Message

from joulebook.core.sanitize import clean_label
from joulebook.node.workloads.kubernetes import podresources_pb2 as messages
from joulebook.node.workloads.kubernetes.device_ids import KubeletDevice, KubeletError, ListedPod

LIST = "/v1.PodResourcesLister/List"
ALLOCATABLE = "/v1.PodResourcesLister/GetAllocatableResources"

MAX_ANSWER_BYTES = 32 * 1024 * 1024
"""gRPC's own bound of 4 MiB is too small for a node with many pods and CPUs."""

TIMEOUT_S = 2.0
"""An answer takes milliseconds; a kubelet that takes longer is starting or stuck."""

_ID_CHARS = 256
_REASONS = {
    "UNAVAILABLE": ("unavailable", "Check that the kubelet is running; it is retried."),
    "DEADLINE_EXCEEDED": ("timeout", "Check what keeps the kubelet busy; it is retried."),
    "RESOURCE_EXHAUSTED": ("too_large", "Please report this: no node should have so many devices."),
    "UNIMPLEMENTED": ("unimplemented", "This needs a kubelet of 1.23 or newer."),
}

Answer = TypeVar("Answer", bound=Message)


class Kubelet:
    """A client of one kubelet; calls come from one thread at a time."""

    def __init__(self, socket: Path, *, timeout_s: float = TIMEOUT_S) -> None:
        self._socket = socket
        self._timeout_s = timeout_s
        self._channel: grpc.Channel | None = None

    def pods(self) -> tuple[ListedPod, ...]:
        """All pods on this node, those without devices too. Raises `KubeletError`."""
        parse = messages.ListPodResourcesResponse.FromString
        answer = self._call(LIST, messages.ListPodResourcesRequest(), parse)
        return tuple(_listed(pod) for pod in answer.pod_resources)

    def advertised(self) -> tuple[KubeletDevice, ...]:
        """All devices that plugins offer on this node, held or not. Raises `KubeletError`."""
        parse = messages.AllocatableResourcesResponse.FromString
        answer = self._call(ALLOCATABLE, messages.AllocatableResourcesRequest(), parse)
        return tuple(_of_plugins(answer.devices))

    def close(self) -> None:
        """Hang up; the next call dials again."""
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()

    def _call(self, method: str, request: Message, parse: Callable[[bytes], Answer]) -> Answer:
        if self._channel is None:
            self._channel = _dial(self._socket)
        call = self._channel.unary_unary(
            method,
            request_serializer=type(request).SerializeToString,
            response_deserializer=parse,
        )
        try:
            answer: Answer = call(request, timeout=self._timeout_s)
        except grpc.RpcError as error:
            raise _refused(self._socket, method, error) from None
        return answer


def _dial(socket: Path) -> grpc.Channel:
    options = (
        ("grpc.max_receive_message_length", MAX_ANSWER_BYTES),
        ("grpc.default_authority", "localhost"),
        ("grpc.enable_http_proxy", 0),
        # A kubelet that was restarted is back in a second, and so are we.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1000),
    )
    return grpc.insecure_channel(f"unix:{socket}", options=options)


def _refused(socket: Path, method: str, error: grpc.RpcError) -> KubeletError:
    code = error.code().name if isinstance(error, grpc.Call) else "UNKNOWN"
    if code == "UNAVAILABLE":
        try:
            socket.stat()
        except PermissionError:
            return KubeletError(
                f"{socket} is closed to uid {os.geteuid()}",
                reason="denied",
                remedy="Run the daemon as uid 0 (it needs no capability): the kubelet's "
                "directory is closed to others.",
            )
        except OSError:
            return KubeletError(
                f"no socket {socket}",
                reason="missing",
                remedy="Start the kubelet, mount its directory (not the socket) into the "
                "daemon's pod, or set tenants.kubernetes.pod_resources.",
            )
    reason, remedy = _REASONS.get(code, ("refused", ""))
    return KubeletError(f"{method} at {socket}: {code}", reason=reason, remedy=remedy)


def _listed(pod: messages.PodResources) -> ListedPod:
    found: dict[KubeletDevice, None] = {}
    for container in pod.containers:
        for device in _of_plugins(container.devices):
            found[device] = None
        for dynamic in container.dynamic_resources:
            for each in dynamic.claim_resources:
                name = "/".join((each.driver_name, each.pool_name, each.device_name))
                found[KubeletDevice("", clean_label(name, _ID_CHARS))] = None
    return ListedPod(clean_label(pod.namespace), clean_label(pod.name, _ID_CHARS), tuple(found))


def _of_plugins(entries: Iterable[messages.ContainerDevices]) -> list[KubeletDevice]:
    # With NUMA topology every device comes in an entry of its own.
    return [
        KubeletDevice(clean_label(entry.resource_name, _ID_CHARS), clean_label(device, _ID_CHARS))
        for entry in entries
        for device in entry.device_ids
        if entry.resource_name
    ]
