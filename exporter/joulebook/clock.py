"""Node time: the only clock that energy is booked on.

Node time is CLOCK_BOOTTIME plus an offset fixed once per boot, so it does not jump with the wall
clock, does not stop in a suspend, and goes on after a restart of the daemon (`resume`) and after
a reboot. UTC is node time plus `utc_offset_ns`, read afresh each time it is asked for.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Protocol

import msgspec

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Clock(Protocol):
    """What sensors and workload sources need of time."""

    @property
    def epoch(self) -> str:
        """Names this boot of the machine."""

    def now_ns(self) -> int:
        """Node time."""

    def utc_offset_ns(self) -> int:
        """What to add to node time for nanoseconds since the Unix epoch, now."""

    def boottime_ns(self, t_ns: int) -> int:
        """CLOCK_BOOTTIME of an instant of node time (start times of processes are in it)."""


class Anchor(msgspec.Struct, frozen=True):
    """The part of a clock that the ledger keeps: `node time = boottime + shift` in `epoch`."""

    epoch: str
    shift_ns: int
    last_ns: int
    """Node time of the last committed tick."""
    utc_offset_ns: int = 0
    """What made UTC of node time at that tick."""


class NodeClock:
    """Node time of this machine."""

    def __init__(self, kept: Anchor | None = None, *, epoch: str | None = None) -> None:
        self._epoch = _BOOT_ID.read_text().strip() if epoch is None else epoch
        boottime = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        if kept is not None and kept.epoch == self._epoch:
            self._shift_ns = kept.shift_ns
        else:
            # A new boot: begin at UTC, but never before what is already on record (a dead
            # clock battery must not make energy flow backwards).
            self._shift_ns = time.time_ns() - boottime
            if kept is not None:
                self._shift_ns = max(self._shift_ns, kept.last_ns + 1 - boottime)

    @property
    def epoch(self) -> str:
        """The boot id of this machine."""
        return self._epoch

    def now_ns(self) -> int:
        """Node time."""
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) + self._shift_ns

    def utc_offset_ns(self) -> int:
        """Wall clock less node time, now; follows every step of the wall clock."""
        return time.time_ns() - self.now_ns()

    def boottime_ns(self, t_ns: int) -> int:
        """CLOCK_BOOTTIME of an instant of node time."""
        return t_ns - self._shift_ns

    def anchor(self, last_ns: int) -> Anchor:
        """What the ledger must keep so that node time goes on after a restart."""
        return Anchor(self._epoch, self._shift_ns, last_ns, self.utc_offset_ns())
