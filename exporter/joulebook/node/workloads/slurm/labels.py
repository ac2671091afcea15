"""Labels of a SLURM job from the environment of its processes: allow-listed names, no others.

A job's environ holds tokens and keys beside the names wanted here, so nothing but the allow-list
is ever handed over (`host/procfs.py`). It says how a job is called, never which GPU it has:
that would be wrong on every node but the first, and with `--gpus-per-task`.

A job may last 100 ms, and its first process appears some time after its cgroup: the first looks
follow each other fast, until one finds the job's name.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from joulebook.core.sanitize import clean_label
from joulebook.errors import InputError
from joulebook.node.workloads.host.procfs import read_environ
from joulebook.node.workloads.slurm.cgroups import pids_below
from joulebook.node.workloads.slurm.event_file import LABEL_NAMES, read_labels
from joulebook.node.workloads.slurm.job import Job

FAST_S = (0.0, 0.005, 0.010, 0.020, *(0.020 * n for n in range(2, 26)))
SLOW_S = (1.0, 3.0, 8.0)
SETTLED_S = 10.0
"""Labels are settled so long after the start of a job at the latest."""
_LATE_S = 16.0


def next_poll_s(count: int, *, named: bool) -> tuple[int, float]:
    """Return the number of the poll after poll `count`, and its time since the start.

    A script may export a name at any time for the programs that it starts later: the ledger takes
    it, so looks go on, twice as far apart each time: it is seen if it is there for half of the job.
    """
    after = count + 1
    if named and after < len(FAST_S):
        after = len(FAST_S)
    if after < len(FAST_S):
        return after, FAST_S[after]
    slow = after - len(FAST_S)
    if slow < len(SLOW_S):
        return after, SLOW_S[slow]
    return after, _LATE_S * 2.0 ** (slow - len(SLOW_S))


class LabelReader:
    """Reads users' names for their own jobs."""

    def __init__(self, directory: Path, refuse: Callable[[InputError], None]) -> None:
        self._directory = directory
        self._rejections = refuse

    @property
    def expected(self) -> bool:
        """Whether a TaskProlog may leave labels at all (the Prolog makes the directory if so)."""
        return self._directory.is_dir()

    def label_file(self, job: Job) -> dict[str, str]:
        """Return the labels from a job's TaskProlog; empty if missing or invalid."""
        if job.uid is None:
            return {}
        try:
            return read_labels(self._directory, job.job_id, job.uid)
        except InputError as error:
            self._rejections(error)
            return {}

    def environment(self, paths: set[Path], *, thorough: bool) -> JobEnvironment | None:
        """Return the environment of the processes in a job's cgroup directories."""
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


_MARK = b"SLURM_JOB_ID"
_SHARDS = b"SLURM_SHARDS_ON_NODE"
_WANTED = {name.encode(): name for name in LABEL_NAMES}


class JobEnvironment(NamedTuple):
    """What processes of one job reported.

    `sbatch` hands on the whole environment in which it is called. So what it says of arrays and
    restarts may be another job's, and is not even read.
    """

    labels: dict[str, str]
    job_id: str
    """`SLURM_JOB_ID` (of the first component of a heterogeneous job, so not always the job's)."""
    uid: int
    shards: int | None = None


def read_environment(
    job_directory: Path, *, processes: int = 64, proc: Path = Path("/proc")
) -> JobEnvironment | None:
    """Return the first answers found among the job's own processes below a cgroup directory.

    At most `processes` of them are read. `None` while no process of the job itself runs there
    (slurmstepd comes first), or if this daemon may not read it.
    """
    labels: dict[str, str] = {}
    found: JobEnvironment | None = None
    read = 0
    for pid in itertools.islice(pids_below(job_directory), 4 * processes):
        if read >= processes:
            break
        environment = read_environ(proc / str(pid), {*_WANTED, _MARK, _SHARDS})
        if environment is None or _MARK not in environment:
            continue
        read += 1
        for name, value in environment.items():
            if name in _WANTED and value:
                label = clean_label(value.decode("utf-8", "replace"))
                if label:
                    labels.setdefault(_WANTED[name], label)
        if found is None:
            try:
                uid = (proc / str(pid)).stat().st_uid
            except OSError:
                continue
            found = JobEnvironment(
                labels,
                clean_label(environment[_MARK].decode("utf-8", "replace")),
                uid,
                _number(environment.get(_SHARDS, b"")),
            )
    return found


def _number(value: bytes) -> int | None:
    return int(value) if value.isdigit() and len(value) < 10 else None
