"""Tells when processes end, to the millisecond: a pidfd of each, and a thread that waits for them.

A pidfd (pidfd_open(2)) is of the process, not of the number: it cannot be mistaken for another
that is given the same pid later.
"""

from __future__ import annotations

import os
import selectors
import threading
from collections.abc import Callable

Key = tuple[int, int]
"""A process: its pid and when it started (node time)."""

MOST = 1024
"""Processes that are watched at a time; the ends of more are known from process lists only."""


class Exits:
    """`ended` is called from the thread, with the process that is gone."""

    def __init__(self, ended: Callable[[Key], None]) -> None:
        self._ended = ended
        self._lock = threading.Lock()
        self._watched: dict[Key, int] = {}
        self._selector = selectors.DefaultSelector()
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._selector.register(self._wake_fd, selectors.EVENT_READ)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="process-exits", daemon=True)

    def start(self) -> None:
        """Begin to wait."""
        self._thread.start()

    def watch(self, key: Key, lives: Callable[[Key], bool]) -> bool:
        """Watch a process; `False` if it is gone by now.

        `lives` says, once its pidfd is open, whether the pid is still that of the process meant.
        """
        with self._lock:
            if key in self._watched or len(self._watched) >= MOST or self._stopping.is_set():
                return True
            try:
                fd = os.pidfd_open(key[0])
            except ProcessLookupError:
                return False
            except OSError:
                return True  # no such call, or not allowed: then process lists must do
            if not lives(key):
                os.close(fd)
                return False
            self._watched[key] = fd
            # epoll takes descriptors while another thread waits on it.
            self._selector.register(fd, selectors.EVENT_READ, key)
        return True

    def stop(self) -> None:
        """End the thread, and close all."""
        self._stopping.set()
        os.eventfd_write(self._wake_fd, 1)
        if self._thread.is_alive():
            self._thread.join()
        with self._lock:
            for fd in self._watched.values():
                os.close(fd)
            self._watched.clear()
            self._selector.close()
            os.close(self._wake_fd)

    def _run(self) -> None:
        while True:
            ready = self._selector.select()
            if self._stopping.is_set():
                return
            for each, _ in ready:
                if each.data is None:
                    continue
                with self._lock:
                    self._selector.unregister(each.fd)
                    os.close(self._watched.pop(each.data))
                self._ended(each.data)
