"""The books: the whole committed state of a node, as frozen values.

`ledger.advance` takes the books and one tick and gives new books and an entry; the store writes
both in one transaction; the exposition shows the books and nothing else. A field that a tick does
not touch keeps its identity (`is`), so the store writes only what changed.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TypeVar

import msgspec

from joulebook.core.attribution.claims import Claim, Evidence
from joulebook.core.attribution.node_meter import Supply
from joulebook.core.energy.host_usage import Census
from joulebook.core.energy.meter import MeterState
from joulebook.core.energy.readings import Component, Meter
from joulebook.core.evidence import (
    ZERO,
    Amount,
    Balance,
    Gap,
    Leaf,
    Method,
    PostingKey,
    Remainder,
)
from joulebook.core.money.accrual import ChargeState
from joulebook.core.money.amounts import NOTHING, Charge, ChargeKey, Charges, Exact, RateUsed
from joulebook.core.workloads import Labels, WorkloadFacts, WorkloadId


class WorkloadState(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One workload that is exposed: running, not yet booked to its end, or lingering.

    `labels` and `shown` (the label `workload`) are those on its series, frozen when they were
    settled (`None`: not yet, nothing is shown). `hold_left_ns` is how long its series must still
    show zero. `ended_ns` is its end. A `folded` workload has no series of its own: the budget of
    series was spent, and it counts in the one named `(overflow)` of its owner.
    """

    facts: WorkloadFacts
    balance: Balance
    seen_ns: int
    """When the daemon first heard of it (labels are awaited from here on)."""
    labels: Labels | None = None
    shown: str = ""
    hold_left_ns: int = 0
    ended_ns: int | None = None
    folded: bool = False
    final_ns: int = 0
    """Since when its series shows what it shows now; time in which nobody could look is left out.
    """
    held: bool = False
    """Whether it has held or used a meter: only then does it get a series."""
    bill: Charges = {}
    """What it was charged; shown like its energy."""


class ExperimentState(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """The roll-up of an experiment: `balance` is true, `baseline` is shown while it is held."""

    balance: Balance
    baseline: Balance
    hold_left_ns: int
    used_ns: int
    """Node time of the last posting, for expiry."""
    bill: Charges = {}
    bill_baseline: Charges = {}
    """What was charged, and what is shown of it while the series are held."""


class Books(msgspec.Struct, frozen=True):
    """The committed state. Mappings are never mutated; a tick replaces them."""

    meters: Mapping[Meter, MeterState] = {}
    claims: tuple[Claim, ...] = ()
    workloads: Mapping[WorkloadId, WorkloadState] = {}
    experiments: Mapping[Labels, ExperimentState] = {}
    remainders: Mapping[tuple[Component, Remainder], int] = {}
    evidence_uj: Mapping[str, int] = {}
    method_uj: Mapping[Method, int] = {}
    gaps_ns: Mapping[tuple[Meter, str], int] = {}
    foreign_ns: Mapping[tuple[Meter, WorkloadId], int] = {}
    """Time for which processes of others than the holder used a held device."""
    affirmed_ns: Mapping[Evidence, int] = {}
    """Until when each kind of evidence was last known to be whole."""
    overflow: Mapping[str, int] = {}
    """How many series had to be folded into `(overflow)`, by budget."""
    last_ns: int = 0
    """Node time of the last tick (0: there was none)."""
    charges: Mapping[Charge, ChargeState] = {}
    """Everything that is or was charged on this node; nothing ever leaves."""
    remainder_bills: Mapping[tuple[Charge, Remainder], Exact] = {}
    unpriced_uj: Mapping[str, int] = {}
    """Energy consumed while a rate that is configured was not known, by `Item`."""
    models: Mapping[Meter, str] = {}
    """The model of each device, as last heard: one that is lost has its hourly rate still."""
    census: Mapping[int, Census] = {}
    """Who used the host, by node time, as far back as its energy is still to be booked."""
    supplies: Mapping[Meter, Supply] = {}
    """Meters of the whole node, of which only the difference to the leaves is booked."""
    leaves_uj: Mapping[Leaf, int] = {}
    """Energy of leaves that is still to be taken off a supply."""


class Entry(msgspec.Struct, frozen=True):
    """What one tick adds to the ledger's permanent record, beside the books themselves."""

    postings: Mapping[PostingKey, Amount] = {}
    gaps: tuple[Gap, ...] = ()
    facts: tuple[WorkloadFacts, ...] = ()
    """New or changed facts of workloads, also of those no longer exposed."""
    charges: Mapping[ChargeKey, Exact] = {}
    rates: Mapping[RateUsed, Amount] = {}
    """The energy (for hardware: the held time) that was charged at each rate."""

    def plus(self, later: Entry) -> Entry:
        """Both as one, for a commit that has to catch up; of a workload's facts the later ones."""
        if self == Entry():
            return later
        return Entry(
            _added(self.postings, later.postings, ZERO),
            self.gaps + later.gaps,
            tuple({fact.id: fact for fact in (*self.facts, *later.facts)}.values()),
            _added(self.charges, later.charges, NOTHING),
            _added(self.rates, later.rates, ZERO),
        )


_Key = TypeVar("_Key", bound=Hashable)


_Sum = TypeVar("_Sum", Amount, Exact)


def _added(
    sums: Mapping[_Key, _Sum], more: Mapping[_Key, _Sum], nothing: _Sum
) -> Mapping[_Key, _Sum]:
    added = dict(sums)
    for key, amount in more.items():
        added[key] = added.get(key, nothing).plus(amount)
    return added
