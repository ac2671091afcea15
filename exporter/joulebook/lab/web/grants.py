"""What the lab server remembers of identities: nonces, sessions, links and tokens.

It stands in the collected ledger's database, so that several servers share it. A secret is stored
as its SHA-256: who reads the database gets in nowhere.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

from joulebook.errors import InputError
from joulebook.lab.collected import audit
from joulebook.lab.collected.database import Database

NONCE_S = 60
LINK_S = 300
SESSION_S = 12 * 3600
_MOST_NONCES = 10_000
_MOST_ASKERS = 1024
_MINUTE_S = 60.0


class Throttle:
    """At most so many requests a minute of each who asks; of the last ones who asked."""

    def __init__(self, most: int, now_s: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._now_s = now_s
        self._seen: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def allows(self, who: str) -> bool:
        """Return whether one more is allowed, and count it."""
        now = self._now_s()
        since_s, count = self._seen.pop(who, (now, 0))
        if now >= since_s + _MINUTE_S:
            since_s, count = now, 0
        self._seen[who] = (since_s, min(count + 1, self._most + 1))
        while len(self._seen) > _MOST_ASKERS:
            self._seen.popitem(last=False)
        return count < self._most


class GrantKind(StrEnum):
    """What a secret is good for."""

    SESSION = "session"
    LINK = "link"
    TOKEN = "token"  # noqa: S105 - not a password


class Grant(NamedTuple):
    """Whom a secret stands for, how that was proved, until when (UTC seconds), and the accounts
    that they coordinate besides, as the way of proof said.
    """

    user: str
    how: str
    until_s: int
    accounts: frozenset[str] = frozenset()

    @classmethod
    def of(cls, row: Sequence[Any]) -> Grant:
        """Return a row as a grant."""
        user, how, until_s, accounts = row
        return cls(user, how, until_s, frozenset(json.loads(accounts)))


_GRANT = "person, how, until_s, accounts"


class Grants:
    """Makes and redeems secrets, each in a transaction of its own."""

    def __init__(self, database: Database, now_s: Callable[[], float] = time.time) -> None:
        self._database = database
        self._now_s = now_s

    def nonce(self) -> str:
        """Return a new nonce, good once within a minute. Raises `InputError` (`busy`)."""
        made, now = secrets.token_urlsafe(24), int(self._now_s())
        with self._database.transaction():
            self._database.rows("DELETE FROM lab_nonces WHERE until_s <= ?", [now])
            ((open_,),) = self._database.rows("SELECT count(1) FROM lab_nonces")
            if int(open_) >= _MOST_NONCES:
                raise InputError("too many logins at once: try again in a minute", reason="busy")
            self._database.rows("INSERT INTO lab_nonces VALUES (?, ?)", [made, now + NONCE_S])
        return made

    def use_nonce(self, nonce: str) -> bool:
        """Return whether a nonce was still good, which it is no more."""
        return bool(
            self._database.rows(
                "DELETE FROM lab_nonces WHERE nonce = ? AND until_s > ? RETURNING nonce",
                [nonce, int(self._now_s())],
            )
        )

    def make(
        self,
        kind: GrantKind,
        user: str,
        how: str,
        good_s: int,
        name: str = "",
        accounts: Collection[str] = (),
    ) -> str:
        """Return a new secret for a user, who coordinates those accounts besides."""
        secret, now = secrets.token_urlsafe(32), int(self._now_s())
        with self._database.transaction():
            self._database.rows("DELETE FROM lab_grants WHERE until_s <= ?", [now])
            self._database.rows(
                "INSERT INTO lab_grants VALUES (?, ?, ?, ?, ?, ?, ?)",
                [_digest(secret), kind.value, user, how, name, now + good_s,
                 json.dumps(sorted(accounts))],
            )  # fmt: skip
        return secret

    def of(self, secret: str, *kinds: GrantKind) -> Grant | None:
        """Return whom a secret stands for, if it is one of these kinds and still good."""
        marks = ", ".join("?" * len(kinds))
        rows = self._database.rows(
            f"SELECT {_GRANT} FROM lab_grants WHERE secret = ? AND kind IN ({marks})"  # noqa: S608
            " AND until_s > ?",
            [_digest(secret), *(kind.value for kind in kinds), int(self._now_s())],
        )
        return Grant.of(rows[0]) if rows else None

    def redeem(self, secret: str, kind: GrantKind) -> Grant | None:
        """Return whom a secret stands for, and use it up."""
        rows = self._database.rows(
            "DELETE FROM lab_grants WHERE secret = ? AND kind = ? AND until_s > ?"  # noqa: S608
            f" RETURNING {_GRANT}",
            [_digest(secret), kind.value, int(self._now_s())],
        )
        return Grant.of(rows[0]) if rows else None

    def revoke(self, name: str) -> int:
        """End the tokens of that name; return how many there were."""
        return len(
            self._database.rows(
                "DELETE FROM lab_grants WHERE kind = ? AND name = ? RETURNING secret",
                [GrantKind.TOKEN.value, name],
            )
        )

    def tokens(self) -> list[tuple[str, str, int]]:
        """Return name, user and end (UTC seconds) of every token."""
        rows = self._database.rows(
            "SELECT name, person, until_s FROM lab_grants WHERE kind = ? ORDER BY name",
            [GrantKind.TOKEN.value],
        )
        return [(str(name), str(user), int(until_s)) for name, user, until_s in rows]

    def namespaces(self) -> list[str]:
        """Return the accounts that are namespaces of Kubernetes."""
        rows = self._database.rows(
            "SELECT DISTINCT o.account FROM owners o JOIN workloads w ON w.owner = o.id"
            " WHERE w.scheduler = 'kubernetes' AND o.account <> ''"
        )
        return [str(account) for (account,) in rows]

    def note(self, who: str, how: str, what: str) -> None:
        """Write a line of the audit log."""
        with self._database.transaction():
            audit.note(self._database, int(self._now_s()), who, how, what)


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
