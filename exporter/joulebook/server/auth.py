"""Authentication: passwords (bcrypt, one hash each), and the token of `GET /v1/postings`.

The token is shown as `Authorization: Bearer TOKEN` (RFC 6750). Where the web configuration file
asks for a password, the token alone opens the postings; a proxy that shows a password there puts
the token into `X-Joulebook-Token`.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import hashlib
import hmac
import ipaddress
import logging
import re
import secrets
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from joulebook.core.ledger.export import PATH
from joulebook.errors import ConfigError
from joulebook.log import LogOnce
from joulebook.reloaded_file import Note, ReloadedFile
from joulebook.server.worker_pool import Busy, WorkerPool
from joulebook.untrusted_files import read_secret, shown_path

logger = logging.getLogger(__name__)
_once = LogOnce(logger)

HEADER = b"x-joulebook-token"

_LEAST = 16
"""Characters of a token; a shorter one can be guessed over the network."""


Asked = Callable[[int, str], bytes]
"""Gives one page as JSON: the rows after `since` of the ledger with that id (empty: any)."""


class Tokens:
    """The tokens in a file, one a line, read again when the file changes.

    Two lines allow replacing a token without a break. If the file becomes unreadable, no one is
    admitted: the last token may have been revoked.
    """

    def __init__(self, path: Path, key: str = "server.token_file") -> None:
        """Raises `ConfigError`: at the start, a file that cannot be used is fatal.

        `key` is the setting that names the file.
        """
        self._path = path
        self._key = key
        self._digests = ReloadedFile(self._load)

    def fits(self, token: bytes) -> bool:
        """Return whether it is one of them; takes as long for a wrong as for a right one."""
        digests: tuple[bytes, ...] = ()
        try:
            if self._digests.refresh():
                logger.info("%s: %s has changed and is in use", self._key, self._path)
            _once.recovered(self._key, "%s: in use again", self._key)
            digests = self._digests.value
        except ConfigError as error:
            _once.failed(self._key, "nobody is admitted: %s", error, level=logging.ERROR)
        shown = hashlib.blake2b(token).digest()
        fits = False
        for digest in digests:
            fits |= hmac.compare_digest(digest, shown)
        return fits

    def _load(self, note: Note) -> tuple[bytes, ...]:
        try:
            lines = read_secret(note(self._path)).split()
        except OSError as error:
            raise ConfigError(
                f"{self._key}: {shown_path(self._path)}: cannot be read: {error.strerror}"
            ) from None
        if not lines or any(len(line) < _LEAST or not line.isascii() for line in lines):
            raise ConfigError(
                f"{self._key}: {self._path}: expected tokens of {_LEAST} or more ASCII "
                "characters, one a line (openssl rand -hex 32)"
            )
        return tuple(hashlib.blake2b(line).digest() for line in lines)


class HostNames:
    """The host names accepted by a server.

    A web page can make its own name point to this address (DNS rebinding), and would then read
    what is here in its reader's browser. The name is then that page's, not one of these.
    """

    def __init__(
        self, further: Iterable[str], resolv_conf: Path = Path("/etc/resolv.conf")
    ) -> None:
        """Accept `further` names, this machine's own, and those below its search domains."""
        self._names = {socket.gethostname().lower(), *(_plain(name) for name in further)}
        self._ends: tuple[str, ...] = _PRIVATE
        with contextlib.suppress(OSError, UnicodeDecodeError):
            lines = (line.split() for line in resolv_conf.read_text().splitlines())
            domains = {d for key, *rest in filter(None, lines) if key in _DOMAINS for d in rest}
            self._ends += tuple(f".{_plain(d)}" for d in domains if "." in d.strip("."))

    def resolve(self) -> None:
        """Look up this machine's full name; may wait for a name server."""
        self._names.add(_plain(socket.getfqdn()))

    def has(self, header: bytes | None) -> bool:
        """Return whether a `Host` header may be answered; HTTP/1.0 has none."""
        name = _plain((header or b"").decode("latin-1"))
        host, colon, port = name.rpartition(":")
        name = host if colon and port.isdecimal() else name
        if "." not in name or name in self._names or name.endswith(self._ends):
            return True  # No web page has a name without a dot.
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return False
        return True


def _plain(name: str) -> str:
    return name.strip().lower().rstrip(".")


class PostingsPages:
    """The page, and who may read it."""

    def __init__(self, page: Asked, tokens: Tokens) -> None:
        self.page = page
        self._tokens = tokens

    def allows(self, headers: Mapping[bytes, bytes]) -> bool | None:
        """Return whether a token that fits is shown; `None`: no token is."""
        scheme, _, token = headers.get(b"authorization", b"").strip().partition(b" ")
        shown = token.strip() if scheme.lower() == b"bearer" else headers.get(HEADER, b"")
        return self._tokens.fits(shown) if shown else None


class PostingsQuery:
    """Parse the query of the page. Raises `ValueError` with what is expected."""

    def __init__(self, query: Mapping[str, str]) -> None:
        since, ledger_id = query.get("since", "0"), query.get("ledger", "")
        if not re.fullmatch(r"\d{1,18}", since, re.ASCII):
            raise ValueError("since: expected the `next` of the page before, or 0")
        if not re.fullmatch(r"[0-9a-f]{0,64}", ledger_id):
            raise ValueError("ledger: expected the `ledger_id` of the page before")
        self.since, self.ledger_id = int(since), ledger_id


__all__ = ["HEADER", "PATH", "Asked", "PostingsPages", "PostingsQuery", "Tokens"]


_DOMAINS = frozenset({"search", "domain"})
_PRIVATE = (".localhost", ".local", ".localdomain", ".internal", ".lan", ".home.arpa", ".svc")
"""Names that cannot exist on the internet (RFC 6761, 6762, 8375, .internal; Services)."""

_REMEMBERED = 64
_LINE = 128
"""Passwords that wait to be checked: as many as there may be connections."""
_WAIT_S = 25.0
"""For a turn; `Limits.answer_s` is longer."""
_MAX_HEADER = 1024
_MAX_PASSWORD = 72
"""bcrypt uses no more bytes; neither does Go's, which defines the file format."""


class Passwords:
    """Checks credentials, and remembers the answers by a salted hash of them.

    bcrypt costs 50-100 ms of CPU on purpose: it runs on one thread of its own, so that guessing
    takes at most one core and delays nobody whose answer is remembered. Right and wrong answers
    are remembered apart, so that wrong ones never displace a scraper's. Who is asked next is a
    matter of luck, so that a flood of guesses shuts nobody out who is not remembered yet.
    """

    def __init__(self) -> None:
        self._salt = secrets.token_bytes(32)
        self._right: dict[bytes, None] = {}
        self._wrong: dict[bytes, None] = {}
        self._pool = WorkerPool("passwords", threads=1, line=4, timeout_s=10)
        self._turns = _Turns()

    async def check(self, users: Mapping[str, bytes], header: bytes | None, peer: str = "") -> bool:
        """Whether an `Authorization` header from `peer` names one of `users` and its password.

        Raises `worker_pool.Busy` if too many passwords wait to be checked.
        """
        if header is None or (pair := _parse(header)) is None:
            return False
        user, password = pair
        # An unknown user costs as much time as a known one, against the first one's hash.
        known = user in users
        digest = users[user] if known else next(iter(users.values()))
        key = self._key(user, digest, password)
        if (answer := self._remembered(key)) is not None:
            return answer
        async with self._turns.turn(peer):
            # Whoever waited may have asked twice.
            if (answer := self._remembered(key)) is not None:
                return answer
            matches = await self._pool.ask(lambda: _matches(password, digest))
        right = matches and known
        answers = self._right if right else self._wrong
        answers[key] = None
        if len(answers) > _REMEMBERED:
            del answers[next(iter(answers))]
        return right

    def _remembered(self, key: bytes) -> bool | None:
        for answers, answer in ((self._right, True), (self._wrong, False)):
            if key in answers:
                answers[key] = answers.pop(key)
                return answer
        return None

    def close(self) -> None:
        """End the thread."""
        self._pool.close()

    def _key(self, user: str, digest: bytes, password: bytes) -> bytes:
        # The digest is part of it: a changed password is another question.
        mixed = hashlib.blake2b(key=self._salt)
        for part in (user.encode("utf-8", "surrogatepass"), digest, password):
            mixed.update(len(part).to_bytes(4, "big") + part)
        return mixed.digest()


class _Turns:
    """One at a time. Of those who wait, an address is drawn by lot, and one of those from there.

    A place in a line would be the flood's: whoever asks most often would hold it.
    """

    def __init__(self) -> None:
        self._taken = False
        self._waiting: dict[str, list[asyncio.Future[None]]] = {}

    @asynccontextmanager
    async def turn(self, who: str) -> AsyncIterator[None]:
        """Wait for a turn, and give it on afterwards. Raises `Busy` if it does not come."""
        if self._taken:
            await self._wait(who)
        self._taken = True
        try:
            yield
        finally:
            self._taken = False
            if self._waiting:
                self._taken = True
                self._draw(secrets.choice(list(self._waiting))).set_result(None)

    async def _wait(self, who: str) -> None:
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(who, []).append(mine)
        if sum(map(len, self._waiting.values())) > _LINE:
            crowd = max(self._waiting, key=lambda each: len(self._waiting[each]))
            self._draw(crowd).set_exception(Busy("passwords: too many wait"))
        try:
            async with asyncio.timeout(_WAIT_S):
                await asyncio.shield(mine)
        except TimeoutError:
            if mine.done() and not mine.exception():
                return  # The turn came at the same moment.
            raise Busy(f"passwords: no turn in {_WAIT_S:g} s") from None
        finally:
            if mine in (others := self._waiting.get(who, [])):
                others.remove(mine)
                if not others:
                    del self._waiting[who]

    def _draw(self, who: str) -> asyncio.Future[None]:
        """One of those who wait at `who`, who waits no more."""
        others = self._waiting[who]
        drawn = others.pop(secrets.randbelow(len(others)))
        if not others:
            del self._waiting[who]
        return drawn


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
    import bcrypt  # noqa: PLC0415 - half a MiB that only users of passwords should pay

    try:
        return bcrypt.checkpw(password[:_MAX_PASSWORD], digest)
    except ValueError:
        return False
