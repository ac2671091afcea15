"""Advance the books by one tick: readings and claims in, postings and new balances out.

`advance` is everything that a daemon does, as one pure function of three steps:

    measure      what sensors saw into energy in time (`core.energy.measure`)
    attribute    who gets that energy                 (`core.attribution.attribute`)
    charge       which quarter hour, and what it cost (`core.money.accrual`)
 Presenting a tick that is
already in the books changes nothing, so a tick whose commit failed is simply presented again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import msgspec

from joulebook.core.attribution import host, outages
from joulebook.core.attribution.attribute import Booking, Known, attribute, foreign_ns
from joulebook.core.attribution.claims import Claim, Evidence, merge
from joulebook.core.attribution.host import OtherSplit
from joulebook.core.energy import calibration
from joulebook.core.energy.host_usage import HostSnapshot, is_busy, kept
from joulebook.core.energy.intervals import Calibration
from joulebook.core.energy.measure import Measured, Meters, measure
from joulebook.core.energy.readings import Component, Failure, Meter, Reading
from joulebook.core.evidence import ZERO, Amount, PostingKey, Remainder, Subject, counted, summed
from joulebook.core.ledger import renames, series
from joulebook.core.ledger.state import Books, Entry
from joulebook.core.money import accrual
from joulebook.core.money.accrual import Postings, Tariff, charge
from joulebook.core.money.amounts import Charge, Exact
from joulebook.core.money.rates import RateSet
from joulebook.core.workloads import WorkloadFacts, WorkloadId
from joulebook.units import NS_PER_S


class BookingPolicy(msgspec.Struct, frozen=True):
    """The configuration of booking and of series (`[daemon]`, `[exposition]`)."""

    settle_ns: int = 3 * NS_PER_S
    series: series.SeriesPolicy = series.SeriesPolicy()
    other: OtherSplit = OtherSplit.NONE
    calibrations: Mapping[str, Calibration] = {}
    """By UUID or by model (`*` stands for anything)."""


class Tick(msgspec.Struct, frozen=True):
    """Everything that came in since the last tick.

    Attributes:
        claims: Reported by workload sources, like `facts`.
        complete: The evidence whose report is complete.
        utc_offset_ns: Turns node time into UTC.
        resumed: Whether this is the first tick of a daemon.
        served: Whether the books of the last tick could be scraped (they were committed).
        rates: Those known now, also for the past.
        wanted: What should be charged by configuration.
        models: The models of the devices that responded.
        snapshots: The use of the host, at the end of the tick and at each boundary in it.

    """

    now_ns: int
    utc_offset_ns: int = 0
    readings: tuple[Reading, ...] = ()
    failures: tuple[Failure, ...] = ()
    claims: tuple[Claim, ...] = ()
    complete: frozenset[Evidence] = frozenset()
    facts: tuple[WorkloadFacts, ...] = ()
    resumed: bool = False
    served: bool = True
    rates: RateSet = RateSet()
    wanted: frozenset[Charge] = frozenset()
    models: Mapping[Meter, str] = {}
    snapshots: tuple[HostSnapshot, ...] = ()


class _Work(NamedTuple):
    """The three values of a tick, and what was reported of workloads."""

    measured: Measured
    bookings: Sequence[Booking]
    postings: Postings
    facts: Sequence[WorkloadFacts]


def advance(books: Books, tick: Tick, policy: BookingPolicy) -> tuple[Books, Entry]:
    """Run one tick: measure, attribute and charge, and return the new books."""
    if tick.now_ns <= books.last_ns:
        return books, Entry()
    polls = _polls(books, tick)
    claims, books = books.claims, _informed(books, tick)
    usage = host.Usage(tuple(books.snapshots.values()))
    renamed, facts = renames.told(books, tick.facts, tick.now_ns, tick.utc_offset_ns)
    known = Known(outages.by_meter(books.claims), books.affirmed_ns, usage, renames.edges(renamed))
    due = partial(known.due, now_ns=tick.now_ns, settle_ns=policy.settle_ns)
    tariff = Tariff(tick.rates, books.models, tick.wanted, tick.utc_offset_ns)

    measured = measure(
        _meters(books, tick),
        polls,
        tick.now_ns - policy.settle_ns,
        due,
        lambda meter: calibration.of(policy.calibrations, meter, books.models.get(meter, "")),
    )
    cut = renames.cut(renamed, tariff.pieces)
    bookings = attribute(measured, known, cut, policy.other)
    postings = charge(renames.as_booked(bookings, renamed), tariff)

    books = msgspec.structs.replace(books, renamed=renamed)
    after, entry = _after(books, tick, policy, _Work(measured, bookings, postings, facts))
    if after.claims == claims:  # the same by identity are not written again
        after = msgspec.structs.replace(after, claims=claims)
    return after, entry


def _after(books: Books, tick: Tick, policy: BookingPolicy, work: _Work) -> tuple[Books, Entry]:
    """The books after a tick, and what it adds to the record."""
    measured, bookings, postings, told = work
    workloads, foreign = books.workloads, foreign_ns(bookings)
    bills = accrual.bills(postings.charges)
    is_seen = tick.served and not tick.resumed and books.last_ns
    served_ns = tick.now_ns - books.last_ns if is_seen else 0
    step = series.Step(
        tick.now_ns,
        served_ns,
        tick.resumed,
        earned=_earned(postings.amounts),
        bills={who: bill for who, bill in bills.items() if isinstance(who, WorkloadId)},
        claims=renames.claimed(books.claims, books.renamed, books.meters),
        facts=told,
        present=frozenset(map(books.booked_to, host.present(tick.snapshots))),
        foreign_users=frozenset(books.booked_to(user) for _, user in foreign),
    )
    books, facts = series.advance(_booked(books, measured, postings, bills), step, policy.series)
    users_ns = counted(foreign.items(), books.foreign_ns)
    if foreign or len(books.workloads) < len(workloads):
        users_ns = _of_exposed(users_ns, books.workloads)
    hold_ns = policy.series.zero_hold_ns
    books = msgspec.structs.replace(
        books,
        claims=outages.prune(books.claims, books.meters, books.node_meters, tick.now_ns),
        charges=accrual.carry_on(books.charges, tick.wanted, postings.totals, served_ns, hold_ns),
        foreign_ns=users_ns,
        renamed=renames.kept(books.renamed, books),
        last_ns=tick.now_ns,
    )
    faults = tuple(booking.fault for booking in bookings if booking.fault)
    amounts, charges = postings.amounts, postings.charges
    return books, Entry(amounts, measured.gaps, facts, charges, postings.used, faults)


def _informed(books: Books, tick: Tick) -> Books:
    """Return the books with what was reported: claims, models, and the use of the host."""
    affirmed = dict.fromkeys(tick.complete, tick.now_ns)
    news = {m: model for m, model in tick.models.items() if model and books.models.get(m) != model}
    return msgspec.structs.replace(
        books,
        claims=merge(books.claims, tick.claims, tick.complete, books.affirmed_ns),
        affirmed_ns={**books.affirmed_ns, **affirmed} if affirmed else books.affirmed_ns,
        models={**books.models, **news} if news else books.models,
        snapshots=kept(books.snapshots, tick.snapshots, _booked_to_ns(books)),
    )


def _polls(books: Books, tick: Tick) -> list[Reading | Failure]:
    """Return the readings, with whether CPU and DRAM were busy from the use of the host."""
    busy = is_busy(books.snapshots, tick.snapshots)
    return [*(host.watched(reading, busy) for reading in tick.readings), *tick.failures]


def _meters(books: Books, tick: Tick) -> Meters:
    meters = Meters(books.meters, books.node_meters, books.children_uj)
    return meters.resumed() if tick.resumed else meters


def _booked(
    books: Books,
    measured: Measured,
    postings: Postings,
    bills: Mapping[Subject, Mapping[Charge, Exact]],
) -> Books:
    """Return the books with what was measured, posted and charged in a tick."""
    amounts = postings.amounts.items()
    return msgspec.structs.replace(
        books,
        meters=measured.meters.booked,
        node_meters=measured.meters.node,
        children_uj=measured.meters.children_uj,
        gaps_ns=counted(measured.lost_ns.items(), books.gaps_ns),
        remainders=counted(_unowned(postings.amounts), books.remainders),
        remainder_gpu_ns=counted(_unheld_ns(postings.amounts), books.remainder_gpu_ns),
        evidence_uj=counted(((k.evidence, a.energy_uj) for k, a in amounts), books.evidence_uj),
        method_uj=counted(((k.method, a.energy_uj) for k, a in amounts), books.method_uj),
        remainder_bills=summed(
            (
                ((item, who), amount)
                for who, bill in bills.items()
                if isinstance(who, Remainder)
                for item, amount in bill.items()
            ),
            books.remainder_bills,
        ),
        unpriced_uj=counted(postings.unpriced_uj.items(), books.unpriced_uj),
    )


def _unowned(
    amounts: Mapping[PostingKey, Amount],
) -> Iterator[tuple[tuple[Component, Remainder], int]]:
    """Yield the unattributed energy."""
    for key, amount in amounts.items():
        if isinstance(key.subject, Remainder):
            yield (key.meter.component, key.subject), amount.energy_uj


def _unheld_ns(amounts: Mapping[PostingKey, Amount]) -> Iterator[tuple[Remainder, int]]:
    """GPU time that no workload held."""
    for key, amount in amounts.items():
        if isinstance(key.subject, Remainder) and key.meter.component is Component.GPU:
            yield key.subject, amount.held_ns


def _earned(amounts: Mapping[PostingKey, Amount]) -> dict[WorkloadId, dict[Component, Amount]]:
    """Return what each workload got, by component."""
    earned: dict[WorkloadId, dict[Component, Amount]] = {}
    for key, amount in amounts.items():
        if isinstance(key.subject, WorkloadId):
            balance = earned.setdefault(key.subject, {})
            component = key.meter.component
            balance[component] = balance.get(component, ZERO).plus(amount)
    return earned


def _booked_to_ns(books: Books) -> int:
    """Return the instant up to which all energy of CPU and DRAM is booked."""
    return min(
        (s.base.t_ns for m, s in books.meters.items() if m.component in host.COMPONENTS),
        default=books.last_ns,
    )


def _of_exposed(
    foreign_ns: Mapping[tuple[Meter, WorkloadId], int], known: Iterable[WorkloadId]
) -> Mapping[tuple[Meter, WorkloadId], int]:
    """Return the host usage of workloads with series, by name.

    If two have the same name one after the other, their use is one counter. The use of those whose
    series are gone is gone, too: under another name it would count twice.
    """
    names = {id_._replace(start=0) for id_ in known}
    users = (
        (meter, user._replace(start=0), use_ns) for (meter, user), use_ns in foreign_ns.items()
    )
    return counted(((meter, user), use_ns) for meter, user, use_ns in users if user in names)
