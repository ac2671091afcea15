"""How commands log in: a MUNGE credential over a nonce, and a link for the browser."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Header, Request

from joulebook.errors import InputError
from joulebook.lab.web import munge
from joulebook.lab.web.api import Known, TheLab
from joulebook.lab.web.grants import LINK_S, SESSION_S, GrantKind, Grants
from joulebook.lab.web.identity import COOKIE
from joulebook.lab.web.viewer import TOKEN

router = APIRouter(prefix="/api/v1")


@dataclass(frozen=True)
class NonceOut:
    """A nonce, good once within a minute, and the account that credentials are made for."""

    nonce: str
    server_uid: int


@dataclass(frozen=True)
class Secret:
    """A secret and until when it is good (UTC seconds)."""

    secret: str
    user: str
    until_utc_s: int


@router.post("/nonce")
def nonce(lab: TheLab) -> NonceOut:
    """Return a nonce for a MUNGE credential."""
    if not lab.config.lab.munge:
        raise InputError("MUNGE is switched off here (lab.munge)", reason="munge")
    with lab.databases.one() as database:
        return NonceOut(Grants(database, lab.now_s).nonce(), lab.server_uid)


@router.post("/session")
def log_in(lab: TheLab, authorization: Annotated[str, Header()] = "") -> Secret:
    """Take a credential (`Authorization: Munge MUNGE:...:`), and return a token of some hours."""
    kind, _, credential = authorization.partition(" ")
    if kind.lower() != "munge":
        raise InputError("expected Authorization: Munge MUNGE:...:", reason="credential")
    if not lab.config.lab.munge:
        raise InputError("MUNGE is switched off here (lab.munge)", reason="munge")
    with lab.databases.one() as database:
        grants = Grants(database, lab.now_s)
        user = munge.decoded(credential, lab.urls, grants.use_nonce, lab.config.lab.munge_socket)
        secret = grants.make(GrantKind.SESSION, user, "munge", SESSION_S)
    return Secret(secret, user, int(lab.now_s()) + SESSION_S)


@router.post("/link")
def link(request: Request, lab: TheLab, viewer: Known) -> Secret:
    """Return a link that lets a browser in once, within five minutes."""
    # Else a session would go on for ever, and a token's bearer beyond the token's end.
    if COOKIE in request.cookies or viewer.how == TOKEN:
        raise InputError(
            "sessions and tokens make no links: joulebook acct --web", reason="forbidden"
        )
    with lab.databases.one() as database:
        secret = Grants(database, lab.now_s).make(
            GrantKind.LINK, viewer.user, viewer.how, LINK_S, accounts=viewer.proved
        )
    until_s = int(lab.now_s()) + LINK_S
    return Secret(f"{lab.url}/enter/{secret}", viewer.user, until_s)
