"""Basic authentication against bcrypt hashes, at the cost of one bcrypt per password."""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets
from collections.abc import Mapping

import bcrypt

from joulebook.exposition.desk import Desk

_REMEMBERED = 64
_MAX_HEADER = 1024
_MAX_PASSWORD = 72
"""bcrypt looks at no more bytes; so does Go's, after which the file format is made."""


class Passwords:
    """Checks credentials, and remembers the answers by a salted hash of them.

    bcrypt costs 50-100 ms of CPU on purpose: it runs on one thread of its own, so that guessing
    takes at most one core and delays nobody whose answer is remembered. Right and wrong answers
    are remembered apart, so that wrong ones never displace a scraper's.
    """

    def __init__(self) -> None:
        self._salt = secrets.token_bytes(32)
        self._right: dict[bytes, None] = {}
        self._wrong: dict[bytes, None] = {}
        self._desk = Desk("passwords", threads=1, line=16, timeout_s=10)

    async def check(self, users: Mapping[str, bytes], header: bytes | None) -> bool:
        """Whether an `Authorization` header names one of `users` and its password.

        Raises `desk.Busy` if too many passwords wait to be checked.
        """
        if header is None or (pair := _parse(header)) is None:
            return False
        user, password = pair
        # An unknown user costs as much time as a known one, against the first one's hash.
        known = user in users
        digest = users[user] if known else next(iter(users.values()))
        key = self._key(user, digest, password)
        for answers, answer in ((self._right, True), (self._wrong, False)):
            if key in answers:
                answers[key] = answers.pop(key)
                return answer
        matches = await self._desk.ask(lambda: _matches(password, digest))
        right = matches and known
        answers = self._right if right else self._wrong
        answers[key] = None
        if len(answers) > _REMEMBERED:
            del answers[next(iter(answers))]
        return right

    def close(self) -> None:
        """End the thread."""
        self._desk.close()

    def _key(self, user: str, digest: bytes, password: bytes) -> bytes:
        # The digest is part of it: a changed password is another question.
        mixed = hashlib.blake2b(key=self._salt)
        for part in (user.encode("utf-8", "surrogatepass"), digest, password):
            mixed.update(len(part).to_bytes(4, "big") + part)
        return mixed.digest()


def _parse(header: bytes) -> tuple[str, bytes] | None:
    scheme, _, encoded = header.strip().partition(b" ")
    if scheme.lower() != b"basic" or len(encoded) > _MAX_HEADER:
        return None
    try:
        user, colon, password = base64.b64decode(encoded.strip(), validate=True).partition(b":")
        return (user.decode(), password) if colon else None
    except (binascii.Error, UnicodeDecodeError):
        return None


def _matches(password: bytes, digest: bytes) -> bool:
    try:
        return bcrypt.checkpw(password[:_MAX_PASSWORD], digest)
    except ValueError:
        return False
