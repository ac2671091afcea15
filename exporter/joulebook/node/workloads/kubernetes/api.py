"""The API server, asked with the `kubernetes` package's configuration, sign-in and transport.

Paths are raw and answers are decoded by msgspec into the few fields that are read: the typed
models of the package cost tens of megabytes.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import urllib3

from joulebook.core.sanitize import clean_label
from joulebook.errors import JoulebookError
from joulebook.node.workloads.kubernetes.library import Library, library

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


class ApiServer:
    """One API server; usable from several threads."""

    def __init__(self, service_account: Path, kubeconfig: Path | None = None) -> None:
        self._service_account = service_account
        self._kubeconfig = kubeconfig
        self._lock = threading.Lock()
        self._configuration: Any = None
        self._pool: urllib3.PoolManager | None = None

    def get(
        self, path: str, query: Mapping[str, str], *, read_s: float
    ) -> urllib3.BaseHTTPResponse:
        """Ask; the body is still to be read, `read_s` at most from one part of it to the next.

        Raises `ApiError`.
        """
        configuration, pool = self._signed_in()
        headers = {"Accept": "application/json", "User-Agent": "joulebook"}
        for each in configuration.auth_settings().values():
            if each["in"] == "header" and each["value"]:
                headers[each["key"]] = each["value"]
        try:
            answer = pool.request(
                "GET",
                configuration.host.rstrip("/") + path,
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
            said = clean_label(_head(answer), 200)
            answer.close()
            raise ApiError(
                f"GET {path}: {answer.status} {said}", reason=_REASONS.get(answer.status, "busy")
            )
        return answer

    def sign_in_again(self) -> None:
        """Read token and certificates again at the next question: they may have been renewed."""
        with self._lock:
            self._configuration = None

    def _signed_in(self) -> tuple[Any, urllib3.PoolManager]:
        with self._lock:
            if self._configuration is None or self._pool is None:
                used = library(kubeconfig=self._kubeconfig is not None)
                self._configuration = self._configured(used)
                self._pool = used.rest(self._configuration).pool_manager
            return self._configuration, self._pool

    def _configured(self, used: Library) -> Any:  # noqa: ANN401 - of a package without types
        configuration = used.configuration()
        try:
            if self._kubeconfig is not None:
                used.load_kubeconfig(
                    config_file=str(self._kubeconfig), client_configuration=configuration
                )
            else:
                used.incluster(
                    token_filename=str(self._service_account / "token"),
                    cert_filename=str(self._service_account / "ca.crt"),
                ).load_and_set(configuration)
        except (used.config_error, OSError, ValueError) as error:
            where = self._kubeconfig or self._service_account
            raise ApiError(
                f"{where}: {clean_label(str(error), 200)}", reason="no_account"
            ) from None
        return configuration


_REASONS = {401: "unauthorized", 403: "forbidden", 404: "absent", 410: "gone"}


def unreachable(path: str, error: Exception) -> ApiError:
    """The connection could not be made, or broke."""
    return ApiError(f"GET {path}: {clean_label(repr(error), 200)}", reason="unreachable")


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
