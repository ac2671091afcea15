"""`joulebook run` with a stopwatch around each stage of a tick: `python -m benchmarks.stages FILE`.

Counts the CPU time of the thread that is in a stage, and writes JSON to FILE at the end and, with
JOULEBOOK_BENCH_PROFILE=1, the 30 dearest functions of the tick thread beside it (with a profiler
the stages cost about three times as much). SIGUSR1 starts counting again.
"""

from __future__ import annotations

import cProfile
import io
import json
import os
import pstats
import signal
import sys
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from types import FrameType
from typing import Any, ParamSpec, TypeVar

from joulebook import cli
from joulebook.metrics.exposition import Exposition
from joulebook.node import daemon
from joulebook.node.sensor_thread import SensorThread
from joulebook.node.workload_sources import WorkloadSources

P = ParamSpec("P")
R = TypeVar("R")

DAEMON = daemon.Daemon
STAGES: tuple[tuple[str, Any, str], ...] = (
    ("sensor: a poll", SensorThread, "_poll"),
    ("tick: ask, wait", DAEMON, "_ask"),
    ("tick: take readings, find owners", DAEMON, "_listen"),
    ("tick: workload sources", WorkloadSources, "heard"),
    ("tick: advance the books", daemon, "advance"),
    ("tick: commit", DAEMON, "_commit"),
    ("tick: make and publish the view", DAEMON, "_show"),
    ("http: /metrics", Exposition, "metrics"),
)
"""Label, and where the function of that stage is."""

TICK = "tick"
_spent: dict[str, list[int]] = {}


def timed(label: str, function: Callable[P, R]) -> Callable[P, R]:
    """The function, with its CPU time and its calls counted under `label`."""

    @wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        began = time.thread_time_ns()
        try:
            return function(*args, **kwargs)
        finally:
            cell = _spent.setdefault(label, [0, 0])
            cell[0] += time.thread_time_ns() - began
            cell[1] += 1

    return wrapper


def main() -> int:
    """Run the daemon until SIGTERM, then write what was counted."""
    out = Path(sys.argv[1])
    profile = cProfile.Profile() if os.environ.get("JOULEBOOK_BENCH_PROFILE") == "1" else None
    for label, owner, name in STAGES:
        setattr(owner, name, timed(label, getattr(owner, name)))
    tick = timed(TICK, DAEMON.tick)
    whole: Any = tick
    if profile is not None:

        def whole(self: daemon.Daemon, *, last: bool = False) -> None:
            profile.runcall(tick, self, last=last)

    DAEMON.tick = whole  # type: ignore[method-assign]
    cpu_ns = time.process_time_ns()

    def anew(_signal: int, _frame: FrameType | None) -> None:
        nonlocal cpu_ns
        _spent.clear()
        cpu_ns = time.process_time_ns()
        if profile is not None:
            profile.clear()

    signal.signal(signal.SIGUSR1, anew)
    code = cli.main(["run"])
    out.write_text(json.dumps({"cpu_ns": time.process_time_ns() - cpu_ns, "stages": _spent}))
    if profile is not None:
        text = io.StringIO()
        pstats.Stats(profile, stream=text).sort_stats("tottime").print_stats(30)
        out.with_suffix(".txt").write_text(text.getvalue())
    return code


if __name__ == "__main__":
    sys.exit(main())
