"""Find the daemon of a ledger without touching its lock."""

from __future__ import annotations

import shlex
from pathlib import Path

import psutil


def lock_path(ledger: Path) -> Path:
    """Return the lock file of the daemon of this ledger."""
    return ledger.with_name(ledger.name + ".lock")


def daemon_pid(ledger: Path, proc: Path = Path("/proc")) -> int | None:
    """Return the PID of the process that holds the ledger's lock; `None` if none is visible.

    Reads the kernel's list of locks (proc_locks(5)) instead of trying the lock: holding it even for
    an instant would turn away a daemon that is starting.
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
    """Describe a process as `pid 4711 (joulebook run)`, with its command line if readable.

    The command line is untrusted text: clean it before showing it.
    """
    try:
        words = psutil.Process(pid).cmdline()
    except (psutil.Error, OSError, ValueError):  # ended, hidden by hidepid, or -1 (no process)
        words = []
    return f"pid {pid} ({shlex.join(words)})" if words else f"pid {pid}"
