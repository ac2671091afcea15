"""A tree of cgroup directories, followed by inotify as they come and go.

Subclasses decide what a directory is, and who is notified: SLURM's jobs, pods.
"""

from __future__ import annotations

import errno
from abc import ABC, abstractmethod
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import ClassVar, Generic, Protocol, TypeVar

from joulebook.errors import InputError
from joulebook.node.workloads.host.cgroup_paths import hierarchies
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
        self._refuse = refuse
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
            names = [p.name for p in spot.path.iterdir() if p.is_dir()]
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
            self._refuse(InputError(text, reason="inotify_full"))
