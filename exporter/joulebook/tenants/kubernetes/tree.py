"""The tree of pods' cgroup directories, followed by inotify as pods and containers come and go.

Both drivers of the kubelet (cgroupfs, systemd), cgroup v1 and v2, and a kubelet whose tree hangs
below another directory (`kubelet.slice`). On v1 a pod has a directory in each hierarchy.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import Enum, auto
from pathlib import Path
from typing import NamedTuple, Protocol

from joulebook.errors import InputError
from joulebook.tenants.cgroups import container_id, pod_uid
from joulebook.tenants.cgrouptree import CgroupTree
from joulebook.tenants.inotify import Inotify

_ROOT = re.compile(r"^(?:.+-)?kubepods(?:\.slice)?$")
_ABOVE = re.compile(r"^kubelet(?:\.slice)?$")
_QOS = re.compile(r"^(?:.*kubepods-)?(?:burstable|besteffort)(?:\.slice)?$")


class Level(Enum):
    """What a directory of the tree is."""

    BASE = auto()
    ABOVE = auto()
    ROOT = auto()
    QOS = auto()
    POD = auto()
    CONTAINER = auto()


class Spot(NamedTuple):
    """One directory, and whose it is."""

    path: Path
    level: Level
    uid: str = ""
    container: str = ""


class PodListener(Protocol):
    """Who is told of pods. `live`: it happened just now, and was not found in a scan."""

    def cgroup_made(self, spot: Spot, live: bool) -> None:
        """A directory of a pod or of one of its containers is there."""

    def cgroup_gone(self, spot: Spot) -> None:
        """It is no more."""


class PodTree(CgroupTree[Spot]):
    """Follows pods and their containers."""

    def __init__(
        self,
        root: Path,
        inotify: Inotify,
        refuse: Callable[[InputError], None],
        listener: PodListener,
    ) -> None:
        super().__init__(root, inotify, refuse)
        self._listener = listener

    @property
    def present(self) -> bool:
        """Whether a kubelet keeps cgroups here: its own directory is there, if empty."""
        return any(spot.level is Level.ROOT for spot in self._watches.values())

    def base(self, path: Path) -> Spot:
        """See `CgroupTree`."""
        return Spot(path, Level.BASE)

    def child(self, spot: Spot, name: str) -> Spot | None:
        """See `CgroupTree`."""
        path = spot.path / name
        if spot.level in {Level.BASE, Level.ABOVE}:
            if _ROOT.match(name):
                return Spot(path, Level.ROOT)
            if spot.level is Level.BASE and _ABOVE.match(name):
                return Spot(path, Level.ABOVE)
        elif spot.level in {Level.ROOT, Level.QOS}:
            uid = pod_uid(name)
            if uid:
                return Spot(path, Level.POD, uid)
            if spot.level is Level.ROOT and _QOS.match(name):
                return Spot(path, Level.QOS)
        elif spot.level is Level.POD:
            return Spot(path, Level.CONTAINER, spot.uid, container_id(name))
        return None

    def came(self, spot: Spot, *, live: bool) -> bool:
        """See `CgroupTree`."""
        if spot.level in {Level.POD, Level.CONTAINER} and spot.path not in self._there:
            self._there[spot.path] = spot
            self._listener.cgroup_made(spot, live)
        return spot.level is not Level.CONTAINER

    def gone(self, path: Path) -> None:
        """See `CgroupTree`."""
        for below in [p for p in self._there if path in p.parents]:
            self._listener.cgroup_gone(self._there.pop(below))
        spot = self._there.pop(path, None)
        if spot is not None:
            self._listener.cgroup_gone(spot)
