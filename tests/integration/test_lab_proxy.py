"""Users whom a reverse proxy names: real nginx, on the socket, by a secret, by a certificate."""

from __future__ import annotations

import contextlib
import functools
import http.client
import json
import os
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import bcrypt
import pytest
import trustme
from tests.integration.test_lab_server import free_port
from tests.integration.test_server import basic
from tests.unit.lab.web.served import bearer, filled

from joulebook.config import Config
from joulebook.config.lab import Collect
from joulebook.config.lab_server import LabSection
from joulebook.config.node import ServerSection
from joulebook.errors import ConfigError
from joulebook.lab.collect.metrics import CollectorPages, make_collector
from joulebook.lab.rates_service import RatesPages
from joulebook.lab.web.identity import SECRET_HEADER
from joulebook.lab.web.server import LabServer, make_lab
from joulebook.rates.build import make_poller

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="nginx as another account: root")

SECRET = "of-the-proxy-0123456789"
WHOAMI = "/api/v1/whoami"


class Site(NamedTuple):
    """A lab server with TLS and a socket, and nginx before it, once for each way."""

    folder: Path
    port: int
    socket: Path
    proxies: Mapping[str, int]


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with tempfile.TemporaryDirectory(prefix="joulebook-proxy-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        certificates(folder)
        (folder / "secret").write_text(f"{SECRET}\n")
        (folder / "secret").chmod(0o600)
        (folder / "web.yml").write_text(
            "tls_server_config: {cert_file: cert.pem, key_file: key.pem, client_ca_file: ca.pem,"
            " client_auth_type: VerifyClientCertIfGiven}\n"
        )
        with lab_server(folder) as server:
            names = ("socket", "secret", "certificate", "wrong_secret", "wrong_certificate")
            proxies = {each: free_port() for each in names}
            with nginx(folder, server.port, proxies):
                yield Site(folder, server.port, folder / "lab.sock", proxies)


def certificates(folder: Path) -> None:
    authority, stranger = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    own = authority.issue_cert("localhost", "127.0.0.1")
    own.private_key_pem.write_to_path(folder / "key.pem")
    own.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    for name, issuer in (("proxy", authority), ("other", authority), ("stranger", stranger)):
        issued = issuer.issue_cert(f"{name}.example.org", common_name=f"{name}.example.org")
        issued.private_key_and_cert_chain_pem.write_to_path(folder / f"{name}.pem")


@contextlib.contextmanager
def lab_server(folder: Path, url: str = "") -> Iterator[LabServer]:
    config = Config(
        collect=Collect(
            url=url or filled(folder), targets=("127.0.0.1:9",), token_file=str(folder / "secret")
        ),
        server=ServerSection(web_config=str(folder / "web.yml")),
        lab=LabSection(
            listen="127.0.0.1:0",
            socket=str(folder / "lab.sock"),
            proxy_user="www-data",
            proxy_secret_file=str(folder / "secret"),
            proxy_certificate="proxy.example.org",
        ),
    )
    poller = make_poller(config, {})
    rates = RatesPages(poller)
    pages = CollectorPages(make_collector(config.collect), rates.families)
    server = LabServer(make_lab(config, poller), pages, rates)
    server.start()
    try:
        yield server
    finally:
        server.stop()


@contextlib.contextmanager
def nginx(folder: Path, port: int, proxies: Mapping[str, int]) -> Iterator[None]:
    """Real nginx, which knows its users by a password."""
    hashed = bcrypt.hashpw(b"pw", bcrypt.gensalt(4)).decode()
    (folder / "htpasswd").write_text(f"ada:{hashed}\nroot:{hashed}\n")
    # Its sessions of TLS are by address: one that was begun without the certificate has none.
    tls = f"proxy_pass https://127.0.0.1:{port}; proxy_ssl_session_reuse off;"

    def shows(name: str) -> str:
        return f"proxy_ssl_certificate {name}.pem; proxy_ssl_certificate_key {name}.pem;"

    ways = {
        "socket": f"proxy_pass http://unix:{folder}/lab.sock;",
        "secret": f'{tls} proxy_set_header {SECRET_HEADER} "{SECRET}";',
        "certificate": f"{tls} {shows('proxy')}",
        "wrong_secret": f'{tls} proxy_set_header {SECRET_HEADER} "{SECRET}x";',
        "wrong_certificate": f"{tls} {shows('other')}",
    }
    servers = "\n".join(
        f"server {{ listen 127.0.0.1:{proxies[name]}; auth_basic lab; auth_basic_user_file"
        f" htpasswd; location / {{ {way} proxy_set_header X-Remote-User $remote_user;"
        " proxy_set_header Host localhost; } }"
        for name, way in ways.items()
    )
    places = " ".join(
        f"{kind}_temp_path {folder}/tmp;"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; user www-data; worker_processes 1; pid {folder}/nginx.pid;\n"
        f"error_log stderr; events {{}}\nhttp {{ access_log off; {places}\n{servers}\n}}\n"
    )
    with (folder / "nginx.log").open("wb") as log:
        process = subprocess.Popen(
            ["/usr/sbin/nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")],
            stdout=log, stderr=log,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        for each in proxies.values():
            while True:
                assert process.poll() is None, (folder / "nginx.log").read_text()
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", each)):
                    break
                assert time.monotonic() < deadline
                time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(30)


def by_proxy(site: Site, way: str, headers: Mapping[str, str] | None = None) -> tuple[int, Any]:
    return asked(
        http.client.HTTPConnection("127.0.0.1", site.proxies[way], timeout=30),
        basic("ada", "pw") | dict(headers or {}),
    )


def asked(connection: http.client.HTTPConnection, headers: Mapping[str, str]) -> tuple[int, Any]:
    with contextlib.closing(connection):
        connection.request("GET", WHOAMI, headers=dict(headers))
        answer = connection.getresponse()
        body = answer.read()
    kind = answer.headers.get_content_type()
    return answer.status, json.loads(body) if kind == "application/json" else body.decode()


@pytest.mark.parametrize("way", ["socket", "secret", "certificate"])
def test_a_proxy_that_proves_itself_names_users(site: Site, way: str) -> None:
    for hostile in ({}, {"X-Remote-User": "root"}, {SECRET_HEADER: "x" * 20}):
        status, who = by_proxy(site, way, hostile)
        assert (status, who["user"], who["how"]) == (200, "ada", "proxy")
    status, who = by_proxy(site, way, basic("root", "pw"))
    assert (who["user"], who["admin"]) == ("root", False), "the proxy's root is nobody's here"
    assert by_proxy(site, way, basic("ada", "wrong"))[0] == 401


def test_a_proxy_that_does_not_is_nobody(site: Site) -> None:
    status, said = by_proxy(site, "wrong_secret")
    assert status == 401
    assert "secret" in said["error"]
    assert SECRET not in said["error"]
    status, who = by_proxy(site, "wrong_certificate")
    assert (status, who["user"]) == (200, "")


def direct(site: Site, headers: Mapping[str, str], certificate: str = "") -> tuple[int, Any]:
    context = ssl.create_default_context(cafile=site.folder / "ca.pem")
    if certificate:
        context.load_cert_chain(site.folder / certificate)
    connect = functools.partial(http.client.HTTPSConnection, "localhost", site.port, timeout=30)
    return asked(connect(context=context), headers)


def test_an_address_is_no_proof(site: Site) -> None:
    named = {"X-Remote-User": "ada", "X-Forwarded-For": "127.0.0.1", "X-Real-IP": "127.0.0.1"}
    assert direct(site, named)[1]["user"] == ""
    assert direct(site, named, "other.pem")[1]["user"] == ""
    assert direct(site, named, "proxy.pem")[1]["user"] == "ada"
    with pytest.raises((ssl.SSLError, OSError, http.client.HTTPException)):
        direct(site, named, "stranger.pem")
    assert direct(site, {**named, SECRET_HEADER: ""})[0] == 401
    assert direct(site, {SECRET_HEADER: SECRET})[1]["user"] == ""
    assert direct(site, {**named, SECRET_HEADER: SECRET})[1]["user"] == "ada"


def test_hostile_names_are_refused(site: Site) -> None:
    for name in ("", " ", "a\tb", "a  b", "x" * 500, "a\u202eb".encode().decode("latin-1"), "\xad"):
        status, said = direct(site, {SECRET_HEADER: SECRET, "X-Remote-User": name})
        assert status == 401, name
        assert "expected the name of one user" in said["error"]


def test_a_secret_that_is_taken_away_opens_nothing(site: Site) -> None:
    file = site.folder / "secret"
    named = {SECRET_HEADER: SECRET, "X-Remote-User": "ada"}
    file.write_text("another-one-0123456789\n")
    assert direct(site, named)[0] == 401
    file.write_text("another-one-0123456789\n" + SECRET + "\n")
    assert direct(site, named)[1]["user"] == "ada"


@pytest.mark.parametrize("content", [None, "", "short\n"])
def test_a_secret_that_cannot_be_used_is_told_at_the_start(
    tmp_path: Path, content: str | None
) -> None:
    file = tmp_path / "secret"
    if content is not None:
        file.write_text(content)
        file.chmod(0o600)
    config = Config(lab=LabSection(proxy_secret_file=str(file)))
    with pytest.raises(ConfigError, match=r"lab.proxy_secret_file"):
        make_lab(config, make_poller(config, {}))


def test_metrics_want_a_token_or_a_password(tmp_path: Path) -> None:
    url = filled(tmp_path)
    hashed = bcrypt.hashpw(b"pw", bcrypt.gensalt(4)).decode()
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    (tmp_path / "secret").chmod(0o600)
    token = dict(bearer(url, "prometheus", time.time))
    for web, ways in (
        ("", {"token": (token, 200), "password": (basic("p", "pw"), 401), "nothing": ({}, 401)}),
        (
            f"basic_auth_users: {{p: {hashed}}}\n",
            {
                "token": (token, 200), "password": (basic("p", "pw"), 200), "nothing": ({}, 401),
                "wrong password": (basic("p", "no"), 401),
                "wrong token": ({"Authorization": "Bearer no"}, 401),
            },
        ),
    ):  # fmt: skip
        (tmp_path / "web.yml").write_text(web)
        with lab_server(tmp_path, url) as server:
            for way, (headers, status) in ways.items():
                connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
                with contextlib.closing(connection):
                    connection.request("GET", "/metrics", headers=headers)
                    answer = connection.getresponse()
                    told = answer.read().decode()
                assert answer.status == status, way
                assert ("joulebook_collect_targets" in told) == (status == 200)
