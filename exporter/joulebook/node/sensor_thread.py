"""One thread that calls one sensor, and may hang with it.

The tick loop requests a poll and waits for it for a limited time. A boundary between workloads
requests a burst (`node.burst`). Whatever a sensor raises, its thread lives on and polls again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence

from joulebook.clock import Clock
from joulebook.core.energy.counter_steps import PAUSE_NS, Burst
from joulebook.core.energy.readings import DeviceStatus, Failure, Meter, Reading
from joulebook.errors import SensorError
from joulebook.log import LogOnce
from joulebook.metrics.snapshot import SensorHealth
from joulebook.node.sensors.contract import SUSPENDED, Pace, Paced, PollResult, Sensor
from joulebook.units import NS_PER_S

log = logging.getLogger(__name__)
_faults = LogOnce(log)

REOPEN_FIRST_S, REOPEN_MOST_S = 1.0, 30.0

_ITSELF = "it"
"""What is not read if the whole sensor fails."""

THREAD_DIED = "thread_died"
"""The reason of an error that ended a sensor's thread; it is started again."""

SLOW_PATIENCE_S = 120.0
"""A call of a slow sensor, which has time-outs of its own, hangs only after so long."""


class SensorThread:
    """Calls a sensor from a thread of its own. All methods but the thread's return at once."""

    def __init__(self, sensor: Sensor, clock: Clock, *, kind: str, known: set[Meter]) -> None:
        self.sensor = sensor
        self._kind = kind
        self._clock = clock
        self._wake = threading.Condition()
        self._thread = self._new_thread()
        self._started = False
        self._died_at = float("-inf")
        self._stopping = False
        self._asked: bool | None = None  # a look is wanted; True: with processes
        self._released = False
        self._answered = threading.Event()
        self._in_call_since: float | None = None
        self._open = False
        self._reopen_at, self._reopen_s = 0.0, REOPEN_FIRST_S
        self._burst: Burst | None = None
        self._meters = set(known)
        self._readings: list[Reading] = []
        self._failures: list[Failure] = []
        self._statuses: tuple[DeviceStatus, ...] = ()
        self.rejected: Mapping[str, int] = {}
        self.within: frozenset[Meter] = frozenset()
        self._errors: Counter[str] = Counter()
        self._last_success_s: float | None = None
        self._took_s: float | None = None
        self._reason, self.problem = "starting", "no reading yet"
        self._once = LogOnce(log)
        self._gave = False  # the last look gave a reading, or all devices sleep
        self._paced = sensor if isinstance(sensor, Paced) else None  # asked once: it is slow
        self._pace = Pace() if self._paced is None else self._paced.pace
        self._looked_at = float("-inf")

    def start(self) -> None:
        """Begin to serve."""
        self._started = True
        self._thread.start()

    def stop(self, patience_s: float = 2.0) -> None:
        """Close the sensor; a thread that hangs in the driver is left behind."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join(patience_s)

    def ask(self, *, processes: bool) -> None:
        """Request one poll; a slow sensor is only polled as often as it may be."""
        self._revive()
        with self._wake:
            if self._slow and (
                self._in_call_since is not None
                or time.monotonic() < self._looked_at + self._pace.least_s
            ):
                return
            self._answered.clear()
            self._asked = processes or bool(self._asked)
            self._wake.notify()

    def wait(self, timeout_s: float) -> bool:
        """Wait for the requested poll; `False` if it is not done in time.

        A slow sensor is not waited for: a later tick takes its readings.
        """
        return self._slow or self._answered.wait(max(timeout_s, 0))

    def burst(self) -> None:
        """A workload began or ended somewhere: watch the counters step."""
        with self._wake:
            self._burst = Burst(self._clock.now_ns())
            self._wake.notify()

    def release(self, released: bool) -> None:
        """Release the driver (`True`), or reopen it."""
        if released != self._released:
            with self._wake:
                self._released, self._reopen_at = released, 0.0
                self._wake.notify()

    @property
    def is_open(self) -> bool:
        """Return whether the sensor holds a driver; one that reads files or a BMC does not."""
        return self._open and self._paced is None

    def stuck_s(self) -> float:
        """For how many seconds the call in flight has been going on; 0 if there is none."""
        since = self._in_call_since
        stuck_s = time.monotonic() - since if since is not None else 0.0
        return stuck_s if not self._slow or stuck_s > SLOW_PATIENCE_S else 0.0

    def collect(self) -> PollResult:
        """Take what has come in since the last time; every meter that gave nothing has a reason."""
        with self._wake:
            readings, self._readings = self._readings, []
            failures, self._failures = self._failures, []
            statuses = self._statuses
            answered = self._answered.is_set()
            meters = set(self._meters)
        if not answered and self._slow:
            return PollResult(tuple(readings), tuple(failures), statuses)
        if not answered:
            reason = "hung" if self._in_call_since is not None else self._reason
            now_ns = self._clock.now_ns()
            silent = meters - {reading.meter for reading in readings}
            failures = [*failures, *(Failure(meter, now_ns, reason) for meter in silent)]
            return PollResult(tuple(readings), tuple(failures), ())
        return PollResult(tuple(readings), tuple(failures), statuses)

    def health(self) -> SensorHealth:
        """Return the sensor's health."""
        answered = self._answered.is_set() or self._slow
        up = self._open and answered and (self._gave or not self._meters)
        return SensorHealth(
            self.sensor.name,
            self._kind,
            up,
            dict(self._errors),
            self._last_success_s,
            self._took_s,
        )

    def died_s(self) -> float:
        """For how many seconds its thread has lived since it last died."""
        return time.monotonic() - self._died_at

    def _new_thread(self) -> threading.Thread:
        return threading.Thread(target=self._run, name=f"sensor-{self.sensor.name}", daemon=True)

    def _revive(self) -> None:
        """Start the thread again if it died: nothing that a sensor does may end its readings."""
        if not self._started or self._stopping or self._thread.is_alive():
            return
        thread = self._new_thread()
        try:
            thread.start()
        except RuntimeError as error:  # the system has no thread to give just now
            _faults.failed(self.sensor.name, "sensor %s: no thread: %s", self.sensor.name, error)
            return
        self._thread = thread

    def _run(self) -> None:
        try:
            self._serve()
        except BaseException as fault:
            self._died_at = time.monotonic()
            self._in_call_since = None
            self._errors[THREAD_DIED] += 1
            self._reason, self.problem = THREAD_DIED, f"its thread died: {fault!r}"
            said = ("sensor %s: %s", self.sensor.name, self.problem)
            self._once.failed(
                _ITSELF, *said, reason=self.problem, level=logging.CRITICAL, exc_info=fault
            )

    def _serve(self) -> None:
        while True:
            with self._wake:
                while not (self._stopping or self._asked is not None or self._wants_energy()):
                    if not self._wake.wait(self._due_in_s()):
                        break  # nobody asked, but it is time
                if self._stopping:
                    break
                asked, self._asked = self._asked, None
            if asked is None and not self._wants_energy():
                self._poll(processes=False)
            elif asked is not None:
                self._poll(processes=asked)
            else:
                self._poll_energy()
                with self._wake:
                    if self._asked is None and not self._stopping:
                        self._wake.wait(PAUSE_NS / NS_PER_S)
        self._close()

    def _wants_energy(self) -> bool:
        return self._burst is not None and self._open

    @property
    def _slow(self) -> bool:
        return self._pace.least_s > 0

    def _due_in_s(self) -> float | None:
        """Return when the sensor must be polled without a request; `None`: never."""
        if self._pace.most_s is None or not self._open:
            return None
        return max(self._looked_at + self._pace.most_s - time.monotonic(), 0.0)

    def _poll(self, *, processes: bool) -> None:
        """Poll once: a reading or a failure for every meter that this sensor has had."""
        self._in_call_since = began = time.monotonic()
        poll, error = self._called(processes=processes)
        now_ns = self._clock.now_ns()
        self._looked_at = time.monotonic()
        self._took_s = self._looked_at - began
        if self._paced is not None:
            self._pace = self._paced.pace
        if error is not None:
            self._reason = error.reason
        silent = "missing" if self._open and error is None else self._reason
        heard = {r.meter for r in poll.readings} | {f.meter for f in poll.failures}
        failures = [
            *poll.failures,
            *(Failure(meter, now_ns, silent) for meter in sorted(self._meters - heard)),
        ]
        asleep = {failure.reason for failure in failures} == {SUSPENDED}
        self._gave = bool(poll.readings) or asleep
        if self._open and error is None:
            failing = {f"{f.meter.component} {f.meter.name}": f.reason for f in failures}
            self._say(failing)
            self.problem = "; ".join(f"{name}: {why}" for name, why in failing.items())
        if not (poll.readings or failures or error):
            self.problem = "it has no device"
        if poll.readings:
            self._last_success_s = (now_ns + self._clock.utc_offset_ns()) / NS_PER_S
            self.problem = ""
        with self._wake:
            self._meters |= heard
            self._readings.extend(poll.readings)
            self._failures.extend(failures)
            self._statuses = poll.statuses
            self.rejected = {**self.rejected, **poll.rejected}
            self.within = self.within if error else poll.within
            self._errors.update(failure.reason for failure in poll.failures)
            self._in_call_since = None
            self._answered.set()

    def _called(self, *, processes: bool) -> tuple[PollResult, SensorError | None]:
        """Return the sensor's readings, or why there are none (`None`: not due yet)."""
        try:
            if self._released and self._paced is None:
                self._close()
                return PollResult(), SensorError("the driver was released", reason="released")
            if self._open_if_due():
                return self.sensor.poll(processes=processes), None
        except SensorError as error:
            self._note(error)
            return PollResult(), error
        except Exception as fault:
            unforeseen = _fault(fault)
            self._note(unforeseen, fault)
            return PollResult(), unforeseen
        return PollResult(), None

    def _open_if_due(self) -> bool:
        if self._open:
            return True
        if time.monotonic() < self._reopen_at:
            return False
        self.sensor.open()
        self._open = True
        self._reopen_s = REOPEN_FIRST_S
        return True

    def _say(self, failing: Mapping[str, str]) -> None:
        """Log new failures and reasons, and recoveries."""
        sensor = self.sensor.name
        for name, why in failing.items():
            level = logging.INFO if why == SUSPENDED else logging.WARNING
            said = ("sensor %s: %s is not read: %s", sensor, name, why)
            self._once.failed(name, *said, reason=why, level=level)
        for name in sorted(set(self._once.failing()) - failing.keys()):
            self._once.recovered(name, "sensor %s: %s is read again", sensor, name)

    def _note(self, error: SensorError, fault: Exception | None = None) -> None:
        """A sensor that failed as a whole is closed and opened again, ever less often."""
        self.problem = str(error)
        said = ("sensor %s: %s. %s", self.sensor.name, error, error.remedy)
        self._once.failed(_ITSELF, *said, reason=str(error), level=logging.ERROR, exc_info=fault)
        self._errors[error.reason] += 1
        self._close()
        self._reopen_at = time.monotonic() + self._reopen_s
        self._reopen_s = min(2 * self._reopen_s, REOPEN_MOST_S)

    def _close(self) -> None:
        if not self._open:
            return
        self._open = False
        try:
            self.sensor.close()
        except Exception as e:
            log.warning("sensor %s did not close: %s", self.sensor.name, e)

    def _poll_energy(self) -> None:
        """One step of a burst. Only the readings around a step of a counter are kept."""
        burst = self._burst
        if burst is None:
            return
        readings: Sequence[Reading] = ()
        self._in_call_since = time.monotonic()
        try:
            readings = self.sensor.poll_energy(burst.awaited(self._meters))
        except SensorError:
            pass  # the next look says why
        except Exception as fault:
            unforeseen = _fault(fault)
            self._errors[unforeseen.reason] += 1
            _faults.failed(self.sensor.name, "%s", unforeseen, level=logging.ERROR, exc_info=fault)
        finally:
            self._in_call_since = None
        kept = burst.take(readings)
        over = not readings or burst.is_over(self._clock.now_ns())
        with self._wake:
            self._readings.extend(kept)
            # A boundary that came meanwhile has begun a new burst: leave that one alone.
            if over and self._burst is burst:
                self._burst = None


def _fault(fault: Exception) -> SensorError:
    """An exception that no sensor raises on purpose: a fault of ours, or an answer unforeseen."""
    remedy = "This is a bug in Joulebook: please report it."
    return SensorError(f"unexpected {fault!r}", reason="fault", remedy=remedy)
