"""`/v1/postings` over real sockets: who gets it, who is reported 401 or 403, and what comes."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import bcrypt
import msgspec
import pytest
from tests.integration.test_server import FakePages
from tests.integration.test_server import get as got
from tests.unit.commands.ledger_sample import write_ledger

from joulebook.core.ledger.export import PostingsPage
from joulebook.errors import ConfigError
from joulebook.ledger.query import LedgerReader
from joulebook.server.auth import PostingsPages, Tokens
from joulebook.server.server import Server


class Answer(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    body: bytes


def get(server: Server, path: str, headers: dict[str, str] | None = None) -> Answer:
    return Answer(*got(server, path, headers))


TOKEN = "0123456789abcdef-node"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ledger") / "ledger.db"
    write_ledger(path)
    return path


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(TOKEN + "\n")
    return path


@pytest.fixture
def serve(ledger: Path, token_file: Path) -> Iterator[Callable[..., Server]]:
    with contextlib.ExitStack() as stack:

        def page(since: int, ledger_id: str) -> bytes:
            with LedgerReader(ledger) as reader:
                return msgspec.json.encode(reader.page("n1", "", since, ledger_id))

        def start(web_config: Path | None = None, *, on: bool = True) -> Server:
            export = PostingsPages(page, Tokens(token_file)) if on else None
            server = Server("127.0.0.1:0", FakePages(), web_config, export=export)
            server.start()
            stack.callback(server.stop)
            return server

        yield start


def test_a_page_and_the_next(serve: Callable[..., Server]) -> None:
    server = serve()
    answer = get(server, "/v1/postings?since=0", BEARER)
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/json"
    page = msgspec.json.decode(answer.body, type=PostingsPage)
    assert page.rows > 40
    assert page.next == page.last
    again = json.loads(get(server, f"/v1/postings?since={page.next}", BEARER).body)
    assert (again["since"], again["next"], again["postings"]) == (page.next, page.next, [])
    other = json.loads(get(server, f"/v1/postings?since={page.next}&ledger=00ff", BEARER).body)
    assert other["since"] == 0


@pytest.mark.parametrize(
    "query", ["since=x", "since=-1", "since=1&ledger=%27;--", "since=" + "9" * 19]
)
def test_questions_that_are_none(serve: Callable[..., Server], query: str) -> None:
    answer = get(serve(), f"/v1/postings?{query}", BEARER)
    assert answer.status == 400
    assert b"expected" in answer.body


def test_off_without_a_token_file(serve: Callable[..., Server]) -> None:
    assert get(serve(on=False), "/v1/postings?since=0", BEARER).status == 404


def test_only_with_the_token(serve: Callable[..., Server]) -> None:
    server = serve()
    none = get(server, "/v1/postings?since=0")
    assert (none.status, none.headers["WWW-Authenticate"]) == (401, 'Bearer realm="joulebook"')
    for wrong in ("Bearer " + TOKEN[:-1], "Bearer", "Basic " + TOKEN, "bearer x"):
        answer = get(server, "/v1/postings?since=0", {"Authorization": wrong})
        assert answer.status == 401
        assert b"postings" not in answer.body
    assert server.rejected["unauthorized"] == 5
    assert get(server, "/metrics").status == 200


def test_a_password_alone_is_403_and_the_token_alone_does(
    serve: Callable[..., Server], tmp_path: Path
) -> None:
    digest = bcrypt.hashpw(b"pw", bcrypt.gensalt(4)).decode()
    (tmp_path / "web.yml").write_text(f"basic_auth_users: {{ada: {digest}}}\n")
    server = serve(tmp_path / "web.yml")
    user = {"Authorization": "Basic " + base64.b64encode(b"ada:pw").decode()}
    assert get(server, "/v1/postings", user).status == 403
    assert get(server, "/v1/postings", {**user, "X-Joulebook-Token": TOKEN}).status == 200
    assert get(server, "/v1/postings", BEARER).status == 200
    assert get(server, "/v1/postings").status == 401
    # And the token opens no other page.
    assert get(server, "/metrics", BEARER).status == 401


def test_a_token_is_replaced_without_a_break(
    serve: Callable[..., Server], token_file: Path
) -> None:
    server = serve()
    new = {"Authorization": "Bearer " + "n" * 32}
    token_file.write_text(TOKEN + "\n" + "n" * 32 + "\n")
    assert get(server, "/v1/postings", BEARER).status == 200
    assert get(server, "/v1/postings", new).status == 200
    token_file.write_text("n" * 32)
    assert get(server, "/v1/postings", BEARER).status == 401
    assert get(server, "/v1/postings", new).status == 200
    token_file.unlink()
    assert get(server, "/v1/postings", new).status == 401


@pytest.mark.parametrize("text", ["", "short", "a" * 20 + "\n\nb"])
def test_a_file_without_tokens_is_refused_at_the_start(tmp_path: Path, text: str) -> None:
    (tmp_path / "token").write_text(text)
    with pytest.raises(ConfigError, match="expected tokens of 16 or more"):
        Tokens(tmp_path / "token")
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        Tokens(tmp_path / "none")
