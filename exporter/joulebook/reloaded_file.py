"""What is made of files, and made again when one of them changes: settings, keys, tokens, requests.

A file counts as changed when it is another one or its contents or rights were set anew, which the
kernel notes (inode, size, time of change). That costs one call of `stat` for each look.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import msgspec

T = TypeVar("T")

Note = Callable[[Path], Path]
"""Called with each file just before it is read; gives the file back."""


class Stamp(NamedTuple):
    """What a file looks like from outside; a file that cannot be looked at has the error alone."""

    inode: int = 0
    size: int = 0
    changed_ns: int = 0
    errno: int = 0


def stamp(path: Path) -> Stamp:
    """Return what `path`, or what it leads to, looks like now."""
    try:
        seen = path.stat()
    except OSError as error:
        return Stamp(errno=error.errno or -1)
    return Stamp(seen.st_ino, seen.st_size, seen.st_ctime_ns)


class ReloadedFile(Generic[T]):
    """The value that `load` makes of files.

    `load` calls what it is given with every file that it reads: a change while it reads is seen at
    the next look. Where it fails, the last good value stays, and every look tries again.

    Attributes:
        value: What was loaded last without a failure.
        failures: How often changed files could not be loaded, however often that was tried.

    """

    def __init__(
        self,
        load: Callable[[Note], T],
        *,
        first: T | msgspec.UnsetType = msgspec.UNSET,
        settle_ns: int = 0,
    ) -> None:
        """Load it the first time, or start with `first`. Raises what `load` raises.

        Files that changed less than `settle_ns` before they were read are read again at the next
        look: what changes within one step of the file system's clock has the same time.
        """
        self._load = load
        self._settle_ns = settle_ns
        self._good = False
        self._stamps: dict[Path, Stamp] = {}
        self._read_ns = 0
        self.failures = 0
        self.value: T = self._loaded() if first is msgspec.UNSET else first

    def refresh(self) -> bool:
        """Look whether a file has changed, and load it then; whether there is a new value.

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
