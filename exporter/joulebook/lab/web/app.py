"""The ASGI application of the lab server: API, pages, and the headers of every answer."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.staticfiles import StaticFiles

from joulebook import __version__
from joulebook.core.sanitize import one_line
from joulebook.errors import ConfigError, InputError, JoulebookError, LedgerUnavailable
from joulebook.lab.web import (
    advice,
    api,
    audit_log,
    bill_api,
    bill_pages,
    html,
    leaderboards,
    login,
    pages,
    serving,
)
from joulebook.lab.web.forms import MOST_BYTES
from joulebook.lab.web.grants import Throttle
from joulebook.lab.web.identity import secret_of
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
    "kubernetes": 503,
}  # fmt: skip
"""The HTTP status of an `InputError`, by its reason."""

_MOST_BODY = 16_384
_CHANGING = frozenset({"POST", "PUT", "DELETE", "PATCH"})
_CHANGES = 300
_QUESTIONS = 3_000
"""In a minute, from one secret or address, which a login node's users share."""


def openapi() -> str:
    """Return the description of the REST API, which docs/openapi.json holds."""
    return json.dumps(_site().openapi(), indent=2) + "\n"


def make_app(lab: Lab) -> FastAPI:
    """Return the application of a lab server."""
    app = _site()
    app.state.lab = lab
    changing, asking = Throttle(_CHANGES), Throttle(_QUESTIONS)

    @app.middleware("http")
    async def guard(request: Request, onward: Callable[[Request], Awaitable[Response]]) -> Response:
        refused = _refused(request) or _throttled(request, changing, asking)
        response = refused or await onward(request)
        for name, value in _HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    @app.exception_handler(JoulebookError)
    async def refuse(request: Request, error: JoulebookError) -> Response:
        if isinstance(error, InputError):
            return _answer(request, STATUS.get(error.reason, 400), str(error))
        if isinstance(error, ConfigError):  # A format of a report wants what the lab has not set.
            return _answer(request, 422, str(error))
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
    app.include_router(audit_log.router)
    app.mount("/static", StaticFiles(directory=_STATIC))
    return app


def _refused(request: Request) -> Response | None:
    """Return why a request that changes something is not looked at."""
    if request.method not in _CHANGING:
        return None
    most = MOST_BYTES if "/leaderboards" in request.url.path else _MOST_BODY
    if int(request.headers.get("content-length", "0")[:12]) > most:
        return _answer(request, 413, f"expected a body of at most {most:,} bytes")
    # A browser says where a request comes from; a page of somebody else's changes nothing here.
    if request.headers.get("sec-fetch-site", "same-origin") not in {"same-origin", "none"}:
        return _answer(request, 403, "not from a page of this server")
    return None


def _throttled(request: Request, changes: Throttle, questions: Throttle) -> Response | None:
    """Return why a request is one too many."""
    address = request.client.host if request.client else ""
    # Who changes something may invent secrets; who reads with one that is not good reads nothing.
    changing = request.method in _CHANGING
    throttle = changes if changing else questions
    secret = "" if changing else secret_of(request)
    if throttle.allows(str(hash(secret)) if secret else address):
        return None
    text = "too many requests: try again in a minute"
    return _answer(request, 429, text, {"Retry-After": "60"})


def _answer(
    request: Request, status: int, message: str, headers: dict[str, str] | None = None
) -> Response:
    text = one_line(message, 300)
    if request.url.path.startswith("/api/"):
        return JSONResponse({"error": text}, status, headers)
    return html.message(request, status, text, headers)
