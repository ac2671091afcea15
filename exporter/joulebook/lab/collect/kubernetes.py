"""The nodes' daemons in Kubernetes: the EndpointSlices of their Service, by raw paths.

`kubernetes` is loaded here only, and of it the client without the typed models. Rights: `list` on
`endpointslices` of `discovery.k8s.io` in that namespace.
https://kubernetes.io/docs/reference/kubernetes-api/service-resources/endpoint-slice-v1/
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import cast
from urllib.parse import quote, urlencode

import msgspec
import urllib3

from joulebook.errors import InputError

Get = Callable[[str], bytes]
"""The body of a path of the API server. Raises `InputError`."""

_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_PAGE = 500
_PAGES = 100


class _Conditions(msgspec.Struct, frozen=True):
    ready: bool | None = None


class _Endpoint(msgspec.Struct, frozen=True):
    addresses: tuple[str, ...] = ()
    conditions: _Conditions = _Conditions()


class _Port(msgspec.Struct, frozen=True):
    name: str | None = None
    port: int | None = None


class _Slice(msgspec.Struct, frozen=True):
    endpoints: tuple[_Endpoint, ...] | None = None
    ports: tuple[_Port, ...] | None = None


class _Meta(msgspec.Struct, frozen=True):
    next: str = msgspec.field(default="", name="continue")


class _List(msgspec.Struct, frozen=True):
    metadata: _Meta = _Meta()
    items: tuple[_Slice, ...] | None = None


_LISTED = msgspec.json.Decoder(_List)


class EndpointSlices:
    """The addresses behind one port of a Service. Those that are not ready are asked too: a daemon
    whose sensor fails still has its ledger.
    """

    def __init__(self, get: Get, service: str, namespace: str, port: str, scheme: str) -> None:
        self.name = f"endpoints of {namespace}/{service}"
        self._get = get
        selector = f"kubernetes.io/service-name={service}"
        query = urlencode({"labelSelector": selector, "limit": _PAGE})
        where = f"namespaces/{quote(namespace, safe='')}/endpointslices"
        self._path = f"/apis/discovery.k8s.io/v1/{where}?{query}"
        self._port = port
        self._scheme = scheme

    def targets(self) -> Iterable[str]:
        """What the API server says now. Raises `InputError`."""
        found: set[str] = set()
        follow = ""
        for _ in range(_PAGES):
            body = self._get(f"{self._path}{follow}")
            try:
                listed = _LISTED.decode(body)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                raise InputError(f"{self.name}: {error}", reason="garbage") from None
            for each in listed.items or ():
                found.update(self._of(each))
            if not listed.metadata.next:
                break
            follow = f"&continue={quote(listed.metadata.next, safe='')}"
        return found

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
        return _NAMESPACE.read_text().strip()
    except OSError:
        raise InputError(
            "collect.kubernetes_namespace: not in a pod, so the namespace must be named",
            reason="file",
        ) from None


def api_server() -> Get:
    """The API server that this pod belongs to, or that of KUBECONFIG. Raises `InputError`."""
    # Late: 20 MiB that only collectors in a cluster should pay.
    from kubernetes import client, config  # noqa: PLC0415
    from kubernetes.config.config_exception import ConfigException  # noqa: PLC0415

    settings = client.Configuration()
    try:
        config.load_config(client_configuration=settings)  # type: ignore[no-untyped-call]
    except (ConfigException, OSError) as error:
        raise InputError(f"collect.kubernetes: no API server: {error}", reason="file") from None
    # Its transport alone: the methods above it differ from version to version.
    pool = client.ApiClient(settings).rest_client.pool_manager

    def get(path: str) -> bytes:
        headers = {"Accept": "application/json"}
        signed_in = cast(dict[str, dict[str, str]], settings.auth_settings())
        for each in signed_in.values():
            if each["in"] == "header" and each["value"]:
                headers[each["key"]] = each["value"]
        try:
            answer = pool.request(
                "GET", settings.host + path, headers=headers, timeout=20.0, retries=False
            )
        except urllib3.exceptions.HTTPError as error:
            raise InputError(f"the API server: {type(error).__name__}", reason="down") from None
        if answer.status != 200:
            raise InputError(
                f"the API server answers {answer.status}: may the service account list "
                "endpointslices?",
                reason="denied",
            )
        return bytes(answer.data)

    return get
