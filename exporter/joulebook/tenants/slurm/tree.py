"""The tree of SLURM's cgroup directories, followed by inotify as jobs and steps come and go.

Watched are the levels above a job (v1: `slurm[_node]`, `uid_U` in every hierarchy; v2:
`system.slice`, `[node_]slurmstepd.scope`) and the job's own directory, where steps appear.
"""

from __future__ import annotations

import re
from enum import Enum, auto
from pathlib import Path
from typing import NamedTuple, Protocol

from joulebook.tenants.cgroups import SlurmPlace, hierarchies, is_sluid
from joulebook.tenants.inotify import (
    IN_CREATE,
    IN_DELETE,
    IN_IGNORED,
    IN_ISDIR,
    IN_MOVED_FROM,
    IN_MOVED_TO,
    Event,
    Inotify,
)
from joulebook.tenants.slurm.jobenv import holds_processes

_MASK = IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO
_V1_NODE = re.compile(r"^slurm(?:_(.+))?$")
_SCOPE = re.compile(r"^(?:(.+)_)?slurmstepd\.scope$")
_UID = re.compile(r"^uid_(\d+)$")
_JOB = re.compile(r"^job_(\d+)$")


class Level(Enum):
    """What a directory of the tree is."""

    BASE = auto()
    SLICE = auto()
    V1_NODE = auto()
    SCOPE = auto()
    UID = auto()
    JOB = auto()
    STEP = auto()


class Spot(NamedTuple):
    """One directory, and what its path says."""

    path: Path
    level: Level
    node: str = ""
    uid: int | None = None
    job: str = ""


class TreeListener(Protocol):
    """Who is told of jobs."""

    def job_seen(self, place: SlurmPlace, path: Path, live: bool) -> None:
        """A directory of a job: made just now (`live`), or found with processes in a scan."""

    def step_seen(self, path: Path) -> None:
        """A step began in the job directory `path`."""

    def job_gone(self, path: Path) -> None:
        """The directory of a job is no more."""


def child(spot: Spot, name: str) -> Spot | None:
    """What a directory `name` below `spot` is; `None` if it is nothing of SLURM's jobs."""
    path = spot.path / name
    if spot.level is Level.BASE and name == "system.slice":
        return Spot(path, Level.SLICE)
    if spot.level is Level.BASE and (found := _V1_NODE.match(name)):
        return Spot(path, Level.V1_NODE, found[1] or "")
    if spot.level in {Level.SLICE, Level.BASE} and (found := _SCOPE.match(name)):
        return Spot(path, Level.SCOPE, found[1] or "")
    if spot.level is Level.V1_NODE and (found := _UID.match(name)):
        return Spot(path, Level.UID, spot.node, int(found[1]))
    if spot.level in {Level.UID, Level.SCOPE}:
        if found := _JOB.match(name):
            return Spot(path, Level.JOB, spot.node, spot.uid, found[1])
        if spot.level is Level.SCOPE and is_sluid(name):
            return Spot(path, Level.JOB, spot.node, None, name)
    if spot.level is Level.JOB and name.startswith("step_"):
        return Spot(path, Level.STEP, spot.node, spot.uid, spot.job)
    return None


class SlurmTree:
    """Follows the tree below a cgroup root; all calls come from one thread.

    With `only`, directories that name other nodes (another slurmd on this host) are left alone.
    """

    def __init__(
        self,
        root: Path,
        inotify: Inotify,
        listener: TreeListener,
        only: frozenset[str] = frozenset(),
    ) -> None:
        self._root = root
        self._inotify = inotify
        self._listener = listener
        self._only = only
        self._watches: dict[int, Spot] = {}
        self._jobs: set[Path] = set()
        self._leftover: set[Path] = set()
        self._found: set[Path] | None = None
        self._scanned = False

    @property
    def present(self) -> bool:
        """Whether SLURM keeps cgroups here: its own directories are there, if empty."""
        return any(spot.level in {Level.V1_NODE, Level.SCOPE} for spot in self._watches.values())

    def scan(self) -> None:
        """Look at everything: at the start, and when events were lost."""
        self._found = set()
        for base in hierarchies(self._root):
            self._enter(Spot(base, Level.BASE), live=False)
        found, self._found = self._found, None
        self._scanned = True
        for path in self._jobs - found:
            self._forget(path)
        self._leftover &= found

    def handle(self, event: Event) -> bool:
        """Take one event; `False` if it is not of this tree."""
        spot = self._watches.get(event.watch)
        if spot is None:
            return False
        if event.mask & IN_IGNORED:
            del self._watches[event.watch]
        elif event.mask & IN_ISDIR:
            below = child(spot, event.name)
            if below is None:
                pass
            elif event.mask & (IN_CREATE | IN_MOVED_TO):
                self._enter(below, live=True)
            elif below.level is Level.JOB:
                self._forget(below.path)
        return True

    def _enter(self, spot: Spot, *, live: bool) -> None:
        if self._only and spot.node and spot.node not in self._only:
            return
        if spot.level is Level.STEP:
            job = spot.path.parent
            if job not in self._jobs:
                # A directory that lay there empty has come to life.
                self._see(Spot(job, Level.JOB, spot.node, spot.uid, spot.job), live=True)
            self._listener.step_seen(job)
            return
        if spot.level is Level.JOB:
            if self._found is not None:
                self._found.add(spot.path)
            if spot.path not in self._jobs:
                # After a hard reboot empty directories of dead jobs lie about. One that appears
                # later is a job, whose first process may only be on its way.
                new = live or (self._scanned and spot.path not in self._leftover)
                if new or holds_processes(spot.path):
                    self._see(spot, live=live)
                else:
                    self._leftover.add(spot.path)
        try:
            self._watches[self._inotify.watch(spot.path, _MASK)] = spot
            names = [p.name for p in spot.path.iterdir() if p.is_dir()]
        except OSError:
            return  # Gone again, and then so is all below it.
        for name in names:
            below = child(spot, name)
            # Steps that a scan finds in an empty directory are leftovers too.
            if below is not None and (live or below.level is not Level.STEP):
                self._enter(below, live=live)

    def _see(self, spot: Spot, *, live: bool) -> None:
        self._jobs.add(spot.path)
        self._leftover.discard(spot.path)
        self._listener.job_seen(SlurmPlace(spot.job, spot.node, spot.uid), spot.path, live)

    def _forget(self, path: Path) -> None:
        self._leftover.discard(path)
        if path in self._jobs:
            self._jobs.discard(path)
            self._listener.job_gone(path)
