"""The API server, asked by raw paths.

Answers are decoded by msgspec into the few fields that are read: the typed models of the
`kubernetes` package cost tens of megabytes, and importing it fifteen. So in a pod the service
account's files say how to sign in, and that package is imported where a kubeconfig is given only.
"""

from __future__ import annotations

import os
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import urllib3

from joulebook.core.sanitize import one_line
from joulebook.errors import JoulebookError

CONNECT_S = 5.0
MAX_BODY_BYTES = 64 * 1024 * 1024
"""Of a list; the pods of one node come to a megabyte or two."""

MAX_LINE_BYTES = 8 * 1024 * 1024
"""Of one event; etcd takes no object above 1.5 MiB."""

_CHUNK = 64 * 1024


class ApiError(JoulebookError):
    """The API server did not do what it was asked. `reason` is a short stable word."""

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class SignIn(NamedTuple):
    """Where the API server is, how it is reached, and what proves who is asking."""

    host: str
    pool: urllib3.PoolManager
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

    def get(
        self, path: str, query: Mapping[str, str], *, read_s: float
    ) -> urllib3.BaseHTTPResponse:
        """Ask; the body is still to be read, `read_s` at most from one part of it to the next.

        Raises `ApiError`.
        """
        with self._lock:
            if self._sign_in is None:
                self._sign_in = (
                    in_cluster(self._service_account)
                    if self._kubeconfig is None
                    else _of_kubeconfig(self._kubeconfig)
                )
            host, pool, proof = self._sign_in
        headers = {"Accept": "application/json", "User-Agent": "joulebook", **proof()}
        try:
            answer = pool.request(
                "GET",
                host.rstrip("/") + path,
                fields=dict(query),
                headers=headers,
                timeout=urllib3.Timeout(connect=CONNECT_S, read=read_s),
                retries=False,
                redirect=False,
                preload_content=False,
            )
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise unreachable(path, error) from None
        if answer.status != 200:
            said = one_line(_head(answer))
            answer.close()
            raise ApiError(
                f"GET {path}: {answer.status} {said}", reason=_REASONS.get(answer.status, "busy")
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
    pool = urllib3.PoolManager(ssl_context=tls, maxsize=2)
    return SignIn(f"https://{shown}:{port}", pool, lambda: _bearer(folder / "token"))


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
    """Sign in as a kubeconfig says. Raises `ApiError`."""
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
    return SignIn(settings.host, client.ApiClient(settings).rest_client.pool_manager, headers)


_REASONS = {401: "unauthorized", 403: "forbidden", 404: "absent", 410: "gone"}


def unreachable(path: str, error: Exception) -> ApiError:
    """The connection could not be made, or broke."""
    return ApiError(f"GET {path}: {one_line(repr(error))}", reason="unreachable")


def body(path: str, answer: urllib3.BaseHTTPResponse) -> bytes:
    """The whole body, bounded. Raises `ApiError`."""
    parts: list[bytes] = []
    size = 0
    try:
        for part in answer.stream(_CHUNK, decode_content=True):
            parts.append(part)
            size += len(part)
            if size > MAX_BODY_BYTES:
                raise ApiError(f"GET {path}: more than {MAX_BODY_BYTES} bytes", reason="too_large")
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise unreachable(path, error) from None
    finally:
        answer.close()
    return b"".join(parts)


def lines(path: str, answer: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    """The lines of a stream as they come, until it ends. Raises `ApiError`."""
    rest = b""
    try:
        for part in answer.stream(_CHUNK, decode_content=True):
            *whole, rest = (rest + part).split(b"\n")
            yield from (line for line in whole if line)
            if len(rest) > MAX_LINE_BYTES:
                raise ApiError(f"GET {path}: a line too long", reason="too_large")
    except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
        raise unreachable(path, error) from None
    finally:
        answer.close()


def _head(answer: urllib3.BaseHTTPResponse) -> str:
    try:
        return answer.read(2048).decode(errors="replace")
    except (urllib3.exceptions.HTTPError, OSError):
        return ""
