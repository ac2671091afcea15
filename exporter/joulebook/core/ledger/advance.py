"""The books, one tick later: readings and claims in, postings and new balances out.

`advance` is the whole of what a daemon does, as one pure function. Presenting a tick that is
already in the books changes nothing, so a tick whose commit failed is simply presented again.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from itertools import pairwise
from typing import TypeVar

import msgspec

from joulebook.core.attribution import host, node_meter, outages, spans
from joulebook.core.attribution.claims import Claim, Evidence, merge
from joulebook.core.attribution.node_meter import Supply
from joulebook.core.energy import meter as metering
from joulebook.core.energy.host_usage import Census, is_busy, kept
from joulebook.core.energy.meter import MeterState
from joulebook.core.energy.readings import Component, Failure, Meter, Reading
from joulebook.core.evidence import Amount, PostingKey, Remainder, Subject
from joulebook.core.ledger import series
from joulebook.core.ledger.page import Page
from joulebook.core.ledger.state import Books, Entry
from joulebook.core.money import accrual
from joulebook.core.money.accrual import Accrual
from joulebook.core.money.amounts import NOTHING, Charge, Exact
from joulebook.core.money.rates import RateSet
from joulebook.core.workloads import WorkloadFacts, WorkloadId
from joulebook.units import NS_PER_S

Name = TypeVar("Name", bound=Hashable)


class BookingPolicy(msgspec.Struct, frozen=True):
    """What the configuration says of booking and of series (`[daemon]`, `[exposition]`)."""

    settle_ns: int = 3 * NS_PER_S
    series: series.SeriesPolicy = series.SeriesPolicy()
    other: node_meter.OtherSplit = node_meter.OtherSplit.NONE


class Tick(msgspec.Struct, frozen=True):
    """All that came in since the last tick.

    `claims` and `facts` are what tenants report; `complete` names the evidence whose report is
    whole. `utc_offset_ns` turns node time into UTC. `resumed` marks the first tick of a daemon, and
    `served` says that the books of the tick before could be scraped since (they were committed).
    `rates` are those known now, also of the past; `wanted` is what the configuration says is to
    be charged. `models` are the models of the devices that answered. `census` says who used the
    host: at the end of the tick, and at each boundary in it.
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
    census: tuple[Census, ...] = ()


def advance(books: Books, tick: Tick, policy: BookingPolicy) -> tuple[Books, Entry]:
    """One tick: take readings in, settle claims, book what is ripe, move series along."""
    if tick.now_ns <= books.last_ns:
        return books, Entry()
    models = _models(books.models, tick.models)
    census = kept(books.census, tick.census, _booked_to_ns(books))
    page = Page(
        Accrual(tick.rates, models, tick.wanted, tick.utc_offset_ns),
        host.Usage(tuple(census.values())),
        books.leaves_uj,
        tuple(books.supplies.values()),
    )
    claims = merge(books.claims, tick.claims, tick.complete, books.affirmed_ns)
    affirmed = {**books.affirmed_ns, **dict.fromkeys(tick.complete, tick.now_ns)}
    meters, supplies = _take_in(books, tick, page)
    held = outages.by_meter(claims)
    meters = _book(meters, held, affirmed, tick, policy, page)
    supplies = _reconcile(meters, supplies, held, affirmed, tick, policy, page)
    charges = page.accrual.charges()
    bills = accrual.bills(charges)
    seen = tick.served and not tick.resumed and books.last_ns
    served_ns = tick.now_ns - books.last_ns if seen else 0
    after = msgspec.structs.replace(
        books,
        meters=meters,
        models=models,
        charges=accrual.carry_on(
            books.charges,
            tick.wanted,
            page.accrual.totals(),
            served_ns=served_ns,
            hold_ns=policy.series.zero_hold_ns,
        ),
        remainder_bills=_charged(books.remainder_bills, bills),
        unpriced_uj=_add(books.unpriced_uj, page.accrual.unpriced_uj),
        claims=outages.prune(claims, meters, supplies, tick.now_ns),
        affirmed_ns=affirmed if tick.complete else books.affirmed_ns,
        remainders=_add(books.remainders, page.remainders_uj()),
        evidence_uj=_add(books.evidence_uj, _by(page.postings, lambda key: key.evidence)),
        method_uj=_add(books.method_uj, _by(page.postings, lambda key: key.method)),
        gaps_ns=_add(books.gaps_ns, page.lost_ns),
        last_ns=tick.now_ns,
        census=census,
        supplies=supplies,
        leaves_uj=page.leaves_uj if supplies else books.leaves_uj,
    )
    after, facts = series.advance(
        after,
        page.earned(),
        claims,
        tick.facts,
        bills={who: bill for who, bill in bills.items() if isinstance(who, WorkloadId)},
        now_ns=tick.now_ns,
        served_ns=served_ns,
        resumed=tick.resumed,
        policy=policy.series,
        present=host.present(tick.census),
        foreign_users={user for _, user in page.foreign_ns},
    )
    foreign_ns = _add(books.foreign_ns, page.foreign_ns)
    if len(after.workloads) < len(books.workloads) or page.foreign_ns:
        foreign_ns = _folded(foreign_ns, after.workloads)
    after = msgspec.structs.replace(after, foreign_ns=foreign_ns)
    return after, Entry(page.postings, tuple(page.gaps), facts, charges, page.accrual.used)


def _take_in(
    books: Books, tick: Tick, page: Page
) -> tuple[dict[Meter, MeterState], dict[Meter, Supply]]:
    """Readings and failures in the order of time, into the meters and supplies."""
    meters, supplies = dict(books.meters), dict(books.supplies)
    states = {**meters, **{meter: each.state for meter, each in supplies.items()}}
    if tick.resumed:
        states = {meter: metering.resume(state) for meter, state in states.items()}
    busy = is_busy(books.census, tick.census)
    events: list[Reading | Failure] = [*tick.readings, *tick.failures]
    for event in sorted(events, key=lambda event: (event.t_ns, event.meter)):
        state = states.get(event.meter)
        if isinstance(event, Failure):
            if state is not None:
                states[event.meter] = page.note(metering.lose(state, event))
            continue
        reading = host.watched(event, busy)
        if state is not None:
            states[event.meter] = page.note(metering.take(state, reading))
        else:
            states[event.meter] = metering.begin(reading)
        if reading.covers:
            supplies[event.meter] = node_meter.heard(supplies.get(event.meter), reading)
    for meter, state in states.items():
        if meter in supplies:
            supplies[meter] = msgspec.structs.replace(supplies[meter], state=state)
        else:
            meters[meter] = state
    return meters, supplies


def _book(
    meters: dict[Meter, MeterState],
    claims: Mapping[Meter, list[Claim]],
    affirmed: Mapping[Evidence, int],
    tick: Tick,
    policy: BookingPolicy,
    page: Page,
) -> dict[Meter, MeterState]:
    """Turn what is ripe on each meter into postings."""
    booked = dict(meters)
    for meter, state in meters.items():
        held = claims.get(meter, [])
        horizon_ns = tick.now_ns - policy.settle_ns
        for before, reading in pairwise((state.base, *state.pending)):
            if not reading.after_outage or tick.now_ns - reading.t_ns > outages.PROOF_WAIT_NS:
                continue
            if not outages.proof_is_in(held, reading, affirmed) or not (
                meter.component not in host.COMPONENTS
                or page.usage.heard_again(before.t_ns, reading.t_ns)
            ):
                horizon_ns = min(horizon_ns, reading.t_ns - 1)
        booked[meter], intervals = metering.ripe(
            state, horizon_ns, [*outages.edges(held), *spans.edges(state.pending)]
        )
        for interval in intervals:
            page.measured(interval, tick.now_ns)
            for tenure in outages.tenures(interval, held, affirmed):
                for piece in spans.pieces(interval.cut(tenure.t0_ns, tenure.t1_ns)):
                    page.post(piece, tenure, booked[meter])
    return booked


def _reconcile(
    meters: dict[Meter, MeterState],
    supplies: Mapping[Meter, Supply],
    claims: Mapping[Meter, list[Claim]],
    affirmed: Mapping[Evidence, int],
    tick: Tick,
    policy: BookingPolicy,
    page: Page,
) -> dict[Meter, Supply]:
    """Book what each supply consumed beside its leaves; the derived leaf is put into `meters`."""
    reconciled = {}
    for meter, each in supplies.items():
        leaves = {m: state for m, state in meters.items() if m not in supplies}
        horizon_ns = tick.now_ns - policy.settle_ns
        reconciled[meter], others = node_meter.reconcile(each, leaves, page.leaves_uj, horizon_ns)
        meters[meter] = node_meter.as_meter(reconciled[meter])
        for interval in others:
            gpus = [
                outages.tenures(interval, claims.get(leaf, []), affirmed)
                for leaf in leaves
                if leaf.component is Component.GPU
            ]
            page.post_other(interval, gpus, policy.other)
    return reconciled


def _booked_to_ns(books: Books) -> int:
    """The instant up to which all energy of CPU and DRAM is booked."""
    return min(
        (s.base.t_ns for m, s in books.meters.items() if m.component in host.COMPONENTS),
        default=books.last_ns,
    )


def _folded(
    foreign_ns: Mapping[tuple[Meter, WorkloadId], int], known: Iterable[WorkloadId]
) -> Mapping[tuple[Meter, WorkloadId], int]:
    """The use of those who are off the air goes into one sum for each device and scheduler.

    It is kept by name: of two that have one after the other, the use is one counter.
    """
    names = {id_._replace(start=0) for id_ in known}
    folded: dict[tuple[Meter, WorkloadId], int] = {}
    for (meter, user), use_ns in foreign_ns.items():
        name = user._replace(start=0)
        name = name if name in names else WorkloadId(user.scheduler, series.EXPIRED)
        folded[meter, name] = folded.get((meter, name), 0) + use_ns
    return folded


def _charged(
    totals: Mapping[tuple[Charge, Remainder], Exact],
    bills: Mapping[Subject, Mapping[Charge, Exact]],
) -> Mapping[tuple[Charge, Remainder], Exact]:
    more = {
        (charge, who): amount
        for who, bill in bills.items()
        if isinstance(who, Remainder)
        for charge, amount in bill.items()
    }
    if not more:
        return totals
    return {**totals, **{key: totals.get(key, NOTHING).plus(a) for key, a in more.items()}}


def _models(known: Mapping[Meter, str], reported: Mapping[Meter, str]) -> Mapping[Meter, str]:
    news = {
        meter: model for meter, model in reported.items() if model and known.get(meter) != model
    }
    return {**known, **news} if news else known


def _by(
    postings: Mapping[PostingKey, Amount], name: Callable[[PostingKey], Name]
) -> dict[Name, int]:
    sums: dict[Name, int] = {}
    for key, amount in postings.items():
        sums[name(key)] = sums.get(name(key), 0) + amount.energy_uj
    return sums


def _add(totals: Mapping[Name, int], more: Mapping[Name, int]) -> Mapping[Name, int]:
    if not more:
        return totals
    added = dict(totals)
    for key, value in more.items():
        added[key] = added.get(key, 0) + value
    return added
