"""What `/proc` says of one process, read once: whose it is, and whether it is infrastructure.

A process is infrastructure (and never a workload) if its program has one of the configured names
and can be trusted to be that: the program file is root's, or the process runs as a user of the
system. So nobody gets free energy by calling a program `Xorg`.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from joulebook.procfs import own_pid
from joulebook.tenants.cgroups import cgroup_paths
from joulebook.tenants.environ import read_environ
from joulebook.tenants.processes.place import FIRST_USER, Facts

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
