"""A lab of nodes for the collector: real ledgers behind real servers, ticking on their own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
from tests.integration.test_server import FakePages
from tests.ports import free_port
from tests.unit.ledger.samples import JOB, anchor, tick

from joulebook.core.ledger.state import Books
from joulebook.core.money.accrual import ChargeState
from joulebook.core.money.amounts import Charge, ChargeKey, Exact, Item
from joulebook.lab.collected.database import opened
from joulebook.ledger.query import LedgerReader
from joulebook.ledger.sqlite import SqliteStore
from joulebook.server.auth import PostingsPages, Tokens
from joulebook.server.server import Server
from joulebook.units import NS_PER_S

ROOT = Path(__file__).parents[2]
TOKEN = "collect-0123456789abcdef"
PAID = Charge(Item.ELECTRICITY, "EUR")


def handover(ledger: Path, node: str, cluster: str, token: Path) -> PostingsPages:
    """What a node serves to collectors, in small pages."""

    def page(since: int, ledger_id: str) -> bytes:
        with LedgerReader(ledger) as reader:
            return msgspec.json.encode(reader.page(node, cluster, since, ledger_id, limit=200))

    return PostingsPages(page, Tokens(token))


@contextlib.contextmanager
def served(ledger: Path, node: str, token: Path, port: int) -> Iterator[None]:
    """The ledger of a daemon that has ended, where the daemon served it: nothing is booked now."""
    pages = handover(ledger, node, "", token)
    server = Server(f"127.0.0.1:{port}", FakePages(), export=pages)
    server.start()
    try:
        yield
    finally:
        server.stop()


class LiveNode:
    """A node: its store, its server, and what it booked in truth."""

    def __init__(self, folder: Path, name: str, web_config: Path | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.name, self.path = name, folder / f"{name}.db"
        (folder / "token").write_text(TOKEN + "\n")
        self.true_uj = self.true_atoms = 0
        self._ticks = 0
        self._web_config = web_config
        self._begin()

        self._token = folder / "token"
        self._handover = handover(self.path, name, "lab", self._token)
        self._listen = "127.0.0.1:0"
        self.up()

    def _begin(self) -> None:
        self._store = SqliteStore(self.path, allow_volatile=True, retention_days=1)
        self._books: Books = self._store.load()[0]

    def up(self) -> None:
        """Serve."""
        self._server = Server(self._listen, FakePages(), self._web_config, export=self._handover)
        self._server.start()
        self._listen = f"127.0.0.1:{self._server.port}"

    def down(self) -> None:
        """Answer nobody; booking goes on."""
        self._server.stop()

    @property
    def target(self) -> str:
        """host:port."""
        return self._listen.replace("127.0.0.1", "localhost")

    def tick(self, step_s: int = 40) -> None:
        """Book a tick of `step_s`, and charge for it."""
        self._ticks += step_s
        after, entry = tick(self._books, self._ticks, uj=1_000_003 + self._ticks)
        quarter_s = after.last_ns // NS_PER_S // 900 * 900
        amount = Exact(0, 3 + self._ticks, 10**18)
        sofar = self._books.charges.get(PAID, ChargeState()).total
        after = msgspec.structs.replace(after, charges={PAID: ChargeState(sofar.plus(amount))})
        entry = msgspec.structs.replace(entry, charges={ChargeKey(JOB, quarter_s, PAID): amount})
        self._store.commit(self._books, after, entry, anchor(after))
        self._books = after
        self.true_uj += sum(each.energy_uj for each in entry.postings.values())
        self.true_atoms += amount.atoms

    def rename(self, name: str) -> None:
        """Begin again under another name and at another address, with the ledger that it has."""
        self.down()
        self.name, self._listen = name, "127.0.0.1:0"
        self._handover = handover(self.path, name, "lab", self._token)
        self.up()

    def begin_anew(self) -> None:
        """The ledger is gone, and a new one begins, as after a new disk."""
        self._store.close()
        self.path.unlink()
        self._begin()

    def close(self) -> None:
        """Let go of everything."""
        self._server.stop()
        self._store.close()


@contextlib.contextmanager
def busy(nodes: list[LiveNode], pause_s: float = 0.01) -> Iterator[None]:
    """Nodes that tick all the time, in a thread."""
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(pause_s):
            for node in nodes:
                node.tick()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(30)


class CollectorProcess:
    """`joulebook collect` as a process of its own."""

    def __init__(
        self,
        folder: Path,
        url: str,
        listen: str = "127.0.0.1:0",
        command: str = "collect",
        **keys: object,
    ) -> None:
        self.folder, self.url, self.listen, self.command = folder, url, listen, command
        self.pages = f"http://127.0.0.1:{free_port()}"
        folder.mkdir(parents=True, exist_ok=True)
        token = folder / "collector-token"
        token.write_text(TOKEN)
        values = {"url": url, "token_file": str(token), "every_s": 1.0, "listen": listen,
                  "refresh_s": 1.0, "timeout_s": 5.0, **keys}  # fmt: skip
        lines = []
        for key, value in values.items():
            if isinstance(value, list):
                lines.append(f"{key} = [{', '.join(repr(str(each)) for each in value)}]")
            elif isinstance(value, str):
                lines.append(f"{key} = {value!r}")
            else:
                lines.append(f"{key} = {str(value).lower()}")
        self.config = folder / "collector.toml"
        self.config.write_text(
            "\n".join(["[collect]", *lines, "[lab]", f"listen = '{self.pages[7:]}'", ""])
        )
        self.process: subprocess.Popen[bytes] | None = None

    def _command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "joulebook", "--config", str(self.config), *arguments]

    def run(self, *arguments: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        """One command on the same configuration, to its end."""
        return subprocess.run(
            self._command(*arguments),
            env={**os.environ, "PYTHONPATH": str(ROOT / "exporter")},
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def start(self, *arguments: str) -> None:
        """Begin, as a service unless reported otherwise."""
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self._command(self.command, *arguments),
                env={**os.environ, "PYTHONPATH": str(ROOT / "exporter")},
                stdout=log,
                stderr=log,
            )

    def value(self, metric: str) -> float | None:
        """A metric without labels; `None`: it does not answer yet."""
        try:
            with urllib.request.urlopen(f"http://{self.listen}/metrics", timeout=10) as answer:
                text = answer.read().decode()
        except OSError:
            return None
        return next(float(line.split()[1]) for line in text.splitlines() if line.startswith(metric))

    def page(self) -> tuple[int, str]:
        """What its pages answer to somebody who shows a token."""
        request = urllib.request.Request(self.pages, headers={"Authorization": "Bearer x"})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(30)
        self.process = None

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        if self.process is None:
            return 0
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(60)
        finally:
            self.process = None

    @property
    def log(self) -> str:
        """What it said."""
        path = self.folder / "log"
        return path.read_text() if path.exists() else ""


def collected(url: str) -> tuple[int, int]:
    """The energy (uJ) and money (atoms) in a collected ledger; zeros before there is one."""
    with opened(url) as database:
        energy = database.rows("SELECT energy_uj FROM postings")
        money = database.rows("SELECT whole, nano, rest FROM charges")
    return sum(int(e) for (e,) in energy), sum(Exact(*row).atoms for row in money)


def until(what: str, done: Callable[[], object], timeout_s: float = 90) -> None:
    """Poll until `done()` is true."""
    deadline = time.monotonic() + timeout_s
    while not done():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s} s: {what}")
        time.sleep(0.1)


def truth(nodes: list[LiveNode]) -> tuple[int, int]:
    """What the nodes booked, the way `collected` says it."""
    return sum(node.true_uj for node in nodes), sum(node.true_atoms for node in nodes)


def copy(path: Path, to: Path) -> None:
    """A file as it is, with what sqlite has beside it."""
    for suffix in ("", "-wal", "-shm"):
        if Path(f"{path}{suffix}").exists():
            shutil.copy(f"{path}{suffix}", f"{to}{suffix}")
