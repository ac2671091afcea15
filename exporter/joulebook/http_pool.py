"""The connections of `http_client`: through a proxy or not, and the head of an answer in time.

A time-out of a socket is for each wait: a server that sends a byte of its head every few seconds
would be waited for without end. Bodies are bounded by who reads them.
"""

from __future__ import annotations

import http.client
import io
import math
import socket
import ssl
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.util import make_headers

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


class _Bounded(io.RawIOBase):
    """What a socket receives, until an instant."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket) -> None:
        self._raw, self._sock = raw, sock
        self._usual_s = sock.gettimeout()
        self._until_s = math.inf if self._usual_s is None else time.monotonic() + self._usual_s

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int | None:
        if self._until_s < math.inf:
            left_s = self._until_s - time.monotonic()
            if left_s <= 0:
                raise TimeoutError("timed out")
            self._sock.settimeout(left_s)
        return self._raw.readinto(buffer)

    def unbounded(self) -> None:
        """Wait as usual from now on."""
        if self._until_s < math.inf:
            self._until_s = math.inf
            self._sock.settimeout(self._usual_s)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    """An answer whose whole head comes within one time-out."""

    def __init__(
        self,
        sock: socket.socket,
        debuglevel: int = 0,
        method: str | None = None,
        url: str | None = None,
    ) -> None:
        super().__init__(sock, debuglevel, method, url)
        self._head = _Bounded(self.fp.detach(), sock)
        self.fp = io.BufferedReader(self._head)

    def begin(self) -> None:
        super().begin()
        self._head.unbounded()


class _Plain(HTTPConnection):
    response_class = _Response


class _Tls(HTTPSConnection):
    response_class = _Response


class _PlainPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Plain


class _TlsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _Tls


def made(
    proxy: str, tls: ssl.SSLContext | None, hosts: int, server_name: str
) -> urllib3.PoolManager:
    """Return connections to so many hosts, kept open; through a proxy if there is one."""
    pool: urllib3.PoolManager
    if proxy:
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        headers = None
        if parts.username:
            headers = make_headers(proxy_basic_auth=f"{parts.username}:{parts.password or ''}")
        address = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        pool = urllib3.ProxyManager(address, num_pools=4, maxsize=1, proxy_headers=headers)
    else:
        pool = urllib3.PoolManager(
            num_pools=hosts, maxsize=2, ssl_context=tls, server_hostname=server_name or None
        )
    pool.pool_classes_by_scheme = {"http": _PlainPool, "https": _TlsPool}
    return pool
