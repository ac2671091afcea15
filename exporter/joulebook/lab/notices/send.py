"""Send notices by mail and to webhooks, each once for all servers of a database.

What is sent is noted before: a server that is killed between the two leaves one notice out rather
than sending it again. A refusal takes the note back, and the next pass tries again.
"""

from __future__ import annotations

import contextlib
import logging
import smtplib
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from email.message import EmailMessage
from email.utils import make_msgid
from pathlib import Path

import msgspec

from joulebook.config import Config
from joulebook.config.lab_server import NoticeSection
from joulebook.errors import ConfigError, HttpFailure, InputError, LedgerError
from joulebook.http_client import Web
from joulebook.lab.collected.database import Database
from joulebook.lab.notices.compose import Notice, NoticeKey, due
from joulebook.log import LogOnce
from joulebook.untrusted_files import read_secret, shown_path

logger = logging.getLogger(__name__)
_once = LogOnce(logger)

_TIMEOUT_S = 30.0
_FIELDS = ", ".join(NoticeKey._fields)
_SLACK = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


class NoticeSender:
    """Sends what is due; `counts` of this process are in the log."""

    def __init__(
        self,
        config: Config,
        connect: Callable[[], Database],
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._settings = config.lab.notices
        self._url = (config.lab.public_url or f"http://{config.lab.listen}").rstrip("/")
        self._connect = connect
        self._now_s = now_s
        self._web = Web(timeout_s=_TIMEOUT_S)

    def run(self, stop: threading.Event, every_s: float, leads: Callable[[], bool]) -> None:
        """Send now and then until told to stop, while this server `leads`."""
        while not stop.is_set():
            if leads():
                try:
                    self.once()
                    _once.recovered("notices", "notices are sent again")
                except LedgerError as error:
                    _once.failed("notices", "notices are not sent: %s", error)
            stop.wait(every_s)

    def pending(self) -> list[Notice]:
        """Return what would go out now. Raises `LedgerError`."""
        with contextlib.closing(self._connect()) as database:
            return list(self._unsent(database))

    def once(self) -> int:
        """Send what is due, and return how much went out. Raises `LedgerError`."""
        sent = 0
        with contextlib.closing(self._connect()) as database:
            for notice in self._unsent(database):
                for to in notice.to:
                    sent += self._send_once(database, notice, to)
        return sent

    def _unsent(self, database: Database) -> Iterator[Notice]:
        notices = list(due(database, self._settings, self._url, int(self._now_s())))
        for notice in notices:
            gone = {
                to
                for (to,) in database.rows(
                    "SELECT destination FROM lab_sent"
                    " WHERE kind = ? AND period = ? AND person = ? AND account = ?",
                    notice.key,
                )
            }
            if left := tuple(to for to in notice.to if to not in gone):
                yield notice._replace(to=left)

    def _send_once(self, database: Database, notice: Notice, to: str) -> bool:
        claimed = database.rows(
            f"INSERT INTO lab_sent ({_FIELDS}, destination, made_s) VALUES (?, ?, ?, ?, ?, ?)"  # noqa: S608
            " ON CONFLICT DO NOTHING RETURNING made_s",
            [*notice.key, to, int(self._now_s())],
        )
        if not claimed:
            return False
        try:
            deliver(self._settings, self._web, notice, to)
        except (InputError, ConfigError) as error:
            database.rows(
                "DELETE FROM lab_sent WHERE kind = ? AND period = ? AND person = ?"
                " AND account = ? AND destination = ?",
                [*notice.key, to],
            )
            _once.failed(f"notice {to}", "%s", error)
            return False
        _once.recovered(f"notice {to}", "notices are sent to %s again", to)
        return True


def deliver(settings: NoticeSection, web: Web, notice: Notice, to: str) -> None:
    """Send to a mail address, or to a webhook. Raises `InputError`, `ConfigError`."""
    if to.startswith("/"):
        hook = _secret(to)
        if not hook.startswith("https://"):
            raise ConfigError(f"{shown_path(Path(to))}: expected the https:// URL of a webhook")
        _post(web, hook, notice)
    elif to.startswith(("https://", "http://")):
        _post(web, to, notice)
    else:
        _mail(settings, notice, to)


def _post(web: Web, url: str, notice: Notice) -> None:
    body = msgspec.json.encode({"text": f"*{notice.subject}*\n{notice.text}".translate(_SLACK)})
    try:
        with contextlib.closing(web.open(url, json=body)) as answer:
            if answer.status >= 300:
                raise InputError(f"webhook: HTTP {answer.status}", reason="refused")
    except HttpFailure as error:
        raise InputError(f"webhook: {error}", reason="down") from None


def as_mail(settings: NoticeSection, notice: Notice, to: str) -> EmailMessage:
    """Return a notice as a mail, in text and HTML."""
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = settings.sender, to, notice.subject
    mail["Message-ID"] = make_msgid(domain=settings.sender.rpartition("@")[2])
    mail["Auto-Submitted"] = "auto-generated"
    mail.set_content(notice.text)
    mail.add_alternative(notice.html, subtype="html")
    return mail


def _mail(settings: NoticeSection, notice: Notice, to: str) -> None:
    host, _, port = settings.smtp.rpartition(":")
    where = f"lab.notices.smtp = {settings.smtp!r}"
    if not host:
        raise ConfigError("lab.notices.smtp is not set: expected host:port of a mail server")
    context = ssl.create_default_context()
    try:
        with (
            smtplib.SMTP_SSL(host, int(port), timeout=_TIMEOUT_S, context=context)
            if settings.smtp_tls == "tls"
            else smtplib.SMTP(host, int(port), timeout=_TIMEOUT_S)
        ) as server:
            if settings.smtp_tls == "starttls":
                server.starttls(context=context)
            if settings.smtp_user:
                server.login(settings.smtp_user, _secret(settings.smtp_password_file))
            server.send_message(as_mail(settings, notice, to))
    except (OSError, smtplib.SMTPException) as error:
        raise InputError(f"{where}: mail to {to}: {error}", reason="refused") from None


def _secret(path: str) -> str:
    try:
        return read_secret(Path(path)).decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{shown_path(Path(path))}: {error}") from None
