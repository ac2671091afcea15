"""Labels of a SLURM job from the environment of its processes: allow-listed names, no others.

A job's environ holds tokens and keys beside the names wanted here, so nothing but the allow-list
is ever handed over (`tenants/environ.py`). It says how a job is called, never which GPU it has:
that would be wrong on every node but the first, and with `--gpus-per-task`.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from joulebook.tenants.clean import clean_label
from joulebook.tenants.environ import read_environ
from joulebook.tenants.slurm.events import LABEL_NAMES

_MARK = b"SLURM_JOB_ID"
_RESTART = b"SLURM_RESTART_COUNT"
_SHARDS = b"SLURM_SHARDS_ON_NODE"
_WANTED = {name.encode(): name for name in LABEL_NAMES}


class JobEnvironment(NamedTuple):
    """What processes of one job told: labels, and numbers that SLURM itself sets."""

    labels: dict[str, str]
    job_id: str
    """`SLURM_JOB_ID` (of the first component of a heterogeneous job, so not always the job's)."""
    restart_count: int
    uid: int
    shards: int | None = None


def read_environment(
    job_directory: Path, *, processes: int = 64, proc: Path = Path("/proc")
) -> JobEnvironment | None:
    """The first answers found among the job's own processes below a cgroup directory.

    At most `processes` of them are read. `None` while no process of the job itself runs there
    (slurmstepd comes first), or if this daemon may not read it.
    """
    labels: dict[str, str] = {}
    found: JobEnvironment | None = None
    read = 0
    for pid in itertools.islice(_pids(job_directory), 4 * processes):
        if read >= processes:
            break
        environment = read_environ(proc / str(pid), {*_WANTED, _MARK, _RESTART, _SHARDS})
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
                _number(environment.get(_RESTART, b"")) or 0,
                uid,
                _number(environment.get(_SHARDS, b"")),
            )
    return found


def holds_processes(directory: Path) -> bool:
    """Whether any process runs in a cgroup or below it; leftovers of a crash hold none."""
    return next(_pids(directory), None) is not None


def _pids(directory: Path) -> Iterator[int]:
    for parent, _, files in os.walk(directory):
        if "cgroup.procs" in files:
            try:
                text = Path(parent, "cgroup.procs").read_text()
            except OSError:
                continue
            yield from (int(pid) for pid in text.split() if pid != "0")


def _number(value: bytes) -> int | None:
    return int(value) if value.isdigit() and len(value) < 10 else None
