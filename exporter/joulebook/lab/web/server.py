"""`joulebook lab`: the collector, the pages and the API in one process."""

from __future__ import annotations

import functools
import logging
import os
import pwd
import socket
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from joulebook.config import Config
from joulebook.errors import ConfigError, InputError
from joulebook.lab.advice.advise import KnownToCome
from joulebook.lab.collect.discovery import api_server
from joulebook.lab.collect.metrics import CollectorPages
from joulebook.lab.collected.database import connect
from joulebook.lab.rates_service import RatesApp, RatesPages
from joulebook.lab.web.api import Known
from joulebook.lab.web.app import make_app
from joulebook.lab.web.identity import Proxy
from joulebook.lab.web.kubernetes import Reviews
from joulebook.lab.web.service import Databases, Lab
from joulebook.lab.web.viewer import TOTALS, Directory
from joulebook.rates.feeds.server import PATH
from joulebook.rates.poller import Poller
from joulebook.server.auth import HostNames, Tokens
from joulebook.server.peers import PEER_UID
from joulebook.server.routes import OPEN_PATHS, App, Pages
from joulebook.server.server import Server
from joulebook.server.web_config import WebConfig

logger = logging.getLogger(__name__)

_SOCKET_MODE = 0o666
"""Everybody on the machine may ask: the kernel says who it is."""


def make_lab(
    config: Config,
    poller: Poller,
    coordinators: Callable[[], Mapping[str, Collection[str]]] = dict,
) -> Lab:
    """Return the lab server's parts, of its configuration, its rates, and what SLURM says.

    Raises `ConfigError`.
    """
    settings, uid = config.lab, os.geteuid()
    secret = settings.proxy_secret_file
    try:
        own = pwd.getpwuid(uid).pw_name
    except KeyError:
        own = ""
    return Lab(
        config,
        Databases(functools.partial(connect, config.collect.url)),
        Directory(
            frozenset(settings.admins),
            frozenset({"root", own} - {""}),
            settings.coordinators,
            TOTALS in settings.public,
            coordinators,
        ),
        Proxy(
            settings.proxy_user,
            settings.proxy_header,
            Tokens(Path(secret), "lab.proxy_secret_file") if secret else None,
            settings.proxy_certificate,
        ),
        (settings.public_url or f"http://{settings.listen}").rstrip("/"),
        uid,
        reviews=Reviews(api_server()) if settings.kubernetes else None,
        to_come=lambda: KnownToCome(poller.current, config.rates.price.kind),
    )


class LabServer(Server):
    """The HTTP server of the lab, on TCP and, where it is set, on a Unix socket."""

    reveals = ""

    def __init__(self, lab: Lab, pages: CollectorPages, rates: RatesPages) -> None:
        """Raises `ConfigError` if an address or the web configuration file cannot be used."""
        server, settings = lab.config.server, lab.config.lab
        hosts = [*server.hosts, urlsplit(lab.url).hostname or ""]
        super().__init__(
            settings.listen,
            pages,
            Path(server.web_config) if server.web_config else None,
            hosts=[host for host in hosts if host],
        )
        self._lab, self._rates = lab, rates

    def _app(self) -> App:
        return _LabApp(self._lab, self._rates, self._pages, self._current, self._count, self._hosts)

    def _more_sockets(self) -> list[socket.socket]:
        path = self._lab.config.lab.socket
        if not path:
            return []
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            if Path(path).is_socket():  # Left by a server that was killed.
                Path(path).unlink()
            listener.bind(path)
            Path(path).chmod(_SOCKET_MODE)
            listener.listen(128)
        except OSError as error:
            listener.close()
            raise ConfigError(f"lab.socket = {path!r}: cannot listen: {error.strerror}") from None
        listener.setblocking(False)
        return [listener]


class _LabApp(RatesApp):
    """Sends probes and metrics to the collector's pages, nodes to the rates, the rest to the lab's
    pages and API.
    """

    def __init__(
        self,
        lab: Lab,
        rates: RatesPages,
        pages: Pages,
        web: Callable[[], WebConfig],
        rejected: Callable[[str], None],
        hosts: HostNames,
    ) -> None:
        super().__init__(rates, pages, web, rejected, hosts)
        self._lab = lab
        app = make_app(lab)

        @app.get("/metrics", include_in_schema=False)
        def metrics(request: Request, viewer: Known) -> Response:
            """Return the collector's metrics to a program with a token, or an administrator."""
            if viewer.how != "token" and not viewer.admin:
                raise InputError("metrics are for administrators and tokens", reason="forbidden")
            body, media_type = pages.metrics(request.headers.get("accept", ""))
            return Response(body, headers={"Content-Type": media_type})

        self._site: ASGIApp = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if path == PATH:  # Rates are public, and nodes ask by any of this server's names.
            await self._router(scope, receive, send)
            return
        # With passwords in the web configuration file, Prometheus shows one of these, or a token.
        by_password = path == "/metrics" and self._web().users and not _has_token(scope)
        if path in OPEN_PATHS or by_password:
            await super().__call__(scope, receive, send)
            return
        client = (scope.get("client") or ("",))[0]
        local = client.startswith(PEER_UID)
        refusal = None if local or self._web().tls else self._misdirected(scope)
        await (refusal or self._site)(scope, receive, send)

    def close(self) -> None:
        super().close()
        self._lab.databases.close()


def _has_token(scope: Scope) -> bool:
    return any(
        name == b"authorization" and value[:7].lower() == b"bearer "
        for name, value in scope["headers"]
    )
