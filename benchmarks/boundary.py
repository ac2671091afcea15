"""How soon after a job's begin or end the counters are read.

The instant of the rename is known here, and the fake driver counts its calls in the mapped
scenario: the first call of the energy counter after a rename, while nothing else was asked, is the
daemon's burst. What is asked for everything is the look of a tick, and is not counted.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import time
from collections.abc import Callable
from functools import partial

from benchmarks.exporters import daemon
from benchmarks.machine import pin
from benchmarks.table import Table, median, quantile
from benchmarks.world import ROOT, World

GPUS, PER_GPU = 8, 8
PROLOG = ROOT / "exporter/joulebook/hooks/prolog.sh"
ENERGY, LOOK = "nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetFieldValues"
QUIET_S = 0.06
GIVE_UP_S = 2.0
STEP_S = 0.00005


class Watch:
    """Waits for the first reading after each boundary, and keeps how long it took."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._chance = random.Random(1)
        self.took_ms: list[float] = []
        self.missed = 0

    def __call__(self, act: Callable[[], int]) -> None:
        """Do `act`, which returns when it began (`perf_counter_ns`), once the driver is quiet."""
        time.sleep(self._chance.uniform(0, 0.2))  # at any phase of the tick
        self._wait_for_quiet()
        reads, polls = self._calls()
        began_ns = act()
        while True:
            now_reads, _ = self._calls()
            took_ms = (time.perf_counter_ns() - began_ns) / 1e6
            if now_reads != reads:
                break
            if took_ms > 1000 * GIVE_UP_S:
                self.missed += 1
                return
            time.sleep(STEP_S)
        time.sleep(0.002)
        if self._calls()[1] == polls:  # else a tick came just then, and it may have been its look
            self.took_ms.append(took_ms)

    def _calls(self) -> tuple[int, int]:
        calls = self._world.scenario.calls()
        return calls.get(ENERGY, 0), calls.get(LOOK, 0)

    def _wait_for_quiet(self) -> None:
        """Until the burst of the boundary before is over."""
        reads, since = self._calls()[0], time.monotonic()
        while time.monotonic() - since < QUIET_S:
            time.sleep(0.005)
            if (now := self._calls()[0]) != reads:
                reads, since = now, time.monotonic()


def run(args: argparse.Namespace) -> list[Table]:
    """Begins and ends of jobs on an empty node, then on a full one."""
    count = 20 if args.quick else 200
    table = Table(
        f"From a boundary to the first reading, ms ({GPUS} GPUs)",
        ["boundary", "other workloads", "p50", "p95", "p99", "most", "missed", "n"],
    )
    for per_gpu in (0, PER_GPU):
        with World(gpus=GPUS, per_gpu=per_gpu) as world, daemon(world) as exporter:
            pin(exporter.pid, last=True)
            time.sleep(3)
            for what, watch in _measure(world, count).items():
                took = watch.took_ms
                table.add(
                    what, world.workloads, median(took), quantile(took, 0.95),
                    quantile(took, 0.99), max(took), watch.missed, len(took),
                )  # fmt: skip
    table.notes.append(
        "from just before the rename of the event file (with the Prolog: before it is started) to "
        "the call of the energy counter, seen within 0.2 ms"
    )
    table.notes.append(
        f"missed: nothing within {GIVE_UP_S:.0f} s; n is less than {count} where a tick came in "
        "between, whose look cannot be reported from the burst"
    )
    return [table]


def _measure(world: World, count: int) -> dict[str, Watch]:
    begins, ends, hooked = Watch(world), Watch(world), Watch(world)
    for number in range(count):
        job, gpu = str(5000 + number), number % world.gpus
        begins(partial(world.begin, job, gpu))
        ends(partial(world.end, job))
    for number in range(max(count // 4, 10)):
        job = str(9000 + number)
        hooked(partial(_prolog, world, job))
        world.end(job)
    return {"begin": begins, "end": ends, "begin, Prolog included": hooked}


def _prolog(world: World, job: str) -> int:
    """Run the product's own hook."""
    began_ns = time.perf_counter_ns()
    subprocess.run(
        [str(PROLOG)],
        env={
            "SLURM_JOB_ID": job, "SLURM_JOB_GPUS": "0", "SLURM_JOB_USER": "ada",
            "SLURM_JOB_UID": str(os.getuid()), "SLURM_JOB_ACCOUNT": "nlp",
            "SLURMD_NODENAME": "bench", "JOULEBOOK_EVENTS_DIR": str(world.events),
        },
        check=True,
    )  # fmt: skip
    return began_ns
