"""Whether the daemon and its counters work: `/readyz`, `/healthz`, systemd's watchdog, the log.

Ready means that a tick lately read a sensor and reached the disk. Healthy is weaker: only a hang
that nothing but a restart can end makes it fail, so that a supervisor restarts the daemon.
Kubernetes polls `/healthz`; systemd expects a notification every half of `WatchdogSec`
(sd_notify(3)).
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from joulebook.backoff import LastingThread
from joulebook.core.energy.audit import Verdict
from joulebook.core.ledger.state import Books
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


def say_audits(before: Books, after: Books) -> None:
    """Log once if a counter's rate differs from its power, or may, and when it recovers."""
    for meter, state in after.meters.items():
        known = before.meters.get(meter)
        was_wrong = known is not None and known.audit.verdict is Verdict.WRONG
        is_wrong = state.audit.verdict is Verdict.WRONG
        in_question = state.audit.in_question
        name = f"{meter.component} {meter.name}"
        if is_wrong and not was_wrong:
            log.warning(
                "the energy counter of %s shows %.0f %% of the energy integrated from power: its "
                "figures are off by as much (joulebook_counter_power_ratio). See the known "
                "issues of its driver and firmware",
                name, 100 * state.audit.ratio,
            )  # fmt: skip
        elif in_question is not None and (known is None or known.audit.in_question is None):
            log.warning(
                "the energy counter of %s shows %.0f %% of the energy integrated from power at "
                "full load: it is off, or the load is in step with the power sensor. Half a minute "
                "at rest, or under three other loads, may tell which",
                name, 100 * in_question,
            )  # fmt: skip
        elif was_wrong and not is_wrong:
            log.info("the energy counter of %s agrees with its power again", name)


def say_stalls(before: Books, after: Books) -> None:
    """Log once when a counter is given up, and when it is used again."""
    for meter, state in after.meters.items():
        known = before.meters.get(meter)
        if state.stalled == (known is not None and known.stalled):
            continue
        name = f"{meter.component} {meter.name}"
        if state.stalled:
            log.warning(
                "the energy counter of %s hardly advances, or far too fast, while power is drawn: "
                "its energy is "
                "integrated from power (method integrated) until the counter advances again",
                name,
            )
        else:
            log.info("the energy counter of %s advances again and is used again", name)


_PATIENCE_S = 0.5


class ServiceManager:
    """The service manager that started this process; silent if there is none."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        """`NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID` are systemd's."""
        self._address = environ.get("NOTIFY_SOCKET", "")
        usec = environ.get("WATCHDOG_USEC", "")
        for_us = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.every_s = int(usec) / 2e6 if usec.isdecimal() and len(usec) < 20 and for_us else 0.0
        """Seconds from one sign of life to the next; 0: none is wanted."""

    def say(self, state: str) -> bool:
        """Send one message, like `READY=1`; whether it was taken is not for us to mend."""
        if not self._address:
            return False
        # A leading @ stands for the abstract name space.
        address = "\0" + self._address[1:] if self._address[0] == "@" else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
                # A manager that does not read must not hold us up.
                out.settimeout(_PATIENCE_S)
                out.sendto(state.encode(), address)
        except OSError as error:
            log.debug("cannot notify the service manager of %s: %s", state, error)
            return False
        return True

    @contextmanager
    def reported(self, healthy: Callable[[], tuple[bool, str]]) -> Iterator[None]:
        """Notify readiness in the context, and liveness as long as `healthy` is true."""
        done = threading.Event()

        def beat() -> None:
            while not done.wait(self.every_s):
                well, why = healthy()
                if well:
                    self.say("WATCHDOG=1")
                else:
                    log.error("watchdog not notified: %s", why)

        pulse = threading.Thread(target=beat, name="watchdog", daemon=True)
        if self.every_s:
            pulse.start()
        self.say("READY=1")
        try:
            yield
        finally:
            done.set()
            self.say("STOPPING=1")
