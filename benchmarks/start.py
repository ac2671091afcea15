"""What starting takes: the daemon until it answers, `joulebook health`, and `import joulebook`."""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence

from benchmarks.exporters import daemon
from benchmarks.machine import cpu_ns
from benchmarks.table import Table, median
from benchmarks.world import World


def run(args: argparse.Namespace) -> list[Table]:
    """Each several times; all beside a Python that does nothing."""
    times = 5 if args.quick else 15
    table = Table(
        "CPU time of a start, ms", ["what", "median", "above a bare Python", "least", "n"]
    )
    found: dict[str, list[float]] = {}
    with World(gpus=8, per_gpu=8) as world:
        environment = world.daemon_environment(0)
        for name, command in (
            ("python -c pass", ["-c", "pass"]),
            ("import joulebook", ["-c", "import joulebook"]),
            ("from joulebook import experiment", ["-c", "from joulebook import experiment"]),
        ):
            found[name] = [_spent_ms(command, environment) for _ in range(times + 1)][1:]
        with daemon(world, shows_all=False) as exporter:
            asking = world.daemon_environment(exporter.port)
            health = ["-m", "joulebook", "health"]
            found["joulebook health"] = [_spent_ms(health, asking) for _ in range(times)]
        found["joulebook run, until it answers"] = started = []
        for _ in range(times):
            with daemon(world, shows_all=False) as exporter:
                started.append(cpu_ns(exporter.pid) / 1e6)
    bare = median(found["python -c pass"])
    for name, spent in found.items():
        table.add(name, median(spent), median(spent) - bare, min(spent), len(spent))
    table.notes.append("byte code is there, as in every package of it")
    return [table]


def _spent_ms(command: Sequence[str], environment: Mapping[str, str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, *command], env=dict(environment), check=True, stdout=subprocess.DEVNULL
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return 1e3 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
