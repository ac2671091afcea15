"""TCP connections of the HTTP server: limits and time-outs.

uvicorn speaks HTTP on each connection; its own time-out covers idle ones only, and its own limit
turns newcomers away. Here every connection is under a clock from the moment it is accepted, TLS
handshake included, and when the table is full the one that has waited longest makes room.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import fcntl
import functools
import logging
import socket
import termios
import time
from collections import Counter
from collections.abc import Callable
from email.utils import formatdate
from typing import Literal, NamedTuple

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from joulebook.log import LogOnce
from joulebook.server.peers import PEER_NAMES, PEER_UID, peer_names, peer_uid
from joulebook.server.routes import App
from joulebook.server.web_config import WebConfig, WebConfigFile
from joulebook.server.worker_pool import Busy, WorkerPool

logger = logging.getLogger(__name__)
_once = LogOnce(logger)


class Limits(NamedTuple):
    """How long a client may take, and how many there may be."""

    handshake_s: float = 10.0
    """For the TLS handshake."""
    head_s: float = 10.0
    """From the connection, or the first byte of a later request, to the end of its head."""
    answer_s: float = 30.0
    """From there until the client has taken the last byte of the answer."""
    idle_s: float = 90.0
    """Between two requests."""
    connections: int = 128
    """Open at a time, those in a handshake included."""
    head_bytes: int = 16384
    sweep_s: float = 1.0
    """Time between checks of clocks and the web configuration file."""


_told: set[str] = set()
_TOLD_MAX = 32
"""So many clients are named: there may be any number of them."""


def _say_plain(peer: str) -> None:
    """Log, once for each client, that it does not speak TLS where it must."""
    if peer not in _told and len(_told) < _TOLD_MAX:
        _told.add(peer)
        logger.warning(
            "%s asks by plain http, but this port speaks TLS: it must use https:// (in Prometheus "
            "`scheme: https`)",
            peer,
        )


class _Connection(H11Protocol):
    """One client, with the clock that it is under."""

    phase: Literal["head", "answer", "idle"] = "head"

    stir: Callable[[], None]
    """Notified of events that may start a clock."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if (uid := peer_uid(transport)) is not None:
            self.client = (f"{PEER_UID}{uid}", 0)
        if names := peer_names(transport):
            self.app_state = {PEER_NAMES: names}
        self.since = self.loop.time()
        self._owing_since: float | None = None
        self.stir()

    def data_received(self, data: bytes) -> None:
        self.stir()
        if self.phase == "idle":
            self._enter("head")
        super().data_received(data)
        if self.phase == "head" and self._answering():
            self._enter("answer")

    def on_response_complete(self) -> None:
        super().on_response_complete()  # May begin with the next request, if it is here.
        self._enter("answer" if self._answering() else "idle")

    def rests(self) -> bool:
        """Return whether it waits for the next request, and owes nothing."""
        return self.phase == "idle" and not self._unread()

    def overdue(self, now: float, limits: Limits) -> bool:
        """Return whether the client has taken longer than it may."""
        if self.phase == "answer" or self._unread():
            if self._owing_since is None:
                self._owing_since = now
            return now - self._owing_since > limits.answer_s
        self._owing_since = None
        return self.phase == "head" and now - self.since > limits.head_s

    def leave(self) -> None:
        """Close now if idle, else after the answer."""
        try:
            self.shutdown()
        except h11.LocalProtocolError:
            self.transport.abort()

    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _enter(self, phase: Literal["head", "answer", "idle"]) -> None:
        self.phase = phase
        self.since = self.loop.time()
        # A client that asks again before it has read its last answer does not gain time by it.
        if phase == "answer" and not self._unread():
            self._owing_since = self.since

    def _unread(self) -> bool:
        # asyncio hides what waits under TLS. As long as anything waits in the process, the
        # kernel's queue is not empty either.
        client = self.transport.get_extra_info("socket")
        if client is None or client.fileno() < 0:
            return False  # Lost; `connection_lost` is on its way.
        pending = array.array("i", [0])
        fcntl.ioctl(client.fileno(), termios.TIOCOUTQ, pending)
        return pending[0] > 0


class Listener:
    """Accepts connections on sockets that listen already, until reported to stop; then closes
    `app`.
    """

    def __init__(
        self,
        listeners: list[socket.socket],
        app: App,
        web: WebConfigFile | None,
        limits: Limits,
        rejected: Counter[str],
    ) -> None:
        self._listeners = listeners
        self._app = app
        self._web = web
        self._limits = limits
        self._rejected = rejected
        self._state = ServerState()
        self._starting: dict[asyncio.Task[None], float] = {}
        self._stirred = asyncio.Event()
        self._stamped_s = 0
        self._config = Config(
            app=app,
            interface="asgi3",
            http=_Connection,
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            forwarded_allow_ips="",
            workers=1,
            timeout_keep_alive=round(limits.idle_s),
            h11_max_incomplete_event_size=limits.head_bytes,
        )
        self._config.load()

    async def serve(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set, then give open answers two seconds.

        Raises what ends one of its parts, none of which should ever end.
        """
        tasks = [asyncio.create_task(self._accept(listener)) for listener in self._listeners]
        tasks.append(asyncio.create_task(self._sweep()))
        if self._web is not None:
            tasks.append(asyncio.create_task(self._watch(self._web)))
        stopped = asyncio.create_task(stop.wait())
        try:
            done, _ = await asyncio.wait({stopped, *tasks}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            stopped.cancel()
            for task in [*tasks, *self._starting]:
                task.cancel()
            await asyncio.gather(*tasks, *self._starting, return_exceptions=True)
            await self._drain()

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                client, peer = await loop.sock_accept(listener)
            except OSError as error:
                # Out of file descriptors, most likely: there is no use in asking at once.
                _once.failed("accept", "cannot accept connections: %s", error)
                await asyncio.sleep(0.2)
                continue
            _once.recovered("accept", "accepting connections again")
            self._make_room()
            # A client of a Unix socket has no address.
            task = loop.create_task(self._begin(client, peer[0] if peer else ""))
            self._starting[task] = loop.time()
            task.add_done_callback(functools.partial(self._begun, client))
            # A ready `sock_accept` does not let go of the loop, and a flood is always ready.
            await asyncio.sleep(0)

    async def _begin(self, client: socket.socket, peer: str) -> None:
        local = client.family == socket.AF_UNIX
        tls = None if local else self._current().tls
        try:
            # asyncio would, but does not know a socket of `create_server` for TCP (proto is 0).
            if not local:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
            await asyncio.get_running_loop().connect_accepted_socket(
                self._protocol,
                client,
                ssl=tls,
                ssl_handshake_timeout=self._limits.handshake_s if tls else None,
                ssl_shutdown_timeout=2.0 if tls else None,
            )
        except OSError as error:
            # A scanner, a client without certificate, one that stalls: its own affair.
            self._rejected["handshake"] += 1
            if getattr(error, "reason", "") == "HTTP_REQUEST":
                _say_plain(peer)

    def _begun(self, client: socket.socket, task: asyncio.Task[None]) -> None:
        self._starting.pop(task, None)
        if task.cancelled():
            client.close()  # Cut before its first step, no transport has it.

    def _protocol(self) -> _Connection:
        connection = _Connection(config=self._config, server_state=self._state, app_state={})
        connection.stir = self._stir
        return connection

    def _make_room(self) -> None:
        """Close the connection that has waited longest; one with a response under way only if all
        have.
        """
        if len(self._starting) + len(self._state.connections) < self._limits.connections:
            return
        self._rejected["evicted"] += 1
        waiting: list[tuple[bool, float, asyncio.Task[None] | _Connection]] = [
            (False, since, task) for task, since in self._starting.items()
        ]
        waiting += [(c.phase == "answer", c.since, c) for c in self._connections()]
        victim = min(waiting, key=lambda entry: entry[:2])[2]
        # Out of the table at once: both would leave it at the next turn of the loop only.
        if isinstance(victim, _Connection):
            self._state.connections.discard(victim)
            victim.transport.abort()
        else:
            del self._starting[victim]
            victim.cancel()

    async def _sweep(self) -> None:
        """Check the clocks every second, while any connection is not idle."""
        loop = asyncio.get_running_loop()
        while True:
            await self._stirred.wait()
            await asyncio.sleep(self._limits.sweep_s)
            self._stirred.clear()
            now = loop.time()
            for connection in self._connections():
                if connection.overdue(now, self._limits):
                    self._rejected[f"slow_{connection.phase}"] += 1
                    connection.transport.abort()
                elif not connection.rests():
                    self._stirred.set()

    def _stir(self) -> None:
        self._stirred.set()
        self._stamp()

    async def _watch(self, web: WebConfigFile) -> None:
        pool = WorkerPool("web-config", threads=1, line=1, timeout_s=60)
        try:
            while True:
                await asyncio.sleep(self._limits.sweep_s)
                before = web.current.tls
                try:
                    changed = await pool.ask(web.refresh)
                except Busy as busy:  # A file system that hangs.
                    _once.failed("watch", "server.web_config: check failed: %s", busy)
                    continue
                _once.recovered("watch", "server.web_config: checked again")
                if changed and (before or web.current.tls):
                    # A client certificate that is no longer good must not live on.
                    for connection in self._connections():
                        connection.leave()
        finally:
            pool.close()

    async def _drain(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2):
                for connection in self._connections():
                    connection.leave()
                while self._state.connections:
                    await asyncio.sleep(0.02)
        for connection in self._connections():
            connection.transport.abort()
        # Whoever still waits for a page is refused, and finds its client gone.
        self._app.close()
        if self._state.tasks:
            await asyncio.wait(self._state.tasks, timeout=1)

    def _connections(self) -> list[_Connection]:
        return [c for c in self._state.connections if isinstance(c, _Connection)]

    def _current(self) -> WebConfig:
        return WebConfig() if self._web is None else self._web.current

    def _stamp(self) -> None:
        """Update the date in responses."""
        now_s = int(time.time())
        if now_s != self._stamped_s:
            self._stamped_s = now_s
            self._state.default_headers = [(b"date", formatdate(now_s, usegmt=True).encode())]
