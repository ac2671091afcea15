"""Total energy, held time and charges by owner, as booked and at other rates.

The ledger keeps energy by quarter hour. Recomputed charges assume that a quarter hour's energy is
spread evenly: exact for rates that change on quarter hours, as all markets' do.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

import msgspec

from joulebook.core.attribution.attribute import Booking
from joulebook.core.attribution.gpu import Share
from joulebook.core.energy.intervals import Interval
from joulebook.core.evidence import NO_EVIDENCE, ZERO, Amount, Method, Remainder, Subject, counted
from joulebook.core.money.accrual import Tariff, charge
from joulebook.core.money.amounts import (
    ATOMS_PER_HELD,
    INCLUDED,
    NOTHING,
    Charge,
    Charges,
    Exact,
    Item,
    RateUsed,
    total,
)
from joulebook.core.money.rates import RateSet, StepCurve
from joulebook.core.report import runs
from joulebook.core.report.dataset import Charged, Posting, ReportData, UsedRate
from joulebook.core.report.tally import WATER_GRID, WATER_SITE, Place
from joulebook.core.workloads import Labels
from joulebook.units import NS_PER_S, QUARTER_NS

Owner = Labels | Remainder
"""The owner of an amount: an experiment, or none."""


class ReportLine(msgspec.Struct, frozen=True):
    """One owner: consumption and charges (`restated` is `None` if not requested).

    Attributes:
        held_ns: GPU time held, whether energy is known for it (`amount.held_ns`) or not.

    """

    owner: Owner
    amount: Amount
    booked: Charges
    restated: Charges | None = None
    held_ns: int = 0

    @property
    def coverage(self) -> float | None:
        """Return the measured share of the held time; `None`: nothing was held."""
        return self.amount.held_ns / self.held_ns if self.held_ns else None


class Recharged(NamedTuple):
    """Data at other rates, the energy without a rate by item, and why."""

    account: ReportData
    unpriced_uj: dict[str, int]
    problems: Mapping[str, str] = {}


class Level(StrEnum):
    """The level of a list; each totals the one before it."""

    EXPERIMENT = "experiment"
    USER = "user"
    ACCOUNT = "account"
    LAB = "lab"

    def of(self, labels: Labels) -> Labels:
        """Return the part of an owner that this level keeps."""
        user, account, _ = labels
        if self is Level.EXPERIMENT:
            return labels
        return Labels(user if self is Level.USER else "", "" if self is Level.LAB else account, "")


def consumed(data: ReportData, level: Level = Level.EXPERIMENT) -> dict[Owner, Amount]:
    """Return what was consumed, by owner."""
    sums = {owner(data, each, level): ZERO for each in data.unread}
    for row in data.postings:
        key = owner(data, row.subject, level)
        sums[key] = sums.get(key, ZERO).plus(row.amount)
    return sums


def held(data: ReportData, level: Level = Level.EXPERIMENT) -> Mapping[Owner, int]:
    """Return the GPU time held, by owner: from start to end, or what was booked if unknown."""
    held_ns = [(row.subject, row.amount.held_ns) for row in data.postings]
    booked_ns = counted([*held_ns, *data.unread.items()])
    whole_ns = runs.held_ns(data)
    return counted(
        (
            owner(data, subject, level),
            ns if isinstance(subject, Remainder) else max(ns, whole_ns.get(subject, 0)),
        )
        for subject, ns in booked_ns.items()
    )


def billed(data: ReportData, level: Level = Level.EXPERIMENT) -> dict[Owner, Charges]:
    """Return what was charged, by owner."""
    bills: dict[Owner, dict[Charge, Exact]] = {}
    for row in data.charges:
        bill = bills.setdefault(owner(data, row.subject, level), {})
        bill[row.charge] = bill.get(row.charge, NOTHING).plus(row.amount)
    return dict(bills)


def owner(data: ReportData, subject: Subject, level: Level = Level.EXPERIMENT) -> Owner:
    """Return the owner of a subject, as far as known."""
    if isinstance(subject, Remainder):
        return subject
    known = data.workloads.get(subject)
    return Labels() if known is None else level.of(known.labels)


def own_rates(data: ReportData) -> tuple[UsedRate, ...]:
    """Return the rates weighted by the energy and held time of the data itself.

    A ledger has each node's total at a rate, whoever was charged. For a selection, a rate weighs
    what the selection consumed on that node in that quarter hour; if several were in force, in
    proportion to what was charged at each.
    """
    energy_uj = _energy_by_place(data)
    held_ns: dict[Place, dict[str, int]] = {}
    for row in data.postings:
        if (model := data.models.get((row.node, row.meter))) is not None:
            of_models = held_ns.setdefault((row.node, row.quarter_s), {})
            of_models[model] = of_models.get(model, 0) + row.amount.held_ns
    hardware: dict[Place, int] = {}
    for charged in data.charges:
        if charged.charge.item is Item.HARDWARE:
            place = (charged.node, charged.quarter_s)
            hardware[place] = hardware.get(place, 0) + charged.amount.atoms
    groups: dict[tuple[Place, str], list[UsedRate]] = {}
    for rate in data.rates:
        place = (rate.node, rate.used.quarter_s)
        if place in energy_uj:
            groups.setdefault((place, rate.used.quantity), []).append(rate)
    rates: list[UsedRate] = []
    for (place, _), rows in groups.items():
        if any(row.held_ns for row in rows):
            rates += _own_hardware(rows, held_ns.get(place, {}), hardware.get(place, 0))
        else:
            rates += _own_energy(rows, energy_uj[place])
    return tuple(rates)


def with_water(data: ReportData, curves: Mapping[str, StepCurve]) -> tuple[UsedRate, ...]:
    """Return the rates, and those of water in force at each place and time.

    Water is no counter and nothing is billed by it, so it is not booked with the energy.
    """
    energy_uj = _energy_by_place(data)
    rates = [row for row in data.rates if row.used.quantity not in {WATER_SITE, WATER_GRID}]
    for quantity, curve in curves.items():
        for place, whole_uj in energy_uj.items():
            rates += _water_rates(quantity, curve, place, whole_uj)
    return tuple(rates)


def _energy_by_place(data: ReportData) -> dict[Place, int]:
    energy_uj: dict[Place, int] = {}
    for row in data.postings:
        place = (row.node, row.quarter_s)
        energy_uj[place] = energy_uj.get(place, 0) + row.amount.energy_uj
    return energy_uj


_QUARTER_S = QUARTER_NS // NS_PER_S


def _water_rates(quantity: str, curve: StepCurve, place: Place, whole_uj: int) -> list[UsedRate]:
    """Return the rates of a quarter hour, weighted by time; none if a part of it has none."""
    node, t0_s = place
    edges = [t0_s, *curve.steps(t0_s, t0_s + _QUARTER_S), t0_s + _QUARTER_S]
    found = []
    for a_s, b_s in itertools.pairwise(edges):
        point = curve.at(a_s)
        if point is None:
            return []
        used = RateUsed(t0_s, quantity, point.value, point.unit, point.source, point.quality)
        found.append(UsedRate(used, whole_uj * (b_s - a_s) // _QUARTER_S, 0, node))
    return found


_MOST_GUESSES = 4096


def _own_energy(rows: Sequence[UsedRate], own_uj: int) -> Iterator[UsedRate]:
    whole_uj = sum(row.energy_uj for row in rows)
    for row in rows:
        # Energy without a rate is in none of the rows: they never weigh more than was charged.
        of_row_uj = row.energy_uj * min(own_uj, whole_uj) // (whole_uj or 1)
        yield row._replace(energy_uj=of_row_uj)


def _own_hardware(
    rows: Sequence[UsedRate], held_ns: Mapping[str, int], atoms: int
) -> list[UsedRate]:
    """Return the hourly rates that give `atoms` for what each GPU model was held.

    The row of a rate does not name its model, but amounts are exact.
    """
    models = [model for model, ns in held_ns.items() if ns]
    if (len(rows) + 1) ** len(models) <= _MOST_GUESSES:
        for chosen in itertools.product((*rows, None), repeat=len(models)):
            own_ns: dict[RateUsed, int] = {}
            for model, row in zip(models, chosen, strict=True):
                if row is not None:
                    own_ns[row.used] = own_ns.get(row.used, 0) + held_ns[model]
            if sum(used.value * ns * ATOMS_PER_HELD for used, ns in own_ns.items()) == atoms:
                return [
                    row._replace(held_ns=own_ns[row.used]) for row in rows if row.used in own_ns
                ]
    whole_ns, all_ns = sum(row.held_ns for row in rows), sum(held_ns.values())
    return [row._replace(held_ns=row.held_ns * min(all_ns, whole_ns) // whole_ns) for row in rows]


def recharged(data: ReportData, rates: RateSet, wanted: frozenset[Charge]) -> Recharged:
    """Return the data with recomputed charges, and the rates used.

    `wanted` is what the new rates should charge.
    """
    nodes: dict[str, list[Posting]] = {}
    for row in data.postings:
        nodes.setdefault(row.node, []).append(row)
    charged: list[Charged] = []
    used: list[UsedRate] = []
    unpriced_uj: dict[str, int] = {}
    for node, rows in nodes.items():
        models = {meter: model for (where, meter), model in data.models.items() if where == node}
        tariff = Tariff(rates, models, wanted, 0)
        again = charge((each for row in rows for each in _bookings(row, tariff)), tariff)
        charged += [
            Charged(node, key.subject, key.quarter_s, key.charge, amount)
            for key, amount in again.charges.items()
        ]
        used += [
            UsedRate(rate, amount.energy_uj, amount.held_ns, node)
            for rate, amount in again.used.items()
        ]
        for item, energy_uj in again.unpriced_uj.items():
            unpriced_uj[item] = unpriced_uj.get(item, 0) + energy_uj
    anew = msgspec.structs.replace(data, charges=tuple(charged), rates=tuple(used))
    return Recharged(anew, unpriced_uj)


def _bookings(row: Posting, tariff: Tariff) -> Iterator[Booking]:
    """Yield a posting as bookings, spread evenly over its quarter hour."""
    t0_ns, held = row.quarter_s * NS_PER_S, (row.amount.held_ns, row.amount.idle_ns)
    whole = Interval(row.meter, t0_ns, t0_ns + QUARTER_NS, row.amount.energy_uj, Method.COUNTER)
    idle = msgspec.structs.replace(whole, energy_uj=row.amount.idle_uj)
    for piece in tariff.pieces(whole):
        # An hourly rate does not step: held time need not be cut.
        idle_uj = idle.cut(piece.t0_ns, piece.t1_ns).energy_uj
        amount = Amount(piece.energy_uj, idle_uj, *held)
        yield Booking(piece, (Share(row.subject, amount, whole.method, NO_EVIDENCE),))
        held = (0, 0)


def lines(
    data: ReportData, anew: ReportData | None = None, level: Level = Level.EXPERIMENT
) -> list[ReportLine]:
    """Return a line per owner by energy, the largest first, then remainders.

    `again` is the same data at other rates.
    """
    amounts, booked, times = consumed(data, level), billed(data, level), held(data, level)
    restated = None if anew is None else billed(anew, level)
    return sorted(
        (
            ReportLine(
                who,
                amounts.get(who, ZERO),
                booked.get(who, {}),
                None if restated is None else restated.get(who, {}),
                times.get(who, 0),
            )
            for who in amounts.keys() | booked.keys()
        ),
        key=lambda line: (
            isinstance(line.owner, Remainder),
            -line.amount.energy_uj,
            tuple(line.owner),
        ),
    )


def net(bill: Charges) -> dict[str, Exact]:
    """Return money by currency: electricity and hardware minus credit."""
    sums: dict[str, Exact] = {}
    for (item, currency), amount in bill.items():
        if item is not Item.CO2E and item not in INCLUDED:
            signed = Exact.of(-amount.atoms) if item is Item.CREDIT else amount
            sums[currency] = sums.get(currency, NOTHING).plus(signed)
    return sums


def whole(statement: Iterable[ReportLine]) -> ReportLine:
    """Return the total of all lines; its owner is empty."""
    every = list(statement)
    amount = ZERO
    for line in every:
        amount = amount.plus(line.amount)
    anew = [line.restated for line in every if line.restated is not None]
    return ReportLine(
        Labels(),
        amount,
        total(line.booked for line in every),
        total(anew) if anew else None,
        sum(line.held_ns for line in every),
    )
