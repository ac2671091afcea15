"""Where a ledger may lie (a local disk, a private directory), and the lock that guards it."""

from __future__ import annotations

import fcntl
import os
import re
import stat
from pathlib import Path

from joulebook.errors import ConfigError, LedgerBusy, LedgerUnavailable


class LedgerLock:
    """Holds `<ledger>.lock` and the ledger until `release`, or until the process ends.

    The lock file is for people (it has the PID) and for checks whether a daemon runs. It can be
    deleted by hand: the lock on the ledger itself keeps a second daemon off. Raises `LedgerBusy` if
    either is held, `LedgerUnavailable` if it cannot be created.
    """

    def __init__(self, ledger: Path) -> None:
        self._ledger = ledger
        self._fds: list[int] = []
        path = ledger.with_name(ledger.name + ".lock")
        try:
            pid_fd = self._take(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, path)
            if ledger.exists():
                self._take(ledger, os.O_RDONLY, path)
            os.ftruncate(pid_fd, 0)
            os.pwrite(pid_fd, f"{os.getpid()}\n".encode(), 0)
        except OSError as exc:
            self.release()
            raise LedgerUnavailable(f"lock of ledger {ledger}: {exc}") from exc
        except BaseException:
            self.release()
            raise

    def _take(self, path: Path, flags: int, pid_file: Path) -> int:
        fd = os.open(path, flags | os.O_CLOEXEC, 0o640)
        # Kept open also if it cannot be locked: to close a descriptor of the ledger would drop the
        # locks that sqlite has on it in this process.
        if path == pid_file:
            self._fds.append(fd)
        try:
            # flock, not lockf: it also holds against the same process, and no close() of another
            # descriptor drops it.
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise LedgerBusy(
                f"ledger {self._ledger} is in use by another Joulebook daemon, pid "
                f"{_pid(pid_file)}: stop that one, or give this one another ledger.path"
            ) from exc
        if path != pid_file:
            self._fds.append(fd)
        return fd

    def release(self) -> None:
        """Release the lock. The file stays: deleting it would let two others lock different
        files.
        """
        while self._fds:
            os.close(self._fds.pop())


def _pid(pid_file: Path) -> str:
    try:
        return pid_file.read_text("ascii", "replace")[:20].strip() or "unknown"
    except OSError:
        return "unknown"


_MOUNTS = Path("/proc/self/mountinfo")

_VOLATILE = {"tmpfs", "ramfs", "devtmpfs", "hugetlbfs", "rootfs", "overlay", "aufs", "squashfs"}
"""File systems that a reboot, or the end of the container, empties."""

_NETWORK = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "9p", "vboxsf"}
_CLUSTER = {"ceph", "lustre", "gpfs", "beegfs", "glusterfs", "panfs", "pvfs2"}
"""File systems of other machines: WAL needs memory shared by all who open the file."""

_DIR_MODE = 0o750
_FILE_MODE = 0o640


def prepare(path: Path, *, allow_volatile: bool) -> Path:
    """Make directory (0750) and file (0640) where they are missing; gives the real path.

    Refuses a file system that would lose the ledger, unless `allow_volatile`. Raises
    `ConfigError`, naming the key.
    """
    try:
        path = path.resolve()
        if not allow_volatile:
            _refuse_volatile(path)
        if not path.parent.exists():
            path.parent.mkdir(parents=True)
            path.parent.chmod(_DIR_MODE)
        if not path.exists():
            # The mode is set on the descriptor, so that no umask has a say.
            fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, _FILE_MODE)
            try:
                os.fchmod(fd, _FILE_MODE)
            finally:
                os.close(fd)
        if not stat.S_ISREG(path.stat().st_mode):
            raise ConfigError(f"ledger.path = {str(path)!r} is not a file")
    except (OSError, RuntimeError) as exc:  # RuntimeError: a loop of symbolic links
        raise ConfigError(f"ledger.path = {str(path)!r} cannot be used: {exc}") from exc
    return path


def _refuse_volatile(path: Path) -> None:
    fs_type = filesystem(path)
    if fs_type in _VOLATILE:
        why = "which does not survive a reboot or the container"
    elif fs_type in _NETWORK | _CLUSTER or fs_type.startswith("fuse."):
        why = "on which SQLite cannot keep a ledger safe"
    else:
        return
    raise ConfigError(
        f"ledger.path = {str(path)!r} is on {fs_type}, {why}: choose a path on a local disk"
        f" (in Kubernetes a hostPath volume), or set ledger.allow_volatile = true"
    )


def filesystem(path: Path) -> str:
    """Return the type of the file system that holds (or would hold) `path`; `path` is absolute.

    Raises `OSError` if unknown (`/proc` is not mounted).
    """
    holder, fs_type = "", ""
    for line in _MOUNTS.read_text(errors="surrogateescape").splitlines():
        # See proc(5): optional fields end at a lone hyphen.
        left, _, right = line.partition(" - ")
        point = _unescape(left.split(" ")[4])
        covers = path == Path(point) or Path(point) in path.parents
        # Of mounts on the same point, the last hides the ones before.
        if covers and len(point) >= len(holder):
            holder, fs_type = point, right.split(" ")[0]
    return fs_type


def _unescape(point: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), point)
