"""The tree of pods' cgroup directories, followed by inotify as pods and containers come and go.

Both drivers of the kubelet (cgroupfs, systemd), cgroup v1 and v2, and a kubelet whose tree hangs
below another directory (`kubelet.slice`). On v1 a pod has a directory in each hierarchy.

The kubelet's log folders (`NAMESPACE_NAME_UID`), made before a pod's first container starts, join a
pod's name to its uid where the API server cannot be asked.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from enum import Enum, auto
from pathlib import Path
from typing import NamedTuple, Protocol

from joulebook.errors import InputError
from joulebook.node.workloads.host.cgroup_paths import container_id, pod_uid
from joulebook.node.workloads.host.cgroup_watch import CgroupTree
from joulebook.node.workloads.host.inotify import Inotify
from joulebook.reloaded_file import ReloadedFile
from joulebook.units import NS_PER_S

MAX_FOLDERS = 4096
"""The most directories read: a node runs a few hundred pods at most."""

SETTLED_NS = NS_PER_S

_NAME = re.compile(
    r"^(?P<namespace>[a-z0-9-]{1,63})_(?P<name>[a-z0-9.-]{1,253})_(?P<uid>[0-9a-f-]{32,36})$"
)


class LogFolder(NamedTuple):
    """The parts of a log directory's name, and its last change (of two with one name, the
    newer).
    """

    namespace: str
    name: str
    uid: str
    changed_ns: int


class LogFolders:
    """Call it for all folders; they are read again only when one has come or gone."""

    def __init__(self, path: Path | None) -> None:
        self._folders = ReloadedFile(
            lambda note: log_folders(path and note(path)), settle_ns=SETTLED_NS
        )

    def __call__(self) -> list[LogFolder]:
        """All folders of pods, the oldest first."""
        self._folders.refresh()
        return self._folders.value


def log_folders(path: Path | None) -> list[LogFolder]:
    """Return all folders of pods, the oldest first; none where it cannot be read."""
    if path is None:
        return []
    found = []
    try:
        with os.scandir(path) as entries:
            for entry, _ in zip(entries, range(MAX_FOLDERS), strict=False):
                said = _NAME.match(entry.name)
                if said is not None and entry.is_dir(follow_symlinks=False):
                    changed_ns = entry.stat(follow_symlinks=False).st_mtime_ns
                    found.append(LogFolder(said[1], said[2], said[3], changed_ns))
    except OSError:
        return []
    return sorted(found, key=lambda folder: folder.changed_ns)


_ROOT = re.compile(r"^(?:.+-)?kubepods(?:\.slice)?$")
_ABOVE = re.compile(r"^kubelet(?:\.slice)?$")
_QOS = re.compile(r"^(?:.*kubepods-)?(?:burstable|besteffort)(?:\.slice)?$")


class PodLevel(Enum):
    """What a directory of the tree is."""

    BASE = auto()
    ABOVE = auto()
    ROOT = auto()
    QOS = auto()
    POD = auto()
    CONTAINER = auto()


class PodDirectory(NamedTuple):
    """One directory, and its owner."""

    path: Path
    level: PodLevel
    uid: str = ""
    container: str = ""


class PodListener(Protocol):
    """The receiver of pod events. `live`: it just happened, and was not found in a scan."""

    def cgroup_made(self, spot: PodDirectory, live: bool) -> None:
        """A directory of a pod or of one of its containers is there."""

    def cgroup_gone(self, spot: PodDirectory) -> None:
        """It is no more."""


class PodTree(CgroupTree[PodDirectory]):
    """Follows pods and their containers."""

    own = frozenset({PodLevel.ROOT})

    def __init__(
        self,
        root: Path,
        inotify: Inotify,
        refuse: Callable[[InputError], None],
        listener: PodListener,
    ) -> None:
        super().__init__(root, inotify, refuse)
        self._listener = listener

    def base(self, path: Path) -> PodDirectory:
        """See `CgroupTree`."""
        return PodDirectory(path, PodLevel.BASE)

    def child(self, spot: PodDirectory, name: str) -> PodDirectory | None:
        """See `CgroupTree`."""
        path = spot.path / name
        if spot.level in {PodLevel.BASE, PodLevel.ABOVE}:
            if _ROOT.match(name):
                return PodDirectory(path, PodLevel.ROOT)
            if spot.level is PodLevel.BASE and _ABOVE.match(name):
                return PodDirectory(path, PodLevel.ABOVE)
        elif spot.level in {PodLevel.ROOT, PodLevel.QOS}:
            uid = pod_uid(name)
            if uid:
                return PodDirectory(path, PodLevel.POD, uid)
            if spot.level is PodLevel.ROOT and _QOS.match(name):
                return PodDirectory(path, PodLevel.QOS)
        elif spot.level is PodLevel.POD:
            return PodDirectory(path, PodLevel.CONTAINER, spot.uid, container_id(name))
        return None

    def came(self, spot: PodDirectory, *, live: bool) -> bool:
        """See `CgroupTree`."""
        if spot.level in {PodLevel.POD, PodLevel.CONTAINER} and spot.path not in self._there:
            self._there[spot.path] = spot
            self._listener.cgroup_made(spot, live)
        return spot.level is not PodLevel.CONTAINER

    def gone(self, path: Path) -> None:
        """See `CgroupTree`."""
        for below in [p for p in self._there if path in p.parents]:
            self._listener.cgroup_gone(self._there.pop(below))
        spot = self._there.pop(path, None)
        if spot is not None:
            self._listener.cgroup_gone(spot)
