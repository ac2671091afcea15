"""The collected ledger at the size of a lab of 1,000 nodes and 20,000 jobs a day.

Some nodes for some days go through the real intake; from their rows the growth of the whole lab is
reckoned, and marked as such. The tables of bills are then filled up to one month of the whole lab,
so that a bill's time is measured at its full size.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from tests.integration.postgresql import PostgreSql, running

from benchmarks.table import Table, median
from benchmarks.world import BUILD
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
from joulebook.core.report.dataset import Selection
from joulebook.lab.collected import bills, check, ingest
from joulebook.lab.collected.database import Database, connect
from joulebook.lab.collected.report_query import CollectedSource
from joulebook.lab.collected.schema import OWNER, BilledOwner, numbered

LAB_NODES = 1_000
LAB_JOBS = 20_000
GPUS = 8
JOBS_AT_A_TIME = 4
JOBS_A_DAY = LAB_JOBS // LAB_NODES
ITEMS = ("electricity", "hardware", "co2e")
BEGIN_S = 1_793_491_200
"""2026-11-01T00:00Z."""

_USED = """
INSERT INTO used
WITH RECURSIVE job (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM job WHERE n < ?)
SELECT 1 + n % 1000, ? + 86400 * (n % 30), 202611, 1000000 + n, 1 + n % ?, 'gpu',
       17000000000000 + n, 500000000000, 34560000000000 FROM job
"""
_BILLED = """
INSERT INTO billed
WITH RECURSIVE job (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM job WHERE n < ?)
SELECT 1 + n % 1000, ? + 86400 * (n % 30), 202611, 1000000 + n, 1 + n % ?, ?, ?,
       1 + n % 7, 123456789, n FROM job
"""


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
                    f"account{self.number % 10}", f"experiment{job % 50}", quarter_s * 10**9, None,
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
        for quantity in ("price", "carbon", "pue"):
            self._waiting.append(
                RateRow(self._next(), quarter_s, quantity, 200 + n % 24, "unit", "feed", "measured",
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
                some[-1].seq, self.seq, BEGIN_S,
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
    month_jobs = 50_000 if args.quick else LAB_JOBS * 30
    growth = Table(
        f"The collected ledger: {nodes} nodes for {days} days, {GPUS} cards each",
        ["engine", "rows", "rows/s", "ms a page of one node", "nodes/s", "B a row",
         "GiB a year of 1,000 nodes"],
    )  # fmt: skip
    growth.notes = [
        "backfill in pages of 5,000 rows; ms a page: one quarter hour of one node, as asked every "
        "5 minutes (1,000 nodes are 3.3 nodes/s)",
        "GiB a year: reckoned from the bytes a row and the rows a node and day, not measured",
    ]
    asked = Table(
        f"Questions to it, ms: bills over {month_jobs:,} jobs of one month (20,000 a day is "
        f"{LAB_JOBS * 30:,})",
        ["engine", "bill of the month", "bill of one account", "months", "report, one experiment",
         "its postings", "check of all"],
    )  # fmt: skip
    asked.notes = [
        "report and check run over the rows of the table above; a report reads by index what its "
        "experiment has, so its time goes with its own postings; the check reads everything"
    ]
    with ExitStack() as stack:
        server: PostgreSql = stack.enter_context(running())
        folder = Path(tempfile.mkdtemp(dir=_place()))
        stack.callback(shutil.rmtree, folder)
        for url in (f"sqlite://{folder}/collected.db", server.new()):
            _engine(url, nodes, days, month_jobs, growth, asked)
    return [growth, asked]


def _place() -> Path:
    BUILD.mkdir(parents=True, exist_ok=True)
    return BUILD


def _engine(url: str, nodes: int, days: int, month_jobs: int, growth: Table, asked: Table) -> None:
    database = connect(url, create=True)
    feeds = [Feed(number) for number in range(1, nodes + 1)]
    empty = _bytes(database)
    rows, spent_s = 0, 0.0
    for feed in feeds:
        for n in range(96 * days):
            feed.quarter(n)
        taken, seconds = _take(database, feed)
        rows, spent_s = rows + taken, spent_s + seconds
    a_row = (_bytes(database) - empty) / rows
    steady_ms = []
    for n in range(96 * days, 96 * days + 3):
        for feed in feeds:
            feed.quarter(n)
            steady_ms.append(_take(database, feed)[1] * 1e3)
    growth.add(
        url.partition(":")[0],
        rows,
        round(rows / spent_s),
        median(steady_ms),
        1e3 / median(steady_ms),
        a_row,
        a_row * rows / nodes / days * LAB_NODES * 365 / 2**30,
    )
    checked_ms = _ms(lambda: check.check(database))
    source = CollectedSource(url)
    wanted = Selection(experiments=frozenset({"experiment7"}), accounts=frozenset({"account1"}))
    found = len(source.account(0, 1 << 40, wanted).postings)
    report_ms = _ms(lambda: source.account(0, 1 << 40, wanted))
    _fill(database, month_jobs)
    asked.add(
        url.partition(":")[0],
        _ms(lambda: bills.bill(database, 202611)),
        _ms(lambda: bills.bill(database, 202611, "account1")),
        _ms(lambda: bills.periods(database)),
        report_ms,
        found,
        checked_ms,
    )
    database.close()


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
