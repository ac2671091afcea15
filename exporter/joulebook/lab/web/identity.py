"""Who asks: the peer of a Unix socket, or the bearer of a token or of a browser's session.

Nothing else counts. An address proves nobody (on a login node everybody is 127.0.0.1), and a header
only what the account of the proxy says on the socket.
"""

from __future__ import annotations

import pwd
from typing import NamedTuple

from starlette.requests import Request

from joulebook.core.sanitize import clean_label
from joulebook.lab.web.grants import GrantKind, Grants
from joulebook.lab.web.viewer import PROXY, Directory, Viewer
from joulebook.server.connections import PEER_UID

COOKIE = "joulebook-session"
_BEARER = "bearer "


class Proxy(NamedTuple):
    """The account of a reverse proxy, and the header in which it names users."""

    user: str = ""
    header: str = ""


def viewer_of(request: Request, grants: Grants, directory: Directory, proxy: Proxy) -> Viewer:
    """Return whoever asks, as far as that is proved."""
    if peer := _peer(request):
        named = request.headers.getlist(proxy.header) if peer == proxy.user else []
        if len(named) == 1 and named[0] == clean_label(named[0]):
            return directory.viewer(named[0], PROXY)
        # The proxy is nobody itself: what it forwards without a name is anybody's.
        return directory.anybody if peer == proxy.user else directory.viewer(peer, "socket")
    authorization = request.headers.get("authorization", "")
    if authorization[: len(_BEARER)].lower() == _BEARER:
        secret = authorization[len(_BEARER) :].strip()
        grant = grants.of(secret, GrantKind.SESSION, GrantKind.TOKEN)
    else:
        cookie = request.cookies.get(COOKIE, "")
        grant = grants.of(cookie, GrantKind.SESSION) if cookie else None
    return directory.viewer(grant.user, grant.how) if grant else directory.anybody


def _peer(request: Request) -> str:
    """Return the user of the process on the other end of a Unix socket; empty: none."""
    address = request.client.host if request.client else ""
    if not address.startswith(PEER_UID):
        return ""
    uid = int(address.removeprefix(PEER_UID))
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid-{uid}"
