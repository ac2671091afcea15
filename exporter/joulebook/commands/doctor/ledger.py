"""Checks of the ledger: where it lies, whether it can be read, whether it balances."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from joulebook.commands.doctor.checks import Check, Finding, Site, fail, nothing, ok, warn
from joulebook.commands.shared.text import energy, moment, several, size
from joulebook.errors import LedgerError, LedgerUnavailable
from joulebook.ledger.location import filesystem
from joulebook.ledger.query import LedgerReader
from joulebook.node.release import REQUEST, request_path

_VOLATILE = frozenset({"tmpfs", "ramfs", "devtmpfs", "overlay", "rootfs", "squashfs"})
_REMOTE = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "lustre", "gpfs", "beegfs"})
_MIB = 1024 * 1024
_TIGHT_BYTES, _FULL_BYTES = 512 * _MIB, 32 * _MIB


def place(site: Site) -> Iterator[Finding]:
    """The file system under the ledger."""
    path = site.ledger
    try:
        kind = filesystem(path.resolve())
    except OSError as error:
        yield warn(f"file system under {path}: {error.strerror}")
        return
    if kind in _VOLATILE | _REMOTE or kind.startswith("fuse."):
        why = "does not outlive a reboot" if kind in _VOLATILE else "cannot keep a ledger safe"
        say = warn if site.config.ledger.allow_volatile else fail
        yield say(
            f"{path} is on {kind}, which {why}",
            "Set ledger.path to a local disk"
            + ("." if site.config.ledger.allow_volatile else ", or ledger.allow_volatile = true."),
        )
    else:
        yield ok(f"{path} is on {kind}")


def owner(site: Site) -> Iterator[Finding]:
    """Whether the service can write it: a run by hand as root leaves files that are root's."""
    directory = site.ledger.parent
    if not directory.is_dir():
        return
    wanted = directory.stat().st_uid
    strange = sorted(
        file.name
        for file in directory.glob(f"{site.ledger.name}*")
        if wanted != 0 and file.stat().st_uid != wanted
    )
    if strange:
        yield fail(
            f"{directory} belongs to uid {wanted}, but {', '.join(strange)} to others: the "
            "service cannot write there",
            f"chown --reference={directory} {directory}/{site.ledger.name}*",
        )


def space(site: Site) -> Iterator[Finding]:
    """Room for it: a ledger that cannot be written keeps the figures in memory only."""
    directory = next(parent for parent in site.ledger.parents if parent.exists())
    free = shutil.disk_usage(directory).free
    if free < _FULL_BYTES:
        yield fail(f"only {size(free)} free under {directory}", "Make room: nothing can be booked.")
    elif free < _TIGHT_BYTES:
        yield warn(f"only {size(free)} free under {directory}", "Make room before it is full.")
    else:
        yield ok(f"{size(free)} free under {directory}")


def contents(site: Site) -> Iterator[Finding]:
    """Whether it can be read, and law 1: books and postings agree for every meter."""
    path = site.ledger
    if not path.exists():
        if site.daemon:
            yield fail(
                f"{path} is gone, and a daemon runs on it: nothing is booked",
                "Put it back with its -wal file, or restart the daemon to begin a new one.",
            )
        else:
            yield nothing(f"no ledger at {path} yet: the daemon makes it at its first start")
        return
    try:
        with LedgerReader(path) as ledger:
            balances = ledger.balance_check()
    except LedgerUnavailable as error:
        yield warn(str(error), "Try again.")
        return
    except LedgerError as error:
        yield fail(str(error))
        return
    yield ok(f"{several(len(balances), 'meter')} on record, {size(_bytes(path))}")
    wrong = [balance for balance in balances if balance.difference_uj]
    for balance in wrong:
        yield fail(
            f"meter {balance.meter.name}: its books and its postings differ by "
            f"{balance.difference_uj:,} uJ",
            "Keep a copy of the file and report this as a bug.",
        )
    if not wrong:
        booked = energy(sum(balance.booked_uj for balance in balances))
        yield ok(f"the books balance to the microjoule: {booked} read and booked")


def _bytes(path: Path) -> int:
    files = (path, path.with_name(path.name + "-wal"))
    return sum(file.stat().st_size for file in files if file.exists())


def released(site: Site) -> Iterator[Finding]:
    """Whether somebody has asked the daemon to let go of the driver."""
    try:
        request = REQUEST.decode(request_path(site.ledger).read_bytes())
    except FileNotFoundError:
        return
    except (OSError, msgspec.MsgspecError, RecursionError) as error:
        yield warn(f"{request_path(site.ledger)} cannot be read: {error}", "Remove it.")
        return
    if request.until_s > time.time():
        yield warn(
            f"the driver is released until {moment(request.until_s)}: no GPU is read",
            "`joulebook release --for 0` ends that.",
        )


CHECKS: tuple[Check, ...] = (place, owner, space, contents, released)
