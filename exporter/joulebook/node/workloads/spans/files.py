"""Mark files (`experiment_span`), read with suspicion: anybody may write into their directory.

What a file may do is to name an experiment for its own process. So it counts only if it belongs
to the user that the process runs as, and if the process in its name is still the one that it was
written by (pids are reused; pid and start time together are not). Everything refused raises
`InputError`; its `reason` is the value of a label.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import msgspec

from joulebook.core.sanitize import clean_label
from joulebook.errors import InputError
from joulebook.experiment_span import started_ticks
from joulebook.node.workloads.host.cgroup_paths import cgroup_paths, pod_place, slurm_place
from joulebook.units import NS_PER_S

TICK_NS = NS_PER_S // os.sysconf("SC_CLK_TCK")
"""The clock tick in which Linux tells the start of processes."""

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
    """What a mark file says; instants are of CLOCK_BOOTTIME, `None`: not left yet."""

    v: Literal[1]
    experiment: str
    entered_boottime_ns: _Instant
    exited_boottime_ns: _Instant | None = None


_MARK = msgspec.json.Decoder(SpanFile)


def process_of(name: str) -> Process | None:
    """The process that a file's name speaks of; `None` for what is no mark file."""
    found = _NAME.fullmatch(name)
    return None if found is None else Process(int(found[1]), int(found[2]))


def is_unfinished(name: str) -> bool:
    """Whether that is a mark file which was not yet renamed to its name."""
    return _UNFINISHED.fullmatch(name) is not None


def make_directory(path: Path) -> None:
    """Make the directory as /tmp is: all may write, and each may remove only what is his.

    Raises `OSError`.
    """
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    path.mkdir(mode=0o700)
    path.chmod(0o1777)


def open_directory(path: Path) -> int:
    """A descriptor of the directory. Raises `InputError` if it is not one that we may trust."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.ENOTDIR}:
            raise InputError(f"{path} is no directory", reason="symlink") from None
        raise
    seen = os.fstat(fd)
    if seen.st_uid not in {0, os.geteuid()}:
        os.close(fd)
        raise InputError(f"{path} belongs to uid {seen.st_uid}", reason="foreign_owner")
    if seen.st_mode & 0o022 and not seen.st_mode & stat.S_ISVTX:
        os.close(fd)
        text = f"{path}: users may remove each other's files (right is mode 1777)"
        raise InputError(text, reason="directory_too_open")
    return fd


def read(directory_fd: int, name: str, uid: int) -> SpanFile:
    """The mark in the file `name`, which must belong to `uid`; its text is fit for a label.

    Raises `InputError`, and `FileNotFoundError` for one that was just removed.
    """
    # Never a link, and never wait for the other end of a pipe.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(name, flags, dir_fd=directory_fd)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise InputError(f"{name} is a symbolic link", reason="symlink") from None
        if isinstance(error, FileNotFoundError):
            raise
        raise InputError(f"{name}: {error.strerror}", reason="unreadable") from None
    try:
        seen = os.fstat(fd)
        if not stat.S_ISREG(seen.st_mode):
            raise InputError(f"{name} is no regular file", reason="not_a_file")
        if seen.st_uid != uid:
            text = f"{name} belongs to uid {seen.st_uid}, its process to uid {uid}"
            raise InputError(text, reason="foreign_owner")
        if seen.st_size > MAX_BYTES:
            text = f"{name} has {seen.st_size} bytes; at most {MAX_BYTES} are read"
            raise InputError(text, reason="too_long")
        return _decoded(os.read(fd, MAX_BYTES), name)
    finally:
        os.close(fd)


def _decoded(raw: bytes, name: str) -> SpanFile:
    try:
        mark = _MARK.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        text = f"{name}: {error}; right is {EXAMPLE}"
        raise InputError(text, reason="bad_content") from None
    experiment = clean_label(mark.experiment)
    if not experiment:
        raise InputError(f"{name}: experiment has no text in it", reason="no_name")
    return msgspec.structs.replace(mark, experiment=experiment)


def owner_of(process: Process) -> int | None:
    """The real uid of a process; `None` if it is gone, or another one has its pid now."""
    try:
        if started_ticks(process.pid) != process.ticks:
            return None
        for line in Path(f"/proc/{process.pid}/status").read_bytes().splitlines():
            if line.startswith(b"Uid:"):
                return int(line.split()[1])
    except (OSError, ValueError, IndexError):
        pass
    return None


def parent_of(pid: int) -> tuple[int, Process] | None:
    """The parent of a process, and the process itself; `None` if it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
        fields = text.rpartition(b")")[2].split()
        return int(fields[1]), Process(pid, int(fields[19]))
    except (OSError, ValueError, IndexError):
        return None


def is_in_job(pid: int) -> bool:
    """Whether its cgroup is that of a SLURM job or a pod, known to anybody or not."""
    try:
        text = Path(f"/proc/{pid}/cgroup").read_text(errors="replace")
    except OSError:
        return False
    return any(slurm_place(path) or pod_place(path) for path in cgroup_paths(text))


def family_of(pid: int, most: int = 64) -> tuple[Process, ...]:
    """A process and those that it descends from, the nearest first."""
    found: list[Process] = []
    while pid > 0 and len(found) < most:
        reported = parent_of(pid)
        if reported is None:
            break
        pid, itself = reported
        found.append(itself)
    return tuple(found)
