"""HTTP: a server in a thread of its own that no client, and no page that hangs, can stop.

`/metrics`, `/` and any other path ask for a password if the web configuration file names users;
`/v1/postings` asks for a token;
`/healthz` and `/readyz` never do (probes carry none). Client certificates, where they are asked
for, are a matter of TLS and so guard every path.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from joulebook.config import Address, parse_listen
from joulebook.errors import ConfigError
from joulebook.server.auth import HostNames, PostingsPages
from joulebook.server.connections import Limits, Listener
from joulebook.server.routes import App, Pages, RunsPage
from joulebook.server.web_config import WebConfig, WebConfigFile

__all__ = ["Limits", "Pages", "Server"]

logger = logging.getLogger(__name__)

_LIMITS = Limits()


class Server:
    """Serves `pages` at `listen` (`host:port`; port 0 takes a free one).

    `web_config` is the path of an exporter-toolkit file, or `None` for plain HTTP. It is read
    again about a second after it changes.
    """

    reveals = "names of users and jobs"
    """What whoever reaches the port can read; empty: nothing to warn of."""

    def __init__(
        self,
        listen: str,
        pages: Pages,
        web_config: Path | None = None,
        limits: Limits = _LIMITS,
        export: PostingsPages | None = None,
        hosts: Iterable[str] = (),
        runs: RunsPage | None = None,
    ) -> None:
        """Raises `ConfigError` if `listen` or the web configuration file cannot be used.

        `export` is what collectors get, if they may; `runs` what programs get of their own runs;
        `hosts` are further names of this machine.
        """
        try:
            self._address = parse_listen(listen)
        except ValueError as error:
            raise ConfigError(f"server.listen: {error}") from None
        self._pages = pages
        self._limits = limits
        self._export = export
        self._runs = runs
        self._hosts = HostNames(hosts)
        self._web = None if web_config is None else WebConfigFile(web_config)
        self._rejected: Counter[str] = Counter()
        self._listeners: list[socket.socket] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        """The port that is listened on; 0 before `start`."""
        return int(self._listeners[0].getsockname()[1]) if self._listeners else 0

    @property
    def alive(self) -> bool:
        """Whether the thread runs; it ends by itself only through a fault, which is logged."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def rejected(self) -> Mapping[str, int]:
        """Return the rejections since the start, by reason.

        `handshake` (TLS failed or stalled), `slow_head`, `slow_answer`, `slow_idle` (a client
        took longer than it may; the phase it was in), `evicted` (the table was full), `busy`,
        `unauthorized`, `forbidden`, `host` (asked under a name that is not this machine's),
        `web_config` (a changed file could not be used).
        """
        broken = {"web_config": self._web.failures} if self._web and self._web.failures else {}
        return {**self._rejected, **broken}

    def start(self) -> None:
        """Listen, and serve from now on. Raises `ConfigError` if the address cannot be had."""
        self._listeners = [*_listen(self._address), *self._more_sockets()]
        # What uvicorn has to say below an error is about clients, and they may be many.
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
        with contextlib.suppress(RuntimeError):  # Its name in full is not worth a failed start.
            threading.Thread(target=self._hosts.resolve, name="own-name", daemon=True).start()
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), name="http", daemon=True)
        self._thread.start()
        if not ready.wait(10):
            raise RuntimeError("the HTTP server did not start")
        local = self._address.host in {"127.0.0.1", "::1", "localhost"}
        if self.reveals and not local and self._web is None:
            logger.warning(
                "server.listen: anyone who can reach port %d can read %s: set server.web_config, "
                "or close the port to others",
                self.port,
                self.reveals,
            )

    def stop(self) -> None:
        """Stop listening, give open answers two seconds, and end the thread."""
        if self._thread is None or self._loop is None or self._stop is None:
            return
        with contextlib.suppress(RuntimeError):  # It has ended by itself.
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        self._thread = None

    def _more_sockets(self) -> list[socket.socket]:
        """Listen where a kind of server listens besides. Raises `ConfigError`."""
        return []

    def _app(self) -> App:
        return App(self._pages, self._current, self._count, self._export, self._hosts, self._runs)

    def _run(self, ready: threading.Event) -> None:
        try:
            asyncio.run(self._serve(ready))
        except Exception:
            logger.exception("the HTTP server has ended: nothing is served until a restart")

    async def _serve(self, ready: threading.Event) -> None:
        front = Listener(self._listeners, self._app(), self._web, self._limits, self._rejected)
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        ready.set()
        try:
            await front.serve(self._stop)
        finally:
            for listener in self._listeners:
                listener.close()

    def _current(self) -> WebConfig:
        return WebConfig() if self._web is None else self._web.current

    def _count(self, reason: str) -> None:
        self._rejected[reason] += 1


def _listen(address: Address) -> list[socket.socket]:
    """A socket for each address that the host has; an empty host or `::` is one for them all."""
    listeners: list[socket.socket] = []
    try:
        if address.host in {"", "::"} and socket.has_dualstack_ipv6():
            listeners.append(
                socket.create_server(
                    ("", address.port), family=socket.AF_INET6, dualstack_ipv6=True
                )
            )
        else:
            host = address.host or "0.0.0.0"  # noqa: S104 - it is what was asked for
            found = socket.getaddrinfo(host, address.port, type=socket.SOCK_STREAM)
            port = address.port
            for family, _, _, _, target in dict.fromkeys(found):
                listener = socket.create_server((target[0], port, *target[2:]), family=family)
                listeners.append(listener)
                port = listener.getsockname()[1]
    except (OSError, UnicodeError) as error:  # The latter from a host with an overlong label.
        for listener in listeners:
            listener.close()
        # Not `strerror`: `create_server` puts the address into it.
        number = (error.errno or 0) if isinstance(error, OSError) else 0
        why = os.strerror(number) if number > 0 else str(error)
        hint = "; is another daemon running?" if number == errno.EADDRINUSE else ""
        where = f"{address.host or '*'} port {address.port}"
        raise ConfigError(f"server.listen: cannot listen on {where}: {why}{hint}") from None
    for listener in listeners:
        listener.setblocking(False)
    return listeners
