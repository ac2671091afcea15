"""A clock that stands still until it is moved."""

from __future__ import annotations

from joulebook.units import NS_PER_S

BEGIN_NS = 1_760_000_000 * NS_PER_S


class StillClock:
    epoch = "boot"

    def __init__(self) -> None:
        self.t_ns = BEGIN_NS

    def now_ns(self) -> int:
        self.t_ns += 1  # two looks are never at one instant
        return self.t_ns

    def utc_offset_ns(self) -> int:
        return 0

    def boottime_ns(self, t_ns: int) -> int:
        return t_ns - BEGIN_NS

    def pass_s(self, seconds: float) -> None:
        self.t_ns += round(seconds * NS_PER_S)
