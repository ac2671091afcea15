"""What each joule cost when it was consumed: energy and held time into exact amounts, by rate.

An interval is cut where the quarter hour or a rate changes, and each piece is charged at the rates
of its own time, also when it is booked much later. A rate that is not known charges nothing: that
energy is counted as unpriced instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import NamedTuple

import msgspec

from joulebook.core.energy.intervals import Interval
from joulebook.core.energy.readings import Meter
from joulebook.core.evidence import (
    ZERO,
    Amount,
    Subject,
)
from joulebook.core.money.amounts import (
    ATOMS_PER_HELD,
    NOTHING,
    Charge,
    ChargeKey,
    Charges,
    Exact,
    Item,
    RateUsed,
)
from joulebook.core.money.rates import InForce, Point, Quality, RateSet
from joulebook.units import NS_PER_S, QUARTER_NS


class ChargeState(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What has been charged of one kind in all, and for how long its series still show zero.

    `total` is added up from whole intervals, before they are shared out: workloads (those no
    longer exposed too) and remainders must come to the same.
    """

    total: Exact = NOTHING
    hold_left_ns: int = 0


PER_GPU_HOUR = "GPU-hour"


class Stretch(NamedTuple):
    """A part of one quarter hour in which no rate changes (`t0`, `t1`: ns UTC)."""

    t0_ns: int
    t1_ns: int
    quarter_s: int
    rates: InForce


class Accrual:
    """What one tick charges to whom; the tick's own scratch, like the page of postings."""

    def __init__(
        self,
        rates: RateSet,
        models: Mapping[Meter, str],
        wanted: frozenset[Charge],
        utc_offset_ns: int,
    ) -> None:
        """`wanted` is what the configuration asks for; energy without its rate is unpriced."""
        self._rates = rates
        self._models = models
        self._wanted = sorted({charge.item for charge in wanted} - {Item.HARDWARE, Item.CREDIT})
        self._offset_ns = utc_offset_ns
        self._quarters: dict[int, list[Stretch]] = {}
        self._atoms: dict[ChargeKey, int] = {}
        self._totals: dict[Charge, int] = {}
        self.used: dict[RateUsed, Amount] = {}
        self.unpriced_uj: dict[str, int] = {}

    def pieces(self, interval: Interval) -> Iterator[tuple[Interval, Stretch]]:
        """The interval, cut at every quarter hour of UTC and every step of a rate."""
        t0_ns, t1_ns = interval.t0_ns + self._offset_ns, interval.t1_ns + self._offset_ns
        for quarter in range(t0_ns // QUARTER_NS, (t1_ns - 1) // QUARTER_NS + 1):
            for stretch in self._stretches(quarter):
                from_ns, to_ns = max(t0_ns, stretch.t0_ns), min(t1_ns, stretch.t1_ns)
                if (from_ns, to_ns) == (t0_ns, t1_ns):
                    yield interval, stretch
                elif from_ns < to_ns:
                    cut = interval.cut(from_ns - self._offset_ns, to_ns - self._offset_ns)
                    yield cut, stretch

    def take(self, piece: Interval, stretch: Stretch) -> None:
        """Note the energy of a piece: what it comes to in all, and at which rates."""
        rates, energy_uj = stretch.rates, piece.energy_uj
        amount = Amount(energy_uj)
        for quantity, point in zip(InForce._fields, rates, strict=True):
            if point is not None:
                self._use(_used(stretch.quarter_s, quantity, point), amount)
        for charge, rate in self._per_kwh(rates):
            self._totals[charge] = self._totals.get(charge, 0) + energy_uj * rate
        for item in self._wanted:
            if (rates.co2e if item is Item.CO2E else rates.electricity) is None:
                self.unpriced_uj[item] = self.unpriced_uj.get(item, 0) + energy_uj

    def charge(self, stretch: Stretch, subject: Subject, meter: Meter, amount: Amount) -> None:
        """Charge one share of a piece to whom it was booked."""
        for charge, rate in self._per_kwh(stretch.rates):
            key = ChargeKey(subject, stretch.quarter_s, charge)
            self._atoms[key] = self._atoms.get(key, 0) + amount.energy_uj * rate
        if not amount.held_ns or not self._rates.hardware:
            return
        hardware = self._rates.hardware_for(self._models.get(meter, ""))
        if hardware is None or meter not in self._models:
            return
        charge = Charge(Item.HARDWARE, self._rates.currency)
        key = ChargeKey(subject, stretch.quarter_s, charge)
        atoms = amount.held_ns * hardware.nano_per_gpu_hour * ATOMS_PER_HELD
        self._atoms[key] = self._atoms.get(key, 0) + atoms
        self._totals[charge] = self._totals.get(charge, 0) + atoms
        unit = f"n{self._rates.currency}/{PER_GPU_HOUR}"
        used = RateUsed(
            stretch.quarter_s,
            "hardware",
            hardware.nano_per_gpu_hour,
            unit,
            hardware.source,
            Quality.MEASURED,
        )
        self._use(used, Amount(0, 0, amount.held_ns))

    def charges(self) -> dict[ChargeKey, Exact]:
        """What was charged, by whom, quarter hour and what for."""
        return {key: Exact.of(atoms) for key, atoms in self._atoms.items()}

    def totals(self) -> dict[Charge, Exact]:
        """What it must add up to."""
        return {charge: Exact.of(atoms) for charge, atoms in self._totals.items()}

    def _use(self, used: RateUsed, amount: Amount) -> None:
        self.used[used] = self.used.get(used, ZERO).plus(amount)

    def _stretches(self, quarter: int) -> list[Stretch]:
        known = self._quarters.get(quarter)
        if known is None:
            t0_ns, t1_ns = quarter * QUARTER_NS, (quarter + 1) * QUARTER_NS
            edges = [t0_ns, *self._rates.steps_ns(t0_ns, t1_ns), t1_ns]
            known = [
                Stretch(a, b, t0_ns // NS_PER_S, self._rates.at(a // NS_PER_S))
                for a, b in pairwise(edges)
            ]
            self._quarters[quarter] = known
        return known

    def _per_kwh(self, rates: InForce) -> Iterator[tuple[Charge, int]]:
        electricity, co2e = rates.electricity, rates.co2e
        if electricity is not None:
            item = Item.ELECTRICITY if electricity >= 0 else Item.CREDIT
            yield Charge(item, self._rates.currency), abs(electricity)
        if co2e is not None:
            yield Charge(Item.CO2E), co2e


def _used(quarter_s: int, quantity: str, point: Point) -> RateUsed:
    return RateUsed(quarter_s, quantity, point.value, point.unit, point.source, point.quality)


def bills(charges: Mapping[ChargeKey, Exact]) -> dict[Subject, dict[Charge, Exact]]:
    """Charges by whom, over all quarter hours."""
    found: dict[Subject, dict[Charge, Exact]] = {}
    for key, amount in charges.items():
        bill = found.setdefault(key.subject, {})
        bill[key.charge] = bill.get(key.charge, NOTHING).plus(amount)
    return found


def carry_on(
    states: Mapping[Charge, ChargeState],
    wanted: frozenset[Charge],
    totals: Charges,
    *,
    served_ns: int,
    hold_ns: int,
) -> Mapping[Charge, ChargeState]:
    """The state of every charge after a tick.

    A charge that is new has its series held at zero first, so that Prometheus sees where they
    start: also those of workloads that have long been exposed.
    """
    after = dict(states)
    if served_ns:
        for charge, state in states.items():
            if state.hold_left_ns:
                left_ns = max(state.hold_left_ns - served_ns, 0)
                after[charge] = msgspec.structs.replace(state, hold_left_ns=left_ns)
    for charge in sorted(wanted | totals.keys()):
        if charge not in after:
            after[charge] = ChargeState(hold_left_ns=hold_ns)
        if more := totals.get(charge):
            state = after[charge]
            after[charge] = msgspec.structs.replace(state, total=state.total.plus(more))
    return states if after == states else after
