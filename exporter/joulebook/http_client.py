"""Asking a feed on the web: bounded in time and size, and without showing anybody the key.

- No redirect is followed: the answer says where to, and a person sets the new address. A key
  therefore never goes anywhere but to the address it was set for.
- A message holds scheme, host and path of an address, never its query (ENTSO-E wants the key
  there). urllib3's own log lines show whole addresses and are switched off.
- `HTTPS_PROXY` and `NO_PROXY` are honoured, since compute nodes often see the web in no other way.
"""

from __future__ import annotations

import base64
import logging
import ssl
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlencode, urlsplit
from urllib.request import getproxies_environment, proxy_bypass

import msgspec
import urllib3
from urllib3.exceptions import HTTPError, NewConnectionError, ProtocolError, SSLError, TimeoutError
from urllib3.util import Timeout, make_headers

from joulebook import __version__, log
from joulebook.core.sanitize import one_line
from joulebook.errors import FeedDenied, FeedDown, FeedLimited, FeedWrong

logger = logging.getLogger(__name__)

T = TypeVar("T")

MAX_BYTES = 8 * 2**20
"""Forty days of quarter hours are 1 MiB."""

_CHUNK = 65_536
_MAX_KEY = 1024
_LOOPBACK = ("localhost", "127.0.0.1", "::1")

logging.getLogger("urllib3").setLevel(logging.CRITICAL + 1)


class ApiKey:
    """The key of a feed: in a file, else in an environment variable. It is never shown."""

    def __init__(self, file: Path | None, variable: str, environ: Mapping[str, str]) -> None:
        self._file = file
        self._variable = variable
        self._found = environ.get(variable, "")

    def __repr__(self) -> str:
        return f"Key({self._file or self._variable})"

    @property
    def is_set(self) -> bool:
        """Whether there is one to read."""
        return self._file is not None or bool(self._found)

    def read(self) -> str:
        """The key, from the file as it is now. Raises `FeedDenied` (`no_key`)."""
        where = str(self._file or self._variable)
        try:
            text = self._file.read_text() if self._file else self._found
        except (OSError, UnicodeDecodeError) as error:
            why = (isinstance(error, OSError) and error.strerror) or "not text"
            raise FeedDenied(f"the key in {where} cannot be read: {why}", reason="no_key") from None
        key = text.strip()
        if not key:
            hint = "" if self._file else " (or name a file with token_file)"
            raise FeedDenied(f"there is no key in {where}{hint}", reason="no_key")
        # It goes into a header: a line break in it would be another header.
        if len(key) > _MAX_KEY or not (key.isascii() and key.isprintable()):
            raise FeedDenied(f"what is in {where} is no key", reason="no_key")
        return key


class Web:
    """HTTP for feeds and nodes, asked by as many threads at a time as there are `hosts`."""

    def __init__(
        self,
        *,
        timeout_s: float = 10.0,
        deadline_s: float = 60.0,
        max_bytes: int = MAX_BYTES,
        tls: ssl.SSLContext | None = None,
        proxied: bool = True,
        hosts: int = 4,
        server_name: str = "",
    ) -> None:
        """`timeout_s` is for the connection and each wait, `deadline_s` for the whole answer.

        `tls` are authorities and a certificate of one's own in the place of the system's;
        without `proxied` the proxies of the environment are not used. Connections to so many
        `hosts` are kept open. Certificates must be for `server_name`, if one is given, instead of
        for the host that is asked.
        """
        self._timeout = Timeout(connect=timeout_s, read=timeout_s)
        self._deadline_s = deadline_s
        self._max_bytes = max_bytes
        self._tls = tls
        self._proxied = proxied
        self._hosts = hosts
        self._server_name = server_name
        self._pools: dict[str, urllib3.PoolManager] = {}

    def get(
        self,
        url: str,
        params: Mapping[str, str | int] | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        secret: bool = False,
    ) -> bytes:
        """The body of the answer. Raises `FeedError`.

        `secret`: a key is in it, so a plain connection to another machine is said aloud, once.
        """
        where = _shown(url)
        if secret and url.startswith("http:") and urlsplit(url).hostname not in _LOOPBACK:
            log.once(logger, f"plain {where}", "%s: the key goes there unencrypted", where)
        asked = f"{url}?{urlencode(params)}" if params else url
        sent = {
            "User-Agent": f"joulebook/{__version__}",
            # Not packed: a few kilobytes could unpack to any size.
            "Accept-Encoding": "identity",
            **(headers or {}),
        }
        until = time.monotonic() + self._deadline_s
        try:
            response = self._pool(url).request(
                "GET",
                asked,
                headers=sent,
                timeout=self._timeout,
                retries=False,
                redirect=False,
                preload_content=False,
                decode_content=False,
            )
            try:
                _check(response, where)
                return self._body(response, where, until)
            finally:
                # An answer that was not read to its end leaves the connection of no use.
                response.close()
        # `from None`: urllib3's own messages hold the whole address.
        except NewConnectionError:  # Which is a time-out, too, by its class.
            raise FeedDown(f"{where}: cannot be reached", reason="down") from None
        except TimeoutError:
            raise FeedDown(f"{where}: no answer in time", reason="timeout") from None
        except SSLError as error:
            why = getattr(error.args[0], "verify_message", "") if error.args else ""
            raise FeedDown(f"{where}: TLS failed {why}".rstrip(), reason="down") from None
        except ProtocolError as error:
            cut = "IncompleteRead" in repr(error)
            what, reason = ("cut off", "truncated") if cut else ("connection broken", "down")
            raise FeedDown(f"{where}: {what}", reason=reason) from None
        except (HTTPError, OSError) as error:
            raise FeedDown(f"{where}: {type(error).__name__}", reason="down") from None
        except ValueError:
            raise FeedWrong(f"{where}: an address that cannot be used", reason="refused") from None

    def close(self) -> None:
        """Close the connections that are kept open."""
        for pool in self._pools.values():
            pool.clear()

    def _body(self, response: urllib3.BaseHTTPResponse, where: str, until: float) -> bytes:
        parts: list[bytes] = []
        size = 0
        # One `recv` at a time: a server that drips must not outlast the deadline.
        while part := response.read1(_CHUNK, decode_content=False):
            parts.append(part)
            size += len(part)
            if size > self._max_bytes:
                raise FeedWrong(f"{where}: more than {self._max_bytes} bytes", reason="too_large")
            if time.monotonic() > until:
                raise FeedDown(f"{where}: not done after {self._deadline_s:g} s", reason="timeout")
        promised = response.headers.get("Content-Length", "")
        if promised.isdecimal() and int(promised) != size:
            raise FeedDown(f"{where}: {size} of {promised} bytes", reason="truncated")
        return b"".join(parts)

    def _pool(self, url: str) -> urllib3.PoolManager:
        parts = urlsplit(url)
        proxies = getproxies_environment() if self._proxied else {}
        proxy = proxies.get(parts.scheme, "")
        host = parts.netloc.rpartition("@")[2]
        if parts.hostname in _LOOPBACK or (proxy and proxy_bypass(host, proxies)):
            proxy = ""
        if proxy not in self._pools:
            self._pools[proxy] = _made(proxy, self._tls, self._hosts, self._server_name)
        return self._pools[proxy]


def _made(
    proxy: str, tls: ssl.SSLContext | None, hosts: int, server_name: str
) -> urllib3.PoolManager:
    if not proxy:
        return urllib3.PoolManager(
            num_pools=hosts, maxsize=1, ssl_context=tls, server_hostname=server_name or None
        )
    parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    headers = None
    if parts.username:
        headers = make_headers(proxy_basic_auth=f"{parts.username}:{parts.password or ''}")
    address = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    return urllib3.ProxyManager(address, num_pools=4, maxsize=1, proxy_headers=headers)


def _check(response: urllib3.BaseHTTPResponse, where: str) -> None:
    status = response.status
    if status == 200:
        coding = response.headers.get("Content-Encoding", "identity").strip().lower()
        if coding not in {"", "identity"}:
            raise FeedWrong(f"{where}: packed, though not asked for", reason="garbage")
        return
    if status == 429:
        wait_s = retry_after_s(response.headers.get("Retry-After", ""), time.time())
        raise FeedLimited(f"{where}: too many questions (429)", retry_after_s=wait_s)
    if 300 <= status < 400:
        target = _shown(response.headers.get("Location", "elsewhere"))
        raise FeedWrong(f"{where}: has moved to {target}; not followed", reason="redirect")
    if status in {401, 403}:
        raise FeedDenied(f"{where}: the key is refused ({status})", reason="denied")
    if status == 503 and (wait_s := retry_after_s(response.headers.get("Retry-After", ""), 0)):
        raise FeedLimited(f"{where}: busy (503)", retry_after_s=wait_s)
    if status >= 500:
        raise FeedDown(f"{where}: answers {status}", reason="http_5xx")
    raise FeedWrong(f"{where}: answers {status}", reason="http_4xx")


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
    """An address as messages show it: no user, no password, no query."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "an address that is none"
    host = parts.netloc.rpartition("@")[2]
    return one_line(f"{parts.scheme}://{host}{parts.path}" if host else parts.path or "itself", 500)


def basic(user_and_password: str) -> dict[str, str]:
    """The header of basic authentication for `user:password`."""
    return {"Authorization": f"Basic {base64.b64encode(user_and_password.encode()).decode()}"}


def decoded(body: bytes, decoder: msgspec.json.Decoder[T], where: str) -> T:
    """JSON as a typed value. Raises `FeedWrong` (`garbage`) saying what was expected where."""
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        why = one_line(str(error))
        raise FeedWrong(f"{where}: not the JSON it should be: {why}", reason="garbage") from None
