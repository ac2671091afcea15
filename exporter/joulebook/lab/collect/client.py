"""A client for a node's pages: TLS, token, time-outs, and a size limit."""

from __future__ import annotations

import ssl
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

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
