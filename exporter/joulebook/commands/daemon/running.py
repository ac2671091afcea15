"""Is there a daemon on this ledger, and which process is it? Found without touching its lock."""

from __future__ import annotations

import shlex
from pathlib import Path

import psutil


def lock_path(ledger: Path) -> Path:
    """The file that the daemon of this ledger holds locked."""
    return ledger.with_name(ledger.name + ".lock")


def daemon_pid(ledger: Path, proc: Path = Path("/proc")) -> int | None:
    """The process that holds the ledger's lock; `None` if nobody does, as far as can be seen.

    Read from the kernel's list of locks (proc_locks(5)) and not tried: even a lock taken for an
    instant would turn away a daemon that starts in it.
    """
    try:
        inode = lock_path(ledger).stat().st_ino
        held = (proc / "locks").read_text().splitlines()
    except OSError:
        return None
    for line in held:
        fields = line.split()
        # 1: FLOCK  ADVISORY  WRITE 4711 fd:01:131078 0 EOF
        if len(fields) < 6 or fields[1] != "FLOCK":
            continue
        if fields[5].rpartition(":")[2] == str(inode):
            return int(fields[4])
    return None


def described(pid: int) -> str:
    """`pid 4711 (joulebook run)`: a process, with its command line where that can be seen.

    The command line is whatever its starter wrote there: clean it before it is shown.
    """
    try:
        words = psutil.Process(pid).cmdline()
    except (psutil.Error, OSError, ValueError):  # ended, hidden by hidepid, or -1: no process's
        words = []
    return f"pid {pid} ({shlex.join(words)})" if words else f"pid {pid}"
