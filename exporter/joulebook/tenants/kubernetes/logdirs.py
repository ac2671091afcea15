"""The kubelet's log folders, whose names join a pod's name to its uid: `NAMESPACE_NAME_UID`.

The kubelet makes one before it starts a pod's first container. So a pod can be told by name and
uid where the API server cannot be asked, or has not answered yet.
"""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import NamedTuple

from joulebook.units import NS_PER_S

MAX_FOLDERS = 4096
"""More are not looked at: a node runs a few hundred pods at most."""

SETTLED_NS = NS_PER_S

_NAME = re.compile(
    r"^(?P<namespace>[a-z0-9-]{1,63})_(?P<name>[a-z0-9.-]{1,253})_(?P<uid>[0-9a-f-]{32,36})$"
)


class LogFolder(NamedTuple):
    """What a folder's name says, and when it last changed (of two with one name, the newer)."""

    namespace: str
    name: str
    uid: str
    changed_ns: int


class LogFolders:
    """Call it for all folders; they are read again only when one has come or gone."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._read_ns = 0
        self._known: list[LogFolder] = []

    def __call__(self) -> list[LogFolder]:
        """All folders of pods, the oldest first."""
        if self._path is None:
            return []
        try:
            changed_ns = self._path.stat().st_mtime_ns
        except OSError:
            return []
        # What changed in the moment of reading may have the same time.
        if changed_ns + SETTLED_NS >= self._read_ns:
            self._read_ns = time.time_ns()
            self._known = log_folders(self._path)
        return self._known


def log_folders(path: Path | None) -> list[LogFolder]:
    """All folders of pods, the oldest first; none where it cannot be read."""
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
