"""The machine a benchmark runs on, and what one of its processes costs."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

MIB = 1024 * 1024
_CPUCLOCK_SCHED = 2


def describe() -> str:
    """The machine in one line."""
    model = "unknown CPU"
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    cores = len(os.sched_getaffinity(0))
    return (
        f"{cores} x {model}, Linux {platform.release()}, Python {platform.python_version()}, "
        f"load average {os.getloadavg()[0]:.1f} at the start"
    )


def pin(pid: int, *, last: bool) -> None:
    """Keep all threads of a process on the last core, or on the others.

    What is measured has the last core, what measures it the rest; no use on a single core.
    """
    cores = sorted(os.sched_getaffinity(os.getpid()))
    allowed = sorted(range(os.cpu_count() or 1)) if len(cores) < 2 else cores
    if len(allowed) < 2:
        return
    chosen = {allowed[-1]} if last else set(allowed[:-1])
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            os.sched_setaffinity(int(thread.name), chosen)


def cpu_ns(pid: int) -> int:
    """CPU time that all threads of a process have used, in ns.

    The process's own CPU clock (clock_getcpuclockid(3)): the same as user + system of its `stat`
    file, which counts in steps of 10 ms.
    """
    return time.clock_gettime_ns(~pid << 3 | _CPUCLOCK_SCHED)


class Memory(NamedTuple):
    """Memory of a process, in MiB."""

    rss: float
    pss: float
    anonymous: float
    """What is its own and was written to: the heap."""


def memory(pid: int, without: Iterable[Path] = ()) -> Memory:
    """What a process has in memory, less what it maps of the files `without`.

    The scenario of the fake driver is such a file: a real driver has no such map.
    """
    left_out = [str(path) for path in without]
    sums = {"Rss:": 0, "Pss:": 0, "Anonymous:": 0}
    counts = True
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        words = line.split()
        if words[0] in sums:
            sums[words[0]] += int(words[1]) if counts else 0
        elif "-" in words[0] and not words[0].endswith(":"):
            counts = not any(line.endswith(path) for path in left_out)
    return Memory(*(kib / 1024 for kib in sums.values()))


class Fsyncs:
    """Counts the fsyncs of a program that runs in `environment`; the count is in `directory`."""

    def __init__(self, directory: Path) -> None:
        library, source = directory / "fsyncs.so", Path(__file__).with_name("fsyncs.c")
        command = ["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
        subprocess.run([*command, str(source), "-o", str(library)], check=True)
        self._counted = directory / "fsyncs"
        self.environment = {"LD_PRELOAD": str(library), "BENCH_FSYNCS": str(self._counted)}

    def count(self) -> int:
        """How many there were since its start."""
        return int.from_bytes(self._counted.read_bytes(), sys.byteorder)


def written(pid: int) -> int:
    """Bytes that a process has given to write(2), the ledger's log and checkpoints included."""
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("wchar:"))
