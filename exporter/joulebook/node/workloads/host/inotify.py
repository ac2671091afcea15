"""inotify(7), and a thread that reads it.

Watches are per directory and not recursive; what happens between the making of a directory and the
watch on it is not reported, so list a directory after watching it. If the kernel's queue was full,
one event with `overflow` means that others are missing: rescan.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import inotify_simple
from inotify_simple import flags

from joulebook.backoff import LastingThread

IN_CLOSE_WRITE = int(flags.CLOSE_WRITE)
IN_MOVED_FROM = int(flags.MOVED_FROM)
IN_MOVED_TO = int(flags.MOVED_TO)
IN_CREATE = int(flags.CREATE)
IN_DELETE = int(flags.DELETE)
IN_DELETE_SELF = int(flags.DELETE_SELF)
IN_MOVE_SELF = int(flags.MOVE_SELF)
IN_Q_OVERFLOW = int(flags.Q_OVERFLOW)
IN_IGNORED = int(flags.IGNORED)
IN_ONLYDIR = int(flags.ONLYDIR)
IN_ISDIR = int(flags.ISDIR)

_FILES = IN_CLOSE_WRITE | IN_MOVED_TO | IN_MOVED_FROM | IN_DELETE
_GONE = IN_DELETE_SELF | IN_MOVE_SELF


class Event(NamedTuple):
    """One event: its watch, what happened, and the name in the watched directory."""

    watch: int
    mask: int
    name: str

    @property
    def overflow(self) -> bool:
        """Events were lost: consumers must rescan everything."""
        return bool(self.mask & IN_Q_OVERFLOW)


class Inotify:
    """An inotify instance; watches may be added from several threads, one reads."""

    def __init__(self) -> None:
        self._inotify = inotify_simple.INotify(nonblocking=True)

    def fileno(self) -> int:
        """For selectors."""
        return int(self._inotify.fileno())

    def watch(self, directory: Path, mask: int) -> int:
        """Watch a directory; the same directory gives the same number. Raises `OSError`."""
        try:
            return int(self._inotify.add_watch(directory, mask | IN_ONLYDIR))
        except OSError as error:
            error.filename = str(directory)
            raise

    def unwatch(self, number: int) -> None:
        """End a watch; one that the kernel has ended already is no error."""
        with contextlib.suppress(OSError):
            self._inotify.rm_watch(number)

    def read(self) -> list[Event]:
        """Return all events that wait now; empty if there are none."""
        try:
            found = self._inotify.read(timeout=0)
        except BlockingIOError:
            return []
        return [Event(each.wd, each.mask, each.name) for each in found]

    def close(self) -> None:
        """Close the descriptor; all watches end."""
        self._inotify.close()


class FollowedDirectory(ABC):
    """One directory whose files are watched."""

    def __init__(self, path: Path, inotify: Inotify) -> None:
        self._path = path
        self._inotify = inotify
        self._watch: int | None = None

    @property
    def whole(self) -> bool:
        """Whether all that it holds is known now, and will be as it changes."""
        return self._watch is not None

    def follow(self) -> None:
        """Begin to watch; list it after that. Raises `OSError`."""
        self._watch = self._inotify.watch(self._path, _FILES | _GONE)

    def handle(self, event: Event) -> bool:
        """Take one event; `False` if it is not of this directory."""
        if event.watch != self._watch:
            return False
        if event.mask & (_GONE | IN_IGNORED):
            self.close()
        self.changed(event)
        return True

    @abstractmethod
    def changed(self, event: Event) -> None:
        """A file of that name was created, changed or removed, or the directory was removed."""

    def close(self) -> None:
        """Stop watching."""
        if self._watch is not None:
            self._inotify.unwatch(self._watch)
            self._watch = None


class InotifyThread(LastingThread):
    """Delivers events as they come, and calls at the time set by `wait_s`.

    `wait_s` returns the seconds until `on_events` is called at the latest, without events if there
    are none (`None`: only with events). `wake` calls it at once.
    """

    def __init__(
        self,
        name: str,
        inotify: Inotify,
        on_events: Callable[[Sequence[Event]], None],
        wait_s: Callable[[], float | None],
    ) -> None:
        super().__init__(name, self._serve)
        self._inotify = inotify
        self._on_events = on_events
        self._wait_s = wait_s
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._stopping = threading.Event()

    def _serve(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._inotify, selectors.EVENT_READ)
            selector.register(self._wake_fd, selectors.EVENT_READ)
            while not self._stopping.is_set():
                selector.select(self._wait_s())
                if self._stopping.is_set():
                    return
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(self._wake_fd)
                self._on_events(self._inotify.read())

    def wake(self) -> None:
        """Call `on_events` soon."""
        os.eventfd_write(self._wake_fd, 1)

    def stop(self) -> None:
        """End the thread and wait for it."""
        self._stopping.set()
        self.wake()
        if self.is_alive():
            self.join()
        os.close(self._wake_fd)
