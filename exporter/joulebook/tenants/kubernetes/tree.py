"""The tree of pods' cgroup directories, followed by inotify as pods and containers come and go.

Both drivers of the kubelet (cgroupfs, systemd), cgroup v1 and v2, and a kubelet whose tree hangs
below another directory (`kubelet.slice`). On v1 a pod has a directory in each hierarchy.
"""

from __future__ import annotations

import re
from enum import Enum, auto
from pathlib import Path
from typing import NamedTuple, Protocol

from joulebook.tenants.cgroups import container_id, hierarchies, pod_uid
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

_MASK = IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO
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


def child(spot: Spot, name: str) -> Spot | None:
    """What a directory `name` below `spot` is; `None` if it is nothing of Kubernetes' pods."""
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


class PodTree:
    """Follows the tree below a cgroup root; all calls come from one thread."""

    def __init__(self, root: Path, inotify: Inotify, listener: PodListener) -> None:
        self._root = root
        self._inotify = inotify
        self._listener = listener
        self._watches: dict[int, Spot] = {}
        self._there: dict[Path, Spot] = {}
        self._found: set[Path] | None = None

    @property
    def present(self) -> bool:
        """Whether a kubelet keeps cgroups here: its own directory is there, if empty."""
        return any(spot.level is Level.ROOT for spot in self._watches.values())

    def scan(self) -> None:
        """Look at everything: at the start, and when events were lost."""
        self._found = set()
        for base in hierarchies(self._root):
            self._enter(Spot(base, Level.BASE), live=False)
        found, self._found = self._found, None
        for path in self._there.keys() - found:
            self._forget(path)

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
            else:
                self._forget(below.path)
        return True

    def _enter(self, spot: Spot, *, live: bool) -> None:
        if spot.level in {Level.POD, Level.CONTAINER}:
            if self._found is not None:
                self._found.add(spot.path)
            if spot.path not in self._there:
                self._there[spot.path] = spot
                self._listener.cgroup_made(spot, live)
            if spot.level is Level.CONTAINER:
                return
        try:
            self._watches[self._inotify.watch(spot.path, _MASK)] = spot
            names = [p.name for p in spot.path.iterdir() if p.is_dir()]
        except OSError:
            return  # Gone again, and then so is all below it.
        for name in names:
            below = child(spot, name)
            if below is not None:
                self._enter(below, live=live)

    def _forget(self, path: Path) -> None:
        for below in [p for p in self._there if path in p.parents]:
            self._listener.cgroup_gone(self._there.pop(below))
        spot = self._there.pop(path, None)
        if spot is not None:
            self._listener.cgroup_gone(spot)
