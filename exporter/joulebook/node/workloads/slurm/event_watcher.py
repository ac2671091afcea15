"""The directory of event files, followed by inotify: each file is reported once as it changes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from joulebook.errors import InputError
from joulebook.node.workloads.host.inotify import (
    IN_CLOSE_WRITE,
    IN_DELETE,
    IN_MOVED_FROM,
    IN_MOVED_TO,
    Event,
    FollowedDirectory,
    Inotify,
)
from joulebook.node.workloads.slurm.event_file import JobEvent, event_stem, read_event
from joulebook.untrusted_files import open_directory, trusted_owners


class EventListener(Protocol):
    """The receiver of event files."""

    def job_told(self, stem: str, event: JobEvent, end_wall_ns: int | None, live: bool) -> None:
        """A file as it is now; `end_wall_ns` where it tells the end. `live`: not from a scan."""

    def job_unreported(self, stem: str) -> None:
        """The file of a running job is gone."""

    def open_stems(self) -> frozenset[str]:
        """Return the files of which the end is not known yet."""


class EventDirectory(FollowedDirectory):
    """All calls but `delete` come from one thread."""

    def __init__(
        self,
        path: Path,
        inotify: Inotify,
        listener: EventListener,
        refuse: Callable[[InputError], None],
    ) -> None:
        super().__init__(path, inotify)
        self._listener = listener
        self._rejections = refuse
        self._rejected: dict[str, str] = {}
        self._undeletable: set[str] = set()

    def scan(self) -> None:
        """(Re)open it and read every file; if that fails, the next call retries."""
        self.close()
        fd = self._open()
        if fd is None:
            return
        try:
            self.follow()
            names = os.listdir(fd)  # noqa: PTH208 (the directory that was checked)
        except OSError:
            self.close()
            return
        finally:
            os.close(fd)
        present = {parsed[0] for name in names if (parsed := event_stem(name)) is not None}
        found = [told for name in sorted(names) if (told := self._read(name)) is not None]
        # As they happened: of two runs of one number the later is the one that may be running, and
        # of two files of one run the end has the last word.
        for stem, event, end_ns in sorted(found, key=lambda f: (f[1].start_ns, f[2] is not None)):
            self._listener.job_told(stem, event, end_ns, live=False)
        for stem in self._listener.open_stems() - present:
            self._listener.job_unreported(stem)

    def changed(self, event: Event) -> None:
        """See `FollowedDirectory`."""
        parsed = event_stem(event.name)
        if parsed is None:
            return
        stem, is_end = parsed
        if event.mask & (IN_CLOSE_WRITE | IN_MOVED_TO):
            told = self._read(event.name)
            if told is not None:
                self._listener.job_told(*told, live=True)
        elif event.mask & (IN_DELETE | IN_MOVED_FROM):
            self._rejected.pop(event.name, None)
            if not is_end:
                self._listener.job_unreported(stem)

    def _read(self, name: str) -> tuple[str, JobEvent, int | None] | None:
        """Return the stem, the content and the end of a file; `None` if it tells nothing."""
        parsed = event_stem(name)
        if parsed is None or parsed[0] in self._undeletable:
            return None
        stem, is_end = parsed
        # Not kept open: the kernel would not tell that an open directory was deleted.
        fd = self._open()
        if fd is None:
            return None
        try:
            event, changed_ns = read_event(fd, name, trusted_owners())
        except FileNotFoundError:
            return None
        except InputError as error:
            self._reject_once(name, error)
            return None
        finally:
            os.close(fd)
        end_ns = event.end_ns
        if is_end and end_ns is None:
            end_ns = changed_ns  # Renamed by somebody's own Epilog.
        return stem, event, end_ns if is_end else None

    def _open(self) -> int | None:
        try:
            fd = open_directory(self._path, trusted_owners())
        except InputError as error:
            self._reject_once(".", error)
            self.close()
            return None
        except OSError:
            self.close()
            return None
        self._rejected.pop(".", None)
        return fd

    def _reject_once(self, name: str, error: InputError) -> None:
        """Log and count it at the first failure, not at every retry."""
        if self._rejected.get(name) != error.reason:
            self._rejected[name] = error.reason
            self._rejections(error)

    def delete(self, stem: str) -> None:
        """Delete the files of a job that is booked; if that may not be, do not read them again."""
        try:
            fd = open_directory(self._path, trusted_owners())
        except FileNotFoundError:
            return
        except (InputError, OSError):
            self._undeletable.add(stem)
            return
        try:
            for suffix in (".end", ".json"):
                # In the directory that was checked, whatever its path leads to by now.
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(stem + suffix, dir_fd=fd)
        except OSError:
            self._undeletable.add(stem)
        finally:
            os.close(fd)
