"""The ASGI application of the lab server: API, pages, and the headers of every answer."""

from __future__ import annotations

import json
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.staticfiles import StaticFiles

from joulebook import __version__
from joulebook.core.sanitize import one_line
from joulebook.errors import InputError, JoulebookError, LedgerUnavailable
from joulebook.lab.web import (
    advice,
    api,
    bill_api,
    bill_pages,
    html,
    leaderboards,
    login,
    pages,
    serving,
)
from joulebook.lab.web.forms import MOST_BYTES
from joulebook.lab.web.service import Lab
from joulebook.log import LogOnce

logger = logging.getLogger(__name__)
_once = LogOnce(logger)

_STATIC = Path(__file__).parent / "static"

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

STATUS = {
    "unknown": 401, "credential": 401, "nonce": 401, "server": 401, "account": 401,
    "forbidden": 403, "csrf": 403, "link": 403, "missing": 404, "day": 400, "ambiguous": 400,
    "too_many": 400, "behind": 409, "closed": 409, "too_large": 413, "busy": 429, "munge": 503,
}  # fmt: skip
"""The HTTP status of an `InputError`, by its reason."""

_MOST_BODY = 16_384
_LOGINS = 300
_LOGINS_S = 60.0
_MOST_PEERS = 1024


class Throttle:
    """At most so many changes a minute from one address, which a login node's users share."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._seen: OrderedDict[str, list[float]] = OrderedDict()

    def allows(self, peer: str) -> bool:
        """Return whether one more is allowed, and count it."""
        now = self._now_s()
        recent = [at for at in self._seen.pop(peer, []) if at > now - _LOGINS_S]
        if len(recent) < _LOGINS:
            recent.append(now)
            allowed = True
        else:
            allowed = False
        self._seen[peer] = recent
        while len(self._seen) > _MOST_PEERS:
            self._seen.popitem(last=False)
        return allowed


def openapi() -> str:
    """Return the description of the REST API, which docs/openapi.json holds."""
    return json.dumps(_site().openapi(), indent=2) + "\n"


def make_app(lab: Lab) -> FastAPI:
    """Return the application of a lab server."""
    app = _site()
    app.state.lab = lab
    throttle = Throttle()

    @app.middleware("http")
    async def guard(request: Request, onward: Callable[[Request], Awaitable[Response]]) -> Response:
        refused = _refused(request, throttle)
        response = refused or await onward(request)
        for name, value in _HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    @app.exception_handler(JoulebookError)
    async def refuse(request: Request, error: JoulebookError) -> Response:
        if isinstance(error, InputError):
            return _answer(request, STATUS.get(error.reason, 400), str(error))
        _once.failed("ledger", "%s", error)
        if isinstance(error, LedgerUnavailable):
            what = "The collected ledger cannot be reached: try again in a minute."
            return _answer(request, 503, what, {"Retry-After": "30"})
        return _answer(request, 500, "The collected ledger cannot be used: see the server's log.")

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        found = error.errors()[0]
        where = ".".join(str(part) for part in found["loc"][1:])
        return _answer(request, 422, f"{where}: {found['msg']}")

    return app


def _site() -> FastAPI:
    """Return pages and API, which need a lab to answer."""
    app = FastAPI(
        title="Joulebook lab server",
        version=__version__,
        openapi_url="/api/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
    )
    app.include_router(api.router)
    app.include_router(bill_api.router)
    app.include_router(login.router)
    app.include_router(bill_pages.router)
    app.include_router(leaderboards.router)
    app.include_router(pages.router)
    app.include_router(advice.router)
    app.include_router(serving.router)
    app.mount("/static", StaticFiles(directory=_STATIC))
    return app


def _refused(request: Request, throttle: Throttle) -> Response | None:
    """Return why a request that changes something is not looked at."""
    if request.method not in {"POST", "PUT", "DELETE", "PATCH"}:
        return None
    most = MOST_BYTES if "/leaderboards" in request.url.path else _MOST_BODY
    if int(request.headers.get("content-length", "0")[:12]) > most:
        return _answer(request, 413, f"expected a body of at most {most:,} bytes")
    # A browser says where a request comes from; a page of somebody else's changes nothing here.
    if request.headers.get("sec-fetch-site", "same-origin") not in {"same-origin", "none"}:
        return _answer(request, 403, "not from a page of this server")
    if not throttle.allows(request.client.host if request.client else ""):
        return _answer(request, 429, "too many requests: try again in a minute")
    return None


def _answer(
    request: Request, status: int, message: str, headers: dict[str, str] | None = None
) -> Response:
    text = one_line(message, 300)
    if request.url.path.startswith("/api/"):
        return JSONResponse({"error": text}, status, headers)
    return html.message(request, status, text, headers)
