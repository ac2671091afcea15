"""Checks of the node itself: configuration, privileges, clock."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from typing import NamedTuple

from joulebook.commands.doctor import kubernetes, slurm
from joulebook.commands.doctor.checks import Check, Finding, Site, fail, ok, warn
from joulebook.config import env_names

_TIME_ERROR = 5
_CAPABILITIES = {2: "CAP_DAC_READ_SEARCH", 19: "CAP_SYS_PTRACE"}
_LOOSE_S = 0.5


def configuration(site: Site) -> Iterator[Finding]:
    """Check that the configuration is valid."""
    if site.config_problem:
        for line in site.config_problem.splitlines():
            yield fail(
                f"configuration: {line}",
                "The daemon will not start with it. The checks use defaults.",
            )
        return
    there = site.config_file.exists()
    names = sorted(name for name in env_names() if name in site.environ)
    where = str(site.config_file) if there else f"defaults ({site.config_file} does not exist)"
    also = f", and {', '.join(names)} from the environment" if names else ""
    yield ok(f"configuration: {where}{also}")


def rights(site: Site) -> Iterator[Finding]:
    """Check that the daemon may read the environment of jobs."""
    pid = site.daemon
    who = f"the daemon (pid {pid})" if pid else "this user"
    try:
        status = (site.proc / (str(pid) if pid else "self") / "status").read_text()
    except OSError as error:
        yield warn(f"privileges of {who} cannot be read: {error.strerror}")
        return
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    uid = fields.get("Uid", "?").split()[1:2]
    effective = int(fields.get("CapEff", "0").strip() or "0", 16)
    missing = [name for bit, name in _CAPABILITIES.items() if not effective >> bit & 1]
    if missing and kubernetes.is_here(site) and not slurm.is_here(site):
        yield ok(
            f"privileges: {who} (uid {''.join(uid)}) needs no capability: names of pods come "
            "from the API server"
        )
    elif missing:
        yield warn(
            f"privileges: {who} (uid {''.join(uid)}) lacks {' and '.join(missing)}: the "
            "environment of jobs cannot be read, so experiments named there (WANDB_PROJECT, "
            "...) are unknown",
            "Run the daemon as root with both capabilities, or let SLURM's TaskProlog write a "
            "label file (hooks/task_prolog.sh). Energy is not affected.",
        )
    else:
        yield ok(f"privileges: {who} (uid {''.join(uid)}) may read the environment of jobs")


def clock(_site: Site) -> Iterator[Finding]:
    """Check the wall clock; energy does not depend on it, but quarter hours do."""
    state = _kernel_clock()
    if state is None:
        yield warn(
            "clock: the kernel does not report whether it is synchronized",
            "Check that chrony or ntpd is running on the host (not in a container).",
        )
    elif not state.synchronised:
        yield warn(
            "clock: not synchronized, offset unknown; energies are exact nevertheless, but their "
            "quarter hours and the times of jobs may be off",
            "Start chrony, systemd-timesyncd or ntpd.",
        )
    elif state.max_error_s > _LOOSE_S:
        yield warn(f"clock: synchronized, but only to within {state.max_error_s:.1f} s")
    else:
        yield ok(f"clock: synchronized to within {state.max_error_s * 1000:.0f} ms")


class KernelClock(NamedTuple):
    """The result of adjtimex(2); the error is the kernel's own upper bound."""

    synchronised: bool
    max_error_s: float


class _Timex(ctypes.Structure):
    # The head of struct timex; the kernel writes 208 bytes.
    _fields_ = [
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("frequency", ctypes.c_long),
        ("max_error_us", ctypes.c_long),
        ("rest", ctypes.c_char * 208),
    ]


def _kernel_clock() -> KernelClock | None:
    timex = _Timex()  # modes 0: query only
    libc = ctypes.CDLL(None, use_errno=True)
    adjtimex = getattr(libc, "adjtimex", None)
    state = -1 if adjtimex is None else adjtimex(ctypes.byref(timex))
    if state < 0:
        return None
    return KernelClock(state != _TIME_ERROR, timex.max_error_us / 1e6)


def user(_site: Site) -> Iterator[Finding]:
    """Check who is running the doctor: much is visible to root only."""
    if os.geteuid() != 0:
        yield warn(
            f"running as uid {os.geteuid()}: some findings may be wrong",
            "Run it as root.",
        )


CHECKS: tuple[Check, ...] = (user, configuration, rights, clock)
