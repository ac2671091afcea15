"""The books, one tick later: readings and claims in, postings and new balances out.

`advance` is the whole of what a daemon does, as one pure function. Presenting a tick that is
already in the books changes nothing, so a tick whose commit failed is simply presented again.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from fractions import Fraction
from typing import TypeVar

import msgspec

from joulebook.core import accrual, metering, series
from joulebook.core.accrual import Accrual
from joulebook.core.attribution import share_out
from joulebook.core.bills import NOTHING, Charge, Exact
from joulebook.core.books import (
    ZERO,
    Amount,
    Books,
    Entry,
    Gap,
    MeterState,
    PostingKey,
    Remainder,
    Subject,
)
from joulebook.core.intervals import Interval
from joulebook.core.rates import RateSet
from joulebook.core.readings import Component, Failure, Meter, Reading
from joulebook.core.tenancy import Claim, Evidence, Tenure, merge, settle
from joulebook.core.workloads import WorkloadFacts, WorkloadId
from joulebook.units import NS_PER_S

Name = TypeVar("Name", bound=Hashable)

PROOF_WAIT_NS = 60 * NS_PER_S
"""How long the energy of an outage waits for its holders to be confirmed before it is nobody's."""


KEEP_CLAIM_NS = 35 * 86_400 * NS_PER_S
"""For how long a card that vanished may come back, and its holders still get its energy."""


class Policy(msgspec.Struct, frozen=True):
    """What the configuration says of booking and of series (`[daemon]`, `[exposition]`)."""

    settle_ns: int = 3 * NS_PER_S
    series: series.Policy = series.Policy()


class Tick(msgspec.Struct, frozen=True):
    """All that came in since the last tick.

    `claims` and `facts` are what tenants report; `complete` names the evidence whose report is
    whole. `utc_offset_ns` turns node time into UTC. `resumed` marks the first tick of a daemon, and
    `served` says that the books of the tick before could be scraped since (they were committed).
    `rates` are those known now, also of the past; `wanted` is what the configuration says is to
    be charged. `models` are the models of the devices that answered.
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


class _Page:
    """The tick's own scratch: totals that are being added up before new books are made."""

    def __init__(self, accrual: Accrual) -> None:
        self.accrual = accrual
        self.postings: dict[PostingKey, Amount] = {}
        self.gaps: list[Gap] = []
        self.lost_ns: dict[tuple[Meter, str], int] = {}
        self.foreign_ns: dict[tuple[Meter, WorkloadId], int] = {}

    def note(self, taken: metering.Taken) -> MeterState:
        """Keep what a meter lost; hand on its state."""
        self.gaps.extend(taken.gaps)
        for reason, duration_ns in taken.lost_ns:
            key = (taken.state.meter, reason)
            self.lost_ns[key] = self.lost_ns.get(key, 0) + duration_ns
        return taken.state


def advance(books: Books, tick: Tick, policy: Policy) -> tuple[Books, Entry]:
    """One tick: take readings in, settle claims, book what is ripe, move series along."""
    if tick.now_ns <= books.last_ns:
        return books, Entry()
    models = _models(books.models, tick.models)
    page = _Page(Accrual(tick.rates, models, tick.wanted, tick.utc_offset_ns))
    claims = merge(books.claims, tick.claims, tick.complete, books.affirmed_ns)
    affirmed = {**books.affirmed_ns, **dict.fromkeys(tick.complete, tick.now_ns)}
    meters = _take_in(books, tick, page)
    meters = _book(meters, claims, affirmed, tick, policy, page)
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
        claims=_prune(claims, meters, tick.now_ns),
        affirmed_ns=affirmed if tick.complete else books.affirmed_ns,
        remainders=_add(books.remainders, _remainders(page.postings)),
        evidence_uj=_add(books.evidence_uj, _by(page.postings, lambda key: key.evidence)),
        method_uj=_add(books.method_uj, _by(page.postings, lambda key: key.method)),
        gaps_ns=_add(books.gaps_ns, page.lost_ns),
        foreign_ns=_add(books.foreign_ns, page.foreign_ns),
        last_ns=tick.now_ns,
    )
    after, facts = series.advance(
        after,
        _earned(page.postings),
        claims,
        tick.facts,
        bills={who: bill for who, bill in bills.items() if isinstance(who, WorkloadId)},
        now_ns=tick.now_ns,
        served_ns=served_ns,
        resumed=tick.resumed,
        policy=policy.series,
    )
    return after, Entry(page.postings, tuple(page.gaps), facts, charges, page.accrual.used)


def _take_in(books: Books, tick: Tick, page: _Page) -> dict[Meter, MeterState]:
    """Readings and failures in the order of time, into the meters."""
    meters = dict(books.meters)
    if tick.resumed:
        meters = {meter: metering.resume(state) for meter, state in meters.items()}
    events: list[Reading | Failure] = [*tick.readings, *tick.failures]
    for event in sorted(events, key=lambda event: (event.t_ns, event.meter)):
        state = meters.get(event.meter)
        if isinstance(event, Failure):
            if state is not None:
                meters[event.meter] = page.note(metering.lose(state, event))
        elif state is None:
            meters[event.meter] = metering.begin(event)
        else:
            meters[event.meter] = page.note(metering.take(state, event))
    return meters


def _book(
    meters: dict[Meter, MeterState],
    claims: tuple[Claim, ...],
    affirmed: Mapping[Evidence, int],
    tick: Tick,
    policy: Policy,
    page: _Page,
) -> dict[Meter, MeterState]:
    """Turn what is ripe on each meter into postings."""
    by_meter: dict[Meter, list[Claim]] = {}
    for claim in claims:
        by_meter.setdefault(claim.meter, []).append(claim)
    booked = dict(meters)
    for meter, state in meters.items():
        held = by_meter.get(meter, [])
        horizon_ns = tick.now_ns - policy.settle_ns
        for reading in state.pending:
            if reading.after_outage and not _proof_is_in(held, reading, affirmed, tick.now_ns):
                horizon_ns = min(horizon_ns, reading.t_ns - 1)
        booked[meter], intervals = metering.ripe(state, horizon_ns, _edges(held))
        for interval in intervals:
            for tenure in _tenures(interval, held, affirmed):
                _post(interval.cut(tenure.t0_ns, tenure.t1_ns), tenure, booked[meter], page)
    return booked


def _edges(claims: Iterable[Claim]) -> list[int]:
    return [t for c in claims for t in (c.t0_ns, c.t1_ns) if t is not None]


def _proof_is_in(
    claims: Iterable[Claim], reading: Reading, affirmed: Mapping[Evidence, int], now_ns: int
) -> bool:
    """Whether it is known which of the claims of before an outage lasted through it."""
    if now_ns - reading.t_ns > PROOF_WAIT_NS:
        return True
    return all(
        affirmed.get(claim.evidence, 0) >= reading.t_ns
        for claim in claims
        if claim.t1_ns is None and claim.t0_ns < reading.t_ns
    )


def _tenures(
    interval: Interval, claims: list[Claim], affirmed: Mapping[Evidence, int]
) -> tuple[Tenure, ...]:
    """Who held the meter. Through an outage only those count who are proven to have held it all.

    The proof: the claim was open before the outage, and evidence of its kind, whole again after
    the outage, still mentions it (else `merge` has closed it by now). Nobody gets it because a
    better claim is not proven.
    """
    instances = None
    if interval.instances is not None:
        instances = {i.uuid: Fraction(i.slices, i.of) for i in interval.instances}
    if not interval.outage:
        return settle(claims, interval.t0_ns, interval.t1_ns, instances)
    proven = [
        claim
        for claim in claims
        if (claim.t1_ns is None and affirmed.get(claim.evidence, 0) >= interval.t1_ns)
        or (claim.t1_ns is not None and claim.t1_ns >= interval.t1_ns)
    ]
    tenures = settle(proven, interval.t0_ns, interval.t1_ns, instances)
    everybody = settle(claims, interval.t0_ns, interval.t1_ns, instances)
    if len(tenures) == 1 and tenures == everybody:
        return tenures
    return (Tenure(interval.t0_ns, interval.t1_ns, ()),)


def _post(interval: Interval, tenure: Tenure, state: MeterState, page: _Page) -> None:
    """Post and charge one tenure's part of an interval, and note who else used the device in it."""
    for piece, stretch in page.accrual.pieces(interval):
        page.accrual.take(piece, stretch)
        for subject, amount, method, evidence in share_out(piece, tenure, state.idle_mw):
            key = PostingKey(subject, piece.meter, stretch.quarter_s, method, evidence)
            page.postings[key] = page.postings.get(key, ZERO).plus(amount)
            page.accrual.charge(stretch, subject, piece.meter, amount)
    holders = {holder.workload for holder in tenure.holders}
    for user in {process.workload for process in interval.processes}:
        if holders and user is not None and user not in holders:
            where = (interval.meter, user)
            lasted_ns = interval.t1_ns - interval.t0_ns
            page.foreign_ns[where] = page.foreign_ns.get(where, 0) + lasted_ns


def _prune(
    claims: Iterable[Claim], meters: Mapping[Meter, MeterState], now_ns: int
) -> tuple[Claim, ...]:
    """Forget claims that ended before everything that is still to be booked.

    A claim on a meter that was never read is kept while it is open: the meter may yet come. One
    on a meter that has not come back is kept as long as experiments are.
    """
    kept = []
    for claim in claims:
        state = meters.get(claim.meter)
        waiting = (
            claim.t1_ns is not None
            and state is not None
            and claim.t1_ns > max(state.base.t_ns, now_ns - KEEP_CLAIM_NS)
        )
        if claim.t1_ns is None or waiting:
            kept.append(claim)
    return tuple(
        sorted(kept, key=lambda c: (c.meter, c.t0_ns, c.evidence, c.workload or (), c.instance))
    )


def _earned(
    postings: Mapping[PostingKey, Amount],
) -> dict[WorkloadId, dict[Component, Amount]]:
    """What each workload got in this tick, by component."""
    earned: dict[WorkloadId, dict[Component, Amount]] = {}
    for key, amount in postings.items():
        if isinstance(key.subject, WorkloadId):
            balance = earned.setdefault(key.subject, {})
            component = key.meter.component
            balance[component] = balance.get(component, ZERO).plus(amount)
    return earned


def _remainders(postings: Mapping[PostingKey, Amount]) -> dict[tuple[Component, Remainder], int]:
    sums: dict[tuple[Component, Remainder], int] = {}
    for key, amount in postings.items():
        subject: Subject = key.subject
        if isinstance(subject, Remainder):
            where = (key.meter.component, subject)
            sums[where] = sums.get(where, 0) + amount.energy_uj
    return sums


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


def _models(known: Mapping[Meter, str], told: Mapping[Meter, str]) -> Mapping[Meter, str]:
    news = {meter: model for meter, model in told.items() if model and known.get(meter) != model}
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
