"""The tree of SLURM's cgroup directories, followed by inotify as jobs and steps come and go.

Watched are the levels above a job (v1: `slurm[_node]`, `uid_U` in every hierarchy; v2:
`system.slice`, `[node_]slurmstepd.scope`) and the job's own directory, where steps appear. The
processes in it prove that the job lives, and since when.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from enum import Enum, auto
from pathlib import Path
from typing import NamedTuple, Protocol

from joulebook.errors import InputError
from joulebook.node.workloads.host.cgroup_paths import CgroupTree, SlurmPlace, is_sluid
from joulebook.node.workloads.host.inotify import Inotify
from joulebook.node.workloads.host.procfs import stat_of

_V1_NODE = re.compile(r"^slurm(?:_(.+))?$")
_SCOPE = re.compile(r"^(?:(.+)_)?slurmstepd\.scope$")
_UID = re.compile(r"^uid_(\d+)$")
_JOB = re.compile(r"^job_(\d+)$")


class JobLevel(Enum):
    """What a directory of the tree is."""

    BASE = auto()
    SLICE = auto()
    V1_NODE = auto()
    SCOPE = auto()
    UID = auto()
    JOB = auto()
    STEP = auto()


class JobDirectory(NamedTuple):
    """One directory, and the parts of its path."""

    path: Path
    level: JobLevel
    node: str = ""
    uid: int | None = None
    job: str = ""


class TreeListener(Protocol):
    """The receiver of job events."""

    def job_seen(self, place: SlurmPlace, path: Path, live: bool) -> None:
        """A directory of a job: made just now (`live`), or found with processes in a scan."""

    def step_seen(self, path: Path) -> None:
        """A step began in the job directory `path`."""

    def job_gone(self, path: Path) -> None:
        """The directory of a job is no more."""


class SlurmTree(CgroupTree[JobDirectory]):
    """Follows jobs and the start of their steps.

    With `only`, directories that name other nodes (another slurmd on this host) are left alone.
    """

    own = frozenset({JobLevel.V1_NODE, JobLevel.SCOPE})

    def __init__(
        self,
        root: Path,
        inotify: Inotify,
        refuse: Callable[[InputError], None],
        listener: TreeListener,
        only: frozenset[str] = frozenset(),
    ) -> None:
        super().__init__(root, inotify, refuse)
        self._listener = listener
        self._only = only
        self._leftover: set[Path] = set()
        self._scanned = False

    def scan(self) -> set[Path]:
        """See `CgroupTree`."""
        found = super().scan()
        self._scanned = True
        self._leftover &= found
        return found

    def base(self, path: Path) -> JobDirectory:
        """See `CgroupTree`."""
        return JobDirectory(path, JobLevel.BASE)

    def child(self, spot: JobDirectory, name: str) -> JobDirectory | None:
        """See `CgroupTree`."""
        path = spot.path / name
        if spot.level is JobLevel.BASE and name == "system.slice":
            return JobDirectory(path, JobLevel.SLICE)
        if spot.level is JobLevel.BASE and (found := _V1_NODE.match(name)):
            return JobDirectory(path, JobLevel.V1_NODE, found[1] or "")
        if spot.level in {JobLevel.SLICE, JobLevel.BASE} and (found := _SCOPE.match(name)):
            return JobDirectory(path, JobLevel.SCOPE, found[1] or "")
        if spot.level is JobLevel.V1_NODE and (found := _UID.match(name)):
            return JobDirectory(path, JobLevel.UID, spot.node, int(found[1]))
        if spot.level in {JobLevel.UID, JobLevel.SCOPE}:
            if found := _JOB.match(name):
                return JobDirectory(path, JobLevel.JOB, spot.node, spot.uid, found[1])
            if spot.level is JobLevel.SCOPE and is_sluid(name):
                return JobDirectory(path, JobLevel.JOB, spot.node, None, name)
        if spot.level is JobLevel.JOB and name.startswith("step_"):
            return JobDirectory(path, JobLevel.STEP, spot.node, spot.uid, spot.job)
        return None

    def came(self, spot: JobDirectory, *, live: bool) -> bool:
        """See `CgroupTree`."""
        if self._only and spot.node and spot.node not in self._only:
            return False
        if spot.level is JobLevel.STEP:
            # Steps that a scan finds in an empty directory are leftovers too.
            if live:
                self._step_came(spot)
            return False
        if spot.level is JobLevel.JOB and spot.path not in self._there:
            # After a hard reboot empty directories of dead jobs lie about. One that appears
            # later is a job, whose first process may only be on its way.
            new = live or (self._scanned and spot.path not in self._leftover)
            if new or holds_processes(spot.path):
                self._see(spot, live=live)
            else:
                self._leftover.add(spot.path)
        return True

    def gone(self, path: Path) -> None:
        """See `CgroupTree`."""
        self._leftover.discard(path)
        if self._there.pop(path, None) is not None:
            self._listener.job_gone(path)

    def _step_came(self, step: JobDirectory) -> None:
        job = step.path.parent
        if job not in self._there:
            # A directory that lay there empty has come to life.
            self._see(step._replace(path=job, level=JobLevel.JOB), live=True)
        self._listener.step_seen(job)

    def _see(self, spot: JobDirectory, *, live: bool) -> None:
        self._there[spot.path] = spot
        self._leftover.discard(spot.path)
        self._listener.job_seen(SlurmPlace(spot.job, spot.node, spot.uid), spot.path, live)


_EXTERN = "step_extern"


class JobProcesses:
    """Watches the cgroup directories of jobs, and the processes of `proc` in them."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc

    def live(self, directories: Iterable[Path]) -> bool:
        """Return whether any process runs in them."""
        return any(holds_processes(directory) for directory in directories)

    def begun_boottime_ns(self, directory: Path) -> int | None:
        """CLOCK_BOOTTIME at which the oldest process there began; `None` if there is none."""
        seen = (stat_of(pid, self._proc) for pid in pids_below(directory))
        return min((each.started_boottime_ns for each in seen if each), default=None)

    def has_extern(self, directory: Path) -> bool:
        """Whether SLURM's own step is there (`PrologFlags=Contain`), which ends with the job."""
        return (directory / _EXTERN).is_dir()


def holds_processes(directory: Path) -> bool:
    """Return whether any process runs in a cgroup or below it; leftovers of a crash hold none."""
    return next(pids_below(directory), None) is not None


def pids_below(directory: Path) -> Iterator[int]:
    """Yield the processes in a cgroup and below it."""
    for parent, _, files in os.walk(directory):
        if "cgroup.procs" in files:
            try:
                text = Path(parent, "cgroup.procs").read_text()
            except OSError:
                continue
            yield from (int(pid) for pid in text.split() if pid != "0")
