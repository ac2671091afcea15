"""Turn energy and held time into exact amounts, at the rates in force when it was consumed.

An interval is cut where the quarter hour or a rate changes, and each piece is charged at the rates
of its own time, also when it is booked much later. An unknown rate charges nothing: that energy is
counted as unpriced instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import msgspec

from joulebook.core.attribution.attribute import Booking
from joulebook.core.energy.intervals import Interval
from joulebook.core.energy.readings import Meter
from joulebook.core.evidence import ZERO, Amount, PostingKey, Subject, counted, summed
from joulebook.core.money.amounts import (
    ATOMS_PER_HELD,
    IDLE_PARTS,
    NOTHING,
    Charge,
    ChargeKey,
    Charges,
    Exact,
    Item,
    RateUsed,
    calibration_of,
)
from joulebook.core.money.rates import HardwareRate, InForce, Quality, RateSet
from joulebook.units import NS_PER_S, QUARTER_NS


# The order of its fields is the format of the ledger on disk: new ones go last.
class ChargeState(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """The total of one kind of charge, and how long its series must still show zero.

    `total` is added up from whole intervals, before attribution: workloads (including those no
    longer exposed) and remainders must add up to the same.
    """

    total: Exact = NOTHING
    hold_left_ns: int = 0


PER_GPU_HOUR = "GPU-hour"


class PricedStretch(NamedTuple):
    """A part of one quarter hour in which no rate changes.

    Attributes:
        t0_ns: Its start, ns UTC.
        t1_ns: Its end, ns UTC.
        quarter_s: The UTC start of its quarter hour.
        rates: The rates in force.
        per_kwh: What is charged for energy: each charge, and its rate per kWh of IT energy.

    """

    t0_ns: int
    t1_ns: int
    quarter_s: int
    rates: InForce
    per_kwh: tuple[tuple[Charge, int], ...]


class Tariff:
    """What energy and held time cost on this node, and when that changes."""

    def __init__(
        self,
        rates: RateSet,
        models: Mapping[Meter, str],
        wanted: frozenset[Charge],
        utc_offset_ns: int,
    ) -> None:
        """Take the charges `wanted` by configuration; energy without their rate is unpriced."""
        self.wanted = sorted({charge.item for charge in wanted} - {Item.HARDWARE, Item.CREDIT})
        self._rates = rates
        self._models = models
        self._offset_ns = utc_offset_ns
        self._quarters: dict[int, list[PricedStretch]] = {}

    def pieces(self, interval: Interval) -> Iterator[Interval]:
        """Yield the interval, cut at every quarter hour of UTC and every step of a rate."""
        t0_ns, t1_ns = interval.t0_ns + self._offset_ns, interval.t1_ns + self._offset_ns
        for quarter in range(t0_ns // QUARTER_NS, (t1_ns - 1) // QUARTER_NS + 1):
            for stretch in self._stretches(quarter):
                from_ns, to_ns = max(t0_ns, stretch.t0_ns), min(t1_ns, stretch.t1_ns)
                if (from_ns, to_ns) == (t0_ns, t1_ns):
                    yield interval
                elif from_ns < to_ns:
                    yield interval.cut(from_ns - self._offset_ns, to_ns - self._offset_ns)

    def at(self, t_ns: int) -> PricedStretch:
        """Return the stretch that contains an instant of node time."""
        utc_ns = t_ns + self._offset_ns
        stretches = self._stretches(utc_ns // QUARTER_NS)
        return next(stretch for stretch in stretches if utc_ns < stretch.t1_ns)

    def hardware(self, meter: Meter) -> HardwareRate | None:
        """Return the hourly cost of a device; `None`: none, or its model is unknown."""
        model = self._models.get(meter)
        return None if model is None else self._rates.hardware_for(model)

    @property
    def currency(self) -> str:
        """The currency of all prices."""
        return self._rates.currency

    def _stretches(self, quarter: int) -> list[PricedStretch]:
        known = self._quarters.get(quarter)
        if known is None:
            t0_ns, t1_ns = quarter * QUARTER_NS, (quarter + 1) * QUARTER_NS
            edges = [t0_ns, *self._rates.steps_ns(t0_ns, t1_ns), t1_ns]
            known = [self._stretch(a, b, t0_ns // NS_PER_S) for a, b in pairwise(edges)]
            self._quarters[quarter] = known
        return known

    def _stretch(self, t0_ns: int, t1_ns: int, quarter_s: int) -> PricedStretch:
        rates = self._rates.at(t0_ns // NS_PER_S)
        return PricedStretch(t0_ns, t1_ns, quarter_s, rates, tuple(self._per_kwh(rates)))

    def _per_kwh(self, rates: InForce) -> Iterator[tuple[Charge, int]]:
        electricity, co2e = rates.electricity, rates.co2e
        if electricity is not None:
            item = Item.ELECTRICITY if electricity >= 0 else Item.CREDIT
            yield Charge(item, self._rates.currency), abs(electricity)
        if co2e is not None:
            yield Charge(Item.CO2E), co2e


class Postings(NamedTuple):
    """What is posted to whom, and what it costs.

    Attributes:
        amounts: Energy and held time.
        charges: Money and CO2e, by recipient, quarter hour and kind.
        totals: What the charges must add up to, by kind; not summed from them.
        used: The energy (for hardware: the held time) that was charged at each rate.
        unpriced_uj: The energy for which a wanted rate is unknown, by `Item`.

    """

    amounts: Mapping[PostingKey, Amount]
    charges: Mapping[ChargeKey, Exact]
    totals: Mapping[Charge, Exact]
    used: Mapping[RateUsed, Amount]
    unpriced_uj: Mapping[str, int]


def charge(bookings: Iterable[Booking], tariff: Tariff) -> Postings:
    """Post every booking to its quarter hour, and charge it at the rates of its own time.

    The interval of a booking must lie within one stretch of the tariff (`Tariff.pieces`).
    """
    timed = [(booking, tariff.at(booking.interval.t0_ns)) for booking in bookings]
    held, idle = list(_held(timed, tariff)), list(_idle_atoms(timed, tariff))
    by_time = [*((key, atoms) for key, atoms, _ in held), *idle]
    atoms = counted(by_time, counted(_energy_atoms(timed)))
    totals = counted(((key.charge, atoms) for key, atoms in by_time), counted(_total_atoms(timed)))
    return Postings(
        amounts=summed(_amounts(timed)),
        charges={key: Exact.of(number) for key, number in atoms.items()},
        totals={key: Exact.of(number) for key, number in totals.items()},
        used=summed((used for _, _, used in held), summed(_used(timed))),
        unpriced_uj=counted(_unpriced(timed, tariff.wanted)),
    )


_Timed = Sequence[tuple[Booking, PricedStretch]]


def _amounts(timed: _Timed) -> Iterator[tuple[PostingKey, Amount]]:
    for booking, stretch in timed:
        meter = booking.interval.meter
        for subject, amount, method, evidence in booking.shares:
            key = PostingKey(subject, meter, stretch.quarter_s, method, evidence)
            yield key, ZERO if booking.interval.unread else amount


def _energy_atoms(timed: _Timed) -> Iterator[tuple[ChargeKey, int]]:
    """Yield what each share of the energy is charged."""
    for booking, stretch in timed:
        for item, rate in stretch.per_kwh:
            for share in booking.shares:
                key = ChargeKey(share.subject, stretch.quarter_s, item)
                yield key, share.amount.energy_uj * rate


def _total_atoms(timed: _Timed) -> Iterator[tuple[Charge, int]]:
    """Yield what the energy is charged before attribution."""
    for booking, stretch in timed:
        for item, rate in stretch.per_kwh:
            yield item, booking.interval.energy_uj * rate


def _held(
    timed: _Timed, tariff: Tariff
) -> Iterator[tuple[ChargeKey, int, tuple[RateUsed, Amount]]]:
    """Yield what held time is charged, and at which rate."""
    item, unit = Charge(Item.HARDWARE, tariff.currency), f"n{tariff.currency}/{PER_GPU_HOUR}"
    for booking, stretch in timed:
        rate = tariff.hardware(booking.interval.meter)
        if rate is None or booking.interval.charged:
            continue
        nano, quarter_s = rate.nano_per_gpu_hour, stretch.quarter_s
        used = RateUsed(quarter_s, "hardware", nano, unit, rate.source, Quality.MEASURED)
        for subject, amount, _, _ in booking.shares:
            if amount.held_ns:
                atoms = amount.held_ns * nano * ATOMS_PER_HELD
                charged = (used, Amount(0, 0, amount.held_ns))
                yield ChargeKey(subject, quarter_s, item), atoms, charged


def _idle_atoms(timed: _Timed, tariff: Tariff) -> Iterator[tuple[ChargeKey, int]]:
    """Return the part of that which is for idle holding, as separate charges."""
    hardware = Charge(IDLE_PARTS[Item.HARDWARE], tariff.currency)
    for booking, stretch in timed:
        rate = tariff.hardware(booking.interval.meter)
        per_ns = 0 if rate is None else rate.nano_per_gpu_hour * ATOMS_PER_HELD
        per_uj = [
            (Charge(IDLE_PARTS[item], currency), each)
            for (item, currency), each in stretch.per_kwh
            if item in IDLE_PARTS
        ]
        for subject, amount, _, _ in booking.shares:
            if amount.idle_uj or amount.idle_ns:
                for item, each in per_uj:
                    yield ChargeKey(subject, stretch.quarter_s, item), amount.idle_uj * each
                if per_ns:
                    key = ChargeKey(subject, stretch.quarter_s, hardware)
                    yield key, amount.idle_ns * per_ns


def _used(timed: _Timed) -> Iterator[tuple[RateUsed, Amount]]:
    """The energy at each rate per kWh, and by each calibration."""
    for booking, stretch in timed:
        amount = Amount(booking.interval.energy_uj)
        for quantity, point in zip(InForce._fields, stretch.rates, strict=True):
            if point is not None:
                rate = (point.value, point.unit, point.source, point.quality)
                yield RateUsed(stretch.quarter_s, quantity, *rate), amount
        if (known := booking.interval.calibration) is not None:
            quantity = calibration_of(booking.interval.meter.name)
            rate = (known.uncertainty_ppm, "ppm", known.source, Quality.MEASURED)
            yield RateUsed(stretch.quarter_s, quantity, *rate), amount


def _unpriced(timed: _Timed, wanted: Iterable[Item]) -> Iterator[tuple[str, int]]:
    """Yield the energy for which a wanted rate is unknown."""
    for item in wanted:
        for booking, stretch in timed:
            rate = stretch.rates.co2e if item is Item.CO2E else stretch.rates.electricity
            if rate is None:
                yield item, booking.interval.energy_uj


def bills(charges: Mapping[ChargeKey, Exact]) -> dict[Subject, dict[Charge, Exact]]:
    """Return charges by recipient, over all quarter hours."""
    found: dict[Subject, dict[Charge, Exact]] = {}
    for key, amount in charges.items():
        bill = found.setdefault(key.subject, {})
        bill[key.charge] = bill.get(key.charge, NOTHING).plus(amount)
    return found


def carry_on(
    states: Mapping[Charge, ChargeState],
    wanted: frozenset[Charge],
    totals: Charges,
    served_ns: int,
    hold_ns: int,
) -> Mapping[Charge, ChargeState]:
    """Return the state of every charge after a tick.

    A new charge has its series held at zero first, so that Prometheus sees them start there, even
    for workloads that have long been exposed.
    """
    after = {charge: _waited(state, served_ns) for charge, state in states.items()}
    for charge in sorted(wanted | totals.keys()):
        state = after.get(charge, ChargeState(hold_left_ns=hold_ns))
        if more := totals.get(charge):
            state = msgspec.structs.replace(state, total=state.total.plus(more))
        after[charge] = state
    return states if after == states else after


def _waited(state: ChargeState, served_ns: int) -> ChargeState:
    if not state.hold_left_ns or not served_ns:
        return state
    return msgspec.structs.replace(state, hold_left_ns=max(state.hold_left_ns - served_ns, 0))
