"""The exporter-toolkit web configuration file: TLS, client certificates, basic auth, headers.

Format: https://github.com/prometheus/exporter-toolkit/blob/master/docs/web-configuration.md.
Differences are reported when the file is read, and never weaken protection:

- `cert`, `key`, `client_ca` (inline PEM), `client_allowed_sans` and `rate_limit` are refused;
- `RequireAnyClientCert` is refused: Python's TLS takes no certificate that it cannot verify.
  `RequestClientCert` guards nothing by definition, and is as `NoClientCert`;
- TLS 1.0 and 1.1 are refused;
- `http2` and `curve_preferences` have no effect: HTTP/1.1 only, curves as OpenSSL orders them.
"""

from __future__ import annotations

import logging
import re
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NoReturn

from msgspec import Struct

from joulebook.config.load import read
from joulebook.errors import ConfigError
from joulebook.log import LogOnce
from joulebook.reloaded_file import Note, ReloadedFile
from joulebook.untrusted_files import read_named

logger = logging.getLogger(__name__)
_once = LogOnce(logger)

_MOST_BYTES = 1 << 20
_BCRYPT = re.compile(r"\$2[abxy]?\$\d\d\$[./A-Za-z0-9]{53}")

_VERSIONS = {"TLS12": ssl.TLSVersion.TLSv1_2, "TLS13": ssl.TLSVersion.TLSv1_3}

_HEADERS = {
    "Content-Security-Policy",
    "Permissions-Policy",
    "Strict-Transport-Security",
    "X-Content-Type-Options",
    "X-Frame-Options",
    "X-XSS-Protection",
}

_CIPHERS = {
    "TLS_RSA_WITH_AES_128_CBC_SHA": "AES128-SHA",
    "TLS_RSA_WITH_AES_256_CBC_SHA": "AES256-SHA",
    "TLS_RSA_WITH_AES_128_GCM_SHA256": "AES128-GCM-SHA256",
    "TLS_RSA_WITH_AES_256_GCM_SHA384": "AES256-GCM-SHA384",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA": "ECDHE-ECDSA-AES128-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA": "ECDHE-ECDSA-AES256-SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA": "ECDHE-RSA-AES128-SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA": "ECDHE-RSA-AES256-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256": "ECDHE-ECDSA-AES128-GCM-SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384": "ECDHE-ECDSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256": "ECDHE-RSA-AES128-GCM-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384": "ECDHE-RSA-AES256-GCM-SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-ECDSA-CHACHA20-POLY1305",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-RSA-CHACHA20-POLY1305",
}
"""Go's names of the suites that Go offers, and OpenSSL's."""


_CIPHERS_13 = {"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"}
"""Always on, in Go and here."""


class _Tls(Struct, frozen=True):
    cert_file: str = ""
    key_file: str = ""
    client_auth_type: Literal[
        "",
        "NoClientCert",
        "RequestClientCert",
        "RequireAnyClientCert",
        "RequireClientCert",
        "VerifyClientCertIfGiven",
        "RequireAndVerifyClientCert",
    ] = ""
    client_ca_file: str = ""
    min_version: Literal["TLS12", "TLS13"] = "TLS12"
    max_version: Literal["TLS12", "TLS13"] = "TLS13"
    cipher_suites: tuple[str, ...] = ()
    prefer_server_cipher_suites: bool = True
    curve_preferences: tuple[str, ...] = ()


class _Http(Struct, frozen=True):
    http2: bool = True
    headers: dict[str, str] = {}


class _File(Struct, frozen=True):
    tls_server_config: _Tls = _Tls()
    http_server_config: _Http = _Http()
    basic_auth_users: dict[str, str] = {}


@dataclass(frozen=True)
class WebConfig:
    """How the server guards itself. The default is plain HTTP, open to all."""

    tls: ssl.SSLContext | None = None
    users: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    """bcrypt hashes by user name; empty: no password is required."""
    headers: tuple[tuple[bytes, bytes], ...] = ()
    """Sent with every answer, in the place of those that it has by itself (lower case)."""


def read_web_config(path: Path, note: Note = lambda path: path) -> WebConfig:
    """Read the file and the files it names, calling `note` before each.

    Raises `ConfigError`; no message holds a value of the file.
    """
    parsed = read(_File, _yaml(note(path)), str(path), show=False)
    problems = list(_problems(parsed))
    if problems:
        raise ConfigError("\n".join(f"{path}: {problem}" for problem in problems))
    tls = parsed.tls_server_config
    named = (tls.cert_file, tls.key_file, tls.client_ca_file)
    for name in named:
        if name:
            note(path.parent / name)  # `/` keeps an absolute path as it is.
    headers = parsed.http_server_config.headers
    return WebConfig(
        tls=None if tls == _Tls() else _context(path, tls),
        users={user: digest.encode() for user, digest in parsed.basic_auth_users.items()},
        headers=tuple((k.lower().encode(), v.encode()) for k, v in headers.items() if v),
    )


class WebConfigFile:
    """A web configuration file that is read again when it, or a file named in it, changes.

    A change for the worse leaves the last good configuration in force: it is logged once and
    counted, and the file is tried again at every `refresh` until it can be used.
    """

    def __init__(self, path: Path) -> None:
        """Raises `ConfigError`: at the start, a file that cannot be used is fatal."""
        self._path = path
        self._file = ReloadedFile(lambda note: read_web_config(path, note))

    @property
    def current(self) -> WebConfig:
        """The configuration that is in force."""
        return self._file.value

    @property
    def failures(self) -> int:
        """How often a changed file could not be used."""
        return self._file.failures

    def refresh(self) -> bool:
        """Check for changed files; return whether there is a new configuration. May block."""
        try:
            if not self._file.refresh():
                return False
        except ConfigError as error:
            # Files of a set are replaced one by one: half of a new pair is the usual cause.
            _once.failed(
                "web_config",
                "server.web_config: ignoring the changed file, the last good one stays in use: %s",
                error,
                level=logging.ERROR,
            )
            return False
        if not _once.recovered("web_config", "server.web_config: in use again"):
            logger.info("server.web_config: %s has changed and is in use", self._path)
        return True


def _yaml(path: Path) -> object:
    import yaml  # noqa: PLC0415 - 2.5 MiB that only users of this file should pay

    raw = read_named(path, _MOST_BYTES)
    try:
        parsed = yaml.safe_load(raw)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # The text of a YAML error quotes the file, and passwords with it.
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{path}: not YAML{where}") from None
    return {} if parsed is None else parsed


def _problems(parsed: _File) -> Iterator[str]:
    for user, digest in parsed.basic_auth_users.items():
        if not user or ":" in user:
            yield f"basic_auth_users: {user!r}: expected a non-empty user name without a colon"
        if not _BCRYPT.fullmatch(digest):
            yield f'basic_auth_users.{user}: expected a bcrypt hash (htpasswd -nBC 10 "")'
    for name, value in parsed.http_server_config.headers.items():
        if name not in _HEADERS:
            known = ", ".join(sorted(_HEADERS))
            yield f"http_server_config.headers.{name}: expected one of {known}"
        if not value.isascii() or not value.isprintable():
            yield f"http_server_config.headers.{name}: expected printable ASCII on one line"
    if parsed.tls_server_config != _Tls():
        yield from _tls_problems(parsed.tls_server_config)


def _tls_problems(tls: _Tls) -> Iterator[str]:
    for key in ("cert_file", "key_file"):
        if not getattr(tls, key):
            yield f"tls_server_config.{key}: missing"
    if tls.client_auth_type in {"RequireAnyClientCert", "RequireClientCert"}:
        yield (
            f"tls_server_config.client_auth_type: {tls.client_auth_type} verifies nothing and is "
            "not supported; use RequireAndVerifyClientCert"
        )
    verifies = "Verify" in tls.client_auth_type
    if verifies and not tls.client_ca_file:
        yield f"tls_server_config.client_ca_file: needed for {tls.client_auth_type}"
    if tls.client_ca_file and not verifies:
        yield "tls_server_config.client_auth_type: nothing is verified, despite client_ca_file"
    if tls.min_version > tls.max_version:
        yield "tls_server_config.max_version: below min_version"
    for suite in tls.cipher_suites:
        if suite not in _CIPHERS and suite not in _CIPHERS_13:
            yield f"tls_server_config.cipher_suites: unknown suite {suite}"


def _context(path: Path, tls: _Tls) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[tls.min_version]
    context.maximum_version = _VERSIONS[tls.max_version]
    context.options |= ssl.OP_NO_RENEGOTIATION
    if tls.prefer_server_cipher_suites:
        context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols(["http/1.1"])
    suites = [_CIPHERS[suite] for suite in tls.cipher_suites if suite in _CIPHERS]
    key = "cert_file, key_file"
    try:
        context.load_cert_chain(
            path.parent / tls.cert_file, path.parent / tls.key_file, password=_no_password
        )
        if "Verify" in tls.client_auth_type:
            key = "client_ca_file"
            context.load_verify_locations(path.parent / tls.client_ca_file)
            given = tls.client_auth_type == "VerifyClientCertIfGiven"
            context.verify_mode = ssl.CERT_OPTIONAL if given else ssl.CERT_REQUIRED
        if suites:
            key = "cipher_suites"
            context.set_ciphers(":".join(suites))
    except (OSError, ValueError) as error:
        why = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise ConfigError(f"{path}: tls_server_config: {key}: {why}") from None
    return context


def _no_password() -> NoReturn:
    # Without this OpenSSL would ask at the terminal, and the daemon would wait there.
    raise ValueError("the key is encrypted; Joulebook needs one without a password")
