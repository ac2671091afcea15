"""Where model servers are: pods of the cluster, fixed addresses, and series of a Prometheus.

Annotations are the words of users. So a pod is asked at the address that the kubelet gave it and
nowhere else; of a pod in the node's network only ports that it declares.
https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/
"""

from __future__ import annotations

import ipaddress
import logging
import re
import threading
from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple, Protocol

import msgspec

from joulebook.kubernetes_api.server import ApiServer
from joulebook.kubernetes_api.watch import Collection, Decoders, Watch
from joulebook.log import LogOnce

logger = logging.getLogger(__name__)
_once = LogOnce(logger)

PATHS = ("/metrics", "/prometheus/metrics")
"""Where servers have their metrics: all of them at the first, TensorRT-LLM's at the second."""

_PORT_NAMES = ("metrics", "http-metrics", "http")
"""What PodMonitors select ports by, the likeliest first."""
_PATH = re.compile(r"/[\w./~-]{0,200}", re.ASCII)
_ANNOTATION = "prometheus.io/"

_REMEDIES = {
    "forbidden": "Give the lab server's service account list and watch on pods, as the Helm chart "
    "does with serving.kubernetes."
}


class ModelServer(NamedTuple):
    """One server to ask.

    Attributes:
        workload: The name of its workload, as in the ledger or as shown.
        cluster: The cluster of that workload (`""`: whichever has it).
        urls: Where it may have its metrics, the likeliest first; none: they are in Prometheus.
        model: The name of its model, where it states none.
        started_s: When its container started (UTC seconds); 0: not known.

    """

    workload: str
    cluster: str
    urls: tuple[str, ...]
    model: str = ""
    started_s: int = 0


class ServerFinder(Protocol):
    """One source of servers."""

    def servers(self) -> list[ModelServer]:
        """Return those that there are now."""


class _PodMeta(msgspec.Struct, frozen=True):
    name: str = ""
    uid: str = ""
    annotations: dict[str, str] | None = None


class _ContainerPort(msgspec.Struct, frozen=True, rename="camel"):
    container_port: int = 0
    name: str = ""
    protocol: str = "TCP"


class _PodContainer(msgspec.Struct, frozen=True):
    ports: tuple[_ContainerPort, ...] | None = None


class _PodSpec(msgspec.Struct, frozen=True, rename="camel"):
    host_network: bool = False
    containers: tuple[_PodContainer, ...] | None = None


class _Running(msgspec.Struct, frozen=True, rename="camel"):
    started_at: str | None = None


class _ContainerRuns(msgspec.Struct, frozen=True):
    running: _Running | None = None


class _ContainerOf(msgspec.Struct, frozen=True):
    state: _ContainerRuns | None = None


class _PodState(msgspec.Struct, frozen=True):
    phase: str = ""
    address: str = msgspec.field(default="", name="podIP")
    containers: tuple[_ContainerOf, ...] | None = msgspec.field(
        default=None, name="containerStatuses"
    )


class ServingPod(msgspec.Struct, frozen=True):
    """A pod, as far as it says where its metrics are."""

    metadata: _PodMeta = _PodMeta()
    spec: _PodSpec = _PodSpec()
    status: _PodState = _PodState()


PODS = Decoders(ServingPod)


def server_of(pod: ServingPod) -> ModelServer | None:
    """Return the server in a pod; `None` if it has no metrics, or not where it may be asked."""
    if pod.status.phase != "Running" or not _is_address(pod.status.address):
        return None
    said = {
        name.removeprefix(_ANNOTATION): value
        for name, value in (pod.metadata.annotations or {}).items()
        if name.startswith(_ANNOTATION)
    }
    if said.get("scrape", "true") != "true" or said.get("scheme", "http") != "http":
        return None
    declared = {
        port.container_port: port.name
        for container in pod.spec.containers or ()
        for port in container.ports or ()
        if port.protocol == "TCP" and 0 < port.container_port < 65_536
    }
    port = _port(said, declared)
    if not port or (pod.spec.host_network and port not in declared):
        return None
    path = said.get("path", "")
    paths = (path,) if _PATH.fullmatch(path) and ".." not in path else PATHS
    address = pod.status.address
    host = f"[{address}]" if ":" in address else address
    return ModelServer(
        f"{pod.metadata.name}.{pod.metadata.uid[:8]}",
        "",
        tuple(f"http://{host}:{port}{path}" for path in paths),
        started_s=_start(pod),
    )


def _port(said: Mapping[str, str], declared: Mapping[int, str]) -> int:
    asked = said.get("port", "")
    if asked:
        is_port = asked.isascii() and asked.isdecimal() and len(asked) < 6 and int(asked) < 65_536
        return int(asked) if is_port else 0
    for name in _PORT_NAMES:
        for number, its_name in sorted(declared.items()):
            if its_name == name:
                return number
    return min(declared) if len(declared) == 1 and said.get("scrape") == "true" else 0


def _start(pod: ServingPod) -> int:
    """Return when the container started; 0: not known, or there are several."""
    containers = pod.status.containers or ()
    state = containers[0].state if len(containers) == 1 else None
    running = state.running if state else None
    try:
        return int(datetime.fromisoformat((running and running.started_at) or "").timestamp())
    except ValueError:
        return 0


def _is_address(text: str) -> bool:
    """Return whether a pod can have that address: not the loopback, nor a cloud's metadata."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return not (
        address.is_loopback
        or address.is_link_local
        or address.is_multicast
        or address.is_unspecified
    )


class ServingPods:
    """The pods of the cluster that say where their metrics are, listed once and then watched."""

    def __init__(self, server: ApiServer, selector: str = "") -> None:
        self._servers: dict[str, ModelServer] = {}
        self._lock = threading.Lock()
        query = {"fieldSelector": "status.phase=Running"}
        if selector:
            query["labelSelector"] = selector
        self._watch = Watch(
            server, Collection("pods", ("/api/v1/pods",), query, PODS), self, _once.fault, _REMEDIES
        )

    def servers(self) -> list[ModelServer]:
        """Return what is known now."""
        if self._watch.ident is None:
            self._watch.start()
        with self._lock:
            return sorted(self._servers.values())

    def listed(self, items: list[ServingPod]) -> None:
        """See `WatchListener`."""
        found = {pod.metadata.uid: server_of(pod) for pod in items}
        with self._lock:
            self._servers = {uid: each for uid, each in found.items() if each is not None}

    def changed(self, item: ServingPod) -> None:
        """See `WatchListener`."""
        found = server_of(item)
        with self._lock:
            if found is None:
                self._servers.pop(item.metadata.uid, None)
            else:
                self._servers[item.metadata.uid] = found

    def deleted(self, item: ServingPod) -> None:
        """See `WatchListener`."""
        with self._lock:
            self._servers.pop(item.metadata.uid, None)

    def close(self) -> None:
        """Watch no more."""
        self._watch.stop()
