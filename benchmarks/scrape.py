"""How fast /metrics answers: once a second, as Prometheus asks, and twenty times; what it shows."""

from __future__ import annotations

import argparse
import http.client
import time
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
from tests.unit.metrics.sample import CHARGES, PROCESS, RATES, busy_view

from benchmarks.exporters import Exporter, running
from benchmarks.table import Table, median, quantile
from benchmarks.world import World
from joulebook.metrics.collector import collect

GPUS, PER_GPU = 8, 8
TIMEOUT_S = 30.0


class Way(NamedTuple):
    """How a client asks."""

    gzip: bool
    keep_alive: bool

    def __str__(self) -> str:
        return f"{'gzip' if self.gzip else 'plain'}, {'kept' if self.keep_alive else 'new'}"


WAYS = tuple(Way(gzip, keep) for gzip in (True, False) for keep in (True, False))


class Client:
    """One client of one exporter."""

    def __init__(self, exporter: Exporter, way: Way) -> None:
        self._way = way
        self._headers = {"Accept-Encoding": "gzip"} if way.gzip else {}
        self._connection = http.client.HTTPConnection("127.0.0.1", exporter.port, timeout=TIMEOUT_S)
        self.took_ms: list[float] = []
        self.body_bytes = 0
        self.closes = False
        """The server ends the connection after each answer, whatever the client would like."""

    def ask(self) -> None:
        """One scrape: from before the connection (where it is a new one) to the last byte."""
        if not self._way.keep_alive:
            self._connection.close()
        began = time.perf_counter_ns()
        self._connection.request("GET", "/metrics", headers=self._headers)
        answer = self._connection.getresponse()
        body = answer.read()
        self.took_ms.append((time.perf_counter_ns() - began) / 1e6)
        if answer.status != http.client.OK:
            raise RuntimeError(f"{answer.status} {body[:200]!r}")
        self.body_bytes = len(body)
        self.closes = answer.will_close


def run(args: argparse.Namespace) -> list[Table]:
    """Both beats, every exporter in each slot."""
    slow_s, fast_s = (20, 5) if args.quick else (120, 30)
    with (
        World(gpus=GPUS, per_gpu=PER_GPU) as world,
        running(world, peers=not args.no_peers) as exporters,
    ):
        time.sleep(5)
        # As Prometheus asks, and as curl: each way in its own second, since an answer is made
        # once per tick and a second question within it would find it ready.
        slow = (WAYS[0], WAYS[-1])
        once = {(e.name, way): Client(e, way) for e in exporters for way in slow}
        _ask(once, exporters, slow, 1.0, slow_s)
        often = {(e.name, way): Client(e, way) for e in exporters for way in WAYS}
        for way in WAYS:
            _ask(often, exporters, (way,), 0.05, round(fast_s * 20))
        series = {e.name: _series(e.scrape()) for e in exporters}
    tables = []
    for beat, clients in (("1 Hz", once), ("20 Hz", often)):
        table = Table(
            f"Latency of /metrics at {beat}, ms: {GPUS} GPUs, {GPUS * PER_GPU} processes",
            ["exporter", "asked", "p50", "p95", "p99", "most", "series", "KiB sent", "n"],
        )
        for (name, way), client in clients.items():
            took = client.took_ms
            table.add(
                name, f"{way}{' (closed by server)' if way.keep_alive and client.closes else ''}",
                median(took), quantile(took, 0.95), quantile(took, 0.99), max(took),
                series[name], client.body_bytes / 1024, len(took),
            )  # fmt: skip
        table.notes.append(
            "all exporters on one core, the client, whose own time is in it, on another"
        )
        tables.append(table)
    return tables


def _ask(
    clients: dict[tuple[str, Way], Client],
    exporters: Sequence[Exporter],
    ways: Sequence[Way],
    period_s: float,
    slots: int,
) -> None:
    """In each slot, ask every exporter once, one after the other, the first one by turns."""
    due = time.monotonic()
    for slot in range(slots):
        for i in range(len(exporters)):
            exporter = exporters[(slot + i) % len(exporters)]
            clients[exporter.name, ways[slot % len(ways)]].ask()
        # Never in step with the ticks: a slot takes a little more than its period.
        due += period_s * 1.0137
        time.sleep(max(0.0, due - time.monotonic()))


def _series(text: str) -> int:
    return sum(bool(line) and not line.startswith("#") for line in text.splitlines())


def exposed() -> Table:
    """The table of series that Prometheus has of a node at a time."""
    table = Table(
        "Series of a node with 8 GPUs",
        ["experiments of its ledger", "used in the last day", "of an experiment", "in all"],
    )
    for known, used in ((10, 10), (300, 10), (300, 50)):
        view = busy_view(GPUS, workloads=20, experiments=known)
        states = {
            labels: msgspec.structs.replace(state, exposed=number < used)
            for number, (labels, state) in enumerate(view.books.experiments.items())
        }
        books = msgspec.structs.replace(view.books, experiments=states)
        families = collect(
            msgspec.structs.replace(view, books=books, rates=RATES, charges=CHARGES), PROCESS
        ).families
        of_experiments = sum(
            len([*family.samples])
            for family in families
            if family.metric.name.startswith("joulebook_experiment_")
        )
        series = sum(len([*family.samples]) for family in families)
        table.add(known, used, of_experiments / used, series)
    table.notes.append(
        "20 workloads that run or ended a quarter of an hour ago at most; with rates"
    )
    return table
