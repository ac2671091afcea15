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

BLOCK = "import joulebook\nwith joulebook.experiment('bert'): pass\n"

STEP = """
import sys, time, types
sys.modules["transformers"] = framework = types.ModuleType("transformers")
framework.TrainerCallback = type("TrainerCallback", (), {
    f"on_step_{edge}": lambda self, *args, **kwargs: None for edge in ("begin", "end")
})
from joulebook.callbacks.hugging_face import EnergyCallback
callback = EnergyCallback("bert")
state = types.SimpleNamespace(log_history=[], global_step=0, is_world_process_zero=False)
callback.on_train_begin(None, state, None)
def timed(*calls, n):
    began = time.perf_counter_ns()
    for _ in range(n):
        for call in calls:
            call(None, state, None)
    return (time.perf_counter_ns() - began) / n / 1e3
print(timed(callback.on_step_begin, callback.on_step_end, n=20_000))
print(timed(callback.on_epoch_begin, callback.on_epoch_end, n=100))
"""
"""Time (us) of a step under the callback, and of an epoch, which is a window."""


def run(args: argparse.Namespace) -> list[Table]:
    """Each several times; all beside a Python that does nothing."""
    times = 5 if args.quick else 15
    table = Table(
        "CPU time of a start, ms", ["what", "median", "above a bare Python", "least", "n"]
    )
    found: dict[str, list[float]] = {}
    callback = Table("Time of a callback, us", ["what", "median", "least", "n"])
    with World(gpus=8, per_gpu=8) as world:
        environment = world.daemon_environment(0)
        for name, command in (
            ("python -c pass", ["-c", "pass"]),
            ("import joulebook", ["-c", "import joulebook"]),
            ("from joulebook import experiment", ["-c", "from joulebook import experiment"]),
            ("with joulebook.experiment(...), no daemon", ["-W", "ignore", "-c", BLOCK]),
        ):
            found[name] = [_spent_ms(command, environment) for _ in range(times + 1)][1:]
        with daemon(world, shows_all=False) as exporter:
            asking = world.daemon_environment(exporter.port)
            health = ["-m", "joulebook", "health"]
            steps = [_printed(STEP, asking) for _ in range(times)]
            found["joulebook health"] = [_spent_ms(health, asking) for _ in range(times)]
        found["joulebook run, until it answers"] = started = []
        for _ in range(times):
            with daemon(world, shows_all=False) as exporter:
                started.append(cpu_ns(exporter.pid) / 1e6)
    bare = median(found["python -c pass"])
    for name, spent in found.items():
        table.add(name, median(spent), median(spent) - bare, min(spent), len(spent))
    for name, times_us in zip(("a step", "an epoch"), zip(*steps, strict=True), strict=True):
        callback.add(name, median(times_us), min(times_us), len(times_us))
    table.notes.append("byte code is there, as in every package of it")
    return [table, callback]


def _printed(program: str, environment: Mapping[str, str]) -> list[float]:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], env=dict(environment), check=True,
        capture_output=True, text=True,
    )  # fmt: skip
    return [float(line) for line in done.stdout.split()]


def _spent_ms(command: Sequence[str], environment: Mapping[str, str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, *command], env=dict(environment), check=True, stdout=subprocess.DEVNULL
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return 1e3 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
