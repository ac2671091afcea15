"""A client for nodes' pages (TLS, token, time-outs, a size limit), and when each is due."""

from __future__ import annotations

import heapq
import random
import ssl
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from joulebook.backoff import pause_s
from joulebook.config.lab import Collect
from joulebook.core.ledger.export import PATH, PostingsPage
from joulebook.core.sanitize import one_line
from joulebook.errors import ConfigError, FeedError, FeedWrong, InputError
from joulebook.http_client import Web, basic
from joulebook.reloaded_file import Note, ReloadedFile
from joulebook.untrusted_files import read_secret, shown_path

MAX_BYTES = 16 * 2**20
"""A page of 5,000 rows is below 1 MiB."""

_MAX_SECRET = 4096

_PAGE = msgspec.json.Decoder(PostingsPage)


class Unanswered(InputError):
    """A target gave no page; `reason` is the label value."""


class NodeClient:
    """A client for several nodes at a time. Secrets and certificates are re-read when they
    change.
    """

    def __init__(self, settings: Collect) -> None:
        """Raises `ConfigError` for files that cannot be used at the start."""
        self._settings = settings
        self._files = [
            Path(name) for name in (settings.ca_file, settings.cert_file, settings.key_file) if name
        ]
        self._web = ReloadedFile(self._made)
        self._headers()

    def refresh(self) -> None:
        """Reload changed certificates. Raises `ConfigError`; the old ones then stay."""
        self._web.refresh()

    def page(self, target: str, since: int, ledger_id: str) -> PostingsPage:
        """Return the page after `since` of that ledger (`""`: whichever it has).

        Raises `Unanswered`, and `ConfigError` if the token cannot be read.
        """
        asked: dict[str, str | int] = {"since": since}
        if ledger_id:
            asked["ledger"] = ledger_id
        try:
            body = self._web.value.get(f"{target}{PATH}", asked, self._headers(), secret=True)
        except FeedError as error:
            hint = ""
            if isinstance(error, FeedWrong) and str(error).endswith(" 404"):
                hint = ": server.token_file is not set there, or it is not Joulebook"
            raise Unanswered(f"{error}{hint}", reason=error.reason) from None
        try:
            return _PAGE.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Unanswered(
                f"{target}: no page: {one_line(str(error))}", reason="garbage"
            ) from None

    def _headers(self) -> dict[str, str]:
        settings = self._settings
        token = ""
        if settings.token_file:
            token = secret("collect.token_file", settings.token_file)
        if settings.user:
            password = secret("collect.password_file", settings.password_file)
            own = {"X-Joulebook-Token": token} if token else {}
            return {**basic(f"{settings.user}:{password}"), **own}
        return {"Authorization": f"Bearer {token}"} if token else {}

    def _made(self, note: Note) -> Web:
        settings = self._settings
        for file in self._files:
            note(file)
        try:
            tls = ssl.create_default_context(cafile=settings.ca_file or None)
            if settings.cert_file:
                tls.load_cert_chain(settings.cert_file, settings.key_file)
        except (OSError, ssl.SSLError) as error:
            files = ", ".join(map(str, self._files))
            raise ConfigError(f"collect: certificates {files} cannot be used: {error}") from None
        timeout_s = settings.timeout_s
        return Web(
            timeout_s=timeout_s,
            deadline_s=6 * timeout_s,
            max_bytes=MAX_BYTES,
            tls=tls,
            proxied=False,
            hosts=2 * settings.parallel,
            server_name=settings.server_name,
        )


def secret(key: str, path: str) -> str:
    """Return the first word of a file, as it is now. Raises `ConfigError`; never shows it."""
    try:
        words = read_secret(Path(path), _MAX_SECRET).split()
    except OSError as error:
        raise ConfigError(f"{key}: {shown_path(path)}: cannot be read: {error.strerror}") from None
    if not words or not words[0].isascii():
        raise ConfigError(f"{key}: {path}: it has no token or password")
    return words[0].decode()


def address(text: str, scheme: str) -> str:
    """`host:port` or a URL as the URL of a node. Raises `ValueError`."""
    url = (text if "://" in text else f"{scheme}://{text}").rstrip("/")
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.path or parts.query:
        raise ValueError(f"{text!r}: expected host:port or http(s)://host:port")
    if "@" in parts.netloc or parts.port == 0:
        raise ValueError(f"{text!r}: expected host:port without a user")
    return f"{parts.scheme}://{parts.netloc}"


FIRST_S = 5.0
"""After the first failure; doubled with each, up to the interval or five minutes."""

MOST_S = 300.0


class TargetState:
    """One target. Times are of a monotonic clock, but `good_s`, which is UTC."""

    def __init__(self, due: float) -> None:
        self.due = due
        self.asked = False
        """Whether an answer is awaited."""
        self.failures = 0
        """In a row."""
        self.repeats = 0
        """Questions in a row that had to be asked otherwise."""
        self.problem = ""
        self.reason = ""
        """The short word for the problem."""
        self.good_s: float | None = None
        self.behind = 0
        """Numbers between what is here and the newest there, at the last answer."""
        self.node = ("", "")
        self.ledger_id = ""
        self.errors: Counter[str] = Counter()

    def failed(self, now: float, every_s: float, reason: str, problem: str, lot: float) -> None:
        """Schedule a retry with back-off; `lot` in [0, 1) spreads targets."""
        self.failures += 1
        self.repeats = 0
        self.problem, self.reason = problem, reason
        self.errors[reason] += 1
        self.due = now + pause_s(self.failures, FIRST_S, max(every_s, MOST_S), lambda: lot)

    def went_well(self, now: float, now_s: float, every_s: float, behind: int, lot: float) -> None:
        """Schedule the next request after the interval, or at once if there is more."""
        self.failures = self.repeats = 0
        self.problem = self.reason = ""
        self.good_s = now_s
        self.behind = behind
        self.due = now if behind else now + every_s * (0.9 + lot / 5)


class TargetList:
    """All targets. Used by one thread; what is done for a page does not grow with their number."""

    def __init__(self, lot: Callable[[], float] = random.random) -> None:  # no secret
        self._lot = lot
        self.targets: dict[str, TargetState] = {}
        self.asked = 0
        """How many answers are awaited."""
        self._queue: list[tuple[float, str]] = []
        """When targets are due; what is no longer so is passed over."""
        self._at: dict[tuple[str, str], set[str]] = {}
        """The targets at which each node was found."""

    def renew(self, urls: Iterable[str], now: float, spread_s: float) -> None:
        """Replace the targets; new ones are requested within `spread_s`."""
        wanted = set(urls)
        for url in self.targets.keys() - wanted:
            if not self.targets[url].asked:
                self._at.get(self.targets.pop(url).node, set()).discard(url)
        for url in sorted(wanted - self.targets.keys()):
            self.targets[url] = TargetState(now + self._lot() * spread_s)
            heapq.heappush(self._queue, (self.targets[url].due, url))

    def due(self, now: float, most: int) -> list[str]:
        """Return at most this many due targets, the longest due first; they are asked now."""
        found: list[str] = []
        while len(found) < most and self._queue and self._queue[0][0] <= now:
            due, url = heapq.heappop(self._queue)
            state = self.targets.get(url)
            if state is not None and not state.asked and state.due == due:
                state.asked = True
                self.asked += 1
                found.append(url)
        return found

    def twin(self, url: str, node: tuple[str, str], ledger_id: str) -> str:
        """Another target that is this node too, with another ledger (`""`: none)."""
        for other in sorted(self._at.get(node, ())):
            if other != url and self.targets[other].ledger_id != ledger_id:
                return other
        return ""

    def found(self, url: str, node: tuple[str, str], ledger_id: str) -> None:
        """A target is that node, with that ledger."""
        state = self.targets[url]
        self._at.get(state.node, set()).discard(url)
        self._at.setdefault(node, set()).add(url)
        state.node, state.ledger_id = node, ledger_id

    def again(self, url: str, now: float) -> None:
        """Ask at once, otherwise."""
        self.targets[url].due = now
        self._answered(url)

    def _answered(self, url: str) -> None:
        state = self.targets[url]
        self.asked -= state.asked
        state.asked = False
        heapq.heappush(self._queue, (state.due, url))

    def failed(self, url: str, now: float, every_s: float, reason: str, problem: str) -> None:
        """A target gave nothing that could be used."""
        if url in self.targets:
            self.targets[url].failed(now, every_s, reason, problem, self._lot())
            self._answered(url)

    def went_well(self, url: str, now: float, now_s: float, every_s: float, behind: int) -> None:
        """A target's page is in the ledger."""
        if url in self.targets:
            self.targets[url].went_well(now, now_s, every_s, behind, self._lot())
            self._answered(url)
