"""The three-line summary in a job's output, also printed by `joulebook job --summary`.

The user chooses the path of the output, and others may be able to write next to it. So all other
privileges are dropped for good before the path is touched, links are not followed, nothing is
created, and only a regular file with one link that belongs to the user is accepted.
docs/adr/0011-job-summary.md has the reasons.
"""

from __future__ import annotations

import os
import pwd
import re
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from joulebook.commands.shared import text
from joulebook.commands.shared.charge_text import NO_RATES, came_to
from joulebook.core.energy.readings import Component
from joulebook.core.evidence import ZERO, Method
from joulebook.core.report.dataset import Selection
from joulebook.core.report.runs import WorkloadTotals
from joulebook.core.report.runs import totals as all_totals
from joulebook.core.report.tally import ENOUGH
from joulebook.core.sanitize import one_line
from joulebook.core.workloads import WorkloadId
from joulebook.errors import InputError
from joulebook.lab.report.sources import FOREVER_S
from joulebook.ledger import report_query
from joulebook.ledger.query import LedgerReader
from joulebook.units import NS_PER_HOUR, NS_PER_MS
from joulebook.untrusted_files import open_to_append

POLL_S = 1.0
_NAME_CHARS = 60
_SLACK_NS = 5 * NS_PER_MS
"""How far the wall clock may drift from node time between the end and the query."""


class Found(msgspec.Struct, frozen=True):
    """A workload on this node: what was booked and charged, and whether that is final."""

    totals: WorkloadTotals
    booked: bool


def latest_run(ledger: LedgerReader, wanted: WorkloadId) -> WorkloadId:
    """Return the workload, or the latest run of a SLURM job. Raises `LedgerError`.

    The Epilog of a requeued run gets the number of the next one, so search by job.
    """
    runs = ledger.jobs(wanted.workload) if wanted.scheduler == "slurm" else ()
    ids = [each.id for each in runs if each.id.workload.partition(".r")[0] == wanted.workload]
    # A reused number started later, and so did a requeue.
    latest = max(
        ids, key=lambda who: (who.start, int(who.workload.partition(".r")[2] or 0)), default=None
    )
    return latest or wanted


def find(ledger: LedgerReader, wanted: WorkloadId) -> Found | None:
    """Return the workload as it is in the ledger now. Raises `LedgerError`."""
    several = report_query.workload_totals(ledger, wanted)
    # Of two jobs with one number, the later one is meant.
    latest = max(several, key=lambda each: each.workload.started_utc_ns or 0, default=None)
    return None if latest is None else look(ledger, latest)


def look(ledger: LedgerReader, totals: WorkloadTotals) -> Found:
    """Return whether everything is booked. Raises `LedgerError`."""
    ended_ns = totals.workload.ended_utc_ns
    booked_ns = ledger.booked_to_utc_ns(tuple(totals.by_meter))
    if totals.wall_ns is None:
        asked = Selection(workloads=frozenset({str(totals.workload.id)}))
        every = all_totals(report_query.account(ledger, 0, FOREVER_S, asked))
        held = {each.workload.id: each.wall_ns for each in every}
        totals = msgspec.structs.replace(totals, wall_ns=held.get(totals.workload.id))
    return Found(totals, ended_ns is not None and booked_ns >= ended_ns - _SLACK_NS)


def wait(
    look: Callable[[], Found | None],
    wait_s: float,
    now_s: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Found | None:
    """Wait until everything is booked, or for `wait_s`, and return what is on record.

    A job without any booking is given up after a third of that.
    """
    began = now_s()
    while True:
        found = look()
        passed_s = now_s() - began
        if (found is not None and found.booked) or passed_s >= wait_s:
            return found
        if found is None and passed_s >= wait_s / 3:
            return None
        sleep(POLL_S)


def lines(found: Found, node: str, nodes: int = 0) -> list[str]:
    """Return three lines: energy, cost, and what these figures cover.

    `nodes` is the job's number of nodes (0: unknown).
    """
    said = (_energy(found.totals), _came_to(found), _of(found, node, nodes))
    return [f"joulebook: {line}" for line in said]


def _energy(totals: WorkloadTotals) -> str:
    job = totals.workload
    gpu = totals.gpu
    said = f"{text.energy(totals.total.energy_uj)} on {_held(totals)}"
    if job.started_utc_ns is not None and job.ended_utc_ns is not None:
        said += f" in {text.lasted(job.ended_utc_ns - job.started_utc_ns)}"
    mean_w = text.mean_power_w(gpu.energy_uj, gpu.held_ns)
    if mean_w is not None:
        said += f", {text.power(mean_w)} per GPU"
    if gpu.energy_uj:
        said += f", {text.percent(gpu.idle_uj, gpu.energy_uj)} of the energy while idle"
    return said


def _held(totals: WorkloadTotals) -> str:
    gpus = [meter for meter in totals.by_meter if meter.component is Component.GPU]
    count = max(totals.workload.gpu_count, len(gpus))
    if not count:
        return "no GPU"
    model = one_line(totals.workload.extra.get("gpu_model", ""), _NAME_CHARS) or "GPU"
    held_ns = max(totals.wall_ns or 0, totals.gpu.held_ns)
    return f"{count} x {model} ({held_ns / NS_PER_HOUR:,.4g} GPU-hours)"


def _came_to(found: Found) -> str:
    labels = found.totals.workload.labels
    whose = f"experiment {one_line(labels.experiment, _NAME_CHARS) or text.UNKNOWN}"
    if labels.account:
        whose += f", account {one_line(labels.account, _NAME_CHARS)}"
    return f"{came_to(found.totals.bill) or f'cost and CO2e {NO_RATES}'}; {whose}"


def _of(found: Found, node: str, nodes: int) -> str:
    partial = []
    if found.totals.workload.ended_utc_ns is None:
        partial.append("its end is not recorded yet")
    elif not found.booked:
        partial.append("its last seconds are not booked yet")
    elif (covered := found.totals.coverage) is not None and covered < ENOUGH:
        share = text.percent(found.totals.gpu.held_ns, found.totals.wall_ns or 1)
        partial.append(f"only {share} of its GPU time is measured")
    if nodes > 1:
        partial.append(f"covers node {one_line(node)} only, one of {nodes:,} nodes")
    how = _measured(found.totals)
    if partial:
        return f"PARTIAL: {'; '.join(partial)} ({how})"
    whose = "complete" if nodes == 1 else f"complete, on node {one_line(node)}"
    return f"{whose}, {how}"


def _measured(totals: WorkloadTotals) -> str:
    energy_uj = totals.total.energy_uj
    if not energy_uj:
        return "nothing was booked to it"
    by = totals.by_method
    measured = sum(by.get(m, ZERO).energy_uj for m in (Method.COUNTER, Method.INTEGRATED))
    how = "from a recorded trace" if totals.replayed else "measured"
    parts = [f"{text.percent(measured, energy_uj)} {how}"]
    for method, word in ((Method.APPORTIONED, "apportioned"), (Method.MODELLED, "modelled")):
        if by.get(method, ZERO).energy_uj:
            parts.append(f"{text.percent(by[method].energy_uj, energy_uj)} {word}")
    return ", ".join(parts)


def as_text(several: Sequence[str]) -> bytes:
    """Return the lines as they are appended: valid UTF-8 whatever the names."""
    return ("\n".join(several) + "\n").encode("utf-8", "replace")


SCONTROL_S = 10.0
MAX_PATH_BYTES = 4096
_BLOCK = re.compile(r"^JobId=(\d+)\b", re.MULTILINE)


class Output(NamedTuple):
    """The output of a job, as known to the controller; `nodes` is 0 if unknown."""

    path: str
    nodes: int = 0
    batch_host: str = ""


def ask(scontrol: str, job_id: str) -> Output | None:
    """Query the controller once, for at most `SCONTROL_S`; `None` if it does not know.

    The answer contains text of the user. Only the path is used, and what it leads to is checked
    with the user's privileges only.
    """
    try:
        done = subprocess.run(
            [scontrol, "show", "job", job_id],
            env={**os.environ, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=SCONTROL_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return parse(os.fsdecode(done.stdout), job_id) if done.returncode == 0 else None


def parse(answer: str, job_id: str) -> Output | None:
    """Parse the output of `scontrol show job` for one job (the first, if it is an array).

    Names and comments may contain lines that look like SLURM's. Its own come after them, so the
    last one counts.
    """
    starts = [(m.start(), m[1]) for m in _BLOCK.finditer(answer)] or [(0, "")]
    ends = [start for start, _ in starts[1:]] + [len(answer)]
    own = "".join(
        answer[start:end]
        for (start, number), end in zip(starts, ends, strict=True)
        if number == job_id
    )

    def last(pattern: str) -> str:
        return next(reversed(re.findall(pattern, own, re.MULTILINE)), "")

    path = last(r"^ +StdOut=(/.*)$")
    if not path:
        return None
    nodes = last(r"^ +NumNodes=(\d{1,6})\b")
    return Output(path, int(nodes or 0), last(r"^ +BatchHost=(\S+)"))


def become(uid: int) -> None:
    """Drop all privileges except those of `uid`, for good.

    Raises `InputError` for root and for unknown users, whose files we must not write; `OSError` if
    this process may not change its user.
    """
    if uid == 0:
        raise InputError("the job is root's: files of root are not written to", reason="root")
    try:
        user = pwd.getpwuid(uid)
    except KeyError:
        raise InputError(f"uid {uid} is unknown on this node", reason="unknown_user") from None
    if os.geteuid() == 0:
        groups = os.getgrouplist(user.pw_name, user.pw_gid)
        os.setgroups(groups)
        os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
        os.setresuid(uid, uid, uid)
    if os.getresuid() != (uid, uid, uid):
        raise InputError(f"this process may not switch to uid {uid}", reason="not_permitted")
    os.chdir("/")


def append(path: str, content: bytes, uid: int) -> None:
    """Append to the file, which `uid` must own. Raises `InputError` with the reason.

    Call `become` first: this opens the file with the privileges of the process.
    """
    if not path.startswith("/") or "\0" in path or len(os.fsencode(path)) > MAX_PATH_BYTES:
        raise InputError(f"{path[:80]!r}: not an absolute path", reason="bad_path")
    fd = open_to_append(path, uid)
    try:
        os.write(fd, content)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}", reason="not_written") from None
    finally:
        os.close(fd)
