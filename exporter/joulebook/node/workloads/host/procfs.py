"""Read /proc: CPU time and memory of the machine, and processes.

Shared by sensors and workload sources.

Only requested names of a process's environment leave this module: it may contain tokens.
"""

from __future__ import annotations

import math
import os
import pwd
import select
import time
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import NamedTuple

from joulebook.core.sanitize import clean_label
from joulebook.units import NS_PER_S

MAX_BYTES = 1024 * 1024
NO_USER_S = 60.0
"""How long it is believed that there is no such user."""


def read_environ(process: Path, wanted: Collection[bytes]) -> dict[bytes, bytes] | None:
    """Return the values of `wanted` in the initial environment of `process` (`/proc/<pid>`).

    `None` if it is gone, or this daemon may not read it (SYS_PTRACE and DAC_READ_SEARCH).
    """
    try:
        with (process / "environ").open("rb") as file:
            raw = file.read(MAX_BYTES)
    except OSError:
        return None
    pairs = (entry.partition(b"=") for entry in raw.split(b"\0"))
    return {name: value for name, _, value in pairs if name in wanted}


TICK_NS = NS_PER_S // os.sysconf("SC_CLK_TCK")
_IDLE, _IOWAIT, _STEAL = 3, 4, 7
_KIB = 1 << 10

HOST_PID_NAMESPACE = 0xEFFFFFFC
"""The inode of the first pid namespace of every Linux kernel (include/linux/proc_ns.h)."""


def in_pid_namespace_of_host(proc: Path = Path("/proc")) -> bool:
    """Return whether this process runs in the initial PID namespace, by `self/ns/pid`."""
    try:
        return (proc / "self/ns/pid").stat().st_ino == HOST_PID_NAMESPACE
    except OSError:
        return False


def shows_pids_of_host(proc: Path = Path("/proc")) -> bool:
    """Return whether the PIDs below `proc` are those that the driver reports.

    They are if this process runs in the first pid namespace, and also if pid 2 is the kernel's own
    kthreadd: then the host's /proc is mounted here, whichever namespace this process is in.
    """
    try:
        return in_pid_namespace_of_host(proc) or (proc / "2/comm").read_text() == "kthreadd\n"
    except OSError:
        return False


def own_pid(proc: Path = Path("/proc")) -> int:
    """Return the PID of this process below `proc`, which may be of another PID namespace."""
    try:
        return int(os.readlink(proc / "self"))  # noqa: PTH115
    except (OSError, ValueError):
        return os.getpid()


_ENVIRON_CAPABILITIES = 1 << 19 | 1 << 2
"""CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH (capabilities(7))."""


class Stat(NamedTuple):
    """The content of `/proc/PID/stat` (proc_pid_stat(5)).

    Attributes:
        comm: The name of its program, of 15 characters; any process may give itself any.
        terminal: The number of its controlling terminal; 0: it has none.
        ticks: When it started, in clock ticks since boot: with the pid, one for all time of a boot.
        is_over: Whether it has ended and only waits to be reaped. (One whose first thread ended
            before the others looks like a zombie, and is none.)

    """

    pid: int
    comm: str
    parent: int
    group: int
    session: int
    terminal: int
    ticks: int
    is_over: bool

    @property
    def started_boottime_ns(self) -> int:
        """CLOCK_BOOTTIME at which it started, to 10 ms."""
        return self.ticks * TICK_NS


def _read(path: str) -> bytes:
    """Read a short file of /proc, three times as fast as `Path`: for each process at each poll."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 4096)
    finally:
        os.close(descriptor)


def stat_of(pid: int, proc: Path = Path("/proc")) -> Stat | None:
    """Read the stat of a process; `None` if it is gone or cannot be seen."""
    try:
        head, _, rest = _read(f"{proc}/{pid}/stat").rpartition(b")")
        fields = rest.split()
        parent, group, session, terminal = (int(field) for field in fields[1:5])
        is_over = fields[0] in (b"Z", b"X", b"x") and int(fields[17]) <= 1
        comm = head.partition(b"(")[2].decode("utf-8", "replace")
        return Stat(pid, comm, parent, group, session, terminal, int(fields[19]), is_over)
    except (OSError, ValueError, IndexError):
        return None


def uid_of(pid: int, proc: Path = Path("/proc")) -> int | None:
    """Read the real user id of a process; `None` if it is gone or cannot be seen."""
    try:
        for line in (proc / str(pid) / "status").read_bytes().splitlines():
            if line.startswith(b"Uid:"):
                return int(line.split()[1])
    except (OSError, ValueError, IndexError):
        pass
    return None


def reads_environments(pid: int | str = "self", proc: Path = Path("/proc")) -> bool:
    """Return whether a process may read the environment of those of other users."""
    try:
        for line in (proc / str(pid) / "status").read_text().splitlines():
            if line.startswith("CapEff:"):
                return int(line.split()[1], 16) & _ENVIRON_CAPABILITIES == _ENVIRON_CAPABILITIES
    except (OSError, ValueError, IndexError):
        pass
    return False


def user_name(uid: int) -> str:
    """Look up the name of a user; empty if there is none. A directory may be slow."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return ""


class UserNames:
    """The names of users: `uid-1000` for one without.

    A directory that is away says of everybody that there is no such user: such an answer is
    forgotten after a minute.
    """

    def __init__(
        self, user_of: Callable[[int], str], now_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._user_of = user_of
        self._now_s = now_s
        self._names: dict[int, tuple[str, float]] = {}

    def known(self, uid: int) -> str | None:
        """Return the name of a user without asking; `None` if it has to be asked for."""
        name, until_s = self._names.get(uid, (None, 0.0))
        return name if self._now_s() < until_s else None

    def look_up(self, uid: int) -> str:
        """Return the name of a user, which may take long."""
        name = self.known(uid)
        if name is None:
            given = clean_label(self._user_of(uid))
            name = given or f"uid-{uid}"
            self._names[uid] = name, math.inf if given else self._now_s() + NO_USER_S
        return name


def is_gone(pid: int, proc: Path = Path("/proc")) -> bool:
    """Return whether there is certainly no such process, not merely an invisible one.

    A /proc that is mounted with hidepid shows an unprivileged daemon its own processes only.
    """
    return not (proc / str(pid)).exists() and (proc / "1").exists()


class CpuTimes(NamedTuple):
    """The logical CPUs, and the time for which they worked since boot, added up."""

    cores: int
    busy_ns: int


class Memory(NamedTuple):
    """Memory there is, and memory in use without page cache."""

    installed_bytes: int
    resident_bytes: int


def cpu_times(proc: Path = Path("/proc")) -> CpuTimes:
    """Raises `OSError`, and `ValueError` for what is no /proc/stat (proc_stat(5)).

    Waiting is no work, and stolen time was some other machine's. A guest's is in the user's.
    """
    cores, busy_ns = 0, -1
    for line in (proc / "stat").read_text().splitlines():
        name, *values = line.split()
        if name == "cpu":
            ticks = [int(value) for value in values[:8]]
            idle = sum(ticks[i] for i in (_IDLE, _IOWAIT, _STEAL) if i < len(ticks))
            busy_ns = (sum(ticks) - idle) * TICK_NS
        elif name.startswith("cpu"):
            cores += 1
        else:
            break
    if busy_ns < 0:
        raise ValueError("stat has no line of all CPUs")
    return CpuTimes(cores, busy_ns)


def memory(proc: Path = Path("/proc")) -> Memory:
    """Raises `OSError`, and `ValueError` for what is no /proc/meminfo (proc_meminfo(5)).

    Shared memory (tmpfs) cannot be dropped like a page cache, and counts as in use.
    """
    found: dict[str, int] = {}
    for line in (proc / "meminfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in {"MemTotal", "AnonPages", "Shmem"}:
            found[name] = int(value.split()[0]) * _KIB
    if "MemTotal" not in found:
        raise ValueError("meminfo has no MemTotal")
    resident = found.get("AnonPages", 0) + found.get("Shmem", 0)
    return Memory(found["MemTotal"], resident)


MOST_WATCHED = 512
"""So many processes are watched by a file descriptor each; a daemon may commonly open 1024."""


class ProcessStarts:
    """When processes started, and whether they are alive: `/proc` is read once for each.

    After that its pidfd tells when it has ended, so a reused PID is never taken for the old
    process. Without a pidfd (an old kernel, more than `MOST_WATCHED`, the /proc of other PIDs),
    `/proc/<pid>/stat` is read at each poll.

    `proc` is the /proc with the pids of the driver; `None` if there is none, then nothing is known.
    """

    def __init__(self, proc: Path | None = Path("/proc")) -> None:
        self._proc = proc
        self._known: dict[int, int] = {}
        self._watched: dict[int, int] = {}  # the pidfd of each
        self._pids: dict[int, int] = {}  # and the other way round
        self._ends = select.epoll()

    def started_ns(self, pid: int) -> int:
        """CLOCK_BOOTTIME of the start of `pid` in ns; 0 if there is no such process to be seen."""
        if pid not in self._known:
            self.lives(pid)
        return self._known.get(pid, 0)

    def lives(self, pid: int) -> bool:
        """Return whether a process that the driver lists is still one, as far as that can be seen.

        Drivers list some that have ended, and zombies: they do no work any more.
        """
        return pid in self.living((pid,))

    def living(self, pids: Iterable[int]) -> set[int]:
        """Return those of `pids` that live."""
        for fd, _ in self._ends.poll(0):
            self._let_go(self._pids[fd])
        watched = self._watched
        return {pid for pid in pids if pid in watched or self._is_seen(pid)}

    def _is_seen(self, pid: int) -> bool:
        """Read /proc, and watch the process from now on."""
        if self._proc is None:
            return True
        # Opened first: whoever has this number afterwards, it is of the one that `stat` is of, or
        # it has ended already.
        fd = _pidfd(pid, self._proc) if len(self._watched) < MOST_WATCHED else None
        stat = stat_of(pid, self._proc)
        if stat is not None:
            self._known[pid] = stat.started_boottime_ns
        lives = not is_gone(pid, self._proc) if stat is None else not stat.is_over
        if fd is not None and lives and stat is not None:
            self._watched[pid], self._pids[fd] = fd, pid
            self._ends.register(fd, select.EPOLLIN)
        elif fd is not None:
            os.close(fd)
        return lives

    def _let_go(self, pid: int) -> None:
        fd = self._watched.pop(pid)
        del self._pids[fd]
        self._ends.unregister(fd)
        os.close(fd)

    def keep(self, pids: Collection[int]) -> None:
        """Forget all but these: a pid that comes back may be another process."""
        self._known = {pid: ns for pid, ns in self._known.items() if pid in pids}
        for pid in [pid for pid in self._watched if pid not in pids]:
            self._let_go(pid)


def _pidfd(pid: int, proc: Path) -> int | None:
    """Return a pidfd of the process that is `pid` in `proc`; `None`: there is none to be had."""
    try:
        fd = os.pidfd_open(pid)
    except (OSError, AttributeError):
        return None
    try:
        # The kernel tells whose it is by the numbers of this /proc, which may not be ours.
        if f"\nPid:\t{pid}\n" in (proc / f"self/fdinfo/{fd}").read_text():
            return fd
    except OSError:
        pass
    os.close(fd)
    return None
