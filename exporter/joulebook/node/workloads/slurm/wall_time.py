"""Wall-clock times that SLURM and its hooks give, as node time."""

from __future__ import annotations

from pathlib import Path

from joulebook.clock import Clock
from joulebook.units import NS_PER_MS, NS_PER_S

_STEP_NS = 50 * NS_PER_MS
_OFFSET_GRAIN_NS = 100_000
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class WallTime:
    """Knows this boot, and how the wall clock stands now."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.boot_id = _BOOT_ID.read_text().strip()

    def earlier_boot(self, same_boot: bool | None, t0_ns: int) -> bool:
        """Whether an event is of an earlier boot, also where it does not say of which."""
        return not same_boot if same_boot is not None else self._clock.boottime_ns(t0_ns) < 0

    def node_ns(self, wall_ns: int, uptime_ms: int | None) -> int:
        """Node time of an instant; `uptime_ms` is the same on the clock that nobody can set."""
        # In grains: reading the same file after a restart must give the same instant.
        offset_ns = self._clock.utc_offset_ns()
        node_ns = wall_ns - round(offset_ns / _OFFSET_GRAIN_NS) * _OFFSET_GRAIN_NS
        if uptime_ms is not None:
            by_boot_ns = uptime_ms * NS_PER_MS - self._clock.boottime_ns(0)
            if abs(by_boot_ns - node_ns) > _STEP_NS:
                node_ns = by_boot_ns  # The wall clock was set since.
        return min(node_ns, self._clock.now_ns())

    def utc_s(self, t_ns: int) -> int:
        """The UTC second of an instant of node time."""
        return (t_ns + self._clock.utc_offset_ns()) // NS_PER_S
