"""`with joulebook.experiment("name"):` books what this process and its children consume to `name`.

For machines without a scheduler. Entering writes a small file that the node's daemon reads,
leaving completes it; docs/in-code.md says what is booked. The file says nothing of who you are:
the daemon takes that from the process itself, and believes only the owner of the process.

This is loaded into other people's programs: it imports next to nothing, and no trouble with
marking (no daemon, no directory, a full disk) ever reaches the program.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

DIRECTORY = "/run/joulebook/marks"
VARIABLE = "JOULEBOOK_MARKS_DIR"
"""Names another directory, for the daemon and for the programs that it looks at alike."""

MAX_NAME_CHARS = 128

_numbers = itertools.count(1)


class ExperimentSpan(NamedTuple):
    """A mark that was entered: its file, what it says, and the process that may end it."""

    path: Path
    name: str
    entered_boottime_ns: int
    pid: int


@contextlib.contextmanager
def experiment(name: str) -> Iterator[None]:
    """Book the energy of the GPUs that this process and its children use to experiment `name`.

    From entry to exit, all threads included; the innermost of nested marks counts. Also a
    decorator. Inside a SLURM job or a Kubernetes pod it changes nothing: there the scheduler says
    who pays. Raises nothing of its own.
    """
    mark = enter(name)
    try:
        yield
    finally:
        leave(mark)


def enter(name: str) -> ExperimentSpan | None:
    """Begin a mark; `None` where it cannot be written, as where no daemon has made a place."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        pid = os.getpid()
        stem = f"{pid}-{started_ticks('self')}-{next(_numbers)}"
        directory = Path(os.environ.get(VARIABLE) or DIRECTORY)
        mark = ExperimentSpan(
            directory / f"{stem}.json", str(name)[:MAX_NAME_CHARS], _boottime_ns(), pid
        )
        _write(mark, {})
        return mark
    return None


def leave(mark: ExperimentSpan | None) -> None:
    """End a mark. A forked child that runs out of the block does not end its parent's."""
    if mark is None or mark.pid != os.getpid():
        return
    with contextlib.suppress(OSError, ValueError, AttributeError):
        if mark.path.exists():
            _write(mark, {"exited_boottime_ns": _boottime_ns()})


def started_ticks(process: int | str) -> int:
    """When a process started, in clock ticks since boot (field 22 of proc_pid_stat(5))."""
    text = Path(f"/proc/{process}/stat").read_bytes()
    # Counted after the command's name, which may hold blanks and brackets.
    return int(text.rpartition(b")")[2].split()[19])


def _boottime_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def _write(mark: ExperimentSpan, more: dict[str, int]) -> None:
    """Write the file whole or not at all; one that a daemon has seen is replaced in one step."""
    said = {"v": 1, "experiment": mark.name, "entered_boottime_ns": mark.entered_boottime_ns}
    new = mark.path.with_name(f".{mark.path.stem}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(new, flags, 0o644)
    try:
        os.fchmod(fd, 0o644)
        os.write(fd, json.dumps({**said, **more}).encode())
    finally:
        os.close(fd)
    new.replace(mark.path)
