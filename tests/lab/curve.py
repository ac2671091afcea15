"""What a counter really is: a piecewise linear function of time, exact at every instant."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence


class Curve:
    """A quantity that grows at rates which change at known instants (s); 0 at first."""

    def __init__(self) -> None:
        self._changes: dict[int, float] = {}
        self._times: list[int] = []
        self._values: list[float] = []
        self._rates: list[float] = []

    def add(self, t0_s: int, t1_s: int, rate: float) -> None:
        """Let it grow by `rate` per second over [t0, t1), beside what it grows by already."""
        if rate and t1_s > t0_s:
            self._changes[t0_s] = self._changes.get(t0_s, 0.0) + rate
            self._changes[t1_s] = self._changes.get(t1_s, 0.0) - rate
            self._times = []

    def jump(self, t_s: int, amount: float) -> None:
        """Let it rise by `amount` within the second before `t_s`."""
        self.add(t_s - 1, t_s, amount)

    def _settle(self) -> None:
        value = rate = 0.0
        last = 0
        self._times, self._values, self._rates = [], [], []
        for t_s in sorted(self._changes):
            value += rate * (t_s - last)
            rate += self._changes[t_s]
            if abs(rate) < 1e-9:
                rate = 0.0
            last = t_s
            self._times.append(t_s)
            self._values.append(value)
            self._rates.append(rate)

    @property
    def first_s(self) -> int:
        """When it began to grow."""
        return min(self._changes)

    def at(self, t_s: int) -> float:
        """Its value at an instant."""
        if not self._times:
            self._settle()
        i = bisect_right(self._times, t_s) - 1
        return self._values[i] + self._rates[i] * (t_s - self._times[i]) if i >= 0 else 0.0

    def between(self, t0_s: int, t1_s: int) -> float:
        """By how much it grew."""
        return self.at(t1_s) - self.at(t0_s)

    def along(self, times: Sequence[int]) -> Iterator[float]:
        """Its values at instants in ascending order."""
        if not self._times:
            self._settle()
        if not times:
            return
        i = bisect_right(self._times, times[0]) - 1
        last = len(self._times) - 1
        for t_s in times:
            while i < last and self._times[i + 1] <= t_s:
                i += 1
            yield self._values[i] + self._rates[i] * (t_s - self._times[i]) if i >= 0 else 0.0
