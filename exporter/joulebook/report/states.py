"""How SLURM's jobs ended, asked of `sacct` where it is there: bounded in time, jobs and output."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterable, Mapping

from joulebook.core.effort import State
from joulebook.core.workloads import WorkloadId

_TIMEOUT_S = 20.0
"""For all questions together: slurmdbd answers in a second, or is in trouble."""
_AT_ONCE = 200
_MOST_BYTES = 16 << 20
_RUN = re.compile(r"(\d{1,12}(?:_\d{1,10})?)(?:\.r(\d{1,6}))?", re.ASCII)
"""As the ledger names a run (`107`) or as people do, and Prometheus with them (`101_7`)."""

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
    # Run anew: what these burnt is lost like a failed run's.
    "PREEMPTED": State.FAILED,
    "REQUEUED": State.FAILED,
    "REVOKED": State.FAILED,
}


def ask(
    workloads: Iterable[WorkloadId], setting: str, environ: Mapping[str, str] = os.environ
) -> tuple[dict[WorkloadId, State], str]:
    """The states of those that are SLURM's, and who says so or why nobody does.

    `setting` is `report.sacct`. What sacct does not answer is left out: its state is not known.
    """
    wanted: dict[str, list[tuple[int, WorkloadId]]] = {}
    for each in workloads:
        found = _RUN.fullmatch(each.workload)
        if each.scheduler == "slurm" and found:
            wanted.setdefault(found[1], []).append((int(found[2] or 0), each))
    if not wanted:
        return {}, ""
    program = shutil.which("sacct", path=environ.get("PATH")) if setting == "auto" else setting
    if not program:
        return {}, "how runs ended: not known, no sacct here"
    until = time.monotonic() + _TIMEOUT_S
    states: dict[WorkloadId, State] = {}
    jobs = sorted(wanted)
    for start in range(0, len(jobs), _AT_ONCE):
        text, problem = _asked(program, jobs[start : start + _AT_ONCE], until, environ)
        if problem:
            return states, f"how runs ended: not known from sacct ({problem})"
        for job, ends in _answers(text).items():
            for restarts, workload in wanted.get(job, ()):
                # sacct lists the runs of a requeued job one after the other.
                if restarts < len(ends):
                    states[workload] = ends[restarts]
    return states, "ends of runs from sacct"


def _asked(
    program: str, jobs: list[str], until: float, environ: Mapping[str, str]
) -> tuple[str, str]:
    """What sacct prints, and what was wrong."""
    command = [
        program,
        "-n",
        "-P",
        "-X",
        "-D",
        "--format=JobID,JobIDRaw,State",
        "-j",
        ",".join(jobs),
    ]
    # All of accounting: the default is today.
    command += ["-S", "1970-01-02", "-E", "now"]
    try:
        done = subprocess.run(
            command,
            env={**environ, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=max(until - time.monotonic(), 0.1),
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "", f"no answer in {_TIMEOUT_S:g} s"
    except OSError as error:
        return "", error.strerror or "it cannot be run"
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        return "", said[-1][:200] if said else f"exit status {done.returncode}"
    return done.stdout[:_MOST_BYTES].decode("utf-8", "replace"), ""


def _answers(text: str) -> dict[str, list[State]]:
    answers: dict[str, list[State]] = {}
    for line in text.splitlines():
        names, bar, state = line.rpartition("|")
        # "CANCELLED by 1000"
        word = state.split(" ")[0].rstrip("+")
        for name in set(names.split("|")) if bar else ():
            answers.setdefault(name, []).append(_STATES.get(word, State.UNKNOWN))
    return answers
