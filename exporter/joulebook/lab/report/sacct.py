"""Get how SLURM jobs ended from `sacct`, bounded in time, jobs and output."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from joulebook.core.report.dataset import ReportWorkload
from joulebook.core.report.run_roles import State
from joulebook.core.sanitize import one_line
from joulebook.core.workloads import WorkloadId
from joulebook.units import s_from_ns

NOBODY_SAYS = "how runs ended: not known"

_TIMEOUT_S = 20.0
"""For all questions together: slurmdbd answers in a second, or is in trouble."""
_AT_ONCE = 200
_MOST_BYTES = 16 << 20
_RUN = re.compile(r"(\d{1,12}(?:[_+]\d{1,10})?)(?:\.r(\d{1,6}))?", re.ASCII)
"""As the ledger names a run (`107`) or as people do, and Prometheus with them (`101_7`, `9+1`)."""

_FIELDS = "JobID,JobIDRaw,Cluster,Submit,Start,End,State"
_RESIZED = "RESIZING"
"""A run that goes on with other nodes: sacct has a row for each size, but they are one run."""
_SLACK_S = 5.0
"""The Prolog runs a little after the start that accounting has, and in whole seconds there."""

_STATES = {
    "COMPLETED": State.COMPLETED,
    "CANCELLED": State.CANCELLED,
    "RUNNING": State.RUNNING,
    "COMPLETING": State.RUNNING,
    "SUSPENDED": State.RUNNING,
    "FAILED": State.FAILED,
    "TIMEOUT": State.FAILED,
    "OUT_OF_MEMORY": State.FAILED,
    "NODE_FAIL": State.FAILED,
    "BOOT_FAIL": State.FAILED,
    "DEADLINE": State.FAILED,
    "PREEMPTED": State.PREEMPTED,
    # Run again: what these consumed is lost like a failed run's.
    "REQUEUED": State.FAILED,
    "REVOKED": State.FAILED,
}


class _Row(NamedTuple):
    """A run as accounting has it, in UTC seconds; `None`: not started, not ended."""

    cluster: str
    submit_s: int
    start_s: int | None
    end_s: int | None
    word: str

    def began_in(self, began_s: float) -> bool:
        """Return whether a run that the ledger saw begin then may be this one."""
        return (
            self.start_s is not None
            and self.start_s - _SLACK_S <= began_s
            and (self.end_s is None or began_s <= self.end_s + _SLACK_S)
        )


def ask(
    workloads: Iterable[ReportWorkload], setting: str, environ: Mapping[str, str] = os.environ
) -> tuple[dict[WorkloadId, State], str]:
    """Return the states of SLURM workloads, and their source or why there is none.

    `setting` is `report.sacct`. What sacct does not answer is left out: its state is not known.
    """
    wanted: dict[str, list[tuple[int, ReportWorkload]]] = {}
    for each in workloads:
        found = _RUN.fullmatch(each.id.workload)
        if each.id.scheduler == "slurm" and found:
            wanted.setdefault(found[1], []).append((int(found[2] or 0), each))
    if not wanted:
        return {}, ""
    program = shutil.which("sacct", path=environ.get("PATH")) if setting == "auto" else setting
    if not program:
        return {}, f"{NOBODY_SAYS}, no sacct here"
    until = time.monotonic() + _TIMEOUT_S
    states: dict[WorkloadId, State] = {}
    jobs = sorted(wanted)
    for start in range(0, len(jobs), _AT_ONCE):
        which = [f"--format={_FIELDS}", "-j", ",".join(jobs[start : start + _AT_ONCE])]
        # All of accounting: the default is today.
        which += ["-S", "1970-01-02", "-E", "now"]
        text, problem = _asked(program, which, until, _TIMEOUT_S, environ)
        if problem:
            return states, f"{NOBODY_SAYS} from sacct ({problem})"
        for job, rows in _answers(text).items():
            for restarts, workload in wanted.get(job, ()):
                if row := _of(workload, restarts, rows):
                    states[workload.id] = _STATES.get(row.word, State.UNKNOWN)
    return states, "ends of runs from sacct"


def _of(workload: ReportWorkload, restarts: int, rows: Sequence[_Row]) -> _Row | None:
    """Return the row of a run: the one in which it began, else the one after so many restarts.

    Accounting may have a job of years ago, or of another cluster, with the same number.
    """
    cluster = workload.extra.get("cluster", "").lower()
    mine = [row for row in rows if cluster in {"", row.cluster.lower()}]
    if workload.started_utc_ns is not None:
        began_s = s_from_ns(workload.started_utc_ns)
        now = [row for row in mine if row.began_in(began_s)]
        if len(now) == 1:
            return now[0]
    return mine[restarts] if restarts < len(mine) else None


class GpuJob(NamedTuple):
    """A job that was given GPUs: where (as SLURM writes a list of hosts), how many, and when."""

    job: str
    user: str
    account: str
    name: str
    nodes: str
    gpus: int
    start_s: int
    end_s: int


_GPU_FIELDS = "JobID,User,Account,JobName,NodeList,AllocTRES,Start,End"
_GPUS = re.compile(r"gres/gpu=(\d{1,6})", re.ASCII)
_LONG_S = 300.0


def with_gpus(
    since_s: int, until_s: int, setting: str, environ: Mapping[str, str] = os.environ
) -> tuple[list[GpuJob], str]:
    """Return everybody's jobs that held GPUs in [since, until), or why they are not known."""
    program = shutil.which("sacct", path=environ.get("PATH")) if setting == "auto" else setting
    if not program:
        return [], "no sacct here"
    times = [time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(t)) for t in (since_s, until_s)]
    which = ["-a", f"--format={_GPU_FIELDS}", "-S", times[0], "-E", times[1]]
    text, problem = _asked(program, which, time.monotonic() + _LONG_S, _LONG_S, environ)
    jobs = []
    for line in text.splitlines():
        cells = line.split("|")
        if len(cells) < len(_GPU_FIELDS.split(",")):
            continue
        # A name of a job may hold the separator.
        job, user, account, *name, nodes, tres, start, end = cells
        gpus, start_s = _GPUS.search(tres), _second(start)
        if gpus and start_s is not None:
            end_s = _second(end) or until_s
            jobs.append(
                GpuJob(job, user, account, "|".join(name), nodes, int(gpus[1]), start_s, end_s)
            )
    return jobs, problem


def _asked(
    program: str, which: list[str], until: float, within_s: float, environ: Mapping[str, str]
) -> tuple[str, str]:
    """Return the output of sacct, and what was wrong."""
    try:
        done = subprocess.run(
            [program, "-n", "-P", "-X", "-D", *which],
            env={**environ, "LC_ALL": "C", "SLURM_TIME_FORMAT": "%s"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=max(until - time.monotonic(), 0.1),
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "", f"timed out after {within_s:g} s"
    except OSError as error:
        return "", error.strerror or "it cannot be run"
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        return "", one_line(said[-1]) if said else f"exit status {done.returncode}"
    return done.stdout[:_MOST_BYTES].decode("utf-8", "replace"), ""


def _answers(text: str) -> dict[str, list[_Row]]:
    """Return the runs of each job, by each of its names, one after the other."""
    answers: dict[str, list[_Row]] = {}
    for line in text.splitlines():
        cells = line.split("|")
        if len(cells) != len(_FIELDS.split(",")):
            continue
        *names, cluster, submit, start, end, state = cells
        # "CANCELLED by 1000"
        word = state.split(" ")[0].rstrip("+")
        if word == _RESIZED:
            continue
        row = _Row(cluster, _second(submit) or 0, _second(start), _second(end), word)
        for name in set(names):
            answers.setdefault(name, []).append(row)
    # A job that is put back is submitted again; sacct promises no order.
    return {name: sorted(rows, key=lambda row: row.submit_s) for name, rows in answers.items()}


def _second(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 12 else None
