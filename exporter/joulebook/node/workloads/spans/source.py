"""Marks: experiments that programs name themselves, on machines without a scheduler.

No claims come from here. A mark says for whom a process consumes at what time; who shares a device,
and how, is settled as for all processes. A process that a scheduler's source knows is left alone:
inside a job the scheduler says who pays.
"""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from joulebook.clock import Clock
from joulebook.core.energy.readings import DeviceStatus, Reading
from joulebook.core.workloads import WorkloadId
from joulebook.errors import InputError
from joulebook.experiment_span import DIRECTORY
from joulebook.node.workloads.contract import NOTHING_HELD, Before, Boundary, Holdings, Rejections
from joulebook.node.workloads.host.inotify import IN_MOVED_TO, Event, Inotify, InotifyThread
from joulebook.node.workloads.host.procfs import UserNames, user_name
from joulebook.node.workloads.spans import files
from joulebook.node.workloads.spans.table import MOST, REMEMBERED_NS, SpanTable
from joulebook.units import s_from_ns
from joulebook.untrusted_files import open_directory, trusted_owners

log = logging.getLogger(__name__)

RESCAN_S = 5.0
"""Time between scans of the directory, for missed events and dead processes."""

MOST_FILES = 512
"""The most files of one user in the directory."""


class SpanWorkloads:
    """The marks in `directory`, which is made if it is not there and can be."""

    name = "marks"

    def __init__(
        self, clock: Clock, directory: Path, *, user_of: Callable[[int], str] = user_name
    ) -> None:
        self._clock = clock
        self._directory = directory
        self._rejections = Rejections()
        self._rejected: set[tuple[str, int]] = set()
        self._table = SpanTable(clock)
        self._users = UserNames(user_of)
        self._is_ours = directory == Path(DIRECTORY)
        self._thread: InotifyThread | None = None
        self._due = 0.0
        self._trouble = ""

    # -- TenantSource

    def open(self, boundary: Boundary, before: Before = NOTHING_HELD) -> None:
        """Create the directory if needed, scan it and start watching."""
        self._boundary = boundary
        self._inotify = Inotify()
        self._watch: int | None = None
        self._table.restore(before.facts, before.last_ns)
        self._handle(())
        self._thread = InotifyThread("marks-watch", self._inotify, self._handle, self._wait_s)
        self._thread.start()

    def holdings(self, devices: Sequence[DeviceStatus]) -> Holdings:
        """The marks of which anything is new; only those that a device has been used under."""
        return Holdings(facts=self._table.news(), rejected=self._rejections.counts())

    def settled(self) -> None:
        """Confirm that the last holdings are durable."""
        self._table.settled()

    def identify(self, pid: int) -> WorkloadId | None:
        """Return `None`: a mark is not the owner of a process."""
        return None

    def close(self) -> None:
        """Stop watching."""
        if self._thread is not None:
            self._thread.stop()
            self._thread = None
            self._inotify.close()

    def marked(self, reading: Reading) -> Reading:
        """The reading, each process on the device with the marks that it was under lately."""
        return self._table.marked(reading)

    # -- the watching thread

    def _handle(self, events: Sequence[Event]) -> None:
        try:
            names = {e.name for e in events if e.watch == self._watch and e.mask & IN_MOVED_TO}
            if time.monotonic() >= self._due or any(e.overflow for e in events):
                self._poll()
            elif names:
                self._take(names)
        except Exception:
            # A fault of ours with one file must not end the watch over all others.
            self._rejections.fault(
                "watching marks failed: some may be missed; rescanning everything"
            )
            self._due = time.monotonic() + 1

    def _wait_s(self) -> float | None:
        return max(0.05, self._due - time.monotonic())

    def _poll(self) -> None:
        """Scan the directory, and remove files without a process."""
        self._due = time.monotonic() + RESCAN_S
        fd = self._open()
        if fd is not None:
            try:
                names = self._within_quota(fd)
            finally:
                os.close(fd)
            self._take(names)
        self._table.sweep()

    def _within_quota(self, fd: int) -> list[str]:
        """Return the names of span files that count: of each user as many as he may have there.

        The rest is removed, so that it does not fill a file system that others need. What has no
        name of ours is left alone in a directory that may be somebody's for other things.
        """
        kept: list[str] = []
        of: Counter[int] = Counter()
        now_s = time.time()
        with os.scandir(fd) as found:
            for entry in found:
                is_span = files.process_of(entry.name) is not None
                if not (is_span or self._is_ours or files.is_unfinished(entry.name)):
                    continue
                try:
                    seen = entry.stat(follow_symlinks=False)
                except OSError:
                    continue
                of[seen.st_uid] += not self._table.is_known(entry.name)
                over = of[seen.st_uid] > MOST_FILES or seen.st_size > files.MAX_BYTES
                old = not is_span and abs(now_s - seen.st_mtime) > s_from_ns(REMEMBERED_NS)
                if over and not self._table.is_known(entry.name):
                    text = (
                        f"uid {seen.st_uid}: more than {MOST_FILES} files, or one of more than "
                        f"{files.MAX_BYTES} bytes: removed"
                    )
                    self._rejections(InputError(text, reason="quota"))
                if over or old:
                    _remove(fd, entry.name)
                elif is_span:
                    kept.append(entry.name)
        return kept

    def _take(self, names: Iterable[str]) -> None:
        fd = self._open()
        if fd is None:
            return
        try:
            # A list: every one is to be taken, whatever comes of those before it.
            changed = any([self._take_one(fd, name) for name in names])
        finally:
            os.close(fd)
        if changed:
            self._boundary(self._clock.now_ns())

    def _take_one(self, fd: int, name: str) -> bool:
        """Take in one file; whether a mark began or ended by it."""
        process = files.process_of(name)
        if process is None:
            return False
        alive = files.owner_of(process)
        # One that has ended since may have left its mark before.
        uid = self._table.uid_of(name) if alive is None else alive
        if uid is None:
            _remove_old(fd, name)
            return False
        try:
            said = files.read(fd, name, uid)
            changed = self._table.note(name, process, uid, self._user(uid), said)
        except FileNotFoundError:
            return False
        except InputError as error:
            self._reject_once(fd, name, error)
            return False
        if said.exited_boottime_ns is not None or alive is None:
            _remove(fd, name)
        return changed

    def _open(self) -> int | None:
        """Return the directory, created and watched; `None` if that fails, which is logged once."""
        trouble = ""
        try:
            if not self._directory.exists():
                files.make_directory(self._directory)
                self._is_ours = True
            fd = open_directory(self._directory, trusted_owners(), shared=True)
            self._watch = self._inotify.watch(self._directory, IN_MOVED_TO)
        except InputError as error:
            trouble = str(error)
            if trouble != self._trouble:
                self._rejections(error)
        except OSError as error:
            trouble = f"no marks: {self._directory}: {error.strerror}"
            if trouble != self._trouble:
                log.warning("%s", trouble)
        self._trouble = trouble
        return None if trouble else fd

    def _reject_once(self, fd: int, name: str, error: InputError) -> None:
        """Count a file once, however often it is read."""
        try:
            inode = os.stat(name, dir_fd=fd, follow_symlinks=False).st_ino
        except OSError:
            return
        if (name, inode) not in self._rejected:
            if len(self._rejected) >= MOST:
                self._rejected.clear()
            self._rejected.add((name, inode))
            self._rejections(error)
        if error.reason == "too_large":
            _remove(fd, name)

    def _user(self, uid: int) -> str:
        """Return the name of a user, looked up once; in this thread, since a directory may be
        slow.
        """
        return self._users.look_up(uid)


def _remove_old(fd: int, name: str) -> None:
    """Remove a file of a process that is no more, once it has had its time."""
    try:
        age_s = time.time() - os.stat(name, dir_fd=fd, follow_symlinks=False).st_mtime
    except OSError:
        return
    if abs(age_s) > s_from_ns(REMEMBERED_NS):
        _remove(fd, name)


def _remove(fd: int, name: str) -> None:
    try:
        os.unlink(name, dir_fd=fd)
    except OSError as error:
        log.debug("cannot remove %s: %s", name, error.strerror)
