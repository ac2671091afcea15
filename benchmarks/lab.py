"""Pages and API of the lab server, on PostgreSQL with 20,000 jobs a day, asked by 20 users at once.

A year of it; a month with `--quick`. Months that are closed are compacted to days, as a lab does.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.integration.postgresql import running
from tests.ports import free_port

from benchmarks.table import Table, quantile
from joulebook.lab.collected import months
from joulebook.lab.collected.database import Database, opened
from joulebook.lab.collected.schema import OWNER, BilledOwner, numbered
from joulebook.lab.web.grants import GrantKind, Grants

JOBS_A_DAY = 20_000
NODES, ACCOUNTS, USERS, EXPERIMENTS = 1_000, 20, 200, 4_000
AT_ONCE, SECONDS, AIM_MS = 20, 60, 200

_FILL = (
    "INSERT INTO ledgers SELECT n, lpad(n::text, 32, '0'), 'lab', 'n' || n, 0, 1, 1, {end}, {end},"
    " 'http://n' || n || ':9816', '' FROM generate_series(1, {nodes}) AS n",
    "INSERT INTO meters SELECT n, n, 1, 'gpu', 'GPU-' || n, 'NVIDIA H100', 0, 0, 0, 0"
    " FROM generate_series(1, {nodes}) AS n",
    "INSERT INTO hows VALUES (1, '', 'counter', 'prolog'), (2, 'unallocated', 'counter', 'none')",
    "INSERT INTO kinds VALUES (1, '', 'electricity', 'EUR'), (2, '', 'hardware', 'EUR'),"
    " (3, '', 'co2e', '')",
    "INSERT INTO workloads SELECT n, 1 + n % {nodes}, 'lab', 'slurm', n::text, 0, {owner}, 0"
    " {jobs}",
    "INSERT INTO facts (ledger, workload, display, name, person, account, experiment,"
    " started_utc_ns, ended_utc_ns, complete, gpu_count, evidence, extra)"
    " SELECT 1 + n % {nodes}, n, n::text, 'train', o.person, o.account, o.experiment,"
    " ({day} + 3600) * 1000000000, ({day} + 10800) * 1000000000, 1, 2, 'prolog', '{{}}'"
    " {jobs} JOIN owners o ON o.id = {owner}",
    "INSERT INTO postings (ledger, quarter_s, meter, workload, how, energy_uj, idle_uj, held_ns,"
    " idle_ns) SELECT 1 + n % {nodes}, {day}, 1 + n % {nodes}, n, 1, 5000000000000 + n,"
    " 500000000000, 14400000000000, 1440000000000 {jobs}",
    "INSERT INTO charges (ledger, quarter_s, workload, kind, whole, nano, rest)"
    " SELECT 1 + n % {nodes}, {day}, n, k.id, 0, 400000000 + n, 0 {jobs}, kinds k",
    "INSERT INTO used SELECT 1 + n % {nodes}, {day},"
    " to_char(to_timestamp({day}) AT TIME ZONE 'UTC', 'YYYYMM')::int, n, {owner}, 'gpu',"
    " 5000000000000 + n, 500000000000, 14400000000000, 1440000000000 {jobs}",
    "INSERT INTO billed SELECT 1 + n % {nodes}, {day},"
    " to_char(to_timestamp({day}) AT TIME ZONE 'UTC', 'YYYYMM')::int, n, {owner}, k.item,"
    " k.currency, 0, 400000000 + n, 0 {jobs}, kinds k",
    "INSERT INTO month_used SELECT month, owner, 0, component, sum(energy_uj), sum(idle_uj),"
    " sum(held_ns), sum(idle_ns) FROM used GROUP BY 1, 2, 4",
    "INSERT INTO month_billed SELECT month, owner, 0, item, currency, sum(whole), sum(nano),"
    " sum(rest) FROM billed GROUP BY 1, 2, 4, 5",
)


def fill(database: Database, days: int, end_s: int, jobs_a_day: int = JOBS_A_DAY) -> None:
    """Fill so many days before `end_s`: each job ran on two GPUs of a node for two hours."""
    begin_s, count = end_s - days * 86_400, days * jobs_a_day
    owners = {
        BilledOwner("", f"account{n % ACCOUNTS}", f"user{n % USERS}", f"experiment{n}")
        for n in range(EXPERIMENTS)
    }
    parts = {
        "nodes": NODES,
        "end": end_s,
        "jobs": f"FROM generate_series(1, {count}) AS n",
        "day": f"({begin_s} + (n - 1) / {jobs_a_day} * 86400)::bigint",
        "owner": f"(1 + n % {EXPERIMENTS})",
    }
    with database.transaction():
        database.rows("SET LOCAL statement_timeout = 0")
        numbered(database, OWNER, owners)
        database.have_months(range(begin_s, end_s, 86_400))
        for statement in _FILL:
            database.rows(statement.format(**parts))
        rows = [
            (month, ledger, end_s, 0, 1)
            for month in sorted({*map(months.month_of, range(begin_s, end_s, 86_400))})[:-1]
            for ledger in range(1, NODES + 1)
        ]
        database.upsert("compacted", rows)
    database.rows("ANALYZE")


def paths(days: int, end_s: int) -> dict[str, list[str]]:
    """Each page and call, with what 20 users ask of it."""
    month = months.shown(months.month_of(end_s - 86_400))
    before = months.shown(months.month_of(end_s - (days // 2) * 86_400))
    last = days * JOBS_A_DAY
    chosen = random.Random(5)
    jobs = [chosen.randrange(1, last) for _ in range(50)]
    names = [f"experiment{n}" for n in chosen.sample(range(EXPERIMENTS), 20)]
    return {
        "overview": ["/", f"/?month={month}", f"/?month={before}"],
        "my page": ["/me", f"/me?month={before}"],
        "jobs": [f"/jobs?month={month}", f"/jobs?month={before}"],
        "a job": [f"/job/{job}" for job in jobs],
        "an experiment": [f"/experiment?name={name}" for name in names],
        "bills": ["/bills", f"/bills/{before}"],
        "advice": ["/advice", f"/api/v1/advice/{before}"],
        "API: whoami": ["/api/v1/whoami"],
        "API: months": ["/api/v1/months"],
        "API: a month": [f"/api/v1/months/{before}?by={by}" for by in ("experiment", "user")],
        "API: jobs": [f"/api/v1/jobs?since={before}-01&until={before}-08"],
        "API: a job": [f"/api/v1/jobs/{job}" for job in jobs],
        "API: statement": [f"/api/v1/statement?experiment={name}" for name in names[:5]],
        "API: nodes": ["/api/v1/nodes"],
    }


@contextmanager
def serving(url: str, folder: Path) -> Iterator[str]:
    """A lab server on a ledger."""
    (folder / "token").write_text("benchmark-0123456789abcdef\n")
    (folder / "token").chmod(0o600)
    port = free_port()
    config = folder / "lab.toml"
    config.write_text(
        f'[collect]\nurl = "{url}"\ntoken_file = "{folder}/token"\ntargets = ["127.0.0.1:9"]\n'
        f'[lab]\nlisten = "127.0.0.1:{port}"\nadmins = ["admin"]\n'
        f'[rates]\ncache_dir = "{folder}/rates"\n'
    )
    root = Path(__file__).parents[1]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "joulebook", "lab", "--config", str(config)],
            env={**os.environ, "PYTHONPATH": str(root / "exporter")}, stderr=log,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5).close()
                break
            except OSError:
                if server.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError((folder / "log").read_text()[-2000:]) from None
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(60)


def measure(
    base: str, secrets: list[str], asked: dict[str, list[str]], seconds: float
) -> dict[str, list[tuple[float, int]]]:
    """What each took (s) and its status; every user asks the next as soon as it has an answer."""
    found: dict[str, list[tuple[float, int]]] = {name: [] for name in asked}
    until = time.monotonic() + seconds

    def user(number: int, secret: str) -> None:
        chance = random.Random(number)
        while time.monotonic() < until:
            name = chance.choice([*asked])
            request = urllib.request.Request(
                base + chance.choice(asked[name]), headers={"Authorization": f"Bearer {secret}"}
            )
            began = time.perf_counter()
            try:
                with urllib.request.urlopen(request, timeout=300) as answer:
                    answer.read()
                    status = answer.status
            except urllib.error.HTTPError as error:
                with error:
                    status = error.code
            except OSError:  # The server gave up on it.
                status = 0
            found[name].append((time.perf_counter() - began, status))
            time.sleep(chance.uniform(0.5, 1.5))  # A person reads.

    threads = [
        threading.Thread(target=user, args=(number, secret))
        for number, secret in enumerate(secrets)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def _ms(value: float) -> int | str:
    return "none" if value == float("inf") else round(value)


def run(args: argparse.Namespace) -> list[Table]:
    """Fill, serve and ask."""
    days = 30 if args.quick else 365
    end_s = int(time.time()) // 86_400 * 86_400
    with running() as server, tempfile.TemporaryDirectory() as scratch:
        url = server.new()
        began = time.monotonic()
        with opened(url, create=True) as database:
            fill(database, days, end_s)
            ((size,),) = database.rows("SELECT pg_database_size(current_database())")
            grants = Grants(database)
            secrets = [
                grants.make(GrantKind.TOKEN, f"user{number}", "token", 86_400)
                for number in range(AT_ONCE)
            ]
            admin = grants.make(GrantKind.TOKEN, "admin", "token", 86_400)
        filled_s = time.monotonic() - began
        with serving(url, Path(scratch)) as base:
            asked = paths(days, end_s)
            measure(base, [admin], asked, 5)  # What is imported late, and what is cached.
            seconds = 20 if args.quick else SECONDS
            both = {
                "users": measure(base, secrets, asked, seconds),
                "administrators": measure(base, [admin] * AT_ONCE, asked, seconds),
            }
    tables = []
    for who, found in both.items():
        table = Table(
            f"Lab server: {days} days of {JOBS_A_DAY:,} jobs, {AT_ONCE} {who} at once",
            ("page or call", "answers", "p50 ms", "p99 ms", "most ms", f"p99 < {AIM_MS} ms"),
        )
        for name, answers in found.items():
            times = [1000 * took for took, _ in answers] or [float("inf")]
            p99 = quantile(times, 0.99)
            odd = sorted({status for _, status in answers} - {200})
            table.add(
                f"{name} {odd or ''}".rstrip(), len(times), _ms(quantile(times, 0.5)), _ms(p99),
                _ms(max(times)), "yes" if p99 < AIM_MS else "no",
            )  # fmt: skip
        table.notes.append(
            f"PostgreSQL has {size / 1e9:.1f} GB, filled in {filled_s:.0f} s; each user waits 0.5 "
            "to 1.5 s between two questions"
        )
        tables.append(table)
    return tables
