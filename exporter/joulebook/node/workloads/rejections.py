"""What was refused of all that is said from outside: counted by reason, and reported to the log."""

from __future__ import annotations

import logging
import sys
import threading
from collections import Counter

from joulebook.errors import InputError

FAULT = "fault"
"""The reason under which errors of our own are counted."""

TOLD_MAX = 16
"""So many different refusals are logged for each reason: users can make up any number."""

_LOG = logging.getLogger(__name__)


class Rejections:
    """Call it with an error that was caught."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._told: dict[str, set[str]] = {}
        self._faults: set[tuple[str, str]] = set()

    def __call__(self, error: InputError) -> None:
        """Count it, and log it unless the same was logged (its message names file or job)."""
        with self._lock:
            self._counts[error.reason] += 1
            reported = self._told.setdefault(error.reason, set())
            new = str(error) not in reported and len(reported) < TOLD_MAX
            if new:
                reported.add(str(error))
            last = len(reported) == TOLD_MAX
        if new:
            more = f"further ones for reason {error.reason}" if last else "the same again"
            _LOG.warning("rejected: %s (%s: only counted)", error, more)

    def count(self, reason: str) -> None:
        """Count what is logged elsewhere."""
        with self._lock:
            self._counts[reason] += 1

    def fault(self, what: str) -> None:
        """An exception that is a fault of ours, and being handled: count it as `fault`.

        `what` says what failed and what follows. Where it came from is logged once.
        """
        with self._lock:
            self._counts[FAULT] += 1
            key = (what, type(sys.exception()).__name__)
            new = key not in self._faults
            self._faults.add(key)
        if new:
            _LOG.exception("%s (please report this; repetitions are only counted)", what)

    def counts(self) -> dict[str, int]:
        """How many of each reason since the start."""
        with self._lock:
            return dict(self._counts)
