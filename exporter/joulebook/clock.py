"""Node time, the only clock that energy is booked on.

Node time is CLOCK_BOOTTIME plus an offset fixed once per boot, so it does not jump with the wall
clock, does not stop during suspend, and continues after a restart of the daemon (`resume`) and
after a reboot. UTC is node time plus `utc_offset_ns`, which follows the wall clock.

`Timers` are things to do later, for one thread that also waits for other things.
"""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import msgspec

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Clock(Protocol):
    """The clock that sensors and workload sources need."""

    @property
    def epoch(self) -> str:
        """Identifies this boot of the machine."""

    def now_ns(self) -> int:
        """Node time."""

    def utc_offset_ns(self) -> int:
        """Return what to add to node time for nanoseconds since the Unix epoch, now."""

    def boottime_ns(self, t_ns: int) -> int:
        """CLOCK_BOOTTIME of an instant of node time (start times of processes are in it)."""


class Anchor(msgspec.Struct, frozen=True):
    """The state of a clock that the ledger keeps: `node time = boottime + shift` in `epoch`."""

    epoch: str
    shift_ns: int
    last_ns: int
    """Node time of the last committed tick."""
    utc_offset_ns: int = 0
    """The offset of UTC from node time at that tick."""


_STEP_NS = 1_000_000_000
"""A wall clock that differs by less is being slewed, and is followed at once."""

_HOLD_NS = 30 * 1_000_000_000
"""How long a wall clock must stay where it was set before it is followed."""

_MAX_LEAP_NS = 35 * 86_400 * 1_000_000_000
"""If a machine was off for longer, or its clock says so, node time continues as if it had not been:
node time never goes back, and everything with a retention would be dropped at once.
"""


class NodeClock:
    """Node time of this machine."""

    def __init__(self, kept: Anchor | None = None, *, epoch: str | None = None) -> None:
        self._epoch = _BOOT_ID.read_text().strip() if epoch is None else epoch
        self._stepped: tuple[int, int] | None = None
        boottime, utc = time.clock_gettime_ns(time.CLOCK_BOOTTIME), time.time_ns()
        if kept is not None and kept.epoch == self._epoch:
            self._shift_ns, self._offset_ns = kept.shift_ns, kept.utc_offset_ns
            return
        # A new boot: start at UTC with the same offset as before, so that the time the machine was
        # off has its true length; but never before what is already on record (a dead clock battery
        # must not make time go backwards).
        now_ns = utc
        if kept is not None:
            utc = max(utc, kept.last_ns + kept.utc_offset_ns)
            now_ns = max(utc - kept.utc_offset_ns, kept.last_ns + 1)
            if now_ns - kept.last_ns > _MAX_LEAP_NS:
                now_ns = kept.last_ns + 1
        self._shift_ns = now_ns - boottime
        self._offset_ns = utc - now_ns

    @property
    def epoch(self) -> str:
        """The boot id of this machine."""
        return self._epoch

    def now_ns(self) -> int:
        """Node time."""
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) + self._shift_ns

    def utc_offset_ns(self) -> int:
        """Return wall clock minus node time, following a step of the wall clock once it has lasted.

        A clock that is wrong for a second thus dates nothing.
        """
        now_ns = self.now_ns()
        offset_ns = time.time_ns() - now_ns
        if abs(offset_ns - self._offset_ns) < _STEP_NS:
            self._offset_ns, self._stepped = offset_ns, None
            return offset_ns
        if self._stepped is None or abs(offset_ns - self._stepped[0]) >= _STEP_NS:
            self._stepped = (offset_ns, now_ns)
        elif now_ns - self._stepped[1] >= _HOLD_NS:
            self._offset_ns, self._stepped = offset_ns, None
        return self._offset_ns

    def boottime_ns(self, t_ns: int) -> int:
        """CLOCK_BOOTTIME of an instant of node time."""
        return t_ns - self._shift_ns

    def anchor(self, last_ns: int) -> Anchor:
        """Return what the ledger must keep for node time to continue after a restart."""
        return Anchor(self._epoch, self._shift_ns, last_ns, self.utc_offset_ns())


Action = Callable[[], object]


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
