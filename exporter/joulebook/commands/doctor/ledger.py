"""Checks of the ledger (location, readability, balance) and of the rates of its charges."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from joulebook.commands.doctor.checks import Check, Finding, Site, fail, nothing, ok, warn
from joulebook.commands.shared.text import energy, moment, several, size
from joulebook.config.rates import Rates, missing
from joulebook.core.money.rates import InForce, RateSet
from joulebook.errors import LedgerError, LedgerUnavailable
from joulebook.ledger.location import filesystem
from joulebook.ledger.query import LedgerReader
from joulebook.node.release import REQUEST, request_path
from joulebook.rates.build import charges, make_poller

_VOLATILE = frozenset({"tmpfs", "ramfs", "devtmpfs", "overlay", "rootfs", "squashfs"})
_REMOTE = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "lustre", "gpfs", "beegfs"})
_MIB = 1024 * 1024
_TIGHT_BYTES, _FULL_BYTES = 512 * _MIB, 32 * _MIB


def place(site: Site) -> Iterator[Finding]:
    """Check the file system of the ledger."""
    path = site.ledger
    try:
        kind = filesystem(path.resolve())
    except OSError as error:
        yield warn(f"file system of {path}: {error.strerror}")
        return
    if kind in _VOLATILE | _REMOTE or kind.startswith("fuse."):
        why = "does not survive a reboot" if kind in _VOLATILE else "cannot keep a ledger safe"
        say = warn if site.config.ledger.allow_volatile else fail
        yield say(
            f"{path} is on {kind}, which {why}",
            "Set ledger.path to a local disk"
            + ("." if site.config.ledger.allow_volatile else ", or ledger.allow_volatile = true."),
        )
    else:
        yield ok(f"{path} is on {kind}")


def owner(site: Site) -> Iterator[Finding]:
    """Check that the service can write it: a manual run as root leaves files owned by root."""
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
            f"{directory} belongs to uid {wanted}, but {', '.join(strange)} do not: the service "
            "cannot write there",
            f"chown --reference={directory} {directory}/{site.ledger.name}*",
        )


def space(site: Site) -> Iterator[Finding]:
    """Check for free space: without it, the daemon keeps its figures in memory only."""
    directory = next(parent for parent in site.ledger.parents if parent.exists())
    free = shutil.disk_usage(directory).free
    if free < _FULL_BYTES:
        yield fail(
            f"only {size(free)} free under {directory}", "Free up space: nothing can be booked."
        )
    elif free < _TIGHT_BYTES:
        yield warn(f"only {size(free)} free under {directory}", "Free up space before it is full.")
    else:
        yield ok(f"{size(free)} free under {directory}")


def contents(site: Site) -> Iterator[Finding]:
    """Check that it is readable, and that totals and postings agree for every meter (law 1)."""
    path = site.ledger
    if not path.exists():
        if site.daemon:
            yield fail(
                f"{path} is gone while a daemon is using it: nothing is booked",
                "Restore it with its -wal file, or restart the daemon to start a new one.",
            )
        else:
            yield nothing(f"no ledger at {path} yet: the daemon creates it at its first start")
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
            f"meter {balance.meter.name}: its total and its postings differ by "
            f"{balance.difference_uj:,} uJ",
            "Keep a copy of the file and report this as a bug.",
        )
    if not wrong:
        booked = energy(sum(balance.booked_uj for balance in balances))
        yield ok(f"the ledger balances to the microjoule: {booked} read and booked")


def _bytes(path: Path) -> int:
    files = (path, path.with_name(path.name + "-wal"))
    return sum(file.stat().st_size for file in files if file.exists())


def released(site: Site) -> Iterator[Finding]:
    """Check whether the daemon was asked to release the driver."""
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
            "To end that: `joulebook release --for 0`.",
        )


CHECKS: tuple[Check, ...] = (place, owner, space, contents, released)


def settings(site: Site) -> Iterator[Finding]:
    """Check which figures are missing for lack of a setting."""
    for lacking in missing(site.config.rates):
        found = f"{lacking.key} is not set: no {lacking.without}"
        # If something is set, the rest is probably wanted, too.
        begun = site.config.rates != Rates()
        yield warn(found, "See `joulebook rates`.") if begun else nothing(found)


def in_force(site: Site) -> Iterator[Finding]:
    """Check that each configured rate is known now, from the cache alone."""
    rates = site.config.rates
    if not charges(rates):
        return
    poller = make_poller(site.config, site.environ, read_only=True)
    now = poller.current.at(int(time.time()))
    for quantity, point in zip(InForce._fields, now, strict=True):
        if point is not None:
            yield ok(f"{quantity}: from {point.source} ({point.quality})")
    for row in poller.health():
        if getattr(now, row.quantity) is None:
            yield warn(
                f"{row.quantity}: no current value of {row.source} is cached",
                "`joulebook rates --ask` queries it and shows what is wrong.",
            )
    if rates.hardware:
        yield from _models(site, poller.current)


def _models(site: Site, rates: RateSet) -> Iterator[Finding]:
    models = site.from_ledger(LedgerReader.models) or {}
    for model in sorted(set(models.values())):
        if rates.hardware_for(model) is None:
            yield warn(
                f"no pattern in rates.hardware matches {model}: no hardware cost for it",
                f'Add [rates.hardware."{model}"].',
            )


def balance(site: Site) -> Iterator[Finding]:
    """Check law 1 for money: total charges equal the charges on record."""
    checks = site.from_ledger(LedgerReader.charge_check) or ()
    wrong = [check for check in checks if check.booked != check.rows]
    for check in wrong:
        yield fail(
            f"{check.charge.item}: the total and the record of charges differ",
            "Keep a copy of the file and report this as a bug.",
        )
    if checks and not wrong:
        yield ok("charges balance, in money and CO2e")


RATE_CHECKS: tuple[Check, ...] = (settings, in_force, balance)
