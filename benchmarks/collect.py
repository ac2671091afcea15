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
from benchmarks.table import Table, median
from benchmarks.world import BUILD
from joulebook.config.lab import Collect
from joulebook.core.ledger.export import (
    MAX_ROWS,
    VERSION,
    ChargedRow,
    ChargeRow,
    MeterRow,
    PostingRow,
    PostingsPage,
    RateRow,
    WorkloadRow,
)
from joulebook.core.money.amounts import Exact
from joulebook.lab.collect.metrics import make_collector
from joulebook.lab.collected import bills, check, compact, ingest
from joulebook.lab.collected.database import Database, opened
from joulebook.lab.collected.months import after
from joulebook.lab.collected.schema import OWNER, BilledOwner, numbered

LAB_NODES = 1_000
LAB_JOBS = 20_000
GPUS = 8
JOBS_AT_A_TIME = 4
JOBS_A_DAY = LAB_JOBS // LAB_NODES
ITEMS = ("electricity", "hardware", "co2e")
BEGIN_S = 1_793_491_200
"""2026-11-01T00:00Z."""

MONTH, MONTH_S = 202611, 30 * 86_400
RUNS = 10_000
"""Of one experiment."""
PAGES_A_SECOND = 10_000 / 300

_JOBS = "WITH RECURSIVE job (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM job WHERE n < ?)"
_USED = f"""
INSERT INTO used {_JOBS}
SELECT 1 + n % 1000, ? + 86400 * (n % 30), 202612, 1000000 + n, 1 + n % ?, 'gpu',
       17000000000000 + n, 500000000000, 34560000000000, 0 FROM job
"""
_BILLED = f"""
INSERT INTO billed {_JOBS}
SELECT 1 + n % 1000, ? + 86400 * (n % 30), 202612, 1000000 + n, 1 + n % ?, ?, ?,
       1 + n % 7, 123456789, n FROM job
"""
_MONTHS = (
    "INSERT INTO month_used SELECT month, owner, 202610, component, sum(energy_uj), sum(idle_uj),"
    " sum(held_ns), sum(idle_ns) FROM used WHERE workload >= 1000000 GROUP BY 1, 2, 4",
    "INSERT INTO month_billed SELECT month, owner, 202610, item, currency, sum(whole), sum(nano),"
    " sum(rest) FROM billed WHERE workload >= 1000000 GROUP BY 1, 2, 4, 5",
)


class Feed:
    """What a node tells of some days: `GPUS` cards, four jobs at a time on two cards each."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.seq = self._told = 0
        self.energy_uj = [0] * GPUS
        self.charged = [0] * len(ITEMS)
        self._waiting: list[WorkloadRow | PostingRow | ChargeRow | RateRow] = []
        self._jobs: dict[int, WorkloadRow] = {}

    def _next(self) -> int:
        self.seq += 1
        return self.seq

    def quarter(self, n: int) -> None:
        """Book the n-th quarter hour."""
        quarter_s = BEGIN_S + 900 * n
        turn = n * JOBS_A_DAY // (96 * JOBS_AT_A_TIME)
        for place in range(JOBS_AT_A_TIME):
            job = 1 + turn * JOBS_AT_A_TIME + place
            if job not in self._jobs:
                name = f"{self.number * 1_000_000 + job}"
                self._jobs[job] = WorkloadRow(
                    job, self._next(), "slurm", name, name, "train", f"user{job % 40}",
                    f"account{self.number % 10}", f"experiment{job % 50}", quarter_s * 10**9,
                    (quarter_s + 900 * 96 * JOBS_AT_A_TIME // JOBS_A_DAY) * 10**9,
                    True, 2, "prolog", {"partition": "a100"},
                )  # fmt: skip
                self._waiting.append(self._jobs[job])
            for card in (2 * place, 2 * place + 1):
                energy_uj = 450_000_000_000 + n
                self.energy_uj[card] += energy_uj
                self._waiting.append(
                    PostingRow(self._next(), quarter_s, card + 1, job, "", "counter", "prolog",
                               energy_uj, n, 900 * 10**9)
                )  # fmt: skip
            for kind, item in enumerate(ITEMS):
                self.charged[kind] += 1
                currency = "" if item == "co2e" else "EUR"
                self._waiting.append(
                    ChargeRow(self._next(), quarter_s, job, "", item, currency, 0, 1, 0)
                )
        hour = 200 + n // 4 % 24
        for quantity, value in (("price", hour), ("carbon", hour), ("pue", 1_200_000)):
            self._waiting.append(
                RateRow(self._next(), quarter_s, quantity, value, "unit", "feed", "measured",
                        450_000_000_000 * GPUS, 0)
            )  # fmt: skip

    def pages(self) -> Iterator[PostingsPage]:
        """All that is waiting, in pages as a daemon makes them."""
        while self._waiting:
            some, self._waiting = self._waiting[:MAX_ROWS], self._waiting[MAX_ROWS:]
            postings = tuple(row for row in some if isinstance(row, PostingRow))
            charges = tuple(row for row in some if isinstance(row, ChargeRow))
            named = {row.workload_id for row in postings} | {row.workload_id for row in charges}
            yield PostingsPage(
                VERSION, f"n{self.number:04}", "", f"{self.number:032x}", 0, self._told,
                some[-1].seq, self.seq, BEGIN_S + MONTH_S,
                tuple(MeterRow(i + 1, "gpu", f"GPU-{self.number}-{i}", "NVIDIA H100", e, 0)
                      for i, e in enumerate(self.energy_uj)),
                tuple(ChargedRow(item, "" if item == "co2e" else "EUR", (0, n, 0), (0, 0, 0))
                      for item, n in zip(ITEMS, self.charged, strict=True)),
                tuple(self._jobs[job] for job in sorted(named)),
                postings, charges, tuple(row for row in some if isinstance(row, RateRow)),
            )  # fmt: skip
            self._told = some[-1].seq


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
        f"Questions to it: bills over {jobs:,} jobs of one month, a statement on {runs:,} runs",
        ["engine", "bill, CPU ms", "bill, ms", "one account, ms", "months, ms",
         "statement, CPU s", "its MiB", "check of all, ms"],
    )  # fmt: skip
    asked.notes = [f"20,000 jobs a day are {LAB_JOBS * 30:,} in a month; the statement is `joulebook "
                   "report --format json`, the whole process"]  # fmt: skip
    with ExitStack() as stack:
        server: PostgreSql = stack.enter_context(running())
        folder = Path(tempfile.mkdtemp(dir=_place()))
        stack.callback(shutil.rmtree, folder)
        for url in (f"sqlite://{folder}/collected.db", server.new()):
            with opened(url, create=True) as database:
                empty = _bytes(database)
                _intake(database, url, nodes, days, intake)
                _growth(database, url, nodes, days, growth, empty)
                _questions(database, url, jobs, runs, asked)
    return [intake, growth, asked]


def _intake(database: Database, url: str, nodes: int, days: int, table: Table) -> None:
    feeds = [Feed(number) for number in range(1, nodes + 1)]
    rows, spent_s = 0, 0.0
    for feed in feeds:
        for n in range(96 * days):
            feed.quarter(n)
        taken, seconds = _take(database, feed)
        rows, spent_s = rows + taken, spent_s + seconds
    feed = Feed(nodes + 1)
    pages = []
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
        assert collector.once(), collector.roll.targets[target].problem
        mine = time.process_time() - began
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
            if process.name() == "postgres":
                times = process.cpu_times()
                found += times.user + times.system + times.children_user + times.children_system
    return found


def _growth(database: Database, url: str, nodes: int, days: int, table: Table, empty: int) -> None:
    quarters = _of_quarters(database)
    rest = _bytes(database) - quarters - empty
    began = time.process_time()
    bills.close(database, MONTH, "bench", BEGIN_S + 40 * 86_400)
    (done,) = compact.compact(database, BEGIN_S + 40 * 86_400)
    spent_s = time.process_time() - began
    compacted = _of_quarters(database)
    # Bills by day, workloads and what nodes know of them stay as they are.
    a_day, small = ((each + rest) / (nodes + 1) / days for each in (quarters, compacted))
    table.add(
        url.partition(":")[0],
        round(a_day),
        round(small),
        a_day * LAB_NODES * 30 / 2**30,
        small * LAB_NODES * 365 / 2**30,
        spent_s / done.ledgers * 30 / days,
    )


def _of_quarters(database: Database) -> int:
    """Bytes of the tables that are compacted."""
    if database.lock:
        ((found,),) = database.rows(
            "SELECT sum(pg_total_relation_size(oid)) FROM pg_class WHERE relkind = 'r'"
            " AND relname ~ '^(postings|charges|rates_used)_|^day_rates$'"
        )
    else:
        ((found,),) = database.rows(
            "SELECT sum(pgsize - unused) FROM dbstat WHERE aggregate = TRUE AND name IN"
            " (SELECT name FROM sqlite_master WHERE tbl_name IN"
            " ('postings', 'charges', 'rates_used', 'day_rates'))"
        )
    return int(found)


def _questions(database: Database, url: str, jobs: int, runs: int, table: Table) -> None:
    checked_ms = _ms(lambda: check.check(database))
    sweep(database, runs)
    report = subprocess.Popen(
        [sys.executable, "-m", "joulebook", "report", "--collected", url, "--experiment", "sweep",
         "--format", "json", "--output", str(_place() / "statement.json")],
        env={**os.environ, "PYTHONPATH": str(Path(joulebook.__file__).parents[1])},
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    _, status, spent = os.wait4(report.pid, 0)
    assert status == 0
    report.returncode = 0
    _fill(database, jobs)
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


def sweep(database: Database, runs: int) -> None:
    """An experiment of so many runs, each on a node and two cards, in a month that is compacted."""
    feed = Feed(90_001)
    feed.quarter(0)
    (page,) = feed.pages()
    kinds = ("electricity", "hardware", "co2e")
    postings, charges, workloads = [], [], []
    for n in range(runs):
        name, begin_s = f"s{n}", BEGIN_S + 900 * (n % 2_880)
        row = msgspec.structs.replace(
            page.workloads[0], id=n + 1, workload=name, display=name, experiment="sweep",
            user="ada", account="sweep", started_utc_ns=begin_s * 10**9,
            ended_utc_ns=(begin_s + 900) * 10**9,
        )  # fmt: skip
        workloads.append(row)
        for card in (1, 2):
            postings.append(
                PostingRow(
                    n + 1, begin_s, card, n + 1, "", "counter", "prolog", 10**11, 0, 9 * 10**11
                )
            )
        for item in kinds:
            currency = "" if item == "co2e" else "EUR"
            charges.append(ChargeRow(n + 1, begin_s, n + 1, "", item, currency, 0, n + 1, 7))
    rates = tuple(
        RateRow(1, BEGIN_S + 900 * q, quantity, value, "unit", "feed", "measured",
                2 * 10**11 * -(-runs // 2_880), 0)
        for q in range(min(runs, 2_880))
        for quantity, value in (("price", q // 4 % 24), ("carbon", q // 4 % 24), ("pue", 1_200_000))
    )  # fmt: skip
    meters = tuple(
        msgspec.structs.replace(m, booked_uj=10**11 * runs * (m.id < 3)) for m in page.meters
    )
    charged = tuple(
        msgspec.structs.replace(c, booked=tuple(Exact.of(sum(
            Exact(0, r.nano, r.rest).atoms for r in charges if r.item == c.item
        )))) for c in page.charged
    )  # fmt: skip
    whole = msgspec.structs.replace(
        page, meters=meters, charged=charged, workloads=tuple(workloads),
        postings=tuple(postings), charges=tuple(charges), rates=rates,
    )  # fmt: skip
    ingest.take(database, whole, "sweep", BEGIN_S + 40 * 86_400)
    # Its node had not been there when the month was compacted.
    [*compact.compact(database, BEGIN_S + 40 * 86_400)]


def _place() -> Path:
    BUILD.mkdir(parents=True, exist_ok=True)
    return BUILD


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


def _fill(database: Database, jobs: int) -> None:
    """Bills of a whole lab's month, each job on one node and day."""
    owners = {
        BilledOwner("", f"account{n % 10}", f"user{n % 40}", f"experiment{n}") for n in range(500)
    }
    with database.transaction():
        numbered(database, OWNER, owners)
        ((last,),) = database.rows("SELECT max(id) FROM owners")
        database.rows(_USED, [jobs - 1, BEGIN_S, last])
        for item in ITEMS:
            currency = "" if item == "co2e" else "EUR"
            database.rows(_BILLED, [jobs - 1, BEGIN_S, last, item, currency])
        for statement in _MONTHS:
            database.rows(statement)
    database.rows("ANALYZE")


def _bytes(database: Database) -> int:
    if database.lock:
        return int(database.rows("SELECT pg_database_size(current_database())")[0][0])
    ((pages,),), ((size,),) = database.rows("PRAGMA page_count"), database.rows("PRAGMA page_size")
    return int(pages * size)


def _ms(act: Callable[[], object]) -> float:
    """The median of three."""
    spent = []
    for _ in range(3):
        began = time.perf_counter()
        act()
        spent.append((time.perf_counter() - began) * 1e3)
    return median(spent)
