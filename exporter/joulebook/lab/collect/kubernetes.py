"""The nodes' daemons in Kubernetes: the EndpointSlices of their Service, listed once and watched.

Rights: `list` and `watch` on `endpointslices` of `discovery.k8s.io` in that namespace.
https://kubernetes.io/docs/reference/kubernetes-api/service-resources/endpoint-slice-v1/
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

import msgspec

from joulebook.errors import InputError
from joulebook.kubernetes_api.server import ApiServer
from joulebook.kubernetes_api.watch import Collection, Decoders, Watch

log = logging.getLogger(__name__)

_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_PATIENCE_S = 20.0
"""So long the first list is waited for."""

_REMEDIES = {
    "forbidden": "Give the collector's service account list and watch on endpointslices of "
    "discovery.k8s.io in that namespace, as the Helm chart does."
}


class _Conditions(msgspec.Struct, frozen=True):
    ready: bool | None = None


class _Endpoint(msgspec.Struct, frozen=True):
    addresses: tuple[str, ...] = ()
    conditions: _Conditions = _Conditions()


class _Port(msgspec.Struct, frozen=True):
    name: str | None = None
    port: int | None = None


class _Meta(msgspec.Struct, frozen=True):
    name: str = ""


class _Slice(msgspec.Struct, frozen=True):
    metadata: _Meta = _Meta()
    endpoints: tuple[_Endpoint, ...] | None = None
    ports: tuple[_Port, ...] | None = None


_SLICES = Decoders(_Slice)


class EndpointSlices:
    """The addresses behind one port of a Service. Those that are not ready are asked too: a daemon
    whose sensor fails still has its ledger.
    """

    def __init__(
        self, server: ApiServer, service: str, namespace: str, port: str, scheme: str
    ) -> None:
        self.name = f"endpoints of {namespace}/{service}"
        self._port = port
        self._scheme = scheme
        self._slices: dict[str, _Slice] = {}
        self._lock = threading.Lock()
        self._listed = threading.Event()
        where = f"namespaces/{quote(namespace, safe='')}/endpointslices"
        self._watch = Watch(
            server,
            Collection(
                "endpointslices",
                (f"/apis/discovery.k8s.io/v1/{where}",),
                {"labelSelector": f"kubernetes.io/service-name={service}"},
                _SLICES,
            ),
            self,
            log.exception,
            _REMEDIES,
        )

    def targets(self) -> Iterable[str]:
        """What the API server has said. Raises `InputError` while it does not answer."""
        if self._watch.ident is None:
            self._watch.start()
            self._listed.wait(_PATIENCE_S)
        if self._watch.problem:
            raise InputError(f"{self.name}: {self._watch.problem}", reason="down")
        with self._lock:
            return {url for each in self._slices.values() for url in self._of(each)}

    def listed(self, items: list[_Slice]) -> None:
        """See `Listener`."""
        with self._lock:
            self._slices = {each.metadata.name: each for each in items}
        self._listed.set()

    def changed(self, item: _Slice) -> None:
        """See `Listener`."""
        with self._lock:
            self._slices[item.metadata.name] = item

    def deleted(self, item: _Slice) -> None:
        """See `Listener`."""
        with self._lock:
            self._slices.pop(item.metadata.name, None)

    def close(self) -> None:
        """Watch no more."""
        self._watch.stop()

    def _of(self, each: _Slice) -> Iterable[str]:
        for port in each.ports or ():
            if port.name == self._port and port.port:
                for endpoint in each.endpoints or ():
                    for host in endpoint.addresses:
                        shown = f"[{host}]" if ":" in host else host
                        yield f"{self._scheme}://{shown}:{port.port}"


def namespace_of_this_pod() -> str:
    """The namespace that the collector runs in. Raises `InputError` outside of a cluster."""
    try:
        return (_ACCOUNT / "namespace").read_text().strip()
    except OSError:
        raise InputError(
            "collect.kubernetes_namespace: not in a pod, so the namespace must be named",
            reason="file",
        ) from None


def api_server() -> ApiServer:
    """The API server of KUBECONFIG, else that which this pod belongs to, else ~/.kube/config."""
    named = os.environ.get("KUBECONFIG", "")
    if named or not (_ACCOUNT / "token").exists():
        return ApiServer(_ACCOUNT, Path(named or "~/.kube/config").expanduser())
    return ApiServer(_ACCOUNT)
