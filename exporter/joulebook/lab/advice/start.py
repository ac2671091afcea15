"""When a job that may wait should start, knowing at each hour only what was known then.

Hours are numbered from 1970 in UTC. What is published ahead (day-ahead prices) counts as known from
its publication on; the rest is forecast from the hours before: the mean of the same hour of the
last two weeks, recent days first, with the same weekday of three weeks, plus how far the last known
hour is from that, which fades by 5 % an hour.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from typing import NamedTuple
from zoneinfo import ZoneInfo

HOUR_S = 3600
_DAY = 24
HISTORY_H = 21 * _DAY
"""Hours of the past that a forecast uses."""

_LAGS = (*((_DAY * day, 0.8**day) for day in range(1, 15)),
         *((7 * _DAY * week, 1.0) for week in range(1, 4)))  # fmt: skip
_FADES = 0.95
_PUBLISHED_AT = 13
"""Clock on the wall at which the prices of the next day are out (auction at noon, CET)."""

KnownUntil = Callable[[int], int]
"""The first hour that is not known yet when an hour begins."""


def nothing_ahead(hour: int) -> int:
    """Return the hour itself: only what is over is known."""
    return hour


def all_ahead(hour: int) -> int:
    """Return an hour far ahead: a tariff is known for years."""
    return hour + 10 * 366 * _DAY


_EUROPE = ZoneInfo("Europe/Brussels")


def day_ahead(hour: int) -> int:
    """Return the end of the European market's day, from 13:00 on that of the next day."""
    now = datetime.fromtimestamp(hour * HOUR_S, UTC).astimezone(_EUROPE)
    day = now.date() + timedelta(days=2 if now.hour >= _PUBLISHED_AT else 1)
    end = datetime(day.year, day.month, day.day, tzinfo=_EUROPE)
    return int(end.timestamp()) // HOUR_S


class Choice(NamedTuple):
    """A start, and the means over a job's hours: at once, as chosen, and at the best start."""

    start: int
    at_once: float
    chosen: float
    best: float


class StartPlanner:
    """Chooses starts on one curve of values by hour; less is better."""

    def __init__(self, values: Mapping[int, float], known_until: KnownUntil) -> None:
        self._values = values
        self.known_until = known_until
        self._forecasts: dict[int, list[float]] = {}
        self._choices: dict[tuple[int, int, int], Choice | None] = {}
        self.changes = len(set(values.values())) > 1
        """Whether one start can be better than another."""

    def value(self, hour: int) -> float | None:
        """Return what an hour's value turned out to be; `None`: not known."""
        return self._values.get(hour)

    def knows(self, hour: int) -> bool:
        """Return whether anything is known from which a forecast for that hour follows."""
        return any(at in self._values for at in range(hour - HISTORY_H, hour + 1))

    def forecast(self, hour: int, count: int) -> list[float]:
        """Return the values of `count` hours from `hour` on as expected when it begins."""
        known = self._forecasts.get(hour, [])
        if len(known) < count:
            known = self._forecasts[hour] = self._expected(hour, max(count, _DAY))
        return known[:count]

    def start(self, arrival: int, length: int, window: int) -> int:
        """Return when a job starts that arrives then and must end within the window.

        Each hour it starts, or waits for an hour that is expected to be the begin of better ones.
        """
        hour, last = arrival, arrival + window - length
        while hour < last and self.best_start(hour, length, last - hour) > hour:
            hour += 1
        return hour

    def best_start(self, hour: int, length: int, wait: int) -> int:
        """Return the hour, at most `wait` later, at which to start as far as is known now."""
        sums = _sums(self.forecast(hour, wait + length), length)
        # Of starts that are expected to be alike, the first.
        enough = min(sums) + 1e-6 * max(map(abs, sums))
        return hour + next(n for n, each in enumerate(sums) if each <= enough)

    def choice(self, arrival: int, length: int, window: int) -> Choice | None:
        """Return what a start would have come to; `None` if the window is not known by now."""
        key = (arrival, length, window)
        if key not in self._choices:
            self._choices[key] = self._chosen(*key)
        return self._choices[key]

    def _chosen(self, arrival: int, length: int, window: int) -> Choice | None:
        span = [self._values.get(arrival + n) for n in range(window)]
        real = [value for value in span if value is not None]
        if len(real) < window or window < length:
            return None
        sums = _sums(real, length)
        start = self.start(arrival, length, window)
        chosen = sums[start - arrival]
        return Choice(start, sums[0] / length, chosen / length, min(sums) / length)

    def _expected(self, hour: int, count: int) -> list[float]:
        end = self.known_until(hour)
        last = next((h for h in range(end - 1, end - _DAY - 1, -1) if h in self._values), None)
        off, found = 0.0, list[float]()
        if last is not None:
            off = self._values[last] - self._usual(last, last)
        for at in range(hour, hour + count):
            if at < end and at in self._values:
                found.append(self._values[at])
            else:
                ahead = 0 if last is None else max(at - last, 0)
                found.append(self._usual(at, end) + off * _FADES**ahead)
        return found

    def _usual(self, hour: int, end: int) -> float:
        """Return the usual value of an hour, from hours before `end`."""
        total = weights = 0.0
        for lag, weight in _LAGS:
            at = hour - lag
            at -= max(0, -(-(at - end + 1) // _DAY)) * _DAY
            value = self._values.get(at)
            if value is not None:
                total += weight * value
                weights += weight
        return total / weights if weights else 0.0


def _sums(values: Sequence[float], length: int) -> list[float]:
    """Return the sums of each `length` values in a row."""
    total = [0.0, *accumulate(values)]
    return [high - low for low, high in zip(total, total[length:], strict=False)]


def share_of_foresight(choices: Sequence[Choice]) -> float:
    """Return how much of what perfect foresight saves was saved."""
    possible = sum(each.at_once - each.best for each in choices)
    return sum(each.at_once - each.chosen for each in choices) / possible if possible else 1.0
