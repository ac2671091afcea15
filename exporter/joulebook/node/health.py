"""Whether the daemon does its work: what `/readyz` and `/healthz` answer.

Ready means that a tick lately read a sensor and reached the disk. Healthy is weaker: only a hang
that nothing but a restart can end makes it fail, so that a supervisor restarts the daemon.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from joulebook.backoff import LastingThread
from joulebook.node.sensor_thread import SensorThread

log = logging.getLogger(__name__)

HANG_S = 300.0


class Health:
    """Written by the tick loop, read by HTTP; every answer is computed from plain attributes.

    A tick, reading or commit older than `lately_s` is not ready, nor is a call that has been going
    on for longer than `hang_s`.
    """

    def __init__(
        self, workers: Sequence[SensorThread], *, lately_s: float, hang_s: float, idle: str = ""
    ) -> None:
        """`idle` is why there is nothing to read: then no reading is expected."""
        self._workers = workers
        self._idle = idle
        self._lately_s = lately_s
        self._hang_s = hang_s
        now = time.monotonic()
        self._ticked = self._read = self._saved = now
        self._started = False
        self._hung: set[str] = set()
        self._ledger_problem = ""
        self._failing_since = now
        self._sensor_problems: Sequence[str] = ()

    def ticked(self, read: bool, problems: Sequence[str]) -> None:
        """Record a tick; `read`: whether it got a reading."""
        self._ticked = time.monotonic()
        self._sensor_problems = problems
        if read:
            self._read = self._ticked
            self._started = True
        self._say_hangs()

    def committed(self) -> None:
        """A tick reached the disk."""
        self._saved = time.monotonic()
        if self._ledger_problem:
            log.info("the ledger is writable again; nothing was lost")
        self._ledger_problem = ""

    def commit_failed(self, problem: str) -> None:
        """A tick did not reach the disk, and will be written with the next one."""
        if not self._ledger_problem:
            self._failing_since = time.monotonic()
            log.error("%s; figures are kept in memory until the ledger is writable", problem)
        self._ledger_problem = problem

    def ready(self) -> tuple[bool, str]:
        """Return whether a tick succeeded lately, and what is wrong if not."""
        now = time.monotonic()
        wrong = [
            f"sensor {name} has been hanging in a call for {stuck_s:.0f} s"
            for name, stuck_s in self._hanging().items()
        ]
        wrong += [
            f"the thread of sensor {worker.sensor.name} died {died_s:.0f} s ago"
            for worker in self._workers
            if (died_s := worker.died_s()) <= self._lately_s
        ]
        wrong += [
            f"thread {name} died {died_s:.0f} s ago"
            for name, died_s in LastingThread.died_within(self._lately_s).items()
        ]
        if self._ledger_problem and now - self._failing_since > self._lately_s:
            wrong.append(f"nothing committed for {now - self._saved:.0f} s: {self._ledger_problem}")
        if now - self._ticked > self._lately_s:
            wrong.append(f"no tick for {now - self._ticked:.0f} s")
        elif not self._idle and (not self._started or now - self._read > self._lately_s):
            problems = [problem for problem in self._sensor_problems if problem]
            silence = f"no sensor was read for {now - self._read:.0f} s"
            wrong.append(f"{silence}: {'; '.join(problems)}" if problems else silence)
        return (False, "\n".join(wrong)) if wrong else (True, self._idle or "ready")

    def _hanging(self) -> dict[str, float]:
        """Return the sensors with a hanging call, and for how long (s)."""
        return {
            worker.sensor.name: stuck_s
            for worker in self._workers
            if (stuck_s := worker.stuck_s()) > self._hang_s
        }

    def _say_hangs(self) -> None:
        """Log a hang when it begins to count as one, and its end."""
        hung = set(self._hanging())
        for name in sorted(hung - self._hung):
            log.error("sensor %s hangs in a call: its meters have gaps until it returns", name)
        for name in sorted(self._hung - hung):
            log.info("sensor %s responds again", name)
        self._hung = hung

    def healthy(self) -> tuple[bool, str]:
        """Return whether a restart would not help."""
        stuck = max((worker.stuck_s() for worker in self._workers), default=0.0)
        silent = time.monotonic() - self._ticked
        if stuck > HANG_S:
            return False, f"a sensor has been hanging for {stuck:.0f} s"
        if silent > HANG_S:
            return False, f"the tick loop has been silent for {silent:.0f} s"
        return True, "healthy"
