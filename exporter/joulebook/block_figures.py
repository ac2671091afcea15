"""The figures of a block of code: of the daemon's books, else measured in the process itself.

A block outside a scheduler is a run of its own, which the daemon knows by its id. Inside a SLURM
job it is a part of that: what was booked to the job from its start to its end, to within one commit
of the daemon (`daemon.commit_s`) at each end.
"""

from __future__ import annotations

import os
import time

from joulebook.errors import SourceError
from joulebook.in_process import InProcess
from joulebook.run_figures import RunFigures, ask, fetch, total
from joulebook.warn_once import say_once

POLL_S = 0.5
HELLO_S = 0.5
_SLACK_S = 0.005
"""How far the wall clock may drift from the daemon's between an end and the answer."""


def own_job() -> str:
    """Return the SLURM job that this process is in; empty: none."""
    return os.environ.get("SLURM_JOB_ID", "")


def of_job(runs: tuple[RunFigures, ...]) -> RunFigures | None:
    """Return the sum of a job's runs: of two jobs with one number the later, requeues together."""
    latest = {run.name: run for run in runs}
    return total(latest.values()) if latest else None


class BlockFigures:
    """What one block consumed, from `begin` to `end`."""

    def __init__(self, run_id: str, wait_s: float, *, estimate: bool) -> None:
        self._run, self._wait_s, self._estimate = run_id, wait_s, estimate
        self._job = own_job()
        self._before: RunFigures | None = None
        self._own: InProcess | None = None
        self._ended_s: float | None = None
        self._waits_since_s = 0.0  # all reads together wait once
        self._final: RunFigures | None = None

    def begin(self) -> None:
        """Find out who measures, and what was booked before. Never raises."""
        try:
            fetch("/healthz", timeout_s=HELLO_S)
            if self._job:
                self._before = of_job(ask({"job": self._job}, HELLO_S).runs) or RunFigures()
        except SourceError as error:
            self._own = InProcess()
            how = (
                "NVML measures the GPUs of this process as a whole"
                if self._own.measures
                else "the energy is modelled"
                if self._estimate
                else "nothing is measured"
            )
            say_once(f"{error}: {how}")

    def end(self) -> None:
        """Note the end."""
        self._ended_s = time.time()
        if self._own is not None:
            self._final = self._own.figures(estimate=self._estimate)

    def now(self) -> RunFigures | None:
        """Return the figures: up to now, or of the whole block, waiting until all is booked."""
        if self._final is not None:
            return self._final
        if self._own is not None:
            return None if self._ended_s else self._own.figures(estimate=self._estimate)
        try:
            found, booked = self._look()
            if self._ended_s is None:
                return found
            began_s = self._waits_since_s = self._waits_since_s or time.monotonic()
            # To what never used a GPU, nothing is ever booked.
            while not booked and time.monotonic() - began_s < (
                self._wait_s if found else self._wait_s / 3
            ):
                time.sleep(min(POLL_S, self._wait_s))
                found, booked = self._look()
        except SourceError as error:
            self._wait_s = 0.0
            say_once(f"{error}")
            return None
        if booked:
            self._final = found
        if found is None:
            say_once(
                f"nothing is booked to {self._job or self._run}: no GPU was used, or the daemon "
                "reads no marks ([marks] enabled)"
            )
        return found

    def _look(self) -> tuple[RunFigures | None, bool]:
        """Return what is booked, and whether that is all."""
        answer = ask({"job": self._job or self._run})
        found = of_job(answer.runs)
        if found is None or self._ended_s is None:
            return found, False
        booked = answer.booked_to_utc_s >= self._ended_s - _SLACK_S
        if not self._job:
            return found, booked and found.ended_utc_s is not None
        return found if self._before is None else found.minus(self._before), booked
