"""A client of the daemon's HTTP server, on the same node or elsewhere, and its process here."""

from __future__ import annotations

import getpass
import shlex
import ssl
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from joulebook.commands.shared.options import Options
from joulebook.config import Config, parse_listen
from joulebook.errors import ConfigError, HttpFailure, JoulebookError
from joulebook.http_client import HttpAnswer, Web, basic, trusting
from joulebook.server.web_config import read_web_config

PASSWORD = "JOULEBOOK_PASSWORD"  # noqa: S105 - the name of the variable
TIMEOUT_S = 5.0
MAX_BYTES = 64 * 1024 * 1024


class Unreachable(JoulebookError):
    """Raised if no daemon answers, or not as expected; the message says what to do."""


class DaemonUrl:
    """A daemon at `base` (`https://host:port`). Ignores proxies in the environment."""

    def __init__(
        self, base: str, *, user: str = "", password: str = "", tls: ssl.SSLContext | None = None
    ) -> None:
        self.base = base
        self._headers = {"Accept": "text/plain", **(basic(f"{user}:{password}") if user else {})}
        self._web = Web(timeout_s=TIMEOUT_S, max_bytes=MAX_BYTES, tls=tls, proxied=False, hosts=1)

    def get(self, path: str) -> HttpAnswer:
        """Get a path. Raises `Unreachable`."""
        try:
            return self._web.ask(self.base + path, headers=self._headers)
        except HttpFailure as error:
            raise Unreachable(self._why(error)) from None

    def metrics(self) -> str:
        """Return the text of `/metrics`. Raises `Unreachable`."""
        answer = self.get("/metrics")
        if answer.status == 401:
            raise Unreachable(
                f"{self.base} requires basic auth: use --user NAME, and give the password in "
                f"{PASSWORD} or when prompted"
            )
        if answer.status != 200:
            raise Unreachable(f"{self.base}/metrics returned status {answer.status}")
        return answer.text

    def _why(self, error: HttpFailure) -> str:
        if error.reason == "certificate":
            return (
                f"the certificate of {self.base} was rejected ({error}): give its CA with --ca "
                "FILE, its host name with --url, or use --insecure"
            )
        if error.reason == "tls":
            return f"{self.base}: {error}; is it http://?"
        if error.reason == "broken":
            return f"{self.base} closed the connection; is it https://?"
        return f"no daemon answers at {self.base}: {error}"


def url_of(config: Config) -> str:
    """Return the daemon's URL for clients on this node; a wildcard address becomes loopback."""
    host, port = parse_listen(config.server.listen)
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    if host == "::1" and not _has_v6_loopback():
        host = "127.0.0.1"
    scheme = "https" if _speaks_tls(config) else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def daemon_here(config: Config) -> DaemonUrl:
    """Return this node's daemon, at the address in its configuration."""
    # On loopback, no secret is sent, and the certificate is for another name.
    return DaemonUrl(url_of(config), tls=trusting(None, "", insecure=True))


def daemon_at(args: Options, config: Config, environ: Mapping[str, str]) -> DaemonUrl:
    """Return the daemon given by `--url`, `--user`, `--ca` and `--insecure`.

    Raises `ConfigError` for an invalid URL or certificate file.
    """
    base = args.url or url_of(config)
    if "://" not in base:
        base = f"http://{base}"
    parts = urlsplit(base)
    try:
        valid = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid or parts.username is not None:
        raise ConfigError("--url: expected http(s)://host:port, without user and password")
    password = ""
    if args.user:
        password = environ.get(PASSWORD) or _asked(args.user)
    base = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/').removesuffix('/metrics')}"
    return DaemonUrl(
        base,
        user=args.user or "",
        password=password,
        tls=trusting(args.ca, "--ca", insecure=args.insecure),
    )


def _asked(user: str) -> str:
    if not sys.stdin.isatty():
        raise ConfigError(f"--user {user}: no terminal to prompt for the password; set {PASSWORD}")
    return getpass.getpass(f"Password of {user}: ")


def _speaks_tls(config: Config) -> bool:
    if not config.server.web_config:
        return False
    try:
        return read_web_config(Path(config.server.web_config)).tls is not None
    except ConfigError:
        # Not readable for us. A server with a web configuration mostly uses TLS.
        return True


def _has_v6_loopback() -> bool:
    try:
        return f"{1:032x} " in Path("/proc/net/if_inet6").read_text()
    except OSError:
        return False


def lock_path(ledger: Path) -> Path:
    """Return the lock file of the daemon of this ledger."""
    return ledger.with_name(ledger.name + ".lock")


def daemon_pid(ledger: Path, proc: Path = Path("/proc")) -> int | None:
    """Return the PID of the process that holds the ledger's lock; `None` if none is visible.

    Reads the kernel's list of locks (proc_locks(5)) instead of trying the lock: holding it even for
    an instant would turn away a daemon that is starting.
    """
    try:
        inode = lock_path(ledger).stat().st_ino
        held = (proc / "locks").read_text().splitlines()
    except OSError:
        return None
    for line in held:
        fields = line.split()
        # 1: FLOCK  ADVISORY  WRITE 4711 fd:01:131078 0 EOF
        if len(fields) < 6 or fields[1] != "FLOCK":
            continue
        if fields[5].rpartition(":")[2] == str(inode):
            return int(fields[4])
    return None


def described(pid: int) -> str:
    """Describe a process as `pid 4711 (joulebook run)`, with its command line if readable.

    The command line is untrusted text: clean it before showing it.
    """
    try:
        words = psutil.Process(pid).cmdline()
    except (psutil.Error, OSError, ValueError):  # ended, hidden by hidepid, or -1 (no process)
        words = []
    return f"pid {pid} ({shlex.join(words)})" if words else f"pid {pid}"
