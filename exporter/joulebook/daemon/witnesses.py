"""All tenant sources as one: who holds what, as the loop is told in each tick.

A source that raises is a fault of ours, often on something a user wrote: it must not stop the
meters, nor the other sources. Its evidence is then not whole, so claims on record stand.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import msgspec

from joulebook.core.devices import DeviceStatus
from joulebook.core.tenancy import Claim, Evidence
from joulebook.core.workloads import WorkloadFacts
from joulebook.daemon.privacy import Mask
from joulebook.log import once, recovered
from joulebook.tenants.contract import Accounted, Boundary, Group, Holdings, TenantSource
from joulebook.tenants.refusals import FAULT

log = logging.getLogger(__name__)


class Witnesses:
    """The tenant sources of this node, in their order. `masked` is applied to every user's name."""

    def __init__(self, sources: Sequence[TenantSource], masked: Mask = str) -> None:
        self._sources = sources
        self._masked = masked
        self._refused: dict[str, Mapping[str, int]] = {}
        self._faults: Counter[str] = Counter()

    def open(self, boundary: Boundary) -> None:
        """Let all begin to watch."""
        for source in self._sources:
            source.open(boundary)

    def close(self) -> None:
        """Let all stop watching."""
        for source in self._sources:
            source.close()

    def settled(self) -> None:
        """What was last heard is durable."""
        for source in self._sources:
            with self._apart(source, "settled"):
                source.settled()

    def heard(self, devices: Sequence[DeviceStatus]) -> Holdings:
        """What all of them know now; `devices` maps indexes, minors and UUIDs to meters."""
        claims: list[Claim] = []
        complete: set[Evidence] = set()
        facts: list[WorkloadFacts] = []
        for source in self._sources:
            with self._apart(source, "holdings"):
                holdings = source.holdings(devices)
                claims += holdings.claims
                complete |= holdings.complete
                facts += [self._anonymous(fact) for fact in holdings.facts]
                self._refused[source.name] = holdings.rejected
        return Holdings(tuple(claims), frozenset(complete), tuple(facts))

    def groups(self) -> list[Group]:
        """Where the kernel counts what workloads use of the host, of all that know it."""
        groups: list[Group] = []
        for source in self._sources:
            if isinstance(source, Accounted):
                with self._apart(source, "groups"):
                    groups += source.groups()
        return groups

    def refused(self) -> Mapping[str, Mapping[str, int]]:
        """Inputs that were refused since the start, by source and reason."""
        counts = {name: dict(reasons) for name, reasons in self._refused.items()}
        for name, faults in self._faults.items():
            reasons = counts.setdefault(name, {})
            reasons[FAULT] = reasons.get(FAULT, 0) + faults
        return counts

    def _anonymous(self, fact: WorkloadFacts) -> WorkloadFacts:
        labels = fact.labels._replace(user=self._masked(fact.labels.user))
        return fact if labels == fact.labels else msgspec.structs.replace(fact, labels=labels)

    @contextmanager
    def _apart(self, source: TenantSource, asked: str) -> Iterator[None]:
        """Keep what one source raises from the others: it is said once, and counted."""
        key = f"{source.name} {asked}"
        try:
            yield
        except Exception as fault:
            self._faults[source.name] += 1
            once(
                log, key,
                "%s failed to answer (%s): claims on record stand. This is a bug of joulebook: "
                "report it",
                source.name, asked, level=logging.ERROR, exc_info=fault,
            )  # fmt: skip
        else:
            recovered(log, key, "%s answers again (%s)", source.name, asked)
