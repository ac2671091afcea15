"""The kubelet's PodResources API: which pod of this node was given which device.

One connection to a UNIX socket, kept open, and reopened after a restart of the kubelet. A gRPC call
is a few frames of HTTP/2: h2 needs one megabyte of memory, grpcio fourteen. The stubs are of
messages only (`podresources.proto`). Import this module late: a node without a kubelet need not
carry these libraries.

https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from google.protobuf.message import DecodeError, Message
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes

from joulebook import __version__
from joulebook.core.sanitize import clean_label
from joulebook.node.workloads.kubernetes import podresources_pb2 as messages
from joulebook.node.workloads.kubernetes.device_ids import KubeletDevice, KubeletError, ListedPod

LIST = "/v1.PodResourcesLister/List"
ALLOCATABLE = "/v1.PodResourcesLister/GetAllocatableResources"

MAX_ANSWER_BYTES = 32 * 1024 * 1024
"""gRPC's usual bound of 4 MiB is too small for a node with many pods and CPUs."""

TIMEOUT_S = 2.0
"""An answer takes milliseconds; a kubelet that takes longer is starting or stuck."""

_ID_CHARS = 256
_PREFIX = struct.Struct(">BI")
"""Before each message: whether it is compressed, and its length."""

_CODES = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND",
    "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED",
    "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
)  # fmt: skip
"""gRPC's status codes, by number."""

_REASONS = {
    "UNAVAILABLE": ("unavailable", "Check that the kubelet is running; it is retried."),
    "DEADLINE_EXCEEDED": ("timeout", "Check what keeps the kubelet busy; it is retried."),
    "RESOURCE_EXHAUSTED": ("too_large", "Please report this: no node should have so many devices."),
    "UNIMPLEMENTED": ("unimplemented", "This needs a kubelet of 1.23 or newer."),
}

Answer = TypeVar("Answer")


class Kubelet:
    """A client of one kubelet; calls come from one thread at a time."""

    def __init__(self, socket: Path, *, timeout_s: float = TIMEOUT_S) -> None:
        self._socket = socket
        self._timeout_s = timeout_s
        self._connection: _Connection | None = None
        self._last: tuple[bytes, tuple[ListedPod, ...]] = b"", ()

    def pods(self) -> tuple[ListedPod, ...]:
        """Return all pods on this node, those without devices too. Raises `KubeletError`."""
        return self._call(LIST, messages.ListPodResourcesRequest(), self._parsed)

    def _parsed(self, raw: bytes) -> tuple[ListedPod, ...]:
        """Decode an answer, if it is not the same as the last one: most are."""
        if raw != self._last[0]:
            answer = messages.ListPodResourcesResponse.FromString(raw)
            self._last = raw, tuple(_listed(pod) for pod in answer.pod_resources)
        return self._last[1]

    def advertised(self) -> tuple[KubeletDevice, ...]:
        """All devices that plugins offer on this node, held or not. Raises `KubeletError`."""
        parse = messages.AllocatableResourcesResponse.FromString
        answer = self._call(ALLOCATABLE, messages.AllocatableResourcesRequest(), parse)
        return tuple(_of_plugins(answer.devices))

    def close(self) -> None:
        """Hang up; the next call dials again."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _call(self, method: str, request: Message, parse: Callable[[bytes], Answer]) -> Answer:
        body = request.SerializeToString()
        deadline = time.monotonic() + self._timeout_s
        try:
            return parse(self._answer(method, body, deadline))
        except _Status as status:
            code = status.code
            if code in _HANGS_UP:
                self.close()
        except TimeoutError:
            code = "DEADLINE_EXCEEDED"
            self.close()
        except PermissionError:
            self.close()
            raise KubeletError(
                f"{self._socket} is closed to uid {os.geteuid()}",
                reason="denied",
                remedy="Run the daemon as uid 0 (it needs no capability): the kubelet's "
                "directory is closed to others.",
            ) from None
        except FileNotFoundError:
            self.close()
            raise KubeletError(
                f"no socket {self._socket}",
                reason="missing",
                remedy="Start the kubelet, mount its directory (not the socket) into the "
                "daemon's pod, or set tenants.kubernetes.pod_resources.",
            ) from None
        except OSError:
            code = "UNAVAILABLE"
            self.close()
        except (DecodeError, ProtocolError, UnicodeDecodeError):
            code = "INTERNAL"
            self.close()
        reason, remedy = _REASONS.get(code, ("refused", ""))
        text = f"{method} at {self._socket}: {code}"
        raise KubeletError(text, reason=reason, remedy=remedy) from None

    def _answer(self, method: str, body: bytes, deadline: float) -> bytes:
        """The message that answers `body`; a kubelet that hung up meanwhile is dialled again."""
        connection = self._connection
        if connection is not None:
            try:
                return connection.call(method, body, deadline)
            except TimeoutError:
                raise
            except (OSError, ProtocolError):
                self.close()
        self._connection = connection = _Connection(self._socket, deadline)
        return connection.call(method, body, deadline)


class _Status(Exception):
    """A call that ended with another status than OK."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


_HANGS_UP = {"RESOURCE_EXHAUSTED", "INTERNAL", "UNAVAILABLE"}
"""After these the connection may hold the rest of an answer, or be no good."""


# What is sent are constants of this module, in the form that HTTP/2 wants.
_CONFIGURATION = H2Configuration(
    header_encoding="utf-8", validate_outbound_headers=False, normalize_outbound_headers=False
)


class _Connection:
    """One connection, with one call at a time. Raises `OSError`, `ProtocolError` and `_Status`."""

    def __init__(self, path: Path, deadline: float) -> None:
        self._http = H2Connection(_CONFIGURATION)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            self._wait(deadline)
            self._socket.connect(str(path))
            self._http.initiate_connection()
            self._http.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: MAX_ANSWER_BYTES})
            self._http.increment_flow_control_window(MAX_ANSWER_BYTES)
            self._send(deadline)
        except OSError:
            self._socket.close()
            raise

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def call(self, method: str, body: bytes, deadline: float) -> bytes:
        """Send a request, and return the response message."""
        stream = self._http.get_next_available_stream_id()
        left_ms = max(int((deadline - time.monotonic()) * 1000), 1)
        headers = [
            (":method", "POST"), (":scheme", "http"), (":path", method),
            (":authority", "localhost"), ("te", "trailers"), ("grpc-timeout", f"{left_ms}m"),
            ("content-type", "application/grpc"), ("user-agent", f"joulebook/{__version__}"),
        ]  # fmt: skip
        self._http.send_headers(stream, headers)
        self._http.send_data(stream, _PREFIX.pack(0, len(body)) + body, end_stream=True)
        self._send(deadline)
        said: dict[str, str] = {}
        data = bytearray()
        while True:
            for event in self._events(deadline):
                if isinstance(event, ConnectionTerminated):
                    raise ConnectionResetError("the server hangs up")
                if getattr(event, "stream_id", stream) != stream:
                    continue  # what is left of a call before
                if isinstance(event, ResponseReceived | TrailersReceived):
                    said.update((str(name), str(value)) for name, value in event.headers or ())
                elif isinstance(event, DataReceived):
                    data += event.data or b""
                    self._http.acknowledge_received_data(event.flow_controlled_length or 0, stream)
                    if len(data) > MAX_ANSWER_BYTES:
                        raise _Status("RESOURCE_EXHAUSTED")
                elif isinstance(event, StreamReset):
                    raise _Status("UNAVAILABLE")
                elif isinstance(event, StreamEnded):
                    return _message(said, bytes(data))
            self._send(deadline)

    def _events(self, deadline: float) -> list[Event]:
        self._wait(deadline)
        raw = self._socket.recv(65_536)
        if not raw:
            raise ConnectionResetError("the server is gone")
        return self._http.receive_data(raw)

    def _send(self, deadline: float) -> None:
        if raw := self._http.data_to_send():
            self._wait(deadline)
            self._socket.sendall(raw)

    def _wait(self, deadline: float) -> None:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        self._socket.settimeout(left_s)


def _message(said: dict[str, str], data: bytes) -> bytes:
    """The one message of an answer. Raises `_Status` where there is none."""
    status = said.get("grpc-status", "")
    if said.get(":status") != "200" or not status.isdecimal() or int(status[:3]) >= len(_CODES):
        raise _Status("UNKNOWN")
    if status != "0":
        raise _Status(_CODES[int(status)])
    if len(data) < _PREFIX.size or _PREFIX.unpack_from(data) != (0, len(data) - _PREFIX.size):
        raise _Status("INTERNAL")  # compressed, or not one whole message
    return data[_PREFIX.size :]


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
