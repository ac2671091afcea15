"""Read CPU and memory from the files of one cgroup directory, on v1 and v2.

    v2   cpu.stat (usage_usec), memory.stat (anon + shmem), cpuset.cpus.effective, cpu.max
    v1   cpuacct.usage, memory.stat (total_rss + total_shmem), cpuset.cpus, cpu.cfs_quota_us

See Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/ of the kernel. All of them include
directories below, and what ended there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from joulebook.units import NS_PER_S, NS_PER_US

MILLI = 1000
_MOST_DIRECTORIES = 512
_MOST_PIDS = 4096
_MOST_BYTES = 16_384


class Counters(NamedTuple):
    """The counters of one directory, for one life of it (`inode`): detected once, read often.

    `cpu` and `memory` are files (empty: not counted here) of the kind `v1`.
    """

    inode: int
    cpu: str = ""
    memory: str = ""
    v1: bool = False

    def cpu_ns(self) -> int | None:
        """CPU time that was used in the cgroup since it was made; `None` if that is not counted."""
        text = _read(self.cpu)
        try:
            return int(text) if self.v1 else _number(text, "usage_usec") * NS_PER_US
        except ValueError:
            return None

    def memory_bytes(self) -> int:
        """Memory that is resident and no page cache."""
        text = _read(self.memory)
        names = ("total_rss", "total_shmem") if self.v1 else ("anon", "shmem")
        try:
            return sum(_number(text, name) for name in names if f"{name} " in text)
        except ValueError:
            return 0


def counters(directory: Path, inode: int = 0) -> Counters:
    """Detect the counters of a directory."""
    for v1, cpu in ((True, "cpuacct.usage"), (False, "cpu.stat")):
        text = _read(f"{directory}/{cpu}")
        if text if v1 else "usage_usec " in text:
            found = Counters(inode, f"{directory}/{cpu}", v1=v1)
            break
    else:
        found = Counters(inode)
    memory = f"{directory}/memory.stat"
    text = _read(memory)
    if "total_rss " in text:
        return found._replace(memory=memory, v1=True)
    return found._replace(memory=memory) if text.startswith("anon ") else found


def cpu_ns(directory: Path) -> int | None:
    """CPU time that was used in a cgroup since it was made; `None` if that is not counted here."""
    return counters(directory).cpu_ns()


def cores_milli(directory: Path, machine_cores: int) -> int | None:
    """The logical CPUs that a cgroup was given, in thousandths; `None` if it may use all of them.

    A quota counts where it is less than the CPUs that it is bound to.
    """
    limits = [limit for limit in (_bound(directory), _quota(directory)) if limit]
    least = min(limits, default=0)
    return least if 0 < least < machine_cores * MILLI else None


def pids(directory: Path) -> Iterator[int]:
    """Yield the processes in a cgroup and below it; what is removed meanwhile has none."""
    walk = os.walk(directory)  # Path.rglob would fail as a whole.
    below = sorted(Path(at, "cgroup.procs") for at, _, files in walk if "cgroup.procs" in files)
    for path in below[:_MOST_DIRECTORIES]:
        try:
            yield from (int(pid) for pid in _text(path).split()[:_MOST_PIDS])
        except (OSError, ValueError):
            continue


def processes_cpu_ns(numbers: set[int]) -> int:
    """CPU time of live processes and of their children that ended (those they waited for)."""
    total_s = 0.0
    import psutil  # noqa: PLC0415 - only where processes are counted one by one

    for pid in numbers:
        try:
            times = psutil.Process(pid).cpu_times()
        except (psutil.Error, ValueError):
            continue
        total_s += times.user + times.system + times.children_user + times.children_system
    return round(total_s * NS_PER_S)


def processes_memory_bytes(numbers: set[int]) -> int:
    """Resident memory of processes, without what of it is mapped from files."""
    import psutil  # noqa: PLC0415

    total = 0
    for pid in numbers:
        try:
            used = psutil.Process(pid).memory_info()
        except (psutil.Error, ValueError):
            continue
        total += max(used.rss - used.shared, 0)
    return total


def cpus(text: str) -> int:
    """Return how many CPUs a list like `0-3,8` names."""
    count = 0
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        if first.isdecimal():
            count += int(last) - int(first) + 1 if last.isdecimal() else 1
    return count


def _bound(directory: Path) -> int | None:
    for name in ("cpuset.cpus.effective", "cpuset.effective_cpus", "cpuset.cpus"):
        try:
            return cpus(_text(directory / name)) * MILLI
        except OSError:
            continue
    return None


def _quota(directory: Path) -> int | None:
    try:
        quota, _, period = _text(directory / "cpu.max").partition(" ")
    except OSError:
        try:
            quota = _text(directory / "cpu.cfs_quota_us")
            period = _text(directory / "cpu.cfs_period_us")
        except OSError:
            return None
    if not quota.strip().isdecimal() or not period.strip().isdecimal():
        return None  # `max`, or -1: no limit
    return int(quota) * MILLI // max(int(period), 1)


def _text(path: Path) -> str:
    return path.read_text(errors="replace")


def _read(path: str) -> str:
    """A small file, the quick way (it is done for every cgroup in every tick); empty: not there."""
    if not path:
        return ""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return os.read(descriptor, _MOST_BYTES).decode("ascii", "replace")
    except OSError:
        return ""
    finally:
        os.close(descriptor)


def _number(text: str, name: str) -> int:
    """Return the value in the line `name value`. Raises `ValueError`."""
    begin = 0 if text.startswith(f"{name} ") else text.index(f"\n{name} ") + 1
    return int(text[begin + len(name) : text.find("\n", begin) if "\n" in text[begin:] else None])
