"""Notices through a real mail server, with STARTTLS and a password, and to a real webhook."""

from __future__ import annotations

import email
import email.policy
import functools
import json
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Message
from aiosmtpd.smtp import AuthResult, LoginPassword
from tests.integration.postgresql import PostgreSql
from tests.ports import free_port
from tests.unit.lab.test_notices import NOW_S, closed
from tests.unit.lab.web.served import filled

from joulebook.config import Config
from joulebook.config.lab import Collect
from joulebook.config.lab_server import LabSection, NoticeSection
from joulebook.lab.collected import bills
from joulebook.lab.collected.database import connect, opened
from joulebook.lab.notices.send import NoticeSender


class Inbox(Message):
    """Keeps what was delivered."""

    def __init__(self) -> None:
        super().__init__()
        self.mails: list[EmailMessage] = []
        self.refuses = False

    async def handle_RCPT(
        self, server: Any, session: Any, envelope: Any, address: str, options: list[str]
    ) -> str:
        if self.refuses:
            return "451 later"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    def prepare_message(self, session: Any, envelope: Any) -> Any:
        found = email.message_from_bytes(envelope.content, policy=email.policy.default)
        self.mails.append(found)
        return found

    def handle_message(self, message: Any) -> None:
        pass


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> trustme.CA:
    """The only authority that clients trust."""
    made = trustme.CA()
    made.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    return made


def tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    return context


@pytest.fixture
def inbox(authority: trustme.CA) -> Iterator[tuple[Inbox, str]]:
    """A mail server that wants STARTTLS and a password, and its address."""

    def check(_server: Any, _session: Any, _envelope: Any, _how: str, given: Any) -> AuthResult:
        good = isinstance(given, LoginPassword) and given.password == b"secret"
        return AuthResult(success=good)

    kept = Inbox()
    controller = Controller(
        kept, hostname="localhost", port=free_port(), tls_context=tls(authority),
        require_starttls=True, authenticator=check, auth_required=True,
    )  # fmt: skip
    controller.start()
    try:
        yield kept, f"localhost:{controller.port}"
    finally:
        controller.stop()


@pytest.fixture
def hook(authority: trustme.CA) -> Iterator[tuple[list[dict[str, str]], str]]:
    """A webhook: what it was posted, and its URL."""
    posted: list[dict[str, str]] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    server.socket = tls(authority).wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield posted, f"https://localhost:{server.server_port}/services/T0"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def sender(url: str, smtp: str, password: Path, **more: Any) -> NoticeSender:
    password.write_text("secret\n")
    password.chmod(0o600)
    notices = NoticeSection(
        smtp=smtp, smtp_user="joulebook", smtp_password_file=str(password),
        sender="joulebook@example.org", **more,
    )  # fmt: skip
    config = Config(collect=Collect(url=url), lab=LabSection(notices=notices))
    return NoticeSender(config, functools.partial(connect, url), lambda: NOW_S)


def test_a_statement_by_mail_and_webhook(
    inbox: tuple[Inbox, str], hook: tuple[list[dict[str, str]], str], tmp_path: Path
) -> None:
    (kept, smtp), (posted, address) = inbox, hook
    file = tmp_path / "hook"
    file.write_text(address + "\n")
    file.chmod(0o600)
    to = {"users": {"ada": ("ada@example.org",)}, "accounts": {"nlp": (str(file),)}}
    made = sender(closed(tmp_path), smtp, tmp_path / "password", **to)
    expected = {notice.key.account: notice for notice in made.pending()}
    kept.refuses = True
    assert made.once() == 1, "the webhook only"
    kept.refuses = False
    assert made.once() == 1
    assert made.once() == 0
    (mail,) = kept.mails
    assert (mail["From"], mail["To"]) == ("joulebook@example.org", "ada@example.org")
    text, html = (mail.get_body((form,)) for form in ("plain", "html"))
    assert text is not None
    assert html is not None
    assert text.get_content().split() == expected[""].text.split()
    assert html.get_content().split() == expected[""].html.split()
    (said,) = posted
    assert said == {"text": f"*{expected['nlp'].subject}*\n{expected['nlp'].text}"}


def test_two_servers_send_each_once(
    inbox: tuple[Inbox, str], postgresql: PostgreSql, tmp_path: Path
) -> None:
    kept, smtp = inbox
    url = filled(tmp_path, url=postgresql.new())
    with opened(url) as database:
        bills.close(database, 202611, "root", NOW_S - 60)
    users = {name: (f"{name}@example.org",) for name in ("ada", "grace", "bob")}
    both = [sender(url, smtp, tmp_path / f"password{n}", users=users) for n in range(2)]
    with ThreadPoolExecutor(2) as pool:
        assert sum(pool.map(NoticeSender.once, both)) == 3
    assert sorted(mail["To"] for mail in kept.mails) == sorted(each for (each,) in users.values())
