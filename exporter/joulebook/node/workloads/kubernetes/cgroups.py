"""The tree of pods' cgroup directories, followed by inotify as pods and containers come and go.

Both drivers of the kubelet (cgroupfs, systemd), cgroup v1 and v2, and a kubelet whose tree hangs
below another directory (`kubelet.slice`). On v1 a pod has a directory in each hierarchy.

The kubelet's log folders (`NAMESPACE_NAME_UID`), made before a pod's first container starts, join a
pod's name to its uid where the API server cannot be asked (`PodNames`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from enum import Enum, auto
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

from joulebook.errors import InputError
from joulebook.node.workloads.host.cgroup_paths import CgroupTree, container_id, pod_uid
from joulebook.node.workloads.host.inotify import Inotify
from joulebook.node.workloads.kubernetes.pod_object import PodInfo
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
        start = f"{path}/"
        for below in [each for each in self._there if str(each).startswith(start)]:
            self._listener.cgroup_gone(self._there.pop(below))
        spot = self._there.pop(path, None)
        if spot is not None:
            self._listener.cgroup_gone(spot)


MAX_PODS = 4096
"""The most pods remembered of those that ended, or were reported and never came: the newest."""

Known = TypeVar("Known")


class PodNames:
    """Names and uids of pods. `folders` lists the kubelet's log folders.

    A uid is that of cgroups' paths. For a static pod it is the kubelet's, which stays where the
    API server is away or gives its mirror another one.
    """

    def __init__(self, folders: Callable[[], Sequence[LogFolder]]) -> None:
        self._folders = folders
        self._told: dict[str, PodInfo] = {}
        self._named: dict[tuple[str, str], list[PodInfo]] | None = None  # made when needed
        self._deleted: set[str] = set()
        self._static: dict[str, str] = {}
        self._real: set[str] = set()
        self._over: dict[str, tuple[str, str]] = {}

    def tell(self, info: PodInfo) -> None:
        """Note a pod as the API server has it now."""
        self._told[info.uid], self._named = info, None
        self._deleted.discard(info.uid)
        static = info.static_uid
        if not static or static in self._told or info.uid in self._real:
            return
        mirror = self._told.get(self._static.get(static, ""))
        if mirror is None or mirror.uid in self._deleted or info.created < mirror.created:
            self._static[static] = info.uid

    def real(self, uid: str) -> None:
        """Note that a pod has a cgroup of that uid: it is no mirror of a static one."""
        self._real.add(uid)
        self._over.pop(uid, None)
        for static in [static for static, mirror in self._static.items() if mirror == uid]:
            del self._static[static]

    def delete(self, uid: str) -> None:
        """Note that the API server has a pod (by its uid there) no more; it may still be here."""
        self._deleted.add(uid)

    def relist(self, infos: Iterable[PodInfo]) -> None:
        """Note all pods that the API server has."""
        seen = set()
        for info in infos:
            seen.add(info.uid)
            self.tell(info)
        self._deleted |= self._told.keys() - seen

    def gone(self, uid: str, name: tuple[str, str]) -> None:
        """Note that the cgroups of a pod went: it is none that is there."""
        self._over[uid] = name
        bound(self._over)

    def was_here(self, namespace: str, name: str) -> bool:
        """Return whether a pod of that name is known to be over."""
        return (namespace, name) in self._over.values()

    def uid_of(self, info: PodInfo) -> str:
        """Return the uid of what the API server reported: static pods have two."""
        return info.static_uid if self._static.get(info.static_uid) == info.uid else info.uid

    def info(self, uid: str) -> PodInfo | None:
        """Return what the API server reported of a pod."""
        return self._told.get(self._static.get(uid, uid))

    def name(self, uid: str) -> tuple[str, str] | None:
        """Return the namespace and name of a pod."""
        info = self.info(uid)
        if info is not None:
            return info.namespace, info.name
        return next(((f.namespace, f.name) for f in self._folders() if f.uid == uid), None)

    def uid(self, namespace: str, name: str, but: str = "") -> str:
        """Return the uid of the newest pod of that name that is still there; empty: not known.

        `but` is one that it is not; nor is it one that is known to be over.
        """

        def may_be(uid: str) -> bool:
            return uid != but and uid not in self._over

        reported = [
            info for info in self._by_name().get((namespace, name), ()) if may_be(self.uid_of(info))
        ]
        living = [info for info in reported if info.uid not in self._deleted]
        if living:
            return self.uid_of(max(living, key=lambda info: (not info.done, info.created)))
        uids = [
            folder.uid
            for folder in self._folders()
            if (folder.namespace, folder.name) == (namespace, name)
        ]
        for uid in reversed(uids):
            if may_be(uid):
                return uid
        return self.uid_of(max(reported, key=lambda info: info.created)) if reported else ""

    def _by_name(self) -> Mapping[tuple[str, str], Sequence[PodInfo]]:
        """Return what the API server reported, by namespace and name."""
        if self._named is None:
            self._named = {}
            for info in self._told.values():
                self._named.setdefault((info.namespace, info.name), []).append(info)
        return self._named

    def forget(self, here: Collection[str]) -> None:
        """Forget the deleted pods that are not `here` any more."""
        self._real &= set(here)
        for uid in self._deleted - {self._static.get(uid, uid) for uid in here}:
            self._deleted.discard(uid)
            info, self._named = self._told.pop(uid, None), None
            if info is not None and self._static.get(info.static_uid) == uid:
                del self._static[info.static_uid]
        if bound(self._told):
            self._named = None
        bound(self._static)


def bound(known: dict[str, Known]) -> bool:
    """Keep the newest `MAX_PODS`; return whether there were more."""
    are_more = len(known) > MAX_PODS
    while len(known) > MAX_PODS:
        known.pop(next(iter(known)))
    return are_more
