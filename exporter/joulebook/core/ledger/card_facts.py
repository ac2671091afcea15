"""What is seen of a workload on the cards it holds alone: memory, and the limit of their power.

Advice needs both once the workload is over. They are facts of the workload, so they go with it into
the ledger and to whoever collects that; nothing is booked by them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from joulebook.core.energy.readings import DeviceStatus, Meter
from joulebook.core.ledger.state import Books
from joulebook.core.workloads import WorkloadFacts, WorkloadId

MEMORY_GIB = "gpu_memory_gib"
"""The most memory that was in use on one of its cards, in GiB, rounded up."""
MEMORY_TOTAL_GIB = "gpu_memory_total_gib"
"""The memory of its smallest card, in GiB, rounded."""
POWER_LIMITS_W = "gpu_power_limits_w"
"""The limits of power that its cards had (`300`, `250,300`), in watts."""

_GIB = 2**30
_MOST_LIMITS = 8


def with_card_facts(
    facts: Sequence[WorkloadFacts], books: Books, statuses: Iterable[DeviceStatus]
) -> tuple[WorkloadFacts, ...]:
    """Return reported facts with what is seen on cards, of workloads not reported as well."""
    alone = _alone(books)
    cards: dict[WorkloadId, list[Mapping[str, float]]] = {}
    for status in statuses:
        holder = alone.get(status.meter)
        if holder is not None and not status.mig:
            cards.setdefault(holder, []).append(status.values)
    seen: dict[WorkloadId, dict[str, str]] = {}
    for workload, values in cards.items():
        known = books.workloads[workload].facts.extra
        more = _seen(known, values)
        if not more.items() <= known.items():
            seen[workload] = more
    reported = [
        msgspec.structs.replace(fact, extra=fact.extra | seen.pop(fact.id))
        if fact.id in seen
        else fact
        for fact in facts
    ]
    for workload, more in seen.items():
        known_facts = books.workloads[workload].facts
        reported.append(msgspec.structs.replace(known_facts, extra=known_facts.extra | more))
    return tuple(reported)


def _alone(books: Books) -> dict[Meter, WorkloadId]:
    """Return the workload that holds all of a card, of each card that one holds alone."""
    holders: dict[Meter, set[WorkloadId | None]] = {}
    for claim in books.claims:
        if claim.t1_ns is None:
            is_whole = claim.parts == claim.of and not claim.instance
            of_card = holders.setdefault(claim.meter, set())
            of_card |= {claim.workload} if is_whole else {claim.workload, None}
    return {
        meter: holder
        for meter, (holder, *others) in holders.items()
        if holder is not None
        and not others
        and holder in books.workloads
        and holder not in books.renamed
    }


def _seen(known: Mapping[str, str], cards: Iterable[Mapping[str, float]]) -> dict[str, str]:
    """Return the facts of what is seen on cards now, and was before."""
    of: dict[str, set[int]] = {
        name: {int(word) for word in known.get(name, "").split(",") if word.isdecimal()}
        for name in (MEMORY_GIB, MEMORY_TOTAL_GIB, POWER_LIMITS_W)
    }
    for values in cards:
        for name, key, whole, per in (
            (MEMORY_GIB, "memory_used_bytes", math.ceil, _GIB),
            (MEMORY_TOTAL_GIB, "memory_total_bytes", round, _GIB),
            (POWER_LIMITS_W, "power_limit_watts", round, 1),
        ):
            if math.isfinite(value := values.get(key, math.nan)):
                of[name].add(whole(value / per))
    shown = {
        MEMORY_GIB: sorted(of[MEMORY_GIB])[-1:],
        MEMORY_TOTAL_GIB: sorted(of[MEMORY_TOTAL_GIB])[:1],
        POWER_LIMITS_W: sorted(of[POWER_LIMITS_W])[:_MOST_LIMITS],
    }
    return {name: ",".join(map(str, values)) for name, values in shown.items() if values}
