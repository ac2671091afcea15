"""Who asks: the peer of a Unix socket, or the bearer of a token or of a browser's session.

Nothing else counts. An address proves nobody (on a login node everybody is 127.0.0.1), and a header
only what a proxy says that proves itself: by its account on the socket, by a shared secret, or by
its client certificate.
"""

from __future__ import annotations

import pwd
from typing import NamedTuple

from starlette.requests import Request

from joulebook.core.sanitize import clean_label
from joulebook.errors import InputError
from joulebook.lab.web import kubernetes
from joulebook.lab.web.grants import GrantKind, Grants
from joulebook.lab.web.kubernetes import Reviews
from joulebook.lab.web.viewer import KUBERNETES, PROXY, Directory, Viewer
from joulebook.server.auth import Tokens
from joulebook.server.peers import PEER_NAMES, PEER_UID

COOKIE = "joulebook-session"
SECRET_HEADER = "X-Joulebook-Proxy-Secret"  # noqa: S105 - not a password
_BEARER = "bearer "


class Proxy(NamedTuple):
    """A reverse proxy: how it proves itself, and the header in which it names users.

    Attributes:
        user: Its account, on the Unix socket.
        header: The name of the header.
        secret: What it shows in a header; `None`: nothing is taken for it.
        certificate: The name in its client certificate.

    """

    user: str = ""
    header: str = ""
    secret: Tokens | None = None
    certificate: str = ""

    def proves_itself(self, request: Request, peer: str) -> bool:
        """Return whether a request comes from the proxy. Raises `InputError` for a wrong secret."""
        if self.user and peer == self.user:
            return True
        if self.certificate and self.certificate in getattr(request.state, PEER_NAMES, ()):
            return True
        shown = request.headers.getlist(SECRET_HEADER)
        if self.secret is None or not shown:
            return False
        if len(shown) != 1 or not self.secret.fits(shown[0].encode("latin-1")):
            raise InputError(f"{SECRET_HEADER}: not the proxy's secret", reason="credential")
        return True


def viewer_of(
    request: Request,
    grants: Grants,
    directory: Directory,
    proxy: Proxy,
    reviews: Reviews | None = None,
) -> Viewer:
    """Return whoever asks, as far as that is proved. Raises `InputError`."""
    peer = _peer(request)
    if proxy.proves_itself(request, peer):
        named = request.headers.getlist(proxy.header)
        # The proxy is nobody itself: what it forwards without a name is anybody's.
        if not named:
            return directory.anybody
        if len(named) != 1 or not named[0] or named[0] != clean_label(named[0]):
            raise InputError(f"{proxy.header}: expected the name of one user", reason="credential")
        return directory.viewer(named[0], PROXY)
    if peer:
        return directory.viewer(peer, "socket")
    bearer, secret = _bearer(request), secret_of(request)
    if reviews is not None and bearer and kubernetes.is_token(bearer):
        user = reviews.user(bearer, grants.namespaces)
        return directory.viewer(user.name, KUBERNETES, user.coordinates)
    kinds = (GrantKind.SESSION, GrantKind.TOKEN) if bearer else (GrantKind.SESSION,)
    grant = grants.of(secret, *kinds) if secret else None
    if grant is not None:
        return directory.viewer(grant.user, grant.how, grant.accounts)
    if bearer:
        raise InputError("the token is not known here, or has expired", reason="credential")
    return directory.anybody


def secret_of(request: Request) -> str:
    """Return the secret that a request shows; empty: none."""
    return _bearer(request) or request.cookies.get(COOKIE, "")


def _bearer(request: Request) -> str:
    authorization = request.headers.get("authorization", "")
    if authorization[: len(_BEARER)].lower() != _BEARER:
        return ""
    return authorization[len(_BEARER) :].strip()


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
