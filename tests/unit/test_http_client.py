"""Keys, and what a feed may ask us to wait; the rest of HTTP is in tests/integration."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from pathlib import Path

import msgspec
import pytest

from joulebook.errors import FeedDenied, FeedError, FeedWrong, HttpFailure
from joulebook.http_client import Web, basic, retry_after_s
from joulebook.rates.contract import ApiKey, decoded


def test_a_key_from_a_file_is_read_anew_each_time(tmp_path: Path) -> None:
    file = tmp_path / "key"
    key = ApiKey(file, "NAME", {"NAME": "other"})
    file.write_text("s3cret\n")
    assert (key.read(), key.is_set) == ("s3cret", True)
    file.write_text("rotated")
    assert key.read() == "rotated"
    assert "rotated" not in repr(key) + str(key)


def test_a_key_from_the_environment() -> None:
    key = ApiKey(None, "NAME", {"NAME": "s3cret"})
    assert (key.read(), key.is_set) == ("s3cret", True)
    assert "s3cret" not in repr(key)
    assert not ApiKey(None, "NAME", {}).is_set


@pytest.mark.parametrize("content", [None, b"", b" \n", b"a\r\nX: b", b"\xff", "é".encode()])
def test_what_is_no_key(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "key"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(FeedDenied) as caught:
        ApiKey(file, "NAME", {}).read()
    assert caught.value.reason == "no_key"
    assert str(file) in str(caught.value)


def test_no_key_anywhere_says_where_to_put_one() -> None:
    with pytest.raises(FeedDenied, match=r"no key in NAME \(or set token_file\)"):
        ApiKey(None, "NAME", {}).read()


@pytest.mark.parametrize(
    ("header", "wait_s"),
    [
        ("120", 120),
        ("Thu, 01 Jan 1970 01:00:00 GMT", 2600),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
        ("soon", 0),
        ("", 0),
        ("-5", 0),
        ("9" * 400, 100_000_000),
    ],
)
def test_retry_after(header: str, wait_s: float) -> None:
    assert retry_after_s(header, 1000.0) == wait_s


def test_garbage_is_told_without_control_characters() -> None:
    with pytest.raises(FeedWrong, match="unexpected JSON") as caught:
        decoded(b'{"\x1b[2Ja": ', msgspec.json.Decoder(dict), "feed")
    assert "\x1b" not in str(caught.value)


def test_basic_authentication() -> None:
    assert basic("Aladdin:open sesame") == {"Authorization": "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="}


def test_urllib3_says_nothing() -> None:
    # Its lines show whole addresses, and ENTSO-E wants the key in there.
    assert not logging.getLogger("urllib3.connectionpool").isEnabledFor(logging.CRITICAL)


@pytest.mark.parametrize("url", ["http://[", "ftp://x/", "http://", "http://a b/"])
def test_addresses_that_cannot_be_used(url: str) -> None:
    with pytest.raises(FeedError):
        Web().get(url)


def test_proxies_are_honoured_but_not_for_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://me:pw@proxy.lab:3128")
    monkeypatch.setenv("no_proxy", "inside.lab")
    web = Web()
    proxied = web._pool("https://api.example/x")
    assert proxied.proxy is not None
    assert (proxied.proxy.host, proxied.proxy.port, proxied.proxy.auth) == (
        "proxy.lab",
        3128,
        None,
    )
    for url in ("https://localhost:1/", "https://inside.lab/", "http://api.example/"):
        assert web._pool(url).proxy is None


@pytest.mark.parametrize(
    "line", [b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 Continue\r\n\r\n", b"", b"x"]
)
def test_a_head_that_never_ends_is_given_up(line: bytes) -> None:
    """A byte every so often restarts the time-out of a socket."""
    done = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def drip() -> None:
            with contextlib.suppress(OSError), server.accept()[0] as client:
                client.sendall(line)
                while not done.wait(0.02):
                    client.sendall(b"X" if not line.startswith(b"HTTP/1.1 100") else line)

        thread = threading.Thread(target=drip)
        thread.start()
        try:
            with pytest.raises(HttpFailure, match="timed out"):
                Web(timeout_s=0.4).ask(f"http://127.0.0.1:{server.getsockname()[1]}/")
        finally:
            done.set()
            thread.join()


@pytest.mark.parametrize(
    ("begin", "then"),
    [(b"", b"1\r\nx\r\n"), (b"", b"1"), (b"", b"0;"), (b"0\r\n", b"X: y\r\n")],
)
def test_a_body_that_never_ends_is_given_up(begin: bytes, then: bytes) -> None:
    """Lines between and after the parts of a body are read before anybody sees a part."""
    done = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def drip() -> None:
            with contextlib.suppress(OSError), server.accept()[0] as client:
                client.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + begin)
                while not done.wait(0.02):
                    client.sendall(then)

        thread = threading.Thread(target=drip)
        thread.start()
        try:
            with pytest.raises(HttpFailure, match="not finished after"):
                Web(timeout_s=5, deadline_s=0.3).ask(f"http://127.0.0.1:{server.getsockname()[1]}/")
        finally:
            done.set()
            thread.join()
