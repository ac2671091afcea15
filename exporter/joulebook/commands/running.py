"""Is there a daemon on this ledger, and which process is it? Found without touching its lock."""

from __future__ import annotations

from pathlib import Path


def daemon_pid(ledger: Path, proc: Path = Path("/proc")) -> int | None:
    """The process that holds the ledger's lock; `None` if nobody does, as far as can be seen.

    Read from the kernel's list of locks (proc_locks(5)) and not tried: even a lock taken for an
    instant would turn away a daemon that starts in it.
    """
    lock = ledger.with_name(ledger.name + ".lock")
    try:
        inode = lock.stat().st_ino
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
