"""Rejected outside input: counted by reason, and logged."""

from __future__ import annotations

import logging
import threading
from collections import Counter

from joulebook.errors import InputError
from joulebook.log import LogOnce

FAULT = "fault"
"""The reason under which errors of our own are counted."""

_LOG = logging.getLogger(__name__)


class Rejections:
    """Call it with an error that was caught."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._once = LogOnce(_LOG)

    def __call__(self, error: InputError) -> None:
        """Count it, and log it unless the same was logged (its message names file or job)."""
        self.count(error.reason)
        said = "rejected: %s (%s; the same again: only counted)"
        self._once.failed(error.reason, said, error, error.reason, reason=str(error))

    def count(self, reason: str) -> None:
        """Count an input that is logged elsewhere."""
        with self._lock:
            self._counts[reason] += 1

    def fault(self, what: str) -> None:
        """An exception that is a fault of ours, and being handled: count it as `fault`.

        `what` is what failed and its consequence. The traceback is logged once.
        """
        self.count(FAULT)
        self._once.fault(what)

    def counts(self) -> dict[str, int]:
        """Return how many of each reason since the start."""
        with self._lock:
            return dict(self._counts)
