"""What the nodes of a lab of 1,000 tell, and a month and an experiment of it at full size."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

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
from joulebook.lab.collected import compact, ingest
from joulebook.lab.collected.database import Database
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


def fill(database: Database, jobs: int) -> None:
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
