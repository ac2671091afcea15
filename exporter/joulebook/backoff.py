"""Retries: how long to wait before the next, and threads that restart."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Mapping

from joulebook.log import LogOnce

log = logging.getLogger(__name__)


def pause_s(
    failures: int, first_s: float, most_s: float, lot: Callable[[], float] = random.random
) -> float:
    """Return the seconds to wait after `failures` failures in a row (1 or more).

    It grows from `first_s` to `most_s`, with up to 50 % jitter by `lot` (in [0, 1)), so that
    clients that failed together do not retry together.
    """
    return min(first_s * 2.0 ** min(failures - 1, 30), most_s) * (0.5 + lot())


class LastingThread(threading.Thread):
    """A daemon thread that calls `work` again after an exception; only its return ends it.

    Deaths are counted by thread name, for metrics and readiness; each kind is logged once.
    """

    deaths: Mapping[str, int] = {}
    """How often each thread has died since the start."""

    _died: Mapping[str, tuple[float, float]] = {}  # when, and when it goes on
    _mourning = threading.Lock()

    def __init__(self, name: str, work: Callable[[], None], *, first_s: float = 1.0) -> None:
        super().__init__(name=name, daemon=True)
        self._work = work
        self._first_s = first_s

    def run(self) -> None:
        """Run `work`, and run it again after each exception."""
        once = LogOnce(log)
        said = f"thread {self.name} died: what it does is not done until it is begun again"
        while True:
            try:
                self._work()
            except Exception:
                failures = once.fault(said, level=logging.CRITICAL)
                rest_s = pause_s(failures, self._first_s, 60.0)
                self._mourn(rest_s)
                time.sleep(rest_s)
            else:
                return

    def _mourn(self, rest_s: float) -> None:
        now = time.monotonic()
        # Both are replaced, never changed, so readers need no lock.
        with LastingThread._mourning:
            deaths, died = LastingThread.deaths, LastingThread._died
            LastingThread.deaths = {**deaths, self.name: deaths.get(self.name, 0) + 1}
            LastingThread._died = {**died, self.name: (now, now + rest_s)}

    @classmethod
    def died_within(cls, seconds: float) -> dict[str, float]:
        """Return for how long threads have been dead, or were within the last `seconds`."""
        now = time.monotonic()
        return {name: now - at for name, (at, back) in cls._died.items() if now - back <= seconds}
