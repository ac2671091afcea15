"""One figure for all time, from the configuration."""

from __future__ import annotations

from joulebook.core.rates import Point, Quality
from joulebook.rates.contract import DAY_S, Plan


class Fixed:
    """A constant.

    `source` is where it is from, as the user says. A price by contract is `measured`; one figure
    for the intensity of all hours is a mean, so `estimated`.
    """

    plan = Plan(every_s=DAY_S, local=True)

    def __init__(self, value: int, unit: str, quality: Quality, source: str) -> None:
        self.name = source
        self._point = Point(0, value, unit, source, quality)

    def fetch(self, t0_s: int, t1_s: int) -> tuple[Point, ...]:
        """The constant, without begin or end."""
        return (self._point,)
