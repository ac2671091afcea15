"""A burst of glances at a boundary between workloads, until every counter has stepped twice.

Only the readings around a step are kept: they split the step that holds the boundary
(`core.energy.counter_steps`).
"""

from __future__ import annotations

from collections.abc import Iterable

from joulebook.core.energy.readings import Meter, Reading
from joulebook.units import NS_PER_MS

PAUSE_NS = 3 * NS_PER_MS
"""Pause between two glances."""

LENGTH_NS = 400 * NS_PER_MS
"""A counter that has not stepped twice in this time is not waited for."""

STEPS = 2


class Burst:
    """The counters of one burst, which began at node time `began_ns`."""

    def __init__(self, began_ns: int) -> None:
        self._until_ns = began_ns + LENGTH_NS
        self._counters: dict[Meter, _Counter] = {}

    def take(self, readings: Iterable[Reading]) -> list[Reading]:
        """Decide which of two consecutive burst readings to keep."""
        kept: list[Reading] = []
        for reading in readings:
            counter = self._counters.get(reading.meter)
            if counter is None:
                self._counters[reading.meter] = _Counter(reading)
                kept.append(reading)
            elif reading.energy_uj != counter.last.energy_uj:
                kept += [counter.last, reading] if counter.last is not counter.kept else [reading]
                counter.last = counter.kept = reading
                counter.steps += 1
            else:
                counter.last = reading
        return kept

    def is_over(self, now_ns: int) -> bool:
        """Return whether every counter has stepped twice, or the time is up."""
        return now_ns >= self._until_ns or all(
            counter.steps >= STEPS for counter in self._counters.values()
        )


class _Counter:
    """How often one counter has stepped in this burst, and its last readings."""

    def __init__(self, first: Reading) -> None:
        self.last = self.kept = first
        self.steps = 0
