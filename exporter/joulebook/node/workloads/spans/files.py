"""Read mark files (`experiment_span`), which are untrusted: anyone may write to their directory.

What a file may do is to name an experiment for its own process. So it counts only if it belongs
to the user that the process runs as, and if the process in its name is still the one that it was
written by (pids are reused; pid and start time together are not). Everything refused raises
`InputError`; its `reason` is the value of a label.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import msgspec

from joulebook import untrusted_files
from joulebook.core.sanitize import clean_label
from joulebook.core.workloads import is_reserved
from joulebook.errors import InputError
from joulebook.node.workloads.host.cgroup_paths import cgroup_paths, pod_place, slurm_place
from joulebook.node.workloads.host.procfs import stat_of, uid_of

MAX_BYTES = 4096
EXAMPLE = '{"v": 1, "experiment": "bert-base", "entered_boottime_ns": 123456789000}'

_NAME = re.compile(r"([1-9][0-9]{0,9})-([0-9]{1,19})-([0-9]{1,9})\.json", re.ASCII)
_UNFINISHED = re.compile(r"\.[0-9-]{5,40}\.tmp", re.ASCII)

_Instant = Annotated[int, msgspec.Meta(gt=0, lt=2**62)]


class Process(NamedTuple):
    """One process for all time of a boot: its pid, and its start in clock ticks since boot."""

    pid: int
    ticks: int


class SpanFile(msgspec.Struct, frozen=True):
    """The content of a mark file; instants are of CLOCK_BOOTTIME, `None`: not left yet.

    Attributes:
        within: The numbers of the spans of the same process that it is a window of, from the
            outermost; empty: it is a run of its own.
        window: The name of the window.

    """

    v: Literal[1]
    experiment: str
    entered_boottime_ns: _Instant
    exited_boottime_ns: _Instant | None = None
    within: Annotated[str, msgspec.Meta(pattern=r"^([0-9]{1,9}(_[0-9]{1,9}){0,7})?$")] = ""
    window: str = ""


_MARK = msgspec.json.Decoder(SpanFile)


def process_of(name: str) -> Process | None:
    """Return the process in a file's name; `None` if it is not a mark file."""
    found = _NAME.fullmatch(name)
    return None if found is None else Process(int(found[1]), int(found[2]))


def is_unfinished(name: str) -> bool:
    """Return whether that is a mark file which was not yet renamed to its name."""
    return _UNFINISHED.fullmatch(name) is not None


def make_directory(path: Path) -> None:
    """Create the directory like /tmp: all may write, but remove only their own files.

    Raises `OSError`.
    """
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    path.mkdir(mode=0o700)
    path.chmod(0o1777)


def read(directory_fd: int, name: str, uid: int) -> SpanFile:
    """Return the mark in the file `name`, which must belong to `uid`; its text is fit for a label.

    Raises `InputError`, and `FileNotFoundError` for one that was just removed.
    """
    raw, _ = untrusted_files.read(directory_fd, name, MAX_BYTES, {uid})
    mark = untrusted_files.decoded(_MARK, raw, name, EXAMPLE)
    experiment = clean_label(mark.experiment)
    if not experiment:
        raise InputError(f"{name}: experiment is empty", reason="no_name")
    if is_reserved(experiment):
        raise InputError(
            f"{name}: experiment = {experiment!r}: names in parentheses are reserved for Joulebook",
            reason="reserved_name",
        )
    window = clean_label(mark.window)
    return msgspec.structs.replace(mark, experiment=experiment, window=window)


def owner_of(process: Process) -> int | None:
    """Return the real uid of a process; `None` if it is gone, or another one has its pid now."""
    stat = stat_of(process.pid)
    return uid_of(process.pid) if stat is not None and stat.ticks == process.ticks else None


def is_in_job(pid: int) -> bool:
    """Return whether its cgroup is that of a SLURM job or a pod, known or not."""
    try:
        text = Path(f"/proc/{pid}/cgroup").read_text(errors="replace")
    except OSError:
        return False
    return any(slurm_place(path) or pod_place(path) for path in cgroup_paths(text))


def family_of(pid: int, most: int = 64) -> tuple[Process, ...]:
    """Return a process and those that it descends from, the nearest first."""
    found: list[Process] = []
    while pid > 0 and len(found) < most:
        stat = stat_of(pid)
        if stat is None:
            break
        found.append(Process(pid, stat.ticks))
        pid = stat.parent
    return tuple(found)
