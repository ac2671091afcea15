"""A real PostgreSQL of Debian in a folder of its own, run by a user who is not root."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg


def binaries() -> Path:
    """Where Debian has the newest server."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parts[-2]))
    if not found:
        raise RuntimeError("no PostgreSQL here: tools/bootstrap installs it")
    return found[-1]


class PostgreSql:
    """A cluster that listens on a socket alone, and does fsync as a real one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._databases = 0
        # The server refuses to be root.
        self._user = pwd.getpwnam("postgres") if os.getuid() == 0 else pwd.getpwuid(os.getuid())
        os.chown(folder, self._user.pw_uid, self._user.pw_gid)
        folder.chmod(0o755)
        self._run("initdb", "-D", str(folder / "data"), "-U", "joulebook", "-A", "trust", "-E",
                  "UTF8", "--locale=C.UTF-8", "--no-sync")  # fmt: skip

    def _run(self, name: str, *args: str) -> None:
        subprocess.run(
            [binaries() / name, *args],
            check=True,
            capture_output=True,
            cwd=self.folder,
            user=self._user.pw_uid,
            group=self._user.pw_gid,
            timeout=100,
        )

    def start(self) -> None:
        """Start it, and wait until it answers; after a kill it recovers first."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [binaries() / "postgres", "-D", str(self.folder / "data"),
                 "-c", "listen_addresses=", "-c", f"unix_socket_directories={self.folder}",
                 "-c", "max_connections=40", "-c", "shared_buffers=64MB"],
                cwd=self.folder, stdout=log, stderr=log, user=self._user.pw_uid,
                group=self._user.pw_gid, start_new_session=True,
            )  # fmt: skip
        until = time.monotonic() + 90
        while True:
            try:
                psycopg.connect(self.url("postgres"), connect_timeout=5).close()
                return
            except psycopg.OperationalError:
                if time.monotonic() > until or self._process.poll() is not None:
                    raise RuntimeError((self.folder / "log").read_text()[-2000:]) from None
                time.sleep(0.05)

    def kill(self) -> None:
        """SIGKILL to all of it, as when the power fails."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGKILL)
        # Children have sessions of their own, and end when they see that their parent is gone.
        self._process.wait(30)
        self._process = None

    def stop(self) -> None:
        """Stop it (SIGQUIT: at once, as `pg_ctl stop -m immediate`)."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(60)
            self._process = None

    def url(self, database: str, user: str = "joulebook") -> str:
        """Where that database is."""
        return f"postgresql://{user}@/{database}?host={self.folder}"

    def new(self) -> str:
        """The URL of a database that is empty."""
        self._databases += 1
        name = f"d{self._databases}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as conn:
            conn.execute(f"CREATE DATABASE {name}".encode())
        return self.url(name)


@contextmanager
def running() -> Iterator[PostgreSql]:
    """A cluster that is up, gone in the end. Sockets want a short path."""
    folder = Path(tempfile.mkdtemp(prefix="jb-pg-", dir="/tmp"))
    server = None
    try:
        server = PostgreSql(folder)
        server.start()
        yield server
    finally:
        if server is not None:
            server.stop()
        shutil.rmtree(folder, ignore_errors=True)
