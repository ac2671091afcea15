"""Workloads that were given to another experiment while they ran: from then on it is another one.

What was booked keeps its name, in ledger and Prometheus alike. A source goes on to speak of the
workload by the identity that it knows; here it becomes the one that is booked to now.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise

import msgspec

from joulebook.core.attribution.attribute import Booking, Cut
from joulebook.core.attribution.claims import Claim
from joulebook.core.energy.intervals import Interval
from joulebook.core.energy.meter import MeterState
from joulebook.core.energy.readings import Meter
from joulebook.core.evidence import Remainder
from joulebook.core.ledger.state import Books, Renamed
from joulebook.core.workloads import WorkloadFacts, WorkloadId
from joulebook.units import NS_PER_S

Renames = Mapping[WorkloadId, Renamed]

_MOST_EARLIER = 100
"""A name may change every ten seconds while a device cannot be read for days."""


def told(
    books: Books, facts: Iterable[WorkloadFacts], now_ns: int, utc_offset_ns: int
) -> tuple[Renames, tuple[WorkloadFacts, ...]]:
    """Return the renames after a report, and the report as of those that are booked to."""
    renamed = dict(books.renamed)
    found: list[WorkloadFacts] = []
    for fact in facts:
        booked = _of_booked(books, fact)
        state = books.workloads.get(booked.id)
        if state is not None and _is_another(state.facts, booked):
            from_ns = min(max(fact.named_ns, state.facts.started_ns), now_ns)
            start = max((from_ns + utc_offset_ns) // NS_PER_S, booked.id.start + 1)
            later = booked.id._replace(start=start)
            earlier = _still_due(books, renamed.get(fact.id))
            renamed[fact.id] = Renamed(later, booked.id, from_ns, earlier)
            found.append(msgspec.structs.replace(state.facts, ended_ns=from_ns))
            booked = msgspec.structs.replace(booked, id=later, started_ns=from_ns)
        found.append(booked)
    return (renamed if renamed != books.renamed else books.renamed), tuple(found)


def _still_due(books: Books, was: Renamed | None) -> tuple[tuple[WorkloadId, int], ...]:
    """Return the names before a change, as far as energy of their time may not be booked yet."""
    booked_ns = min((state.base.t_ns for state in books.meters.values()), default=0)
    past = () if was is None else was.past[-_MOST_EARLIER:]
    return tuple((who, until_ns) for who, until_ns in past if until_ns > booked_ns)


def _of_booked(books: Books, fact: WorkloadFacts) -> WorkloadFacts:
    """What is reported of a workload, as of the one that it is booked to: that began later."""
    renamed = books.renamed.get(fact.id)
    if renamed is None:
        return fact
    return msgspec.structs.replace(fact, id=renamed.now, started_ns=renamed.from_ns)


def _is_another(known: WorkloadFacts, fact: WorkloadFacts) -> bool:
    """Whether somebody changed the experiment of a workload that runs."""
    was, now = known.labels.experiment, fact.labels.experiment
    later = 0 < known.named_ns < fact.named_ns
    return later and fact.ended_ns is None and bool(now) and now != was


def cut(renamed: Renames, pieces: Cut) -> Cut:
    """Return `pieces`, which cuts intervals, so that it also cuts them where a name changed."""
    edges_ns = edges(renamed)
    if not edges_ns:
        return pieces

    def finer(interval: Interval) -> Iterator[Interval]:
        for piece in pieces(interval):
            inside = [t_ns for t_ns in edges_ns if piece.t0_ns < t_ns < piece.t1_ns]
            for t0_ns, t1_ns in pairwise([piece.t0_ns, *inside, piece.t1_ns]):
                yield piece.cut(t0_ns, t1_ns) if inside else piece

    return finer


def edges(renamed: Renames) -> list[int]:
    """Return when names changed (node time), in order."""
    return sorted({until_ns for each in renamed.values() for _, until_ns in each.past})


def as_booked(bookings: Sequence[Booking], renamed: Renames) -> Sequence[Booking]:
    """Return the bookings, each to whom its time is booked."""
    return [_of_time(each, renamed) for each in bookings] if renamed else bookings


def _of_time(booking: Booking, renamed: Renames) -> Booking:
    t_ns = booking.interval.t0_ns
    return booking._replace(
        shares=[
            share
            if isinstance(share.subject, Remainder) or share.subject not in renamed
            else share._replace(subject=renamed[share.subject].at(t_ns))
            for share in booking.shares
        ]
    )


def claimed(
    claims: Sequence[Claim], renamed: Renames, meters: Mapping[Meter, MeterState]
) -> Sequence[Claim]:
    """Return the claims, each of whom is booked to now, and of whom energy is still due to."""
    if not renamed:
        return claims
    found: list[Claim] = []
    for claim in claims:
        was = None if claim.workload is None else renamed.get(claim.workload)
        if was is None:
            found.append(claim)
            continue
        found.append(msgspec.structs.replace(claim, workload=was.now))
        state = meters.get(claim.meter)
        found += [
            msgspec.structs.replace(claim, workload=who, t1_ns=until_ns)
            for who, until_ns in was.past
            if state is not None and state.base.t_ns < until_ns
        ]
    return found


def kept(renamed: Renames, books: Books) -> Renames:
    """Return the renames that may still be asked for."""
    if not renamed:
        return renamed
    held = {claim.workload for claim in books.claims}
    found = {id_: was for id_, was in renamed.items() if was.now in books.workloads or id_ in held}
    return found if len(found) < len(renamed) else renamed
