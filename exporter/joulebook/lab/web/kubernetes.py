"""Identity by Kubernetes: the API server says whose a token is, and whose pods they may list.

A token counts only if it was made for this server (audience `joulebook-lab`), as a pod gets one by
a projected volume, and a person by `kubectl create token --audience joulebook-lab`. The answer says
for which of the audiences it is good: an API server that knows none says so by leaving them out.
https://kubernetes.io/docs/reference/kubernetes-api/authentication-resources/token-review-v1/

Rights: `create` on `tokenreviews` and `subjectaccessreviews`.
"""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import msgspec

from joulebook.core.sanitize import clean_label, one_line
from joulebook.errors import InputError
from joulebook.kubernetes_api.server import ApiError, ApiServer
from joulebook.lab.web.grants import Throttle

AUDIENCE = "joulebook-lab"

MOST_NAMESPACES = 500
"""So many namespaces are asked about; who may list the pods of all is asked about once."""

_TOKEN = re.compile(r"[\w-]+\.[\w-]+\.[\w-]+", re.ASCII)
"""A JWT; secrets of the lab server's own have no dots."""
_KEPT_S = 60.0
_MOST_KEPT = 1024
_WITHIN_S = 5.0
_ALL_WITHIN_S = 20.0
MOST_REVIEWS = 300
"""Tokens that are asked about in a minute."""

_TOKENS = "/apis/authentication.k8s.io/v1/tokenreviews"
_ACCESS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"


class _User(msgspec.Struct, frozen=True):
    username: str = ""
    uid: str = ""
    groups: tuple[str, ...] | None = None
    extra: dict[str, tuple[str, ...]] | None = None


class _TokenStatus(msgspec.Struct, frozen=True):
    authenticated: bool = False
    user: _User = _User()
    audiences: tuple[str, ...] | None = None
    error: str = ""


class _TokenReview(msgspec.Struct, frozen=True):
    status: _TokenStatus


class _AccessStatus(msgspec.Struct, frozen=True):
    allowed: bool = False
    denied: bool = False


class _AccessReview(msgspec.Struct, frozen=True):
    status: _AccessStatus


_token_review = msgspec.json.Decoder(_TokenReview)
_access_review = msgspec.json.Decoder(_AccessReview)


class ReviewedUser(NamedTuple):
    """A user as the API server names it, and the accounts (namespaces) whose pods it may list."""

    name: str
    coordinates: frozenset[str]


def is_token(text: str) -> bool:
    """Return whether this may be a token of Kubernetes."""
    return bool(_TOKEN.fullmatch(text))


class Reviews:
    """Asks an API server about tokens; an answer is kept for a minute."""

    def __init__(self, server: ApiServer, now_s: Callable[[], float] = time.monotonic) -> None:
        self._server = server
        self._now_s = now_s
        self._kept: OrderedDict[bytes, tuple[float, ReviewedUser]] = OrderedDict()
        self._lock = threading.Lock()
        self._throttle = Throttle(MOST_REVIEWS, now_s)

    def user(self, token: str, accounts: Callable[[], Iterable[str]]) -> ReviewedUser:
        """Return whose a token is, and which of the accounts they coordinate.

        Raises `InputError`: `credential` for a token that is not good here, `kubernetes` if the API
        server cannot be asked, `busy`.
        """
        digest = hashlib.sha256(token.encode()).digest()
        with self._lock:
            until_s, known = self._kept.get(digest, (0.0, None))
            if known is not None and self._now_s() < until_s:
                return known
            if not self._throttle.allows(""):
                raise InputError("too many tokens: try again in a minute", reason="busy")
        try:
            user = self._reviewed(token)
            found = ReviewedUser(user.username, self._coordinated(user, accounts()))
        except (ApiError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            if getattr(error, "reason", "") in {"unreachable", "unauthorized"}:
                self._server.sign_in_again()
            said = one_line(str(error).replace(token, "..."), 200)
            raise InputError(
                f"the API server cannot be asked about the token: {said}", reason="kubernetes"
            ) from None
        with self._lock:
            self._kept[digest] = (self._now_s() + _KEPT_S, found)
            while len(self._kept) > _MOST_KEPT:
                self._kept.popitem(last=False)
        return found

    def _reviewed(self, token: str) -> _User:
        asked = {"token": token, "audiences": [AUDIENCE]}
        status = _token_review.decode(self._create(_TOKENS, "TokenReview", asked)).status
        user = status.user
        if status.error or not status.authenticated:
            raise InputError("the API server does not know this token", reason="credential")
        if AUDIENCE not in (status.audiences or ()):
            raise InputError(f"the token is not made for audience {AUDIENCE}", reason="credential")
        if not user.username or user.username != clean_label(user.username):
            raise InputError("the token's user has no usable name", reason="credential")
        return user

    def _coordinated(self, user: _User, accounts: Iterable[str]) -> frozenset[str]:
        """Return the namespaces whose pods a user may list."""
        names = sorted({*accounts} - {""})
        if not names:
            return frozenset()
        if self._may_list(user, ""):
            return frozenset(names)
        until_s = self._now_s() + _ALL_WITHIN_S
        found = set()
        for name in names[:MOST_NAMESPACES]:
            if self._may_list(user, name):
                found.add(name)
            if self._now_s() > until_s:
                raise ApiError(f"{_ACCESS}: too slow for {len(names)} namespaces", reason="slow")
        return frozenset(found)

    def _may_list(self, user: _User, namespace: str) -> bool:
        wanted = {"namespace": namespace, "verb": "list", "version": "v1", "resource": "pods"}
        asked = {
            "user": user.username, "uid": user.uid, "groups": user.groups or (),
            "extra": user.extra or {}, "resourceAttributes": wanted,
        }  # fmt: skip
        answer = self._create(_ACCESS, "SubjectAccessReview", asked)
        status = _access_review.decode(answer).status
        return status.allowed and not status.denied

    def _create(self, path: str, kind: str, spec: dict[str, Any]) -> bytes:
        group = path.removeprefix("/apis/").rpartition("/")[0]
        item = {"apiVersion": group, "kind": kind, "spec": spec}
        return self._server.create(path, msgspec.json.encode(item), within_s=_WITHIN_S)
