"""The collected ledger at the size of a lab of 1,000 nodes and 20,000 jobs a day.

Some nodes for some days go through the real intake; from their rows the growth of the whole lab is
reckoned, and marked as such. The tables of bills are then filled up to one month of the whole lab,
so that a bill's time is measured at its full size.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import msgspec
import psutil
from tests.integration.postgresql import PostgreSql, running

import joulebook
from benchmarks.collect_lab import (
    BEGIN_S,
    GPUS,
    LAB_JOBS,
    LAB_NODES,
    MONTH,
    RUNS,
    Feed,
    fill,
    sweep,
)
from benchmarks.table import Table, median
from benchmarks.world import BUILD
from joulebook.config.lab import Collect
from joulebook.core.ledger.export import PostingsPage
from joulebook.lab.collect.metrics import make_collector
from joulebook.lab.collected import bills, check, compact, ingest
from joulebook.lab.collected.database import Database, opened
from joulebook.lab.collected.months import after

PAGES_A_SECOND = 10_000 / 300
_OTHERS = (
    "SELECT count(1) FROM pg_stat_activity WHERE application_name = 'joulebook'"
    " AND pid <> pg_backend_pid()"
)


def run(args: argparse.Namespace) -> list[Table]:
    """Both engines, one after the other."""
    nodes, days = (10, 1) if args.quick else (60, 2)
    jobs, runs = (50_000, 1_000) if args.quick else (LAB_JOBS * 30, RUNS)
    return tables(nodes, days, jobs, runs)


def tables(nodes: int, days: int, jobs: int, runs: int) -> list[Table]:
    """Measure with so many nodes for so many days, jobs in a month, and runs of an experiment."""
    intake = Table(
        f"Intake of the collected ledger: {nodes} nodes for {days} days, {GPUS} cards each",
        ["engine", "rows", "rows/s", "CPU ms a page", "of the collector", "of the server",
         "% of a core at 33 pages/s"],
    )  # fmt: skip
    intake.notes = [
        "rows/s: backfill in pages of 5,000 rows; a page otherwise is one quarter hour of one node,"
        " as asked every 5 minutes (10,000 nodes are 33 pages/s)",
        "the collector asks by HTTP, decodes, checks and writes; CPU time, so that other programs "
        "count little",
    ]
    growth = Table(
        "Bytes of a node's day on disk, and GiB of 1,000 nodes and 20,000 jobs a day",
        ["engine", "quarter hours", "compacted", "a month of quarter hours", "a year compacted",
         "CPU s to compact a node's month"],
    )  # fmt: skip
    asked = Table(
        f"Questions: bills over {jobs:,} jobs of a month, a statement on {runs:,} runs",
        ["engine", "bill, CPU ms", "bill, ms", "one account, ms", "months, ms",
         "statement, CPU s", "its MiB", "check of all, ms"],
    )  # fmt: skip
    asked.notes = [
        f"20,000 jobs a day are {LAB_JOBS * 30:,} in a month; a statement is the process of "
        "`joulebook report --format json`"
    ]
    with ExitStack() as stack:
        server: PostgreSql = stack.enter_context(running())
        folder = Path(tempfile.mkdtemp(dir=_place()))
        stack.callback(shutil.rmtree, folder)
        for url in (f"sqlite://{folder}/collected.db", server.new()):
            with opened(url, create=True) as database:
                rest = _intake(database, url, nodes, days, intake)
                _growth(database, url, nodes, days, growth, rest)
                _questions(database, url, jobs, runs, asked)
    return [intake, growth, asked]


def _place() -> Path:
    BUILD.mkdir(parents=True, exist_ok=True)
    return BUILD


def _intake(database: Database, url: str, nodes: int, days: int, table: Table) -> float:
    """Returns the bytes of a node's day beside its quarter hours."""
    feeds = [Feed(number) for number in range(1, nodes + 1)]
    rows, spent_s = 0, 0.0
    for feed in feeds:
        for n in range(96 * days):
            feed.quarter(n)
        taken, seconds = _take(database, feed)
        rows, spent_s = rows + taken, spent_s + seconds
    # Bills by day, workloads and what nodes know of them: what grows, and is not compacted.
    rest = _bytes(database, "used", "billed", "workloads", "facts") / nodes / days
    feed = Feed(nodes + 1)
    pages: list[PostingsPage] = []
    for n in range(96 * days):
        feed.quarter(n)
        pages += feed.pages()
    # A node that is behind: each page is asked for as soon as the one before is written.
    last = {"last": pages[-1].last, "meters": pages[-1].meters, "charged": pages[-1].charged}
    bodies = {page.since: msgspec.json.encode(msgspec.structs.replace(page, **last))
              for page in pages}  # fmt: skip
    with _served(bodies) as target, tempfile.NamedTemporaryFile("w", dir=_place()) as token:
        token.write("bench")
        token.flush()
        before = _server_s(url)
        began = time.process_time()
        settings = Collect(targets=(target,), url=url, token_file=token.name)
        collector = make_collector(settings)
        assert collector.once(), collector.states.targets[target].problem
        mine = time.process_time() - began
        while database.lock and database.rows(_OTHERS) != [(0,)]:
            time.sleep(0.1)
        time.sleep(0.5)  # until the server has counted the process that ended
        theirs = _server_s(url) - before
    ms = 1e3 * (mine + theirs) / len(pages)
    table.add(
        url.partition(":")[0],
        rows,
        round(rows / spent_s),
        ms,
        1e3 * mine / len(pages),
        1e3 * theirs / len(pages) if database.lock else None,
        ms * PAGES_A_SECOND / 10,
    )
    return rest


@contextmanager
def _served(bodies: Mapping[int, bytes]) -> Iterator[str]:
    """A node in a process of its own, which answers with these pages."""

    class Page(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = bodies[int(parse_qs(urlsplit(self.path).query)["since"][0])]
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    process = multiprocessing.get_context("fork").Process(target=server.serve_forever, daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        process.terminate()
        process.join(10)
        server.server_close()


def _server_s(url: str) -> float:
    """CPU seconds of all PostgreSQL processes of ours, ended ones too."""
    if url.startswith("sqlite"):
        return 0.0
    found = 0.0
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            ours = {os.getpid()} & {parent.pid for parent in process.parents()}
            if process.name() == "postgres" and ours:
                times = process.cpu_times()
                found += times.user + times.system + times.children_user + times.children_system
    return found


def _growth(database: Database, url: str, nodes: int, days: int, table: Table, rest: float) -> None:
    quarters = _bytes(database, *QUARTERS)
    began = time.process_time()
    bills.close(database, MONTH, "bench", BEGIN_S + 40 * 86_400)
    (done,) = compact.compact(database, BEGIN_S + 40 * 86_400)
    spent_s = time.process_time() - began
    compacted = _bytes(database, *QUARTERS)
    a_day, small = (each / (nodes + 1) / days + rest for each in (quarters, compacted))
    table.add(
        url.partition(":")[0],
        round(a_day),
        round(small),
        a_day * LAB_NODES * 30 / 2**30,
        small * LAB_NODES * 365 / 2**30,
        spent_s / done.ledgers * 30 / days,
    )


QUARTERS = ("postings", "charges", "rates_used", "day_rates")


def _bytes(database: Database, *tables: str) -> int:
    """Bytes of tables with their indexes and partitions."""
    if database.lock:
        ((found,),) = database.rows(
            "SELECT sum(pg_total_relation_size(oid)) FROM pg_class WHERE relkind = 'r'"
            f" AND relname ~ '^({'|'.join(tables)})(_[0-9]{{6}}|)$'"
        )
    else:
        ((found,),) = database.rows(
            "SELECT sum(pgsize - unused) FROM dbstat WHERE aggregate = TRUE AND name IN (SELECT"
            f" name FROM sqlite_master WHERE tbl_name IN ({', '.join(map(repr, tables))}))"
        )
    return int(found)


def _questions(database: Database, url: str, jobs: int, runs: int, table: Table) -> None:
    checked_ms = _ms(lambda: check.check(database))
    sweep(database, runs)
    report = subprocess.Popen(
        [sys.executable, "-m", "joulebook", "report", "--collected", url, "--experiment", "sweep",
         "--format", "json", "--output", str(_place() / "statement.json")],
        env={**os.environ, "PYTHONPATH": str(Path(joulebook.__file__).parents[1])},
    )  # fmt: skip
    _, status, spent = os.wait4(report.pid, 0)
    assert status == 0
    report.returncode = 0
    fill(database, jobs)
    month = after(MONTH)
    began = time.process_time()
    bills.bill(database, month)
    table.add(
        url.partition(":")[0],
        1e3 * (time.process_time() - began),
        _ms(lambda: bills.bill(database, month)),
        _ms(lambda: bills.bill(database, month, "account1")),
        _ms(lambda: bills.periods(database)),
        spent.ru_utime + spent.ru_stime,
        spent.ru_maxrss / 1024,
        checked_ms,
    )


def _take(database: Database, feed: Feed) -> tuple[int, float]:
    """Rows taken in, and seconds; making the pages is not counted."""
    rows, spent_s = 0, 0.0
    for page in feed.pages():
        began = time.perf_counter()
        taken = ingest.take(database, page, "bench", BEGIN_S)
        spent_s += time.perf_counter() - began
        assert taken is not None
        rows += taken.rows
    return rows, spent_s


def _ms(act: Callable[[], object]) -> float:
    """The median of three."""
    spent = []
    for _ in range(3):
        began = time.perf_counter()
        act()
        spent.append((time.perf_counter() - began) * 1e3)
    return median(spent)
