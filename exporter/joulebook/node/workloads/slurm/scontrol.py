"""Run `scontrol show job -d`, one at a time, with a time-out, for all waiting jobs.

Where a job's name passes for more than a name, where it ends is found by asking for it alone.
What the answers come to is here, too: which run a job is, what it holds, whether it is over. Which
answer is believed when is the table of `docs/evidence.md`.
"""

from __future__ import annotations

import contextlib
import os
import queue
import re
import subprocess
from collections.abc import Callable, Iterable, Mapping, Set
from pathlib import Path
from typing import Protocol

from joulebook.backoff import LastingThread
from joulebook.core.attribution.claims import Evidence
from joulebook.node.workloads.slurm.gres_conf import find_program
from joulebook.node.workloads.slurm.job import Job, JobGrant
from joulebook.node.workloads.slurm.job_record import (
    GONE,
    HeldGpu,
    JobAnswer,
    parse_job,
    parse_jobs,
)

_WAITING_MAX = 1024
"""Larger than the number of jobs that one node can start while the controller is silent."""

SILENT = (
    "the controller does not respond (scontrol show job): jobs without an event file are "
    "unattributed until it does"
)
_PAUSE_MAX_S = 300.0

Answered = Callable[[JobAnswer | None], None]
"""Called from the calling thread; `None` if the controller did not answer in time."""


class Questions(Protocol):
    """A source of job records."""

    @property
    def able(self) -> bool:
        """Return whether it can be used."""

    def ask(self, job_id: str, answered: Answered) -> bool:
        """Request one job; `False` if too many are waiting."""


class Asker(LastingThread):
    """Runs `scontrol` in one thread of its own: for one job, or for all that wait meanwhile.

    `fault` is called for errors of ours, with the consequence; the thread continues.
    """

    def __init__(
        self,
        scontrol: str,
        slurm_conf: Path,
        *,
        timeout_s: float,
        fault: Callable[[str], None] = lambda what: None,
        privileged: bool | None = None,
    ) -> None:
        super().__init__("slurm-ask", self._serve)
        self._scontrol = scontrol
        self._timeout_s = timeout_s
        self._fault = fault
        # The output has local times; a name of ours for its zone is the same on every node.
        self._environment = {**os.environ, "LC_ALL": "C", "TZ": "UTC"}
        self._environment.pop("SLURM_TIME_FORMAT", None)
        if slurm_conf.exists():
            self._environment["SLURM_CONF"] = str(slurm_conf)
        self._privileged = os.geteuid() == 0 if privileged is None else privileged
        self._waiting: queue.Queue[tuple[str, Answered] | None] = queue.Queue(maxsize=_WAITING_MAX)
        self._stopping = False

    @property
    def able(self) -> bool:
        """Return whether the program exists."""
        return bool(self._scontrol)

    def ask(self, job_id: str, answered: Answered) -> bool:
        """Request one job; `False` if too many are waiting."""
        try:
            self._waiting.put_nowait((job_id, answered))
        except queue.Full:
            return False
        return True

    def stop(self) -> None:
        """End the thread, or leave it to its time-out if it waits for an answer just now."""
        self._stopping = True
        with contextlib.suppress(queue.Full):
            self._waiting.put_nowait(None)
        if self.is_alive():
            self.join(0.5)

    def _serve(self) -> None:
        while True:
            waiting = [self._waiting.get()]
            while not self._waiting.empty():  # Nobody else takes any.
                waiting.append(self._waiting.get())
            questions = [each for each in waiting if each is not None]
            if self._stopping:
                break
            answers: Mapping[str, JobAnswer | None] = {}
            try:
                answers = self._answers({job_id for job_id, _ in questions})
            except Exception:
                self._fault(
                    "reading the controller's answer failed: the jobs stay unknown; retrying"
                )
            for job_id, answered in questions:
                try:
                    answered(answers.get(job_id))
                except Exception:
                    self._fault(
                        "processing the controller's answer failed: the job may stay unknown"
                    )

    def _answers(self, jobs: Set[str]) -> dict[str, JobAnswer | None]:
        if len(jobs) == 1:
            return {job: self._one(job) for job in jobs}
        code, text, _ = self._show("show", "job", "-d")
        if code != 0:
            return {}
        found: dict[str, JobAnswer | None] = {**parse_jobs(text, jobs)}
        gone = jobs - found.keys()
        hidden = bool(gone) and self._hides()
        found.update((job, JobAnswer(job, GONE, hidden=hidden)) for job in gone)
        # Perhaps it is another job's words: a name or comment may look like a record.
        doubtful = {job for job, answer in found.items() if answer is not None and answer.doubtful}
        for job in doubtful | (jobs - gone - self._listed(jobs - gone)):
            found[job] = self._one(job)
        return found

    def _listed(self, jobs: Set[str]) -> set[str]:
        """Return those that the controller has, by a list in which there are no users' words."""
        wanted = ("-h", "-t", "all", "-j", ",".join(sorted(jobs)), "-o", "%A")
        code, text, _ = self._show(*wanted, program="squeue") if jobs else (None, "", "")
        return set(text.split()) if code == 0 else set()

    def _one(self, job: str) -> JobAnswer | None:
        code, text, error = self._show("show", "job", "-d", job)
        if code != 0:
            invalid = "Invalid job id" in error
            return JobAnswer(job, GONE, hidden=self._hides()) if invalid else None
        answer = parse_job(text, job)
        if answer is not None and answer.doubtful:
            code, name, _ = self._show("-h", "-t", "all", "-j", job, "-o", "%j", program="squeue")
            answer = parse_job(text, job, name.removesuffix("\n")) if code == 0 else answer
        return answer

    def _hides(self) -> bool:
        """Return whether other users' jobs may be hidden, so that "invalid" proves nothing."""
        if self._privileged:
            return False
        _, text, _ = self._show("show", "config")
        private = re.search(r"^PrivateData\s*=(.*)$", text, re.MULTILINE)
        served_by = re.search(r"^SlurmUser\s*=.*\((\d+)\)$", text, re.MULTILINE)
        if served_by is not None and int(served_by[1]) == os.geteuid():
            return False
        return private is None or "jobs" in re.split(r"[,\s]+", private[1].lower())

    def _show(self, *arguments: str, program: str = "") -> tuple[int | None, str, str]:
        """Return the exit status (`None`: no answer), and the output."""
        path = self._scontrol
        if program:
            beside = Path(self._scontrol).with_name(program)
            path = str(beside) if beside.exists() else find_program(program)
        if not path:
            return None, "", ""
        try:
            done = subprocess.run(
                [path, *arguments],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=self._timeout_s,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None, "", ""
        output, errors = (t.decode("utf-8", "replace") for t in (done.stdout, done.stderr))
        return done.returncode, output, errors


def pause_s(count: int) -> float:
    """Return the pause before the next query."""
    return min(_PAUSE_MAX_S, 2.0 ** min(count, 16))


GONE_AT = 2
"""So often in a row the controller must not know a job, for a single answer may be wrong."""


def take(job: Job, runs: Iterable[Job], answer: JobAnswer | None) -> None:
    """Record the controller's answer on a job (`None`: none); `runs` are all with its number."""
    job.asking = False
    if answer is not None:
        job.gone = job.gone + 1 if answer.state == GONE else 0
    if job.heard:
        return
    job.asked += 1
    job.changed += 1
    if answer is None:
        return
    if answer.doubtful or answer.state == GONE:
        if answer.doubtful or job.gone >= GONE_AT or job.ended_ns is not None:
            job.unheard()
        return
    job.heard = True
    run = answer.run or 0
    if answer.uid is not None and job.uid not in {None, answer.uid}:
        job.unheard()
    elif job.restart is None:
        twin = next((r for r in runs if r.restart == run), None)
        if twin is not None and answer.start_s <= twin.start_s:
            if twin.hooked or twin.presumed_ns is None:
                job.end(job.started_ns)  # Only what is left of the cgroups of that run.
                return
            # Its next step: one run, though nobody knows that it held GPUs in between.
            job.start_s, job.started_ns = twin.start_s, twin.started_ns
        job.restart = run
        _learn(job, answer)
    elif run == job.restart:
        _learn(job, answer)


def is_over(job: Job, answer: JobAnswer | None) -> bool:
    """Return whether the controller considers a job without processes over, as recorded by `take`.

    `False` also where it cannot be reported.
    """
    if answer is None or answer.doubtful:
        return False
    if answer.state == GONE:
        # Where jobs of others are kept from us, SLURM's own step must have ended too.
        return not answer.hidden or (job.extern and job.vanished_ns is not None)
    if answer.uid is not None and job.uid not in {None, answer.uid}:
        return False
    if answer.run is not None and answer.run > (job.restart or 0):
        return True
    if answer.state == "COMPLETING":
        return job.vanished_ns is not None
    return answer.over


def _learn(job: Job, answer: JobAnswer) -> None:
    job.answered = True
    job.scheduler_start_s = job.scheduler_start_s or answer.start_s
    if not job.hooked:
        job.learn(user=answer.user, account=answer.account)
    # What the environment says of these may come from where the job was submitted.
    job.correct(name=answer.name, qos=answer.qos)
    job.source("job_name", answer.name, better=True)
    job.learn(partition=answer.partition, wckey=answer.wckey)
    if answer.limit_s:
        job.correct(time_limit_s=f"{answer.limit_s}")
    if answer.array_job_id.isdecimal() and answer.array_task_id.isdecimal():
        job.learn(array_job_id=answer.array_job_id, array_task_id=answer.array_task_id)
    if answer.het_job_id:
        job.learn(het_job_id=answer.het_job_id, het_offset=answer.het_offset)
    job.source("comment", answer.comment)
    job.source("wckey", answer.wckey)
    _take_gpus(job, answer)


def _take_gpus(job: Job, answer: JobAnswer) -> None:
    by_node: dict[str, list[HeldGpu]] = {}
    for each in answer.gpus:
        by_node.setdefault(each.node, []).append(each)
    for grant in job.grants.values():
        if grant.evidence is Evidence.PROLOG:
            for gpu in by_node.get(grant.node, []):
                if gpu.shards is not None:
                    grant.shards[gpu.position] = gpu.shards
    if job.hooked or job.grants:
        return
    for node in sorted(job.nodes & set(answer.nodes)):
        gpus = by_node.get(node, [])
        positions = tuple(g.position for g in gpus)
        if not gpus and answer.over:
            # It has let go of them, and with them went which they were.
            alone = len(answer.nodes) == 1
            positions = tuple(f"?{n}" if alone else "?" for n in range(answer.gpu_count))
        if not positions:
            continue
        shards = {g.position: g.shards for g in gpus if g.shards is not None}
        grant = JobGrant(Evidence.SCONTROL, node, positions, job.seen_ns, shards=shards)
        job.give(f"scontrol:{node}", grant)
        if job.ended_ns is not None:
            grant.close(job.ended_ns)
