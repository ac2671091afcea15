"""The vocabulary of postings (what is booked to whom, and how it is known), and their sums.

Sums are new values: the totals passed in are never changed, and are returned themselves if there is
nothing to add, so that a comparison by identity shows that nothing changed.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from enum import StrEnum
from typing import NamedTuple, Protocol, TypeVar

import msgspec

from joulebook.core.energy.readings import Component, Meter
from joulebook.core.workloads import WorkloadId


class Method(StrEnum):
    """How an amount of energy is known (label `method`)."""

    COUNTER = "counter"
    INTEGRATED = "integrated"
    MODELLED = "modelled"
    APPORTIONED = "apportioned"


class Remainder(StrEnum):
    """Energy that is not attributed to a workload, by reason (label `reason`)."""

    UNALLOCATED = "unallocated"
    SYSTEM = "system"
    DAEMON_DOWN = "daemon_down"
    UNKNOWN_HOLDER = "unknown_holder"
    COUNTER_RESET = "counter_reset"


Subject = WorkloadId | Remainder
"""The recipient of energy."""


NO_EVIDENCE = "none"
"""The evidence of energy in a remainder without any claim."""


DERIVED = "derived"
"""The evidence of a GPU's energy that is its module's minus the CPU socket's."""


class PostingKey(NamedTuple):
    """The identity of a posting. `quarter_s` is the UTC start of its quarter hour."""

    subject: Subject
    meter: Meter
    quarter_s: int
    method: Method
    evidence: str


class Amount(NamedTuple):
    """The amount of a posting. The fields are the columns of postings, in order.

    Attributes:
        energy_uj: Energy as booked, calibrated, including the idle part.
        idle_uj: The part of it consumed while the device did no work.
        held_ns: Held fraction x time: half a GPU held for 2 s is 1 s. For a remainder, the GPU time
            without a known holder.
        idle_ns: The part of the held time in which the device did no work.
        calibration_uj: What calibration added to the energy read (may be negative).
        tensor_ns: Held time x activity of the tensor cores, as far as known.
        tensor_known_ns: The held time for which it is known.

    """

    energy_uj: int
    idle_uj: int = 0
    held_ns: int = 0
    idle_ns: int = 0
    calibration_uj: int = 0
    tensor_ns: int = 0
    tensor_known_ns: int = 0

    def plus(self, other: Amount) -> Amount:
        """Return the sum, field by field."""
        return Amount(
            self.energy_uj + other.energy_uj,
            self.idle_uj + other.idle_uj,
            self.held_ns + other.held_ns,
            self.idle_ns + other.idle_ns,
            self.calibration_uj + other.calibration_uj,
            self.tensor_ns + other.tensor_ns,
            self.tensor_known_ns + other.tensor_known_ns,
        )


ZERO = Amount(0)


Balance = Mapping[Component, Amount]
"""The total booked to someone, by component."""


class Gap(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A time `[t0, t1)` in which a meter was not read, or its readings were rejected."""

    meter: Meter
    t0_ns: int
    t1_ns: int
    reason: str


class ChildSecond(NamedTuple):
    """Energy of a node meter's children of one component, in one second of node time.

    `name` is set if it is a single meter (a part of a module).
    """

    component: Component
    second: int
    name: str = ""


class _Amount(Protocol):
    def plus(self: _A, other: _A, /) -> _A: ...


_A = TypeVar("_A", bound=_Amount)
_K = TypeVar("_K", bound=Hashable)


def counted(
    more: Iterable[tuple[_K, int]], totals: Mapping[_K, int] | None = None
) -> Mapping[_K, int]:
    """`totals` (default: none) with integers added to them."""
    known: Mapping[_K, int] = {} if totals is None else totals
    sums: dict[_K, int] | None = None
    for key, number in more:
        if sums is None:
            sums = dict(known)
        sums[key] = sums.get(key, 0) + number
    return known if sums is None else sums


def summed(more: Iterable[tuple[_K, _A]], totals: Mapping[_K, _A] | None = None) -> Mapping[_K, _A]:
    """`totals` (default: none) with amounts added to them."""
    known: Mapping[_K, _A] = {} if totals is None else totals
    sums: dict[_K, _A] | None = None
    for key, amount in more:
        if sums is None:
            sums = dict(known)
        before = sums.get(key)
        sums[key] = amount if before is None else before.plus(amount)
    return known if sums is None else sums
