"""Things to do later, for one thread that also waits for other things."""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Callable, Iterator

Action = Callable[[], None]


class Timers:
    """Actions with the time at which they are due. The caller serialises access."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self.now_s = now_s
        self._heap: list[tuple[float, int, Action]] = []
        self._order = itertools.count()
        self._named: set[str] = set()

    def at(self, in_s: float, action: Action) -> None:
        """Do `action` in so many seconds."""
        heapq.heappush(self._heap, (self.now_s() + in_s, next(self._order), action))

    def once(self, name: str, in_s: float, action: Action) -> None:
        """The same, unless an action of that name waits already."""
        if name in self._named:
            return
        self._named.add(name)

        def named() -> None:
            self._named.discard(name)
            action()

        self.at(in_s, named)

    def due(self) -> Iterator[Action]:
        """Yield the actions whose time has come, taken off; what they add for later waits."""
        until = self.now_s()
        while self._heap and self._heap[0][0] <= until:
            yield heapq.heappop(self._heap)[2]

    def wait_s(self) -> float | None:
        """Seconds until the next one is due; `None` if there is none."""
        return max(0.0, self._heap[0][0] - self.now_s()) if self._heap else None
