"""Where a client finds the daemon, and what it says when it does not."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from joulebook.commands.daemon.client import DaemonUrl, Unreachable, daemon_at, url_of
from joulebook.commands.shared.options import Options
from joulebook.config import Config
from joulebook.config.node import ServerSection
from joulebook.errors import ConfigError


def config(listen: str, web_config: str = "") -> Config:
    return msgspec.structs.replace(
        Config(), server=ServerSection(listen=listen, web_config=web_config)
    )


def arguments(**given: object) -> Options:
    return Options(**{"url": None, "user": None, "ca": None, "insecure": False, **given})


@pytest.mark.parametrize(
    ("listen", "url"),
    [
        ("127.0.0.1:9816", "http://127.0.0.1:9816"),
        (":9816", "http://127.0.0.1:9816"),
        ("0.0.0.0:9816", "http://127.0.0.1:9816"),
        ("node-1:80", "http://node-1:80"),
        ("[fe80::1]:9816", "http://[fe80::1]:9816"),
    ],
)
def test_the_address_is_that_of_the_configuration(listen: str, url: str) -> None:
    assert url_of(config(listen)) == url


def test_every_address_is_the_loopback() -> None:
    assert url_of(config("[::]:9816")) in {"http://[::1]:9816", "http://127.0.0.1:9816"}


def test_tls_is_told_by_the_web_configuration(tmp_path: Path) -> None:
    plain = tmp_path / "web.yml"
    plain.write_text("{}\n")
    assert url_of(config(":1", str(plain))) == "http://127.0.0.1:1"
    assert url_of(config(":1", str(tmp_path / "unreadable.yml"))) == "https://127.0.0.1:1"


@pytest.mark.parametrize(
    "url", ["ftp://h:1", "http://", "http://u:p@h:1", "http://h:99999", "http://h:x", "h:0"]
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match=r"--url: expected http\(s\)://host:port"):
        daemon_at(arguments(url=url), Config(), {})


def test_an_address_may_be_short_or_that_of_the_metrics() -> None:
    assert daemon_at(arguments(url="node-1:9816"), Config(), {}).base == "http://node-1:9816"
    whole = "https://node-1/joulebook/metrics"
    assert daemon_at(arguments(url=whole), Config(), {}).base == "https://node-1/joulebook"


def test_a_password_must_come_from_somewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    with pytest.raises(ConfigError, match="set JOULEBOOK_PASSWORD"):
        daemon_at(arguments(user="ada"), Config(), {})
    daemon_at(arguments(user="ada"), Config(), {"JOULEBOOK_PASSWORD": "x"})


def test_a_file_without_certificates_is_refused(tmp_path: Path) -> None:
    empty = tmp_path / "ca.pem"
    empty.write_text("")
    with pytest.raises(ConfigError, match=r"--ca .*not a certificate file"):
        daemon_at(arguments(ca=empty), Config(), {})


def test_nobody_there() -> None:
    with pytest.raises(
        Unreachable,
        match=r"no daemon answers at http://127.0.0.1:1: cannot be reached \(Connection refused",
    ):
        DaemonUrl("http://127.0.0.1:1").metrics()
