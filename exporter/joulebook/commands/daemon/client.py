"""A client of the daemon's HTTP server, on the same node or elsewhere."""

from __future__ import annotations

import base64
import getpass
import http.client
import os
import ssl
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from joulebook.commands.shared.options import Options
from joulebook.config import Config, parse_listen
from joulebook.errors import ConfigError, JoulebookError
from joulebook.server.web_config import read_web_config

PASSWORD = "JOULEBOOK_PASSWORD"  # noqa: S105 - the name of the variable
TIMEOUT_S = 5.0
MAX_BYTES = 64 * 1024 * 1024


class Unreachable(JoulebookError):
    """Raised if no daemon answers, or not as expected; the message says what to do."""


class HttpAnswer(NamedTuple):
    """An HTTP status and body."""

    status: int
    text: str


class DaemonUrl:
    """A daemon at `base` (`https://host:port`). Ignores proxies in the environment."""

    def __init__(
        self, base: str, *, user: str = "", password: str = "", tls: ssl.SSLContext | None = None
    ) -> None:
        self.base = base
        self._headers = {"Accept": "text/plain", "User-Agent": "joulebook"}
        if user:
            token = base64.b64encode(f"{user}:{password}".encode()).decode()
            self._headers["Authorization"] = f"Basic {token}"
        handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({}), _Stay()]
        if tls is not None:
            handlers.append(urllib.request.HTTPSHandler(context=tls))
        self._opener = urllib.request.build_opener(*handlers)

    def get(self, path: str) -> HttpAnswer:
        """Get a path. Raises `Unreachable`."""
        request = urllib.request.Request(self.base + path, headers=self._headers)  # noqa: S310
        try:
            with self._opener.open(request, timeout=TIMEOUT_S) as response:
                return HttpAnswer(response.status, _text(response.read(MAX_BYTES)))
        except urllib.error.HTTPError as error:
            with error:
                return HttpAnswer(error.code, _text(error.read(MAX_BYTES)))
        except urllib.error.URLError as error:
            raise Unreachable(self._why(error.reason)) from None
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(self._why(error)) from None

    def metrics(self) -> str:
        """Return the text of `/metrics`. Raises `Unreachable`."""
        answer = self.get("/metrics")
        if answer.status == 401:
            raise Unreachable(
                f"{self.base} requires basic auth: use --user NAME, and give the password in "
                f"{PASSWORD} or when prompted"
            )
        if answer.status != 200:
            raise Unreachable(f"{self.base}/metrics returned status {answer.status}")
        return answer.text

    def _why(self, reason: object) -> str:
        if isinstance(reason, ssl.SSLCertVerificationError):
            return (
                f"the certificate of {self.base} was rejected ({reason.verify_message}): give "
                "its CA with --ca FILE, its host name with --url, or use --insecure"
            )
        if isinstance(reason, ssl.SSLError):
            return f"{self.base}: TLS failed ({reason.reason or reason}); is it http://?"
        if isinstance(reason, http.client.RemoteDisconnected | ConnectionResetError):
            return f"{self.base} closed the connection; is it https://?"
        why = getattr(reason, "strerror", None) or reason
        return f"no daemon answers at {self.base} ({why})"


class _Stay(urllib.request.HTTPRedirectHandler):
    """Refuses redirects, since a password is meant for the named host only."""

    def redirect_request(self, *_: object, **__: object) -> None:
        return None


def _text(body: bytes) -> str:
    return body.decode("utf-8", "replace")


def url_of(config: Config) -> str:
    """Return the daemon's URL for clients on this node; a wildcard address becomes loopback."""
    host, port = parse_listen(config.server.listen)
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    if host == "::1" and not _has_v6_loopback():
        host = "127.0.0.1"
    scheme = "https" if _speaks_tls(config) else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def daemon_at(args: Options, config: Config, environ: Mapping[str, str]) -> DaemonUrl:
    """Return the daemon given by `--url`, `--user`, `--ca` and `--insecure`.

    Raises `ConfigError` for an invalid URL or certificate file.
    """
    base = args.url or url_of(config)
    if "://" not in base:
        base = f"http://{base}"
    parts = urlsplit(base)
    try:
        valid = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid or parts.username is not None:
        raise ConfigError("--url: expected http(s)://host:port, without user and password")
    password = ""
    if args.user:
        password = environ.get(PASSWORD) or _asked(args.user)
    base = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/').removesuffix('/metrics')}"
    return DaemonUrl(base, user=args.user or "", password=password, tls=_tls(args))


def _asked(user: str) -> str:
    if not sys.stdin.isatty():
        raise ConfigError(f"--user {user}: no terminal to prompt for the password; set {PASSWORD}")
    return getpass.getpass(f"Password of {user}: ")


def _tls(args: Options) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=args.ca and os.fspath(args.ca))
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"--ca {args.ca}: not a certificate file: {error}") from None
    if args.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _speaks_tls(config: Config) -> bool:
    if not config.server.web_config:
        return False
    try:
        return read_web_config(Path(config.server.web_config)).tls is not None
    except ConfigError:
        # Not readable for us. A server with a web configuration mostly uses TLS.
        return True


def _has_v6_loopback() -> bool:
    try:
        return f"{1:032x} " in Path("/proc/net/if_inet6").read_text()
    except OSError:
        return False
