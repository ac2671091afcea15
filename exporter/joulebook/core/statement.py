"""The roll-up of a report: energy, held time and charges by owner, as booked and at other rates.

The ledger keeps energy by quarter hour. Charged anew, a quarter hour's energy is taken as evenly
spread over it: exact for rates that change on quarter hours, as all markets' do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

from joulebook.core.account import Account
from joulebook.core.accrual import Accrual, bills
from joulebook.core.bills import NOTHING, Bill, Charge, Exact, Item, total
from joulebook.core.books import ZERO, Amount, Method, Remainder, Subject
from joulebook.core.intervals import Interval
from joulebook.core.rates import RateSet
from joulebook.core.readings import Meter
from joulebook.core.workloads import Labels, WorkloadId
from joulebook.units import NS_PER_S, QUARTER_NS

Owner = Labels | Remainder
"""Whose an amount is: an experiment's, or nobody's."""


class Posted(NamedTuple):
    """What one owner burnt on one meter in one quarter hour."""

    owner: Owner
    meter: Meter
    quarter_s: int
    amount: Amount


class Line(msgspec.Struct, frozen=True):
    """One owner: what was burnt, and what it came to (`restated` is `None`: not asked for)."""

    owner: Owner
    amount: Amount
    booked: Bill
    restated: Bill | None = None


class Restated(NamedTuple):
    """What postings come to at other rates, and the energy for which there was none, by item."""

    bills: dict[Owner, Bill]
    unpriced_uj: dict[str, int]


def posted(account: Account) -> list[Posted]:
    """The postings of an account by whose they are: an experiment's, or nobody's."""
    sums: dict[tuple[Owner, Meter, int], Amount] = {}
    for row in account.postings:
        key = (owner(account, row.subject), row.meter, row.quarter_s)
        sums[key] = sums.get(key, ZERO).plus(row.amount)
    return [Posted(*key, amount) for key, amount in sums.items()]


def billed(account: Account) -> dict[Owner, Bill]:
    """What was charged, by whose it is."""
    bills: dict[Owner, dict[Charge, Exact]] = {}
    for row in account.charges:
        bill = bills.setdefault(owner(account, row.subject), {})
        bill[row.charge] = bill.get(row.charge, NOTHING).plus(row.amount)
    return dict(bills)


def owner(account: Account, subject: Subject) -> Owner:
    """Whose a subject is, as far as the account knows."""
    if isinstance(subject, Remainder):
        return subject
    known = account.workloads.get(subject)
    return Labels() if known is None else known.labels


def restate(
    posted: Iterable[Posted],
    rates: RateSet,
    models: Mapping[Meter, str],
    wanted: frozenset[Charge],
) -> Restated:
    """Charge postings anew. `wanted` is what the new rates are meant to charge."""
    accrual = Accrual(rates, models, wanted, 0)
    owners: dict[WorkloadId, Labels] = {}
    for owner, meter, quarter_s, amount in posted:
        # To charge for, an experiment is as good as a workload.
        subject = owner if isinstance(owner, Remainder) else WorkloadId("", "\0".join(owner))
        if isinstance(subject, WorkloadId) and isinstance(owner, Labels):
            owners[subject] = owner
        t0_ns = quarter_s * NS_PER_S
        whole = Interval(meter, t0_ns, t0_ns + QUARTER_NS, amount.energy_uj, Method.COUNTER)
        held_ns = amount.held_ns
        for piece, stretch in accrual.pieces(whole):
            accrual.take(piece, stretch)
            # An hourly rate does not step: held time need not be cut.
            accrual.charge(stretch, subject, meter, Amount(piece.energy_uj, 0, held_ns))
            held_ns = 0
    found: dict[Owner, Bill] = {
        who if isinstance(who, Remainder) else owners[who]: bill
        for who, bill in bills(accrual.charges()).items()
    }
    return Restated(found, accrual.unpriced_uj)


def lines(
    posted: Iterable[Posted],
    booked: Mapping[Owner, Bill],
    restated: Mapping[Owner, Bill] | None = None,
) -> list[Line]:
    """A line for each owner: experiments by energy, the largest first, then remainders."""
    amounts: dict[Owner, Amount] = {}
    for each in posted:
        amounts[each.owner] = amounts.get(each.owner, ZERO).plus(each.amount)
    owners = amounts.keys() | booked.keys()
    return sorted(
        (
            Line(
                owner,
                amounts.get(owner, ZERO),
                booked.get(owner, {}),
                None if restated is None else restated.get(owner, {}),
            )
            for owner in owners
        ),
        key=lambda line: (
            isinstance(line.owner, Remainder),
            -line.amount.energy_uj,
            tuple(line.owner),
        ),
    )


def net(bill: Bill) -> dict[str, Exact]:
    """Money by currency: electricity and hardware, less what was earned below zero."""
    sums: dict[str, Exact] = {}
    for (item, currency), amount in bill.items():
        if item is not Item.CO2E:
            signed = Exact.of(-amount.atoms) if item is Item.CREDIT else amount
            sums[currency] = sums.get(currency, NOTHING).plus(signed)
    return sums


def whole(statement: Iterable[Line]) -> Line:
    """All lines as one; its owner is empty."""
    every = list(statement)
    amount = ZERO
    for line in every:
        amount = amount.plus(line.amount)
    anew = [line.restated for line in every if line.restated is not None]
    return Line(
        Labels(),
        amount,
        total(line.booked for line in every),
        total(anew) if anew else None,
    )
