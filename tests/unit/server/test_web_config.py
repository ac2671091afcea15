"""The exporter-toolkit file: what is read, what is refused, and how a change is picked up."""

from __future__ import annotations

import logging
import os
import ssl
from pathlib import Path

import bcrypt
import pytest
import trustme

from joulebook.errors import ConfigError
from joulebook.server.web_config import WebConfig, WebConfigFile, read_web_config

# A fixed salt: it is in the name of a test, which all workers must give alike.
HASH = bcrypt.hashpw(b"secret", b"$2b$04$abcdefghijklmnopqrstuu").decode()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    ca = trustme.CA()
    certificate = ca.issue_cert("localhost")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    return tmp_path


def written(folder: Path, text: str) -> Path:
    path = folder / "web.yml"
    path.write_text(text)
    return path


def refused(folder: Path, text: str) -> list[str]:
    path = written(folder, text)
    with pytest.raises(ConfigError) as caught:
        read_web_config(path)
    return [line.removeprefix(f"{path}: ") for line in str(caught.value).splitlines()]


TLS = "tls_server_config:\n  cert_file: cert.pem\n  key_file: key.pem\n"


@pytest.mark.parametrize("text", ["", "{}", "tls_server_config: {}", "basic_auth_users: {}"])
def test_a_file_that_asks_for_nothing(folder: Path, text: str) -> None:
    path = written(folder, text)
    assert read_web_config(path) == WebConfig()


class Noted(list[Path]):
    """The files that were read, in that order."""

    def __call__(self, path: Path) -> Path:
        self.append(path)
        return path


def test_tls_with_paths_relative_to_the_file(folder: Path) -> None:
    noted = Noted()
    web = read_web_config(written(folder, TLS), noted)
    assert web.tls is not None
    assert web.tls.minimum_version == ssl.TLSVersion.TLSv1_2
    assert web.tls.verify_mode == ssl.CERT_NONE
    assert noted == [folder / "web.yml", folder / "cert.pem", folder / "key.pem"]


def test_absolute_paths(folder: Path) -> None:
    text = f"tls_server_config: {{cert_file: {folder}/cert.pem, key_file: {folder}/key.pem}}"
    (folder / "inner").mkdir()
    assert read_web_config(written(folder / "inner", text)).tls is not None


def test_all_of_tls(folder: Path) -> None:
    noted = Noted()
    web = read_web_config(
        written(
            folder,
            TLS
            + """
  client_auth_type: RequireAndVerifyClientCert
  client_ca_file: ca.pem
  min_version: TLS12
  max_version: TLS12
  cipher_suites: [TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, TLS_AES_128_GCM_SHA256]
  prefer_server_cipher_suites: false
  curve_preferences: [CurveP256]
http_server_config:
  http2: true
  headers: {X-Frame-Options: deny, Strict-Transport-Security: ""}
""",
        ),
        noted,
    )
    assert folder / "ca.pem" in noted
    assert web.tls is not None
    assert web.tls.verify_mode == ssl.CERT_REQUIRED
    assert web.tls.maximum_version == ssl.TLSVersion.TLSv1_2
    names = {cipher["name"] for cipher in web.tls.get_ciphers()}
    assert {name for name in names if not name.startswith("TLS_")} == {
        "ECDHE-RSA-AES256-GCM-SHA384"
    }
    assert web.headers == ((b"x-frame-options", b"deny"),)


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        ("NoClientCert", ssl.CERT_NONE),
        ("RequestClientCert", ssl.CERT_NONE),
        ("VerifyClientCertIfGiven", ssl.CERT_OPTIONAL),
        ("RequireAndVerifyClientCert", ssl.CERT_REQUIRED),
    ],
)
def test_client_certificates(folder: Path, kind: str, mode: ssl.VerifyMode) -> None:
    ca = "  client_ca_file: ca.pem\n" if "Verify" in kind else ""
    web = read_web_config(written(folder, f"{TLS}  client_auth_type: {kind}\n{ca}"))
    assert web.tls is not None
    assert web.tls.verify_mode == mode


def test_users(folder: Path) -> None:
    web = read_web_config(written(folder, f"basic_auth_users:\n  ada: {HASH}\n"))
    assert web.users == {"ada": HASH.encode()}
    assert HASH not in repr(web)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tls_server_confg: {}", "tls_server_confg: unknown key; did you mean tls_server_config?"),
        (
            TLS + "  min_vers: TLS13",
            "tls_server_config.min_vers: unknown key; did you mean tls_server_config.min_version?",
        ),
        (TLS + "  client_allowed_sans: [a]", "tls_server_config.client_allowed_sans: unknown key"),
        (TLS + "  cert: PEM", "tls_server_config.cert: unknown key; did you mean"),
        ("rate_limit: {interval: 1s}", "rate_limit: unknown key"),
        (TLS + "  client_auth_type: Maybe", "tls_server_config.client_auth_type: expected one of"),
        (
            TLS + "  client_auth_type: RequireAnyClientCert",
            "tls_server_config.client_auth_type: RequireAnyClientCert verifies nothing",
        ),
        (
            TLS + "  client_auth_type: RequireAndVerifyClientCert",
            "tls_server_config.client_ca_file: needed for RequireAndVerifyClientCert",
        ),
        (
            TLS + "  client_ca_file: ca.pem",
            "tls_server_config.client_auth_type: nothing is verified, despite",
        ),
        (TLS + "  min_version: TLS10", 'tls_server_config.min_version: expected one of "TLS12"'),
        (
            TLS + "  min_version: TLS13\n  max_version: TLS12",
            "tls_server_config.max_version: below min_version",
        ),
        (TLS + "  cipher_suites: [RC4]", "tls_server_config.cipher_suites: unknown suite RC4"),
        ("tls_server_config: {key_file: key.pem}", "tls_server_config.cert_file: missing"),
        ("tls_server_config: {cert_file: cert.pem}", "tls_server_config.key_file: missing"),
        (
            "tls_server_config: {cert_file: none.pem, key_file: key.pem}",
            "tls_server_config: cert_file, key_file: No such file or directory",
        ),
        (
            "tls_server_config: {cert_file: key.pem, key_file: key.pem}",
            "tls_server_config: cert_file, key_file: ",
        ),
        (
            TLS + "  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: key.pem",
            "tls_server_config: client_ca_file: ",
        ),
        ("basic_auth_users: {ada: hunter2}", "basic_auth_users.ada: expected a bcrypt hash"),
        ("basic_auth_users: {ada: 1}", "basic_auth_users: expected a table"),
        (
            f"basic_auth_users: {{'a:b': {HASH}}}",
            "basic_auth_users: 'a:b': expected a non-empty user name",
        ),
        ("basic_auth_users: hunter2", "basic_auth_users: expected a table"),
        ("http_server_config: {headers: {Server: x}}", "http_server_config.headers.Server: exp"),
        (
            'http_server_config: {headers: {X-Frame-Options: "a\\r\\nb"}}',
            "http_server_config.headers.X-Frame-Options: expected printable ASCII",
        ),
        ("- a", "(top): expected a table"),
        ("1: 2", "1: unknown key"),
        ("a: [hunter2", "not YAML at line 1"),
        ("a: \x00hunter2", "not YAML"),
        ("[" * 1500, "not YAML"),
    ],
)
def test_what_is_refused_and_no_value_is_said(folder: Path, text: str, said: str) -> None:
    lines = refused(folder, text)
    assert lines[0].startswith(said)
    assert "hunter2" not in "".join(lines)


def test_an_encrypted_key_does_not_ask_at_the_terminal(folder: Path) -> None:
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key((folder / "key.pem").read_bytes(), None)
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"x"),
        )
    )
    (line,) = refused(folder, TLS)
    assert "without a password" in line


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"web\.yml: cannot be read: No such file"):
        WebConfigFile(tmp_path / "web.yml")


def touch_later(path: Path, text: str) -> None:
    before = path.stat().st_mtime_ns if path.exists() else 0
    path.write_text(text)
    os.utime(path, ns=(before + 10**9, before + 10**9))


def test_a_change_is_picked_up(folder: Path) -> None:
    web = WebConfigFile(written(folder, TLS))
    first = web.current
    assert not web.refresh()
    assert web.current is first
    touch_later(folder / "cert.pem", (folder / "cert.pem").read_text())
    assert web.refresh()
    assert web.current.tls is not first.tls
    assert not web.refresh()
    touch_later(folder / "web.yml", f"basic_auth_users: {{ada: {HASH}}}")
    assert web.refresh()
    assert web.current.tls is None
    assert not web.refresh()


def test_a_broken_change_keeps_the_last_good_one(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    web = WebConfigFile(written(folder, TLS))
    good = web.current
    key = (folder / "key.pem").read_text()
    other = trustme.CA().issue_cert("localhost")
    touch_later(folder / "key.pem", other.private_key_pem.bytes().decode())
    for _ in range(3):
        assert not web.refresh()
    assert web.current is good
    assert web.failures == 1
    touch_later(folder / "key.pem", "not a key")
    assert not web.refresh()
    assert web.failures == 2
    touch_later(folder / "key.pem", key)
    assert web.refresh()
    assert web.current is not good
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2
    assert "the last good one stays" in messages[0]
    assert "in use again" in messages[1]


def test_a_file_named_by_a_broken_change_may_come_later(folder: Path) -> None:
    web = WebConfigFile(written(folder, TLS))
    touch_later(folder / "web.yml", TLS.replace("cert.pem", "new.pem"))
    assert not web.refresh()
    (folder / "new.pem").write_bytes((folder / "cert.pem").read_bytes())
    assert web.refresh()
    assert not web.refresh()
    touch_later(folder / "new.pem", (folder / "cert.pem").read_text())
    assert web.refresh()


def test_a_file_that_vanishes(folder: Path) -> None:
    web = WebConfigFile(written(folder, TLS))
    good = web.current
    (folder / "web.yml").unlink()
    assert not web.refresh()
    assert web.current is good
