"""What the processes in the cgroups of a job prove: that it lives, and since when."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from joulebook.node.workloads.host.procfs import stat_of

_EXTERN = "step_extern"


class JobProcesses:
    """Looks at the cgroup directories of jobs, and at the processes of `proc` in them."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc

    def live(self, directories: Iterable[Path]) -> bool:
        """Whether any process runs in them."""
        return any(holds_processes(directory) for directory in directories)

    def begun_boottime_ns(self, directory: Path) -> int | None:
        """CLOCK_BOOTTIME at which the oldest process there began; `None` if there is none."""
        seen = (stat_of(pid, self._proc) for pid in pids_below(directory))
        return min((each.started_boottime_ns for each in seen if each), default=None)

    def has_extern(self, directory: Path) -> bool:
        """Whether SLURM's own step is there (`PrologFlags=Contain`), which ends with the job."""
        return (directory / _EXTERN).is_dir()


def holds_processes(directory: Path) -> bool:
    """Whether any process runs in a cgroup or below it; leftovers of a crash hold none."""
    return next(pids_below(directory), None) is not None


def pids_below(directory: Path) -> Iterator[int]:
    """The processes in a cgroup and below it."""
    for parent, _, files in os.walk(directory):
        if "cgroup.procs" in files:
            try:
                text = Path(parent, "cgroup.procs").read_text()
            except OSError:
                continue
            yield from (int(pid) for pid in text.split() if pid != "0")
