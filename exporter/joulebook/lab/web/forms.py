"""Forms as browsers and commands post them: bounded, and only from a page of this server."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import parse_qsl

from fastapi import Depends, Request

from joulebook.errors import InputError
from joulebook.lab.web.api import Known
from joulebook.lab.web.identity import COOKIE

MOST_BYTES = 1 << 20
_MOST_FIELDS = 50
TOKEN = "form"  # noqa: S105 - the name of a field
_TYPE = "application/x-www-form-urlencoded"


def form_token(request: Request) -> str:
    """Return what the forms of a browser's session carry, which no page of somebody else's knows.

    Empty without a session: then nothing is sent along that a page of somebody else's could use.
    """
    cookie = request.cookies.get(COOKIE, "")
    return hashlib.sha256(f"form {cookie}".encode()).hexdigest() if cookie else ""


async def _posted(request: Request) -> Mapping[str, str]:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MOST_BYTES:
            raise InputError(f"expected a form of at most {MOST_BYTES:,} bytes", reason="too_large")
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if body and media_type != _TYPE:
        raise InputError(f"expected Content-Type: {_TYPE}", reason="form")
    try:
        fields = parse_qsl(
            body.decode("ascii"), keep_blank_values=True, errors="strict",
            max_num_fields=_MOST_FIELDS,
        )  # fmt: skip
    except ValueError:
        raise InputError("expected a form in UTF-8", reason="form") from None
    names = [name for name, _ in fields]
    if len({*names}) != len(names):
        raise InputError("expected each field of the form once", reason="form")
    return dict(fields)


def _own(
    request: Request, viewer: Known, posted: Annotated[Mapping[str, str], Depends(_posted)]
) -> Mapping[str, str]:
    """Return a posted form. Raises `InputError` (`csrf`) if no page of this server made it."""
    expected = form_token(request)
    if not hmac.compare_digest(posted.get(TOKEN, "").encode(), expected.encode()):
        raise InputError("not from a page of this session: load the page again", reason="csrf")
    return {name: value for name, value in posted.items() if name != TOKEN}


Form = Annotated[Mapping[str, str], Depends(_own)]


def described(**fields: str) -> dict[str, Any]:
    """Return how a form is described in the OpenAPI document: each field, and what it means."""
    schema = {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            name: {"type": "string", "description": text} for name, text in fields.items()
        },
    }
    return {"requestBody": {"required": True, "content": {_TYPE: {"schema": schema}}}}


def refuse_further(form: Mapping[str, str], *known: str) -> None:
    """Raise `InputError` for a field that would be ignored."""
    if further := sorted(form.keys() - {*known}):
        raise InputError(f"unknown field {further[0][:40]!r}: expected {', '.join(known)}",
                         reason="form")  # fmt: skip
