"""inotify(7) by ctypes: a wrapper with no dependency, and a thread that reads it.

Watches are per directory and not recursive; what happens between the making of a directory and
the watch on it is not reported, so list a directory after watching it. When the kernel's queue
was full, one event with `overflow` tells that any number of others are missing: rescan.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import selectors
import struct
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

IN_CLOSE_WRITE = 0x00000008
IN_MOVED_FROM = 0x00000040
IN_MOVED_TO = 0x00000080
IN_CREATE = 0x00000100
IN_DELETE = 0x00000200
IN_DELETE_SELF = 0x00000400
IN_MOVE_SELF = 0x00000800
IN_Q_OVERFLOW = 0x00004000
IN_IGNORED = 0x00008000
IN_ONLYDIR = 0x01000000
IN_ISDIR = 0x40000000

_HEAD = struct.Struct("iIII")
_BUFFER_BYTES = 64 * 1024


class Event(NamedTuple):
    """One event: the watch it came from, what happened, and the name in the watched directory."""

    watch: int
    mask: int
    name: str

    @property
    def overflow(self) -> bool:
        """Events were lost: whoever relies on them must look again at everything."""
        return bool(self.mask & IN_Q_OVERFLOW)


class Inotify:
    """An inotify instance; non-blocking, usable from several threads."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise _os_error("inotify_init1")

    def fileno(self) -> int:
        """For selectors."""
        return int(self._fd)

    def watch(self, directory: Path, mask: int) -> int:
        """Watch a directory; the same directory gives the same number. Raises `OSError`."""
        number = self._libc.inotify_add_watch(self._fd, os.fsencode(directory), mask | IN_ONLYDIR)
        if number < 0:
            raise _os_error(str(directory))
        return int(number)

    def unwatch(self, number: int) -> None:
        """End a watch; one that the kernel has ended already is no error."""
        self._libc.inotify_rm_watch(self._fd, number)

    def read(self) -> list[Event]:
        """All events that wait now; empty if there are none."""
        try:
            raw = os.read(self._fd, _BUFFER_BYTES)
        except BlockingIOError:
            return []
        events = []
        at = 0
        while at < len(raw):
            watch, mask, _, size = _HEAD.unpack_from(raw, at)
            at += _HEAD.size
            name = raw[at : at + size].split(b"\0", 1)[0]
            events.append(Event(watch, mask, os.fsdecode(name)))
            at += size
        return events

    def close(self) -> None:
        """Close the descriptor; all watches end."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class InotifyThread(threading.Thread):
    """Hands events over as they come, and calls when a moment set by `wait_s` is there.

    `wait_s` says in how many seconds `on_events` shall be called at the latest, with no events
    if there are none (`None`: not before there are any). `wake` calls it at once.
    """

    def __init__(
        self,
        name: str,
        inotify: Inotify,
        on_events: Callable[[Sequence[Event]], None],
        wait_s: Callable[[], float | None],
    ) -> None:
        super().__init__(name=name, daemon=True)
        self._inotify = inotify
        self._on_events = on_events
        self._wait_s = wait_s
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._stopping = threading.Event()

    def run(self) -> None:
        """Until `stop`."""
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


def _os_error(what: str) -> OSError:
    code = ctypes.get_errno() or errno.EIO
    return OSError(code, os.strerror(code), what)
