"""Where the nodes are: a list, files and addresses that Prometheus reads too, and Kubernetes.

A source that fails keeps its last list, and logs that once.
https://prometheus.io/docs/prometheus/latest/configuration/configuration/#file_sd_config

In Kubernetes the EndpointSlices of the daemons' Service are listed once and watched. Rights: `list`
and `watch` on `endpointslices` of `discovery.k8s.io` in that namespace.
https://kubernetes.io/docs/reference/kubernetes-api/service-resources/endpoint-slice-v1/
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

import msgspec

from joulebook.config.lab import Collect
from joulebook.decoding import converter
from joulebook.errors import ConfigError, FeedError, InputError
from joulebook.http_client import Web
from joulebook.kubernetes_api.server import ApiServer
from joulebook.kubernetes_api.watch import Collection, Decoders, Watch
from joulebook.lab.collect.client import address
from joulebook.log import LogOnce
from joulebook.untrusted_files import read_named

logger = logging.getLogger(__name__)
_once = LogOnce(logger)

MAX_TARGETS = 20_000
_MAX_FILE = 16 * 2**20


class TargetGroup(msgspec.Struct, frozen=True):
    """Targets as file_sd and http_sd give them."""

    targets: list[str]
    labels: dict[str, str] = {}


_GROUPS = msgspec.json.Decoder(list[TargetGroup])
_as_groups = converter(list[TargetGroup])


class Discovery(Protocol):
    """One source of targets."""

    @property
    def name(self) -> str:
        """What people are shown."""

    def targets(self) -> Iterable[str]:
        """Return the URLs of nodes. Raises `InputError` or `ConfigError`."""


class Static:
    """`collect.targets`."""

    name = "collect.targets"

    def __init__(self, settings: Collect) -> None:
        self._urls = [address(target, settings.scheme) for target in settings.targets]

    def targets(self) -> Iterable[str]:
        """Return the list."""
        return self._urls


class FileSd:
    """The files of one pattern, JSON or YAML by their suffix."""

    def __init__(self, pattern: str, scheme: str) -> None:
        self.name = pattern
        self._scheme = scheme

    def targets(self) -> Iterable[str]:
        """Read the files. A pattern may match nothing, but a named file must exist."""
        path = Path(self.name)
        files = sorted(path.parent.glob(path.name)) if "*" in path.name else [path]
        return [url for file in files for url in self._read(file)]

    def _read(self, path: Path) -> list[str]:
        try:
            body = read_named(path, _MAX_FILE)
        except ConfigError as error:
            raise InputError(str(error), reason="file") from None
        if path.suffix in {".yml", ".yaml"}:
            import yaml  # noqa: PLC0415 - 2.5 MiB that only users of such files should pay

            try:
                groups = _as_groups(yaml.safe_load(body) or [])
            except (yaml.YAMLError, msgspec.ValidationError, ValueError, RecursionError) as error:
                raise InputError(
                    f"{path}: not a list of targets: {error}", reason="garbage"
                ) from None
            return urls(groups, self._scheme, str(path))
        return urls(_groups(body, str(path)), self._scheme, str(path))


class HttpSd:
    """A URL that answers with a list of targets."""

    def __init__(self, url: str, scheme: str, web: Web) -> None:
        self.name = url
        self._scheme = scheme
        self._web = web

    def targets(self) -> Iterable[str]:
        """Return what it says now."""
        try:
            body = self._web.get(self.name, headers={"Accept": "application/json"})
        except FeedError as error:
            raise InputError(str(error), reason=error.reason) from None
        return urls(_groups(body, self.name), self._scheme, self.name)


def _groups(body: bytes, where: str) -> list[TargetGroup]:
    try:
        return _GROUPS.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{where}: not a list of targets: {error}", reason="garbage") from None


def urls(groups: Iterable[TargetGroup], scheme: str, where: str) -> list[str]:
    """Return the targets of groups as URLs; the label `__scheme__` wins, as in Prometheus."""
    found = []
    for group in groups:
        for target in group.targets:
            try:
                found.append(address(target, group.labels.get("__scheme__", scheme)))
            except ValueError as error:
                raise InputError(f"{where}: {error}", reason="garbage") from None
    return found


class Targets:
    """All sources; a failing one counts with its last list."""

    def __init__(self, sources: Sequence[Discovery]) -> None:
        self._sources = sources
        self._last: dict[str, frozenset[str]] = {}
        self.failing: dict[str, str] = {}
        """Why a source failed the last time, by its name."""

    def look(self) -> frozenset[str]:
        """Return the URLs of all nodes, each once."""
        for source in self._sources:
            try:
                self._last[source.name] = frozenset(source.targets())
                self.failing.pop(source.name, None)
                _once.recovered(source.name, "%s is read again", source.name)
            except (InputError, ConfigError) as error:
                self.failing[source.name] = str(error)
                _once.failed(source.name, "targets: %s; using its last good list", error)
        found = frozenset[str]().union(*self._last.values())
        if len(found) > MAX_TARGETS:
            _once.failed("many", "%d targets: only %d are used", len(found), MAX_TARGETS)
            found = frozenset(sorted(found)[:MAX_TARGETS])
        return found


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
    """The addresses behind one port of a Service. Endpoints that are not ready are included: a
    daemon whose sensor fails still has its ledger.
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
            _once.fault,
            _REMEDIES,
        )

    def targets(self) -> Iterable[str]:
        """Return the current endpoints. Raises `InputError` while it does not answer."""
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
    """Return the namespace that the collector runs in. Raises `InputError` outside of a cluster."""
    try:
        return (_ACCOUNT / "namespace").read_text().strip()
    except OSError:
        raise InputError(
            "collect.kubernetes_namespace: not in a pod, so set the namespace",
            reason="file",
        ) from None


def api_server() -> ApiServer:
    """The API server of KUBECONFIG, else that which this pod belongs to, else ~/.kube/config."""
    named = os.environ.get("KUBECONFIG", "")
    if named or not (_ACCOUNT / "token").exists():
        return ApiServer(_ACCOUNT, Path(named or "~/.kube/config").expanduser())
    return ApiServer(_ACCOUNT)
