"""The kubelet's log folders, whose names join a pod's name to its uid: `NAMESPACE_NAME_UID`.

The kubelet makes one before it starts a pod's first container. So a pod can be told by name and
uid where the API server cannot be asked, or has not answered yet.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

MAX_FOLDERS = 4096
"""More are not looked at: a node runs a few hundred pods at most."""

_NAME = re.compile(
    r"^(?P<namespace>[a-z0-9-]{1,63})_(?P<name>[a-z0-9.-]{1,253})_(?P<uid>[0-9a-f-]{32,36})$"
)


class LogFolder(NamedTuple):
    """What a folder's name says, and when it last changed (of two with one name, the newer)."""

    namespace: str
    name: str
    uid: str
    changed_ns: int


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
