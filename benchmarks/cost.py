"""What the daemon costs the node: CPU time, memory, and which part of a tick it goes to."""

from __future__ import annotations

import argparse
import json
import os
import signal
import time
from contextlib import ExitStack

from benchmarks.exporters import Exporter, daemon, running
from benchmarks.machine import Fsyncs, cpu_ns, memory, pin, written
from benchmarks.stages import STAGES, TICK
from benchmarks.table import Table, median
from benchmarks.world import World

GPUS, PER_GPU = 8, 8
SIZES = ((8, 0), (8, 1), (8, 8), (8, 16), (16, 8))
"""GPUs, and workloads with a process on each: none, whole cards, shards."""

SCRAPE_EVERY_S = 15.0
SETTLE_S = 10.0
"""The daemon has shown every job by then; what it does once in its life is over a little later."""


def run(args: argparse.Namespace) -> list[Table]:
    """Everybody in one world at once, round by round; then the daemon alone, by stages."""
    rounds, round_s = (3, 15.0) if args.quick else (6, 20.0)
    with (
        World(gpus=GPUS, per_gpu=PER_GPU) as world,
        running(world, peers=not args.no_peers, priced=True) as exporters,
    ):
        table = _beside(world, exporters, rounds, round_s)
        table.notes.append(
            "processes in cgroups of their jobs"
            if world.in_cgroups
            else "no cgroups to be made here: nobody can say whose the processes are"
        )
    sizes = _sizes(20.0 if args.quick else 60.0)
    stages, profile = _stages(args, 20 if args.quick else 60)
    if profile:
        print(profile)
    return [table, sizes, stages]


def _beside(world: World, exporters: list[Exporter], rounds: int, round_s: float) -> Table:
    table = Table(
        f"CPU and memory: {GPUS} GPUs, {world.workloads} workloads with a process each, tick 1 s",
        ["exporter", "CPU % of a core", "worst round", "ms a tick", "RSS MiB", "PSS MiB",
         "of it own heap", "CPU / Joulebook"],
    )  # fmt: skip
    time.sleep(SETTLE_S)
    shares: dict[str, list[float]] = {exporter.name: [] for exporter in exporters}
    for _ in range(rounds):
        began = time.monotonic()
        before = {exporter.name: cpu_ns(exporter.pid) for exporter in exporters}
        _scrape_until(exporters, began + round_s)
        lasted_ns = (time.monotonic() - began) * 1e9
        for exporter in exporters:
            used_ns = cpu_ns(exporter.pid) - before[exporter.name]
            shares[exporter.name].append(100 * used_ns / lasted_ns)
    own = median(shares[exporters[0].name])
    for exporter in exporters:
        used, fills = shares[exporter.name], memory(exporter.pid, [world.scenario.path])
        table.add(
            exporter.name, median(used), max(used), median(used) * 10,
            fills.rss, fills.pss, fills.anonymous, median(used) / own,
        )  # fmt: skip
    table.notes.append(
        f"median of {rounds} rounds of {round_s:.0f} s, all at once on one core; a scrape of each "
        f"every {SCRAPE_EVERY_S:.0f} s; the fake driver's calls cost next to nothing"
    )
    return table


def _sizes(duration_s: float) -> Table:
    """The daemon alone, on nodes of other sizes, while nothing begins or ends."""
    table = Table(
        "The daemon alone, by size of the node",
        ["GPUs", "workloads", "CPU % of a core", "RSS MiB", "fsyncs a minute", "written KiB/s",
         "GiB a day"],
    )  # fmt: skip
    for gpus, per_gpu in SIZES:
        with World(gpus=gpus, per_gpu=per_gpu) as world, ExitStack() as exits:
            fsyncs = Fsyncs(world.directory)
            exporter = exits.enter_context(daemon(world, environment=fsyncs.environment))
            pin(exporter.pid, last=True)
            time.sleep(SETTLE_S)
            began = time.monotonic()
            used_ns, bytes_ = cpu_ns(exporter.pid), written(exporter.pid)
            synced = fsyncs.count()
            _scrape_until([exporter], began + duration_s)
            lasted_s = time.monotonic() - began
            each_s = (written(exporter.pid) - bytes_) / lasted_s
            table.add(
                gpus, world.workloads, (cpu_ns(exporter.pid) - used_ns) / lasted_s / 1e7,
                memory(exporter.pid, [world.scenario.path]).rss,
                (fsyncs.count() - synced) / lasted_s * 60, each_s / 1024, each_s * 86400 / 2**30,
            )  # fmt: skip
    table.notes.append(
        f"{duration_s:.0f} s each; written: given to write(2), of which nearly all is the ledger's"
    )
    return table


def _scrape_until(exporters: list[Exporter], end: float) -> None:
    while (left := end - time.monotonic()) > 0:
        for exporter in exporters:
            exporter.scrape()
        time.sleep(max(0.0, min(left, SCRAPE_EVERY_S, end - time.monotonic())))


def _stages(args: argparse.Namespace, duration_s: float) -> tuple[Table, str]:
    """The same daemon with a stopwatch in it, alone."""
    with World(gpus=GPUS, per_gpu=PER_GPU) as world:
        out = world.directory / "stages.json"
        os.environ["JOULEBOOK_BENCH_PROFILE"] = str(int(args.profile))
        with daemon(world, wrapper=("benchmarks.stages", str(out))) as exporter:
            pin(exporter.pid, last=True)
            time.sleep(SETTLE_S)
            os.kill(exporter.pid, signal.SIGUSR1)
            _scrape_until([exporter], time.monotonic() + duration_s)
        measured = json.loads(out.read_text())
        profile = out.with_suffix(".txt")
        text = profile.read_text() if profile.exists() else ""
    spent: dict[str, list[int]] = measured["stages"]
    ticks = max(spent[TICK][1], 1)
    table = Table(
        "CPU of the daemon by stage (no rates)",
        ["stage", "ms a tick", "% of a core at 1 s", "% of all", "calls a tick"],
    )
    whole = measured["cpu_ns"]

    def row(label: str, ns: float, calls: float | None) -> None:
        each = ns / ticks / 1e6
        table.add(label, each, each / 10, 100 * ns / whole, calls and calls / ticks)

    inside = 0
    for label, _, _ in STAGES:
        if label in spent:
            ns, calls = spent[label]
            row(label, ns, calls)
            inside += ns if label.startswith(TICK) else 0
    row("tick: the rest", spent[TICK][0] - inside, None)
    threads = sum(spent[name][0] for name in spent if not name.startswith(f"{TICK}:"))
    row("other threads (HTTP server, waking up)", whole - threads, None)
    row("all", whole, None)
    table.notes.append(f"{ticks} ticks; CPU time of the thread that is in the stage")
    return table, text
