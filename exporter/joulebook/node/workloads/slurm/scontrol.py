"""`scontrol show job -d`: one question at a time, with a time-out, for everybody who waits.

Where a job's name passes for more than a name, where it ends is found by asking for it alone.
"""

from __future__ import annotations

import contextlib
import os
import queue
import re
import subprocess
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Protocol

from joulebook.backoff import LastingThread
from joulebook.node.workloads.slurm.gres_conf import find_program
from joulebook.node.workloads.slurm.job_record import GONE, JobAnswer, parse_job

_WAITING_MAX = 1024
"""Larger than the number of jobs that one node can start while the controller is silent."""

Answered = Callable[[JobAnswer | None], None]
"""Called from the asking thread; `None` when the controller gave no answer in time."""


class Questions(Protocol):
    """Who can be asked for jobs."""

    @property
    def able(self) -> bool:
        """Whether there is anything to ask with."""

    def ask(self, job_id: str, answered: Answered) -> bool:
        """Ask for one job; `False` if too many wait already."""


class Asker(LastingThread):
    """Runs `scontrol` in one thread of its own: for one job, or for all that wait meanwhile.

    `fault` is reported of errors of ours, with what follows: the thread goes on.
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
        """Whether there is a program to ask with."""
        return bool(self._scontrol)

    def ask(self, job_id: str, answered: Answered) -> bool:
        """Ask for one job; `False` if too many wait already."""
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
                self._fault("reading what the controller answered failed; it is asked again")
            for job_id, answered in questions:
                try:
                    answered(answers.get(job_id))
                except Exception:
                    self._fault("taking what the controller answered failed")

    def _answers(self, jobs: Collection[str]) -> dict[str, JobAnswer | None]:
        if len(jobs) == 1:
            return {job: self._one(job) for job in jobs}
        code, text, _ = self._show("show", "job", "-d")
        if code != 0:
            return {}
        found = {job: parse_job(text, job) for job in jobs}
        hidden = None in found.values() and self._hides()
        for job, answer in found.items():
            if answer is None:
                found[job] = JobAnswer(job, GONE, hidden=hidden)
            elif answer.doubtful:  # Perhaps only another job's words pass for it.
                found[job] = self._one(job)
        return found

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
        """Whether jobs of others may be kept from this user, so that "invalid" proves nothing."""
        if self._privileged:
            return False
        _, text, _ = self._show("show", "config")
        private = re.search(r"^PrivateData\s*=(.*)$", text, re.MULTILINE)
        served_by = re.search(r"^SlurmUser\s*=.*\((\d+)\)$", text, re.MULTILINE)
        if served_by is not None and int(served_by[1]) == os.geteuid():
            return False
        return private is None or "jobs" in re.split(r"[,\s]+", private[1].lower())

    def _show(self, *arguments: str, program: str = "") -> tuple[int | None, str, str]:
        """The exit status (`None`: no answer), and what was printed."""
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
