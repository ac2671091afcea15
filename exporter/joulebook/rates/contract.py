"""What a source of rates is, and how it says that it has none.

A further feed is one file with a class like those in `neso.py`: a name, a `Plan`, and `fetch`,
which asks `http.Web`, reads the answer into points and raises a `FeedError`; and one line in
`sources.py`. Units, bounds, holes, cache, back-off and age are looked after elsewhere.

    FeedError            nothing usable was said; `reason` is the label value
      FeedDown           may work at the next look (`down`, `timeout`, `http_5xx`, `truncated`)
      FeedLimited        we ask too often; `retry_after_s` is what the feed wants (`limited`)
      FeedDenied         a person must act: no key, a wrong one (`no_key`, `denied`)
      FeedEmpty          it answers, and has nothing for that time (`no_data`)
      FeedWrong          what it says cannot be used: `garbage`, `unit`, `currency`, `negative`,
                         `absurd`, `redirect`, `too_large`, `http_4xx`, `refused`, `file`
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import NamedTuple, Protocol

from joulebook.core.money.rates import Point

HOUR_S = 3600
DAY_S = 86_400


class Quantity(StrEnum):
    """Of what there are sources."""

    PRICE = "price"
    CARBON = "carbon"


class Plan(NamedTuple):
    """How a source wants to be asked."""

    every_s: float
    """From one question to the next."""
    ahead_s: int = 0
    """How far into the future it knows."""
    late_s: int = 0
    """How far behind now its newest value may end before it counts as late."""
    back_s: int = 2 * DAY_S
    """How far back it is asked each time, since values are revised."""
    local: bool = False
    """Answers at once and without the network: not cached, asked before the first tick."""


class RateSource(Protocol):
    """One source of one quantity."""

    @property
    def name(self) -> str:
        """What it is and for where, as people read it: `Energy-Charts DE-LU`."""

    @property
    def plan(self) -> Plan:
        """How it wants to be asked."""

    def fetch(self, t0_s: int, t1_s: int) -> tuple[Point, ...]:
        """All it knows of [t0, t1) UTC, in any order; points beyond that do no harm.

        What is not known is left out, never 0. Raises `FeedError`.
        """


def utc_s(text: str) -> int:
    """Seconds since the epoch of an ISO 8601 time with its offset.

    Raises `ValueError`; so does a time without an offset, which would be a guess.
    """
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no offset from UTC")
    return int(moment.timestamp())
