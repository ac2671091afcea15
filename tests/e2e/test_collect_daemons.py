"""Two daemons as processes of their own, a collector, PostgreSQL: kill -9 on all sides, and the
books are those of the nodes.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from tests.e2e.lab import ROOT, get, until
from tests.integration.collect_lab import TOKEN, CollectorProcess, served
from tests.integration.postgresql import PostgreSql
from tests.ports import free_port

from joulebook.core.evidence import Subject
from joulebook.core.report.dataset import ReportData, Selection
from joulebook.errors import LedgerError
from joulebook.lab.collected.database import opened
from joulebook.lab.collected.report_query import CollectedSource
from joulebook.ledger import report_query
from joulebook.ledger.query import LedgerReader

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]


class Node:
    """`joulebook run` on a recorded trace, with jobs that are simulated and books that are real."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir()
        (folder / "token").write_text(TOKEN)
        self.folder, self.name, self.port = folder, name, free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def ledger(self) -> Path:
        return self.folder / ".build/demo/ledger.db"

    def start(self) -> None:
        env = {
            **os.environ,
            "PYTHONPATH": str(ROOT / "exporter"),
            "JOULEBOOK_NODE_NAME": self.name,
            "JOULEBOOK_SERVER_LISTEN": f"127.0.0.1:{self.port}",
            "JOULEBOOK_SERVER_TOKEN_FILE": str(self.folder / "token"),
        }
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "joulebook", "run", "--demo=always"],
                cwd=self.folder, env=env, stdout=log, stderr=log,
            )  # fmt: skip
        until("the daemon", lambda: get(f"http://127.0.0.1:{self.port}/readyz")[0] == 200, 60)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(30)

    def account(self) -> ReportData:
        with LedgerReader(self.ledger) as reader:
            return report_query.account(reader, 0, 1 << 40, Selection(), self.name)


def test_daemons_and_collector_are_killed_and_the_books_agree(
    tmp_path: Path, postgresql: PostgreSql
) -> None:
    url = postgresql.new()
    nodes = [Node(tmp_path / name, name) for name in ("n1", "n2")]
    targets = [f"127.0.0.1:{node.port}" for node in nodes]
    collector = CollectorProcess(tmp_path / "c", url, targets=targets)
    try:
        for node in nodes:
            node.start()
        collector.start()
        until("both nodes", lambda: ledgers(url) == 2, 60)
        nodes[0].kill()
        collector.kill()
        nodes[0].start()
        collector.start()
        until("joules of a job", lambda: any(posted(url, n.name) > 10**9 for n in nodes), 60)
        for node in nodes:
            node.kill()
        # What was committed last is in the ledger, and is reported as soon as the daemon is back.
        for node in nodes:
            node.start()
        assert collector.stop() == 0
        for node in nodes:
            node.kill()
        # Compared is what does not go on: ledgers that nobody books into.
        with contextlib.ExitStack() as still:
            for node in nodes:
                still.enter_context(
                    served(node.ledger, node.name, node.folder / "token", node.port)
                )
            done = collector.run("collect", "--once")
            assert done.returncode == 0, done.stderr
            checked = collector.run("collect", "--check")
            assert checked.returncode == 0, checked.stdout
        for node in nodes:
            assert of(url, node.name) == energies(node.account()) != {}
        assert ledgers(url) == 2
    finally:
        for node in nodes:
            node.kill()
        if collector.process:
            collector.kill()


def energies(account: ReportData, node: str = "") -> Counter[Subject]:
    found: Counter[Subject] = Counter()
    for row in account.postings:
        if node in {"", row.node}:
            found[row.subject] += row.amount.energy_uj
    return found


def of(url: str, node: str) -> Counter[Subject]:
    return energies(CollectedSource(url).account(0, 1 << 40, Selection()), node)


def posted(url: str, node: str) -> int:
    return of(url, node).total()


def ledgers(url: str) -> int:
    try:
        with opened(url) as database:
            return len(database.rows("SELECT 1 FROM ledgers"))
    except LedgerError:
        return 0
