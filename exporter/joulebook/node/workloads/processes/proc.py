"""What `/proc` says of one process, read once: whose it is, and whether it is infrastructure.

A process is infrastructure (and never a workload) if its program has one of the configured names
and can be trusted to be that: the program file is root's, or the process runs as a user of the
system. So nobody gets free energy by calling a program `Xorg`.

A pidfd (pidfd_open(2)) of each process tells its end to the millisecond; it is of the process, not
of the number, which may be given again.
"""

from __future__ import annotations

import os
import selectors
import threading
from collections.abc import Callable, Collection
from pathlib import Path

from joulebook.node.workloads.host.cgroup_paths import cgroup_paths
from joulebook.node.workloads.host.procfs import own_pid, read_environ
from joulebook.node.workloads.processes.owners import FIRST_USER, Facts

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


_COMM_CHARS = 15
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def facts_of(pid: int, proc: Path = Path("/proc")) -> Facts | None:
    """Whose a process is; `None` if it is gone or cannot be seen."""
    process = proc / str(pid)
    try:
        paths = cgroup_paths((process / "cgroup").read_text(errors="replace"))
        fields = _stat(process)
        uid = next(
            int(line.split()[1])
            for line in (process / "status").read_bytes().splitlines()
            if line.startswith(b"Uid:")
        )
        return Facts(paths, uid, int(fields[3]))
    except (OSError, ValueError, IndexError, StopIteration):
        return None


def started_boottime_ns(pid: int, proc: Path = Path("/proc")) -> int | None:
    """CLOCK_BOOTTIME at which a process started, to 10 ms; `None` if it is gone."""
    try:
        return int(_stat(proc / str(pid))[19]) * (1_000_000_000 // _TICKS_PER_S)
    except (OSError, ValueError, IndexError):
        return None


def is_infrastructure(pid: int, names: Collection[str], proc: Path = Path("/proc")) -> bool:
    """Whether a process is one of those programs that serve everybody, or this daemon."""
    if pid == own_pid(proc):
        return True
    process = proc / str(pid)
    try:
        uid = process.stat().st_uid
    except OSError:
        return False
    try:
        program = os.readlink(process / "exe").removesuffix(" (deleted)")  # noqa: PTH115
        owner = (process / "exe").stat().st_uid
    except OSError:
        program, owner = "", uid
    return serves_everybody(names, comm_of(pid, proc), uid, Path(program).name, owner)


def serves_everybody(names: Collection[str], comm: str, uid: int, program: str, owner: int) -> bool:
    """The rule: by the name of a program file that is root's, or of what a system's user runs."""
    if owner == 0 and program in names:
        return True
    return uid < FIRST_USER and comm in {name[:_COMM_CHARS] for name in names}


def comm_of(pid: int, proc: Path = Path("/proc")) -> str:
    """The name of a process's program, as `ps` shows it; empty if it is gone."""
    try:
        return (proc / str(pid) / "comm").read_text(errors="replace").strip()
    except OSError:
        return ""


def environment_of(pid: int, names: Collection[str], proc: Path = Path("/proc")) -> dict[str, str]:
    """The values of these names in the environment of a process, as far as they can be read."""
    wanted = {name.encode() for name in names}
    found = read_environ(proc / str(pid), wanted) or {}
    return {name.decode(): value.decode("utf-8", "replace") for name, value in found.items()}


def _stat(process: Path) -> list[bytes]:
    """The fields of `stat` after the command's name, which may hold blanks and brackets."""
    return (process / "stat").read_bytes().rpartition(b")")[2].split()
