"""The pages that the server has, and who may read them."""

from __future__ import annotations

import gzip
import logging
from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, Router
from starlette.types import Message, Receive, Scope, Send

from joulebook.log import LogOnce
from joulebook.run_figures import PATH as RUNS_PATH
from joulebook.server.auth import PATH, HostNames, Passwords, PostingsPages, PostingsQuery
from joulebook.server.web_config import WebConfig
from joulebook.server.worker_pool import Busy, WorkerPool

logger = logging.getLogger(__name__)
_once = LogOnce(logger)

T = TypeVar("T")

RunsPage = Callable[[Mapping[str, str]], bytes | str]
"""Answers a query of runs: JSON, or what is wrong with the query."""

OPEN_PATHS = frozenset({"/healthz", "/readyz"})
"""Answered without a password: probes of a supervisor or kubelet carry none, and the answers
hold no data. exporter-toolkit guards them too; client certificates still do here."""

_CHUNK = 65536

_PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Pages(Protocol):
    """The content served. Called from several server threads at a time."""

    def metrics(self, accept: str) -> tuple[bytes, str]:
        """Return the exposition in the format of the `Accept` header, and its media type.

        The same object again for the same snapshot: what is derived of it is then kept.
        """

    def ready(self) -> tuple[bool, str]:
        """Return whether a tick succeeded lately, and in words."""

    def healthy(self) -> tuple[bool, str]:
        """Return whether no supervisor need restart the daemon, and in words."""

    def index(self) -> bytes:
        """Return the page for people, HTML in UTF-8."""


class App:
    """The ASGI application."""

    def __init__(
        self,
        pages: Pages,
        web: Callable[[], WebConfig],
        rejected: Callable[[str], None],
        export: PostingsPages | None = None,
        hosts: HostNames | None = None,
        runs: RunsPage | None = None,
    ) -> None:
        """`web` gives the configuration in force; `rejected` counts a refusal by its reason.

        `hosts` are the names under which pages that nothing else guards are answered; without
        them under any.

        `export` is the page for collectors, `runs` that for programs that ask for their figures;
        without them there are none.
        """
        self._pages = pages
        self._web = web
        self._rejected = rejected
        self._hosts = hosts
        self._packed: dict[str, tuple[bytes, bytes]] = {}
        self._passwords = Passwords()
        self._scrapes = WorkerPool("metrics", threads=2, line=16, timeout_s=10)
        self._views = WorkerPool("page", threads=1, line=8, timeout_s=10)
        self._probes = WorkerPool("probes", threads=1, line=32, timeout_s=5)
        self._router = Router(
            [
                Route("/", self._index),
                Route("/metrics", self._metrics),
                Route("/healthz", self._healthz),
                Route("/readyz", self._readyz),
            ],
            redirect_slashes=False,
        )
        self._export = export
        self._pages_of_ledger = WorkerPool("postings", threads=1, line=8, timeout_s=15)
        if export is not None:
            self._router.routes.append(Route(PATH, self._postings))
        self._runs = runs
        self._pages_of_runs = WorkerPool("runs", threads=1, line=32, timeout_s=10)
        if runs is not None:
            self._router.routes.append(Route(RUNS_PATH, self._answer_runs))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        web = self._web()
        if web.headers:
            send = _with_headers(send, web.headers)
        refusal = None
        if self._export is not None and scope["path"] == PATH:
            refusal = await self._guard(scope, web, self._export)
        elif scope["path"] in OPEN_PATHS:
            pass
        elif web.users:
            refusal = await self._refusal(scope, web)
        elif web.tls is None:
            refusal = self._misdirected(scope)
        await (refusal or self._router)(scope, receive, send)

    def close(self) -> None:
        """End the threads, as far as they are not in a call."""
        for pool in (
            self._passwords,
            self._scrapes,
            self._views,
            self._probes,
            self._pages_of_ledger,
            self._pages_of_runs,
        ):
            pool.close()

    def _misdirected(self, scope: Scope) -> Response | None:
        host = next((v for k, v in scope["headers"] if k == b"host"), None)
        if self._hosts is None or self._hosts.has(host):
            return None
        self._rejected("host")
        name = (host or b"").decode("latin-1")[:80]
        _once.failed(
            "host", "asked as %r, which is no name of this machine: refused; if it is "
            "one, add it to server.hosts", name,
        )  # fmt: skip
        return PlainTextResponse("Misdirected: this name is not in server.hosts\n", 421)

    async def _refusal(self, scope: Scope, web: WebConfig) -> Response | None:
        header = next((v for k, v in scope["headers"] if k == b"authorization"), None)
        try:
            peer = (scope.get("client") or ("",))[0]
            if await self._passwords.check(web.users, header, peer):
                return None
        except Busy:
            self._rejected("busy")
            return _busy("too many passwords to check\n")
        self._rejected("unauthorized")
        challenge = {"WWW-Authenticate": 'Basic realm="joulebook", charset="UTF-8"'}
        return PlainTextResponse("Unauthorized\n", 401, challenge)

    async def _guard(self, scope: Scope, web: WebConfig, export: PostingsPages) -> Response | None:
        """Check access to the page for collectors: 401 without a valid token, 403 for a user."""
        allowed = export.allows(dict(scope["headers"]))
        if allowed:
            return None
        if allowed is None and web.users and await self._refusal(scope, web) is None:
            self._rejected("forbidden")
            return PlainTextResponse("Forbidden: use the token instead of a password\n", 403)
        self._rejected("unauthorized")
        error = "" if allowed is None else ', error="invalid_token"'
        challenge = {"WWW-Authenticate": f'Bearer realm="joulebook"{error}'}
        return PlainTextResponse("Unauthorized: token required\n", 401, challenge)

    async def _postings(self, request: Request) -> Response:
        export = self._export
        try:
            asked = PostingsQuery(request.query_params)
        except ValueError as error:
            return PlainTextResponse(f"{error}\n", 400)
        answer = await self._ask(
            self._pages_of_ledger,
            "v1/postings",
            lambda: b"" if export is None else export.page(asked.since, asked.ledger_id),
        )
        if isinstance(answer, Response):
            return answer
        headers = {"Cache-Control": "no-store"}
        return _Paced(answer, headers=headers, media_type="application/json")

    async def _answer_runs(self, request: Request) -> Response:
        runs, query = self._runs, dict(request.query_params)
        answer = await self._ask(
            self._pages_of_runs, "v1/runs", lambda: b"" if runs is None else runs(query)
        )
        if isinstance(answer, Response):
            return answer
        if isinstance(answer, str):
            return PlainTextResponse(f"{answer}\n", 400)
        return _Paced(answer, headers={"Cache-Control": "no-store"}, media_type="application/json")

    async def _metrics(self, request: Request) -> Response:
        accept = request.headers.get("accept", "")
        packed = _takes_gzip(request.headers.get("accept-encoding", ""))
        answer = await self._ask(self._scrapes, "metrics", lambda: self._render(accept, packed))
        if isinstance(answer, Response):
            return answer
        body, media_type = answer
        # Not as `media_type`: starlette would add a charset that the format may not have.
        headers = {"Content-Type": media_type, "Vary": "Accept, Accept-Encoding"}
        if packed:
            headers["Content-Encoding"] = "gzip"
        return _Paced(body, headers=headers)

    async def _index(self, request: Request) -> Response:
        answer = await self._ask(self._views, "page", self._pages.index)
        if isinstance(answer, Response):
            return answer
        return _Paced(answer, headers=_PAGE_HEADERS, media_type="text/html")

    async def _healthz(self, request: Request) -> Response:
        return await self._probe("healthz", self._pages.healthy)

    async def _readyz(self, request: Request) -> Response:
        return await self._probe("readyz", self._pages.ready)

    async def _probe(self, name: str, question: Callable[[], tuple[bool, str]]) -> Response:
        answer = await self._ask(self._probes, name, question)
        if isinstance(answer, Response):
            return answer
        good, text = answer
        return PlainTextResponse(text + "\n", 200 if good else 503, {"Cache-Control": "no-store"})

    async def _ask(self, pool: WorkerPool, name: str, question: Callable[[], T]) -> T | Response:
        """Return the result, or an error response."""
        try:
            answer = await pool.ask(question)
        except Busy as busy:
            self._rejected("busy")
            _once.failed(name, "/%s was not answered: %s", name, busy)
            return _busy(f"{busy}\n")
        except Exception as error:
            _once.failed(name, "/%s failed: %s", name, error, level=logging.ERROR, exc_info=error)
            return PlainTextResponse("this page failed; see the log\n", 500)
        _once.recovered(name, "/%s works again", name)
        return answer

    def _render(self, accept: str, packed: bool) -> tuple[bytes, str]:
        body, media_type = self._pages.metrics(accept)
        if not packed:
            return body, media_type
        last = self._packed.get(media_type)
        if last is None or last[0] is not body:
            # Level 1: a fifth of the time of level 9 for a tenth more bytes.
            last = self._packed[media_type] = body, gzip.compress(body, 1, mtime=0)
        return last[1], media_type


class _Paced(Response):
    """A body sent piece by piece as the client reads it: one who never does holds no copy."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send(
            {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        )
        view = memoryview(self.body)
        for start in range(0, len(view), _CHUNK):
            piece = view[start : start + _CHUNK]
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _busy(text: str) -> Response:
    return PlainTextResponse(text, 503, {"Retry-After": "10"})


def _takes_gzip(header: str) -> bool:
    for part in header.lower().split(","):
        coding, _, quality = part.partition(";")
        if coding.strip() in {"gzip", "*"}:
            return quality.replace(" ", "").strip("0.") != "q="
    return False


def _with_headers(send: Send, headers: tuple[tuple[bytes, bytes], ...]) -> Send:
    names = {name for name, _ in headers}

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            own = [header for header in message["headers"] if header[0] not in names]
            message = {**message, "headers": [*own, *headers]}
        await send(message)

    return sending
