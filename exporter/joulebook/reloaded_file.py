"""Values loaded from files and reloaded when one changes: settings, keys, tokens, requests.

A file has changed if it was replaced or its content or mode was set, which the kernel records
(inode, size, ctime). Each check costs one `stat`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import msgspec

T = TypeVar("T")

Note = Callable[[Path], Path]
"""Called with each file just before it is read; returns the file."""


class Stamp(NamedTuple):
    """The identity of a file's state; for a file without `stat`, only the error."""

    inode: int = 0
    size: int = 0
    changed_ns: int = 0
    errno: int = 0


def stamp(path: Path) -> Stamp:
    """Return the stamp of `path`, or of what it links to."""
    try:
        seen = path.stat()
    except OSError as error:
        return Stamp(errno=error.errno or -1)
    return Stamp(seen.st_ino, seen.st_size, seen.st_ctime_ns)


class ReloadedFile(Generic[T]):
    """The value that `load` makes from files.

    `load` calls its argument with every file that it reads, so that a change during the read is
    detected at the next check. If it fails, the last good value stays, and every check retries.

    Attributes:
        value: The last value loaded without a failure.
        failures: How often changed files could not be loaded, not counting retries.

    """

    def __init__(
        self,
        load: Callable[[Note], T],
        *,
        first: T | msgspec.UnsetType = msgspec.UNSET,
        settle_ns: int = 0,
    ) -> None:
        """Load it the first time, or start with `first`. Raises what `load` raises.

        Files that changed less than `settle_ns` before they were read are re-read at the next
        check, since changes within one step of the file system's clock have the same time.
        """
        self._load = load
        self._settle_ns = settle_ns
        self._good = False
        self._stamps: dict[Path, Stamp] = {}
        self._read_ns = 0
        self.failures = 0
        self.value: T = self._loaded() if first is msgspec.UNSET else first

    def refresh(self) -> bool:
        """Check whether a file has changed, and load it; return whether there is a new value.

        Raises what `load` raises.
        """
        now = {path: stamp(path) for path in self._stamps}
        changed = now != self._stamps
        if self._good and not changed and self._settled():
            return False
        was_good, self._good = self._good, False
        try:
            self.value = self._loaded()
        except BaseException:
            self.failures += was_good or changed
            raise
        return True

    def _loaded(self) -> T:
        found: dict[Path, Stamp] = {}

        def note(path: Path) -> Path:
            found[path] = stamp(path)
            return path

        self._read_ns = time.time_ns()
        try:
            value = self._load(note)
        finally:
            self._stamps = found
        self._good = True
        return value

    def _settled(self) -> bool:
        newest_ns = max((each.changed_ns for each in self._stamps.values()), default=0)
        return newest_ns + self._settle_ns <= self._read_ns or not self._settle_ns
