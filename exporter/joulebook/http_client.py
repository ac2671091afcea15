"""HTTP as a client, in one place: bounded in time and size, and without showing anybody the key.

- No redirect is followed: the answer says where to, and a person sets the new address. A key
  therefore never goes anywhere but to the address it was set for.
- A message holds scheme, host and path of an address, never its query (ENTSO-E wants the key
  there). urllib3's own log lines show whole addresses and are switched off.
- `HTTPS_PROXY` and `NO_PROXY` are honoured, since compute nodes often see the web in no other way.

Feeds and nodes are asked by `Web.get`, which raises `FeedError`; who has other errors (a BMC,
Prometheus, a daemon, the API server of Kubernetes) takes `Web.ask` or `Web.open` and maps
`HttpFailure`. Only what researchers import (`runs`) and `joulebook health` speak HTTP without it:
they use the standard library alone.
"""

from __future__ import annotations

import base64
import contextlib
import logging
import math
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlencode, urlsplit
from urllib.request import getproxies_environment, proxy_bypass

import urllib3
from urllib3 import exceptions
from urllib3.util import Timeout

from joulebook import __version__
from joulebook.core.sanitize import one_line
from joulebook.errors import ConfigError, FeedDenied, FeedDown, FeedLimited, FeedWrong, HttpFailure
from joulebook.http_pool import made
from joulebook.log import LogOnce
from joulebook.untrusted_files import read_named

logger = logging.getLogger(__name__)
_once = LogOnce(logger)

Fields = Mapping[str, str | int] | None
Headers = Mapping[str, str] | None

MAX_BYTES = 8 * 2**20
"""Forty days of quarter hours are 1 MiB."""

_CHUNK = 65_536
_CONNECT_S = 10.0
_FORM = {"Content-Type": "application/x-www-form-urlencoded"}
_LOOPBACK = ("localhost", "127.0.0.1", "::1")

logging.getLogger("urllib3").setLevel(logging.CRITICAL + 1)


class HttpAnswer(NamedTuple):
    """What was answered, whatever the status."""

    status: int
    body: bytes

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode("utf-8", "replace")


@contextlib.contextmanager
def _failures() -> Iterator[None]:
    """Raise `HttpFailure` for what urllib3 raises; its own messages hold the whole address."""
    try:
        yield
    except exceptions.NewConnectionError as error:  # Which is a time-out, too, by its class.
        why = getattr(error.__cause__, "strerror", None)
        raise HttpFailure(_with("cannot be reached", why), reason="unreachable") from None
    except exceptions.TimeoutError:
        raise HttpFailure("timed out", reason="timeout") from None
    except exceptions.SSLError as error:
        inner = error.args[0] if error.args else None
        reason = "certificate" if isinstance(inner, ssl.SSLCertVerificationError) else "tls"
        why = getattr(inner, "verify_message", None) or getattr(inner, "reason", None)
        raise HttpFailure(_with("TLS failed", why), reason=reason) from None
    except exceptions.ProtocolError as error:
        if "IncompleteRead" in repr(error):
            raise HttpFailure("cut off", reason="truncated") from None
        raise HttpFailure("connection broken", reason="broken") from None
    except ValueError:
        raise HttpFailure("invalid URL", reason="address") from None
    except (exceptions.HTTPError, OSError) as error:
        raise HttpFailure(type(error).__name__, reason="broken") from None


def _with(message: str, why: str | None) -> str:
    return f"{message} ({why})" if why else message


class HttpStream:
    """An answer whose body is still to be read; to be closed. Reading raises `HttpFailure`."""

    def __init__(self, response: urllib3.BaseHTTPResponse, began_s: float) -> None:
        self._response = response
        self._began_s = began_s
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers

    def parts(self) -> Iterator[bytes]:
        """The body as it comes, until it ends."""
        # One `recv` at a time: a server that drips must not outlast a deadline.
        while True:
            with _failures():
                part = self._response.read1(_CHUNK, decode_content=False)
            if not part:
                return
            yield part

    def whole(self, max_bytes: int, deadline_s: float = math.inf) -> bytes:
        """All of it, within so many seconds since it was asked for."""
        coding = self.headers.get("Content-Encoding", "identity").strip().lower()
        if coding not in {"", "identity"}:
            raise HttpFailure("compressed, though not requested", reason="packed")
        parts: list[bytes] = []
        size = 0
        until_s = self._began_s + deadline_s
        try:
            with self._ended_at(until_s):
                for part in self.parts():
                    parts.append(part)
                    size += len(part)
                    if size > max_bytes:
                        raise HttpFailure(f"more than {max_bytes} bytes", reason="too_large")
        except HttpFailure:
            if time.monotonic() < until_s:
                raise
        if time.monotonic() >= until_s:
            raise HttpFailure(f"not finished after {deadline_s:g} s", reason="timeout")
        promised = self.headers.get("Content-Length", "")
        if promised.isdecimal() and promised.lstrip("0") != str(size or ""):
            raise HttpFailure(f"{size} of {promised[:20]} bytes", reason="truncated")
        return b"".join(parts)

    @contextlib.contextmanager
    def _ended_at(self, until_s: float) -> Iterator[None]:
        """End the reading then: lines between and after the parts of a body may never end."""
        if until_s == math.inf:
            yield
            return
        timer = threading.Timer(max(until_s - time.monotonic(), 0), self.stop)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def head(self, max_bytes: int = 2048) -> str:
        """Text from its beginning, empty if there is none."""
        with contextlib.suppress(HttpFailure):
            return next(self.parts(), b"")[:max_bytes].decode("utf-8", "replace")
        return ""

    def stop(self) -> None:
        """End the reading of another thread."""
        # An older urllib3 cannot; or it is closed already.
        with contextlib.suppress(AttributeError, OSError, ValueError, RuntimeError):
            self._response.shutdown()

    def close(self) -> None:
        """Give the connection back; one that was not read to its end is of no use."""
        self._response.close()


@dataclass(eq=False, kw_only=True)
class Web:
    """A client, asked by as many threads at a time as there are `hosts`.

    Attributes:
        timeout_s: For the connection, the head of an answer, and each wait.
        deadline_s: For the whole answer.
        max_bytes: Of an answer.
        tls: Authorities and a certificate of one's own in the place of the system's.
        proxied: Whether the proxies of the environment are used.
        hosts: To so many connections are kept open.
        server_name: Certificates must be for it instead of for the host that is asked.
        pool: Somebody else's connections, used as they are.

    """

    timeout_s: float = 10.0
    deadline_s: float = 60.0
    max_bytes: int = MAX_BYTES
    tls: ssl.SSLContext | None = None
    proxied: bool = True
    hosts: int = 4
    server_name: str = ""
    pool: urllib3.PoolManager | None = None
    _pools: dict[str, urllib3.PoolManager] = field(default_factory=dict, init=False)

    def get(
        self, url: str, fields: Fields = None, headers: Headers = None, *, secret: bool = False
    ) -> bytes:
        """The body of a good answer. Raises `FeedError`.

        `secret`: it contains a key, so an unencrypted connection to another machine is logged once.
        """
        where = _shown(url)
        if secret and url.startswith("http:") and urlsplit(url).hostname not in _LOOPBACK:
            _once.failed(f"plain {where}", "%s: the key is sent unencrypted", where)
        try:
            with contextlib.closing(self.open(url, fields, headers)) as stream:
                _check(stream, where)
                return stream.whole(self.max_bytes, self.deadline_s)
        except HttpFailure as error:
            if error.reason in _WRONG:
                raise FeedWrong(f"{where}: {error}", reason=_WRONG[error.reason]) from None
            reason = error.reason if error.reason in {"timeout", "truncated"} else "down"
            raise FeedDown(f"{where}: {error}", reason=reason) from None

    def ask(
        self, url: str, fields: Fields = None, headers: Headers = None, *, post: bool = False
    ) -> HttpAnswer:
        """An answer of any status. Raises `HttpFailure`."""
        with contextlib.closing(self.open(url, fields, headers, post=post)) as stream:
            return HttpAnswer(stream.status, stream.whole(self.max_bytes, self.deadline_s))

    def open(
        self,
        url: str,
        fields: Fields = None,
        headers: Headers = None,
        *,
        post: bool = False,
        read_s: float | None = None,
        json: bytes | None = None,
    ) -> HttpStream:
        """The same with the body still to be read, each part within `read_s`.

        `fields` go into the query, or are posted as a form; `json` is posted as it is.
        """
        began_s = time.monotonic()
        asked = urlencode(fields or {})
        # Not packed: a few kilobytes could unpack to any size.
        own = {"User-Agent": f"joulebook/{__version__}", "Accept-Encoding": "identity"}
        if json is not None:
            own["Content-Type"] = "application/json"
        elif post:
            own |= _FORM
        connect_s = min(self.timeout_s, _CONNECT_S)
        with _failures():
            response = self._pool(url).request(
                "GET" if json is None and not post else "POST",
                f"{url}?{asked}" if asked and not post else url,
                body=asked if post else json,
                headers={**own, **(headers or {})},
                timeout=Timeout(connect=connect_s, read=read_s or self.timeout_s),
                retries=False,
                redirect=False,
                preload_content=False,
                decode_content=False,
            )
        return HttpStream(response, began_s)

    def close(self) -> None:
        """Close the connections that are kept open."""
        for pool in self._pools.values():
            pool.clear()

    def _pool(self, url: str) -> urllib3.PoolManager:
        if self.pool is not None:
            return self.pool
        parts = urlsplit(url)
        proxies = getproxies_environment() if self.proxied else {}
        proxy = proxies.get(parts.scheme, "")
        host = parts.netloc.rpartition("@")[2]
        if parts.hostname in _LOOPBACK or (proxy and proxy_bypass(host, proxies)):
            proxy = ""
        if proxy not in self._pools:
            self._pools[proxy] = made(proxy, self.tls, self.hosts, self.server_name)
        return self._pools[proxy]


_WRONG = {"too_large": "too_large", "packed": "garbage", "address": "refused"}
"""The reasons of `FeedWrong` for those of failures; all others may be well again."""


def trusting(ca: Path | str | None, key: str, *, insecure: bool = False) -> ssl.SSLContext:
    """TLS with the authorities in a file (of setting or option `key`), else the system's.

    Raises `ConfigError`. `insecure`: with whoever answers.
    """
    try:
        pem = read_named(Path(ca), MAX_BYTES).decode("ascii", "ignore") if ca else None
        # An empty text would stand for the system's authorities.
        context = ssl.create_default_context(cadata="none" if pem == "" else pem)
    except (ConfigError, OSError) as error:  # ssl.SSLError is one.
        raise ConfigError(f"{key} {ca}: not a certificate file: {error}") from None
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        urllib3.disable_warnings(exceptions.InsecureRequestWarning)  # who asks for it knows
    return context


def _check(stream: HttpStream, where: str) -> None:
    status = stream.status
    if status == 200:
        return
    if status == 429:
        wait_s = retry_after_s(stream.headers.get("Retry-After", ""), time.time())
        raise FeedLimited(f"{where}: too many requests (429)", retry_after_s=wait_s)
    if 300 <= status < 400:
        target = _shown(stream.headers.get("Location", "elsewhere"))
        raise FeedWrong(f"{where}: redirects to {target}; not followed", reason="redirect")
    if status in {401, 403}:
        raise FeedDenied(f"{where}: the key was rejected ({status})", reason="denied")
    if status == 503 and (wait_s := retry_after_s(stream.headers.get("Retry-After", ""), 0)):
        raise FeedLimited(f"{where}: busy (503)", retry_after_s=wait_s)
    if status >= 500:
        raise FeedDown(f"{where}: status {status}", reason="http_5xx")
    raise FeedWrong(f"{where}: status {status}", reason="http_4xx")


def retry_after_s(header: str, now_s: float) -> float:
    """Seconds that a `Retry-After` header asks for (a number or a date); 0 if it is neither."""
    text = header.strip()
    if text.isascii() and text.isdecimal():
        return float(min(int(text[:9]), 10**8))
    try:
        return max(parsedate_to_datetime(text).timestamp() - now_s, 0.0) if now_s else 0.0
    except (ValueError, OverflowError):
        return 0.0


def _shown(url: str) -> str:
    """Return a URL for messages: without user, password and query."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "invalid URL"
    host = parts.netloc.rpartition("@")[2]
    return one_line(f"{parts.scheme}://{host}{parts.path}" if host else parts.path or "itself", 500)


def basic(user_and_password: str) -> dict[str, str]:
    """Return the header of basic authentication for `user:password`."""
    return {"Authorization": f"Basic {base64.b64encode(user_and_password.encode()).decode()}"}
