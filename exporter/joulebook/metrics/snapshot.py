"""What the exposition shows: one immutable view of a node, published by the daemon each tick.

`/metrics` and the status page are made from this alone, so that a request never changes anything
and never waits for hardware, a lock of the daemon or a disk.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping

import msgspec

from joulebook import __version__
from joulebook.core.attribution.claims import Holder
from joulebook.core.attribution.host import COMPONENTS
from joulebook.core.energy.readings import Component, DeviceStatus, Meter
from joulebook.core.energy.ripe import drawn_mw
from joulebook.core.evidence import Remainder
from joulebook.core.ledger.state import Books
from joulebook.core.money.amounts import Charge, Charges
from joulebook.core.money.rates import RateSet
from joulebook.core.workloads import Allowance, Labels, WorkloadId
from joulebook.units import MW_PER_W, s_from_ns

__all__ = ["HISTORY_POINTS", "Build", "DeviceStatus", "RateFeed", "SensorHealth", "Snapshot"]

HISTORY_POINTS = 900
"""How many points of power the daemon keeps for the page: 15 minutes at a tick of 1 s."""


class SensorHealth(msgspec.Struct, frozen=True, gc=False):
    """The health of a sensor. `errors` counts since the start of the daemon, by reason.

    `kind` is how it measures (`counter`, `power`, `replay`, ...). `last_success_s` is UTC in
    seconds, `None` before the first success.
    """

    sensor: str
    kind: str
    up: bool
    errors: Mapping[str, int] = {}
    last_success_s: float | None = None
    took_s: float | None = None
    """Duration of the last poll."""


class RateFeed(msgspec.Struct, frozen=True, gc=False):
    """The health of a rate source; `good_utc_s` is the time of its last usable response."""

    quantity: str
    source: str
    up: bool
    good_utc_s: int | None = None
    errors: Mapping[str, int] = {}


class Build(msgspec.Struct, frozen=True, gc=False):
    """The running version."""

    version: str = __version__
    revision: str = ""
    python: str = platform.python_version()


class Snapshot(msgspec.Struct, frozen=True):
    """A node at the end of one tick. A new tick publishes a new view; none is ever changed.

    `books` are the *committed* books. `now_ns` is node time, `utc_offset_ns` what makes UTC of
    it. `holders` are those who hold (or, where nobody does, use) each meter at `now_ns`, and
    `draws` the part of its power that each of them draws. `rejected` counts refused inputs by
    source and reason. `tick_s` is how long the last tick took. `history` is the power of all that
    is measured (UTC seconds, watts), oldest first, at most `HISTORY_POINTS`. `today` is the energy
    (uJ) booked since 00:00 UTC by experiment and by remainder, `today_bills` what was charged for
    it. `rates` are those known now, `charges` what the configuration asks to charge, `lacking` the
    settings that are not made and what is not shown for it. `budgets` are those of the
    configuration.
    """

    node: str
    books: Books
    cluster: str = ""
    statuses: tuple[DeviceStatus, ...] = ()
    now_ns: int = 0
    utc_offset_ns: int = 0
    holders: Mapping[Meter, tuple[Holder, ...]] = {}
    draws: Mapping[Meter, Mapping[WorkloadId | None, float]] = {}
    sensors: tuple[SensorHealth, ...] = ()
    rejected: Mapping[tuple[str, str], int] = {}
    tick_s: float = 0.0
    build: Build = Build()
    history: tuple[tuple[float, float], ...] = ()
    today: Mapping[Labels | Remainder, int] = {}
    today_bills: Mapping[Labels | Remainder, Charges] = {}
    rates: RateSet = RateSet()
    charges: frozenset[Charge] = frozenset()
    feeds: tuple[RateFeed, ...] = ()
    lacking: tuple[tuple[str, str], ...] = ()
    budgets: tuple[Allowance, ...] = ()

    @property
    def utc_s(self) -> float:
        """The instant of this view in UTC seconds."""
        return s_from_ns(self.now_ns + self.utc_offset_ns)

    @property
    def power_w(self) -> dict[Component, float]:
        """Current power by component: as reported by devices, else (CPU, memory) the mean of the
        last seconds.
        """
        reported = {
            s.meter: s.values["power_watts"] for s in self.devices if "power_watts" in s.values
        }
        for meter, state in self.books.meters.items():
            if meter in reported or meter.component not in COMPONENTS:
                continue
            if (power_mw := drawn_mw(state)) is not None:
                reported[meter] = power_mw / MW_PER_W
        found: dict[Component, float] = {}
        for meter, power_w in reported.items():
            found[meter.component] = found.get(meter.component, 0.0) + power_w
        return found

    @property
    def devices(self) -> tuple[DeviceStatus, ...]:
        """The devices by their index, each meter once (the last word on it counts)."""
        return tuple(
            sorted({s.meter: s for s in self.statuses}.values(), key=lambda s: (s.index, s.meter))
        )
