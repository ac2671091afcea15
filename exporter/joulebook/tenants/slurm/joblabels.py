"""When to look for a job's labels, and where: a label file, then its processes' environment.

A job may last 100 ms and its first process appears some time after its cgroup, so the first looks
follow each other fast, until one finds the job's name. What a script exports for the programs that
it starts is found by later looks, until labels must be settled.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from joulebook.errors import InputError
from joulebook.tenants.slurm.events import read_labels
from joulebook.tenants.slurm.job import Job
from joulebook.tenants.slurm.jobenv import JobEnvironment, read_environment

FAST_S = (0.0, 0.005, 0.010, 0.020, *(0.020 * n for n in range(2, 26)))
SLOW_S = (1.0, 3.0, 8.0)
"""Labels are settled 10 s after the start of a job at the latest."""


def next_look_s(count: int, *, named: bool) -> tuple[int, float] | None:
    """The number of the look after look `count` and its time since the start; `None`: the last."""
    after = count + 1
    if named and after < len(FAST_S):
        after = len(FAST_S)
    if after < len(FAST_S):
        return after, FAST_S[after]
    slow = after - len(FAST_S)
    return (after, SLOW_S[slow]) if slow < len(SLOW_S) else None


class LabelReader:
    """Reads what users may say of their own jobs."""

    def __init__(self, directory: Path, refuse: Callable[[InputError], None]) -> None:
        self._directory = directory
        self._refuse = refuse

    @property
    def expected(self) -> bool:
        """Whether a TaskProlog may leave labels at all (the Prolog makes the directory if so)."""
        return self._directory.is_dir()

    def label_file(self, job: Job) -> dict[str, str]:
        """What the TaskProlog of a job left; empty where there is none or it cannot count."""
        if job.uid is None:
            return {}
        try:
            return read_labels(self._directory, job.job_id, job.uid)
        except InputError as error:
            self._refuse(error)
            return {}

    def environment(self, paths: set[Path], *, thorough: bool) -> JobEnvironment | None:
        """What the processes in any of a job's cgroup directories tell."""
        for path in sorted(paths):
            found = read_environment(path, processes=64 if thorough else 1)
            if found is not None:
                return found
        return None

    def forget(self, job_id: str, uid: int) -> None:
        """Delete the label file of a job that is over."""
        try:
            Path(self._directory, f"{job_id}.{uid}.json").unlink(missing_ok=True)
        except OSError:
            return  # Without the right to: it is small, and the directory is gone at reboot.
