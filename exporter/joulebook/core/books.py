"""The books: the whole committed state of a node, as frozen values.

`ledger.advance` takes the books and one tick and gives new books and an entry; the store writes
both in one transaction; the exposition shows the books and nothing else. A field that a tick does
not touch keeps its identity (`is`), so the store writes only what changed.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from enum import StrEnum
from typing import NamedTuple, TypeVar

import msgspec

from joulebook.core.bills import NOTHING, Bill, Charge, Exact
from joulebook.core.census import Census
from joulebook.core.rates import Quality
from joulebook.core.readings import Component, Meter, Reading
from joulebook.core.tenancy import Claim, Evidence
from joulebook.core.workloads import Labels, WorkloadFacts, WorkloadId


class Method(StrEnum):
    """How an amount of energy is known (label `method`)."""

    COUNTER = "counter"
    INTEGRATED = "integrated"
    MODELLED = "modelled"
    APPORTIONED = "apportioned"


class Remainder(StrEnum):
    """Energy that belongs to no workload, by name (label `reason`)."""

    UNALLOCATED = "unallocated"
    SYSTEM = "system"
    DAEMON_DOWN = "daemon_down"
    UNKNOWN_HOLDER = "unknown_holder"
    COUNTER_RESET = "counter_reset"


Subject = WorkloadId | Remainder
"""Whom energy is booked to."""

NO_EVIDENCE = "none"
"""The evidence of energy that is booked to a remainder because nothing was claimed."""


class PostingKey(NamedTuple):
    """What makes two amounts one posting. `quarter_s` is the UTC start of its quarter hour."""

    subject: Subject
    meter: Meter
    quarter_s: int
    method: Method
    evidence: str


class ChargeKey(NamedTuple):
    """Whom an amount of money or CO2e is charged to, for which quarter hour, and what for."""

    subject: Subject
    quarter_s: int
    charge: Charge


class RateUsed(NamedTuple):
    """A rate that something was charged at, and the quarter hour of it; see `rates.Point`.

    `quantity` is `price`, `carbon`, `pue` or `hardware`.
    """

    quarter_s: int
    quantity: str
    value: int
    unit: str
    source: str
    quality: Quality


class Amount(NamedTuple):
    """What a posting says: energy (idle part included), the idle part of it, and held time.

    `held_ns` is held fraction x time: a half of a GPU held for 2 s is 1 s.
    """

    energy_uj: int
    idle_uj: int = 0
    held_ns: int = 0

    def plus(self, other: Amount) -> Amount:
        """The sum, field by field."""
        return Amount(
            self.energy_uj + other.energy_uj,
            self.idle_uj + other.idle_uj,
            self.held_ns + other.held_ns,
        )


ZERO = Amount(0)

Balance = Mapping[Component, Amount]
"""What has been booked to somebody in all, by component."""


class Gap(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A stretch `[t0, t1)` in which a meter was not read, or its readings not believed."""

    meter: Meter
    t0_ns: int
    t1_ns: int
    reason: str


class MeterState(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One meter: the booked edge, and what was read after it.

    `base` is the reading up to which all energy is booked; `pending` the readings after it, in
    order. `booked_uj` counts since the ledger began, `read_uj` is that plus what is pending.
    `suspect` is an implausible reading that the next one will confirm or refute. `gap_to_ns` is
    the instant up to which lost time is counted, `gap_from_ns` and `gap_reason` the gap that is
    still open (`""`: none is). `tick_ns` is the learnt period of the counter
    (0: not yet), `idle_mw` its mean power while idle. `resumed` is set from a restart of the
    daemon until the meter has been read again.
    """

    meter: Meter
    base: Reading
    pending: tuple[Reading, ...] = ()
    suspect: Reading | None = None
    booked_uj: int = 0
    read_uj: int = 0
    gap_to_ns: int = 0
    gap_from_ns: int = 0
    gap_reason: str = ""
    tick_ns: int = 0
    idle_mw: int | None = None
    resumed: bool = False

    @property
    def last(self) -> Reading:
        """The newest reading."""
        return self.pending[-1] if self.pending else self.base


class Leaf(NamedTuple):
    """The leaves of one component in one second of node time."""

    component: Component
    second: int


class Supply(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A meter that measures others from outside: a node's supply, a module (`core.supply`).

    `state` holds its own readings; `began_ns` is when it was first read. Up to `edge_ns` it is
    reconciled: it counted `node_uj`, the
    leaves of the components it `covers` came to `leaves_uj`, and `other_uj` was booked;
    `deficit_uj` is by how much the leaves exceed it. `omits` is the component that it seems to
    leave out (empty: none), `modelled` says that a leaf was taken off that is a model's.
    """

    state: MeterState
    covers: tuple[Component, ...]
    began_ns: int
    edge_ns: int
    node_uj: int = 0
    leaves_uj: int = 0
    other_uj: int = 0
    deficit_uj: int = 0
    omits: str = ""
    modelled: bool = False


class WorkloadState(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One workload that is on the air: running, not yet booked to its end, or lingering.

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
    bill: Bill = {}
    """What it was charged; shown like its energy."""


class ExperimentState(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """The roll-up of an experiment: `balance` is true, `baseline` is shown while it is held."""

    balance: Balance
    baseline: Balance
    hold_left_ns: int
    used_ns: int
    """Node time of the last posting, for expiry."""
    bill: Bill = {}
    bill_baseline: Bill = {}
    """What was charged, and what is shown of it while the series are held."""


class ChargeState(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What has been charged of one kind in all, and for how long its series still show zero.

    `total` is added up from whole intervals, before they are shared out: workloads (those no
    longer on the air too) and remainders must come to the same.
    """

    total: Exact = NOTHING
    hold_left_ns: int = 0


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
    """Energy burnt while a rate that is configured was not known, by `Item`."""
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
    """New or changed facts of workloads, also of those no longer on the air."""
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
