"""Find the owner of a process from the path of its cgroup.

    v1   /slurm[_node]/uid_U/job_J/step_S[/task_T]             (once for each hierarchy)
    v2   /system.slice/[node_]slurmstepd.scope/job_J/step_S/user/task_T
    v2   the same with a SLUID such as s8FXKTA79XAR00 for job_J  (SLURM 26.05)

    systemd    /kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podUID.slice/RT-ID.scope
    cgroupfs   /kubepods/burstable/podUID/ID          (burstable, besteffort, or neither)

Users can create cgroups with any name where systemd delegates a part of the tree: below their own
slice and in their services. A name only counts where root alone can have given it
(`given_by_root`), and of nested ones the outermost does. Inside a pod or container there may be
another SLURM tree.

A daemon in a cgroup namespace of its own sees the paths of others from there, as
`/../../podUID/ID`: only the parts from the pod on are relied on.

Pure parsing first; `CgroupReader` only reads `/proc/<pid>/cgroup` and remembers it for a while, and
`CgroupTree` follows directories by inotify as they come and go.
"""

from __future__ import annotations

import errno
import os
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import ClassVar, Generic, NamedTuple, Protocol, TypeVar

from joulebook.errors import InputError
from joulebook.node.workloads.host.inotify import (
    IN_CREATE,
    IN_DELETE,
    IN_IGNORED,
    IN_ISDIR,
    IN_MOVED_FROM,
    IN_MOVED_TO,
    Event,
    Inotify,
)

_V1 = re.compile(
    r"/slurm(?:_(?P<node>[^/]+))?/uid_(?P<uid>\d+)/job_(?P<job>\d+)"
    r"(?:/step_(?P<step>[^/]+))?(?:/task_(?P<task>[^/]+))?(?:/|$)"
)
_V2 = re.compile(
    r"/(?:(?P<node>[^/]+)_)?slurmstepd\.scope/(?P<job>job_\d+|s[0-9A-HJKMNP-TV-Z]{13})"
    r"(?:/step_(?P<step>[^/]+))?(?:/(?:user|slurm))?(?:/task_(?P<task>[^/]+))?(?:/|$)"
)
_USERS_OWN = re.compile(
    r"/(?:user\.slice|user-\d+\.slice|user@[^/]*|lxc|lxc\.payload\.[^/]*|machine-[^/]*"
    r"|(?!(?:containerd|crio|cri-o|docker|kubelet|k3s|k3s-agent|rke2-server|rke2-agent)\.service)"
    r"[^/]+\.service)(?=/|$)"
)
"""Directories below which users (also those who are root in a machine of their own) make others."""

_ABOVE = re.compile(r"^(?:/\.\.)+(?=/)")
_SLUID = re.compile(r"^s[0-9A-HJKMNP-TV-Z]{13}$")


_UID = r"[0-9a-f]{8}(?:[_-][0-9a-f]{4}){3}[_-][0-9a-f]{12}|[0-9a-f]{32}"  # static pods: a hash
_POD = re.compile(
    rf"(?:^|/)(?:[^/]*kubepods[^/]*-pod(?P<slice>{_UID})\.slice|pod(?P<plain>{_UID}))"
    r"(?:[:/](?P<container>[^/]+))?(?:/|$)"
)
_POD_NAME = re.compile(rf"^(?:.*kubepods.*-pod({_UID})\.slice|pod({_UID}))$")
_CONTAINER_ID = re.compile(r"[0-9a-f]{64}")


def from_namespace(path: str) -> str:
    """Return a path without the way up from this process's own cgroup namespace.

    The path is relative to an ancestor of this daemon's own cgroup, which root made.
    """
    return _ABOVE.sub("", path)


def given_by_root(path: str, end: int) -> bool:
    """Whether users can have made no directory of `path` that begins before position `end`."""
    return _USERS_OWN.search(path, 0, end) is None


class PodPlace(NamedTuple):
    """In which pod a process runs: the pod's uid, and the id of its container where it is
    reported.
    """

    uid: str
    container: str = ""


def pod_place(path: str) -> PodPlace | None:
    """Return the Kubernetes pod of a cgroup path; `None` if it is not below one."""
    path = from_namespace(path)
    found = _POD.search(path)
    if found is None or not given_by_root(path, found.start()):
        return None
    uid = (found["slice"] or found["plain"]).replace("_", "-")
    return PodPlace(uid, container_id(found["container"] or ""))


def pod_uid(name: str) -> str:
    """Return the uid in the name of a pod's own directory; empty if it is none."""
    found = _POD_NAME.match(name)
    return (found[1] or found[2]).replace("_", "-") if found else ""


def container_id(name: str) -> str:
    """The id in the name of a container's directory (`cri-containerd-ID.scope`), else the name."""
    found = _CONTAINER_ID.search(name)
    return found[0] if found else name


class SlurmPlace(NamedTuple):
    """Where in SLURM a process runs. `job` is a job id, or a SLUID where `is_sluid`."""

    job: str
    node: str = ""
    uid: int | None = None
    step: str = ""
    task: str = ""

    @property
    def is_sluid(self) -> bool:
        """Whether `job` is the cluster-wide id of SLURM 26.05, not the job id."""
        return self.job.startswith("s")


def is_sluid(name: str) -> bool:
    """Return whether a directory of a slurmstepd.scope is named by a SLUID."""
    return _SLUID.match(name) is not None


def slurm_place(path: str) -> SlurmPlace | None:
    """Return the SLURM job of a cgroup path; `None` if it is not below one."""
    path = from_namespace(path)
    found = _V1.search(path) or _V2.search(path)
    if found is None or not given_by_root(path, found.start()):
        return None
    part = found.groupdict()
    uid = part.get("uid")
    return SlurmPlace(
        job=part["job"].removeprefix("job_"),
        node=part["node"] or "",
        uid=None if uid is None else int(uid),
        step=part["step"] or "",
        task=part["task"] or "",
    )


def cgroup_paths(text: str) -> tuple[str, ...]:
    """Return the paths in `/proc/<pid>/cgroup`, one for each hierarchy (`0::/...` is v2)."""
    paths = (line.split(":", 2) for line in text.splitlines())
    return tuple(p[2] for p in paths if len(p) == 3)


def hierarchies(root: Path) -> list[Path]:
    """Return where slices of services and pods may lie below a place where cgroups are mounted."""
    # The root of a pure cgroup2 mount has slices below it, anything else has hierarchies.
    if (root / "cgroup.controllers").exists():
        return [root]
    try:
        below = sorted(p for p in root.iterdir() if p.is_dir() and not p.is_symlink())
    except OSError:
        return []
    return [root, *below]


class CgroupReader:
    """The cgroup paths of processes, remembered for `ttl_s` (processes seldom change cgroup).

    A pid that was given to another process has another directory inode, and is read afresh.
    """

    def __init__(self, proc: Path = Path("/proc"), *, ttl_s: float = 10.0) -> None:
        self._proc = str(proc)
        self._ttl_s = ttl_s
        self._known: dict[int, tuple[int, float, tuple[str, ...]]] = {}

    def paths(self, pid: int) -> tuple[str, ...]:
        """Return the cgroup paths of a process; empty if it is gone."""
        directory = Path(f"{self._proc}/{pid}")
        now = time.monotonic()
        try:
            inode = directory.stat().st_ino
            known = self._known.get(pid)
            if known is not None and known[0] == inode and now < known[1]:
                return known[2]
            paths = cgroup_paths((directory / "cgroup").read_text(errors="replace"))
        except OSError:
            self._known.pop(pid, None)
            return ()
        if len(self._known) >= 4096:
            self._known.clear()
        self._known[pid] = (inode, now + self._ttl_s, paths)
        return paths

    def slurm(self, pid: int) -> SlurmPlace | None:
        """Return the SLURM job in which a process runs, by its cgroup."""
        for path in self.paths(pid):
            place = slurm_place(path)
            if place is not None:
                return place
        return None

    def pod(self, pid: int) -> PodPlace | None:
        """Return the Kubernetes pod in which a process runs, by its cgroup."""
        return next(filter(None, map(pod_place, self.paths(pid))), None)


_MASK = IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO


class WatchedDirectory(Protocol):
    """One directory, and what it is."""

    @property
    def path(self) -> Path:
        """Where it is."""

    @property
    def level(self) -> Enum:
        """What it is."""


Spot = TypeVar("Spot", bound=WatchedDirectory)


class CgroupTree(ABC, Generic[Spot]):
    """Follows the tree below a cgroup root; all calls come from one thread.

    `own` are the levels of directories that nobody else makes.
    """

    own: ClassVar[frozenset[Enum]]

    def __init__(self, root: Path, inotify: Inotify, refuse: Callable[[InputError], None]) -> None:
        self._root = root
        self._inotify = inotify
        self._rejections = refuse
        self._watches: dict[int, Spot] = {}
        self._there: dict[Path, Spot] = {}
        """Directories reported and not gone yet."""
        self._found: set[Path] = set()

    @property
    def present(self) -> bool:
        """Whether there are directories of its own here, with or without anything in them."""
        return any(spot.level in self.own for spot in self._watches.values())

    @abstractmethod
    def base(self, path: Path) -> Spot:
        """Return the root of a hierarchy."""

    @abstractmethod
    def child(self, spot: Spot, name: str) -> Spot | None:
        """What a directory `name` below `spot` is; `None` if it is nothing of this tree's."""

    @abstractmethod
    def came(self, spot: Spot, *, live: bool) -> bool:
        """Report a directory, just made (`live`) or found; return whether to descend."""

    @abstractmethod
    def gone(self, path: Path) -> None:
        """A directory is no more, and so is all below it."""

    def scan(self) -> set[Path]:
        """Scan everything, at the start and when events were lost; return what exists."""
        self._watches, self._found = {}, set()
        for path in hierarchies(self._root):
            self._enter(self.base(path), live=False)
        found, self._found = self._found, set()
        for path in self._there.keys() - found:
            self.gone(path)
        return found

    def handle(self, event: Event) -> bool:
        """Take one event; `False` if it is not of this tree."""
        spot = self._watches.get(event.watch)
        if spot is None:
            return False
        if event.mask & IN_IGNORED:
            del self._watches[event.watch]
        elif event.mask & IN_ISDIR:
            below = self.child(spot, event.name)
            if below is None:
                pass
            elif event.mask & (IN_CREATE | IN_MOVED_TO):
                self._enter(below, live=True)
            else:
                self.gone(below.path)
        return True

    def _enter(self, spot: Spot, *, live: bool) -> None:
        if not live:
            self._found.add(spot.path)
        if not self.came(spot, live=live):
            return
        try:
            self._watch(spot)
            with os.scandir(spot.path) as entries:
                names = [entry.name for entry in entries if entry.is_dir()]
        except OSError:
            return  # Gone again, and then so is all below it.
        for name in names:
            below = self.child(spot, name)
            if below is not None:
                self._enter(below, live=live)

    def _watch(self, spot: Spot) -> None:
        try:
            self._watches[self._inotify.watch(spot.path, _MASK)] = spot
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            text = (
                "inotify has no watches left for cgroups: changes may be detected a minute late; "
                "raise fs.inotify.max_user_watches (sysctl)"
            )
            self._rejections(InputError(text, reason="inotify_full"))
