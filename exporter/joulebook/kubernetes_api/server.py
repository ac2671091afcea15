"""Requests to the API server, by raw paths.

Responses are decoded by msgspec into the few fields needed: the typed models of the `kubernetes`
package cost tens of megabytes, and importing it fifteen. So a pod authenticates with its service
account's files, and the package is only imported for a kubeconfig.
"""

from __future__ import annotations

import contextlib
import os
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from joulebook.core.sanitize import one_line
from joulebook.errors import HttpFailure, JoulebookError
from joulebook.http_client import HttpStream, Web

CONNECT_S = 5.0
MAX_BODY_BYTES = 64 * 1024 * 1024
"""The most bytes of a list; the pods of one node take a megabyte or two."""

MAX_REVIEW_BYTES = 1024 * 1024
"""Of the answer to an object that was posted."""

MAX_LINE_BYTES = 8 * 1024 * 1024
"""Of one event; etcd takes no object above 1.5 MiB."""


class ApiError(JoulebookError):
    """Raised if a request to the API server failed. `reason` is a short stable word."""

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class SignIn(NamedTuple):
    """The address of the API server, and how to connect and authenticate."""

    host: str
    web: Web
    headers: Callable[[], Mapping[str, str]]


class ApiServer:
    """One API server; usable from several threads.

    Attributes of a pod's own are read from the folder `service_account`, unless `kubeconfig` names
    a file.
    """

    def __init__(self, service_account: Path, kubeconfig: Path | None = None) -> None:
        self._service_account = service_account
        self._kubeconfig = kubeconfig
        self._lock = threading.Lock()
        self._sign_in: SignIn | None = None

    def get(self, path: str, query: Mapping[str, str], *, read_s: float) -> HttpStream:
        """Ask; the body is still to be read, `read_s` at most from one part of it to the next.

        Raises `ApiError`.
        """
        return self._ask(path, query, None, read_s)

    def create(self, path: str, item: bytes, *, within_s: float) -> bytes:
        """Post an object, and return the one that is answered. Raises `ApiError`."""
        answer = self._ask(path, {}, item, within_s)
        with _asking(path), contextlib.closing(answer):
            return answer.whole(MAX_REVIEW_BYTES, within_s)

    def _ask(
        self, path: str, query: Mapping[str, str], item: bytes | None, read_s: float
    ) -> HttpStream:
        with self._lock:
            if self._sign_in is None:
                self._sign_in = (
                    in_cluster(self._service_account)
                    if self._kubeconfig is None
                    else _of_kubeconfig(self._kubeconfig)
                )
            host, web, proof = self._sign_in
        with _asking(path):
            answer = web.open(
                host.rstrip("/") + path,
                query,
                {"Accept": "application/json", **proof()},
                read_s=read_s,
                json=item,
            )
        if answer.status != (200 if item is None else 201):
            with contextlib.closing(answer):
                said = one_line(answer.head())
            raise ApiError(
                f"{'GET' if item is None else 'POST'} {path}: {answer.status} {said}",
                reason=_REASONS.get(answer.status, "busy"),
            )
        return answer

    def sign_in_again(self) -> None:
        """Read certificates again at the next question: they may have been renewed."""
        with self._lock:
            self._sign_in = None


def in_cluster(folder: Path) -> SignIn:
    """Sign in with a pod's service account, from its folder. Raises `ApiError`."""
    host, port = (os.environ.get(f"KUBERNETES_SERVICE_{name}", "") for name in ("HOST", "PORT"))
    if not host or not port:
        raise ApiError(
            f"{folder}: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set, as they "
            "are in a pod",
            reason="no_account",
        )
    try:
        tls = ssl.create_default_context(cafile=folder / "ca.crt")
    except OSError as error:  # ssl.SSLError is one.
        raise ApiError(f"{folder / 'ca.crt'}: {error}", reason="no_account") from None
    # Clusters made years ago have authorities that newer rules for certificates refuse.
    tls.verify_flags &= ~ssl.VERIFY_X509_STRICT
    shown = f"[{host}]" if ":" in host else host
    web = Web(timeout_s=CONNECT_S, tls=tls, proxied=False)
    return SignIn(f"https://{shown}:{port}", web, lambda: _bearer(folder / "token"))


def _bearer(file: Path) -> Mapping[str, str]:
    # Read for each question: the kubelet renews it every hour or so.
    try:
        token = file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ApiError(f"{file}: {error}", reason="no_account") from None
    if not (token and token.isascii() and token.isprintable()):
        raise ApiError(f"{file}: expected a token", reason="no_account")
    return {"Authorization": f"Bearer {token}"}


def _of_kubeconfig(file: Path) -> SignIn:
    """Authenticate with a kubeconfig. Raises `ApiError`."""
    from kubernetes import client, config  # noqa: PLC0415 - late: 15 MiB

    settings = client.Configuration()
    try:
        config.load_kube_config(  # type: ignore[no-untyped-call]
            config_file=str(file), client_configuration=settings
        )
    except (config.ConfigException, OSError, ValueError) as error:
        raise ApiError(f"{file}: {one_line(str(error))}", reason="no_account") from None

    def headers() -> Mapping[str, str]:
        proofs: Iterable[dict[str, str]] = settings.auth_settings().values()  # type: ignore[assignment]
        return {each["key"]: each["value"] for each in proofs if each["in"] == "header"}

    # Its transport alone: the methods above it differ from version to version.
    pool = client.ApiClient(settings).rest_client.pool_manager
    return SignIn(settings.host, Web(timeout_s=CONNECT_S, pool=pool), headers)


_REASONS = {401: "unauthorized", 403: "forbidden", 404: "absent", 410: "gone"}


@contextlib.contextmanager
def _asking(path: str) -> Iterator[None]:
    try:
        yield
    except HttpFailure as error:
        reason = "too_large" if error.reason == "too_large" else "unreachable"
        raise ApiError(f"{path}: {error}", reason=reason) from None


def body(path: str, answer: HttpStream) -> bytes:
    """The whole body, bounded. Raises `ApiError`."""
    with _asking(path), contextlib.closing(answer):
        return answer.whole(MAX_BODY_BYTES)


def lines(path: str, answer: HttpStream) -> Iterator[bytes]:
    """The lines of a stream as they come, until it ends. Raises `ApiError`."""
    rest = b""
    with _asking(path), contextlib.closing(answer):
        for part in answer.parts():
            *whole, rest = (rest + part).split(b"\n")
            yield from (line for line in whole if line)
            if len(rest) > MAX_LINE_BYTES:
                raise ApiError(f"{path}: a line too long", reason="too_large")
