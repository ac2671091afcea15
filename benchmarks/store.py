"""What a tick costs in the ledger: a commit, beside the least that sqlite can do durably."""

from __future__ import annotations

import argparse
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from benchmarks import machine
from benchmarks.table import Table, median, quantile
from benchmarks.world import BUILD
from joulebook.clock import Anchor
from joulebook.core.attribution.claims import Claim, Evidence
from joulebook.core.energy.readings import Component, Meter, ProcessUse, Reading
from joulebook.core.ledger.advance import BookingPolicy, Tick, advance
from joulebook.core.workloads import Labels, WorkloadFacts, WorkloadId
from joulebook.ledger.sqlite import SqliteStore

T = TypeVar("T")

GPUS = 8
START_NS = 1_760_000_000_000_000_000
WARM_UP = 60
"""Ticks before it is measured: series have left their zero hold, the first commits are over."""


class Stopwatch:
    """CPU and wall-clock milliseconds of what is done in it."""

    def __init__(self) -> None:
        self.cpu_ms: list[float] = []
        self.wall_ms: list[float] = []

    def __call__(self, act: Callable[[], T]) -> T:
        """Do it, and count."""
        cpu, wall = time.process_time_ns(), time.perf_counter_ns()
        result = act()
        self.cpu_ms.append((time.process_time_ns() - cpu) / 1e6)
        self.wall_ms.append((time.perf_counter_ns() - wall) / 1e6)
        return result


def run(args: argparse.Namespace) -> list[Table]:
    """Nobody, one job per card, 64 shared ones; round by round with the floor."""
    count = 60 if args.quick else 300
    table = Table(
        f"A tick's way into the ledger, ms: {GPUS} cards, one transaction a tick, fsync each time",
        ["what", "workloads", "CPU p50", "CPU p99", "wall p50", "wall p99", "KiB a tick"],
    )
    directory = Path(tempfile.mkdtemp(dir=_place()))
    try:
        floor = _floor(directory / "floor.db", count)
        _row(table, "least: one row, one transaction", None, floor, None)
        for workloads in (0, GPUS, 8 * GPUS):
            advanced, committed, written = _commits(directory, workloads, count)
            _row(table, "ledger.advance", workloads, advanced, None)
            _row(table, "commit", workloads, committed, written)
    finally:
        shutil.rmtree(directory)
    table.notes.append(f"{count} ticks of 1 s, without pause; KiB: written, checkpoints included")
    return [table]


def _place() -> Path:
    place = BUILD / "bench"
    place.mkdir(parents=True, exist_ok=True)
    return place


def _row(
    table: Table, what: str, workloads: int | None, watch: Stopwatch, written: float | None
) -> None:
    table.add(
        what, workloads, median(watch.cpu_ms), quantile(watch.cpu_ms, 0.99),
        median(watch.wall_ms), quantile(watch.wall_ms, 0.99), written,
    )  # fmt: skip


def _floor(path: Path, count: int) -> Stopwatch:
    conn = sqlite3.connect(path, isolation_level=None)
    conn.execute("PRAGMA journal_mode = WAL")
    conn.execute("PRAGMA synchronous = FULL")
    conn.execute("CREATE TABLE t (k INTEGER PRIMARY KEY, v INTEGER)")
    watch = Stopwatch()
    for number in range(count):
        watch(partial(conn.execute, "REPLACE INTO t VALUES (1, ?)", (number,)))
    conn.close()
    return watch


def _commits(directory: Path, workloads: int, count: int) -> tuple[Stopwatch, Stopwatch, float]:
    store = SqliteStore(directory / f"{workloads}.db")
    books, policy = store.load()[0], BookingPolicy()
    advanced, committed = Stopwatch(), Stopwatch()
    written = 0
    for number in range(1, WARM_UP + count + 1):
        if number == WARM_UP + 1:
            advanced, committed = Stopwatch(), Stopwatch()
            written = machine.written(os.getpid())
        tick = _tick(number, workloads)
        after, entry = advanced(partial(advance, books, tick, policy))
        anchor = Anchor("boot", 0, after.last_ns)
        committed(partial(store.commit, books, after, entry, anchor))
        books = after
    written = machine.written(os.getpid()) - written
    store.close()
    return advanced, committed, written / 1024 / count


def _tick(number: int, workloads: int) -> Tick:
    """One second on a busy node; processes are listed every tick where a card is shared."""
    now_ns = START_NS + number * 1_000_000_000
    meters = [Meter(Component.GPU, f"GPU-5a6b7c8d-0000-4000-8000-{i:012x}") for i in range(GPUS)]
    each = max(workloads // GPUS, 1)
    ids = [WorkloadId("slurm", str(1000 + i)) for i in range(workloads)]
    readings = []
    for i, meter in enumerate(meters):
        processes = tuple(
            ProcessUse(2000 + n, 5_000_000_000 + n, 50_000_000 + n, 10**9, ids[n])
            for n in range(i * each, (i + 1) * each)
            if n < workloads
        )
        readings.append(
            Reading(
                meter, now_ns - 500_000 + i, 10**12 + number * (250_000_000 + i), 250_000,
                epoch="boot", uptime_ns=10**15 + number * 10**9, max_power_mw=800_000, busy=True,
                processes=processes if each > 1 or number % 5 == 0 else None,
            )
        )  # fmt: skip
    claims = tuple(
        Claim(id_, meters[i // each], START_NS, None, Evidence.PROLOG, 1, each)
        for i, id_ in enumerate(ids)
    )
    facts = tuple(
        WorkloadFacts(
            id_, name="train", labels=Labels("ada", "nlp", f"e{i % 16}"), started_ns=START_NS,
            complete=True, gpu_count=1, evidence="prolog", extra={"partition": "a100"},
        )
        for i, id_ in enumerate(ids)
    )  # fmt: skip
    return Tick(
        now_ns,
        readings=tuple(readings),
        claims=claims,
        complete=frozenset({Evidence.PROLOG}),
        facts=facts if number == 1 else (),
    )
