"""The state of each target: its next request, and its last response."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable

from joulebook.backoff import pause_s

FIRST_S = 5.0
"""After the first failure; doubled with each, up to the interval or five minutes."""

MOST_S = 300.0


class TargetState:
    """One target. Times are of a monotonic clock, but `good_s`, which is UTC."""

    def __init__(self, due: float) -> None:
        self.due = due
        self.asked = False
        """Whether an answer is awaited."""
        self.failures = 0
        """In a row."""
        self.repeats = 0
        """Questions in a row that had to be asked otherwise."""
        self.problem = ""
        self.reason = ""
        """The short word for the problem."""
        self.good_s: float | None = None
        self.behind = 0
        """Numbers between what is here and the newest there, at the last answer."""
        self.node = ("", "")
        self.ledger_id = ""
        self.errors: Counter[str] = Counter()

    def failed(self, now: float, every_s: float, reason: str, problem: str, lot: float) -> None:
        """Schedule a retry with back-off; `lot` in [0, 1) spreads targets."""
        self.asked = False
        self.failures += 1
        self.repeats = 0
        self.problem, self.reason = problem, reason
        self.errors[reason] += 1
        self.due = now + pause_s(self.failures, FIRST_S, max(every_s, MOST_S), lambda: lot)

    def went_well(self, now: float, now_s: float, every_s: float, behind: int, lot: float) -> None:
        """Schedule the next request after the interval, or at once if there is more."""
        self.asked = False
        self.failures = self.repeats = 0
        self.problem = self.reason = ""
        self.good_s = now_s
        self.behind = behind
        self.due = now if behind else now + every_s * (0.9 + lot / 5)


class TargetList:
    """All targets. Used by one thread."""

    def __init__(self, lot: Callable[[], float] = random.random) -> None:  # no secret
        self._lot = lot
        self.targets: dict[str, TargetState] = {}

    def renew(self, urls: Iterable[str], now: float, spread_s: float) -> None:
        """Replace the targets; new ones are requested within `spread_s`."""
        wanted = set(urls)
        for url in self.targets.keys() - wanted:
            if not self.targets[url].asked:
                del self.targets[url]
        for url in sorted(wanted - self.targets.keys()):
            self.targets[url] = TargetState(now + self._lot() * spread_s)

    def due(self, now: float, most: int) -> list[str]:
        """Return at most this many due targets, the longest due first."""
        ready = [
            (standing.due, url)
            for url, standing in self.targets.items()
            if not standing.asked and standing.due <= now
        ]
        return [url for _, url in sorted(ready)[:most]]

    def twin(self, url: str, node: tuple[str, str], ledger_id: str) -> str:
        """Another target that is this node too, with another ledger (`""`: none)."""
        for other, standing in self.targets.items():
            if other != url and standing.node == node and standing.ledger_id != ledger_id:
                return other
        return ""

    def failed(self, url: str, now: float, every_s: float, reason: str, problem: str) -> None:
        """A target gave nothing that could be used."""
        if url in self.targets:
            self.targets[url].failed(now, every_s, reason, problem, self._lot())

    def went_well(self, url: str, now: float, now_s: float, every_s: float, behind: int) -> None:
        """A target's page is in the ledger."""
        if url in self.targets:
            self.targets[url].went_well(now, now_s, every_s, behind, self._lot())
