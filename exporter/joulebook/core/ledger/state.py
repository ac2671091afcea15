"""The books: the whole committed state of a node, as frozen values.

`ledger.advance` takes the books and one tick and returns new books and an entry; the ledger writes
both in one transaction; the exposition shows the books and nothing else. A field that a tick does
not change keeps its identity (`is`), so the ledger writes only what changed.

The books are on disk as they are here. Field names of `Books` are the kinds of rows in the table
`state` (`name=` keeps the old name of a renamed field). In structs marked `array_like`, here and in
the modules that this one imports, the order of the fields is the format: a new field goes last,
with a default, and none is moved or removed.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from joulebook.core.attribution.claims import Claim, Evidence
from joulebook.core.energy.host_usage import HostSnapshot
from joulebook.core.energy.meter import MeterState
from joulebook.core.energy.node_meter import NodeMeter
from joulebook.core.energy.readings import Component, Meter
from joulebook.core.evidence import (
    Amount,
    Balance,
    ChildSecond,
    Gap,
    Method,
    PostingKey,
    Remainder,
    summed,
)
from joulebook.core.money.accrual import ChargeState
from joulebook.core.money.amounts import Charge, ChargeKey, Charges, Exact, RateUsed
from joulebook.core.workloads import Labels, WorkloadFacts, WorkloadId


# The order of its fields is the format of the ledger on disk: new ones go last.
class WorkloadState(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One workload that is exposed: running, not yet booked to its end, or lingering.

    Attributes:
        labels: On its series, like `shown` (the label `workload`); frozen when they were
            settled (`None`: not yet, nothing is exposed).
        hold_left_ns: How long its series must still show zero.
        ended_ns: Its end.
        folded: Whether it has no series of its own: the limit was reached, and it counts in the
            one named `(overflow)` of its owner.

    """

    facts: WorkloadFacts
    balance: Balance
    seen_ns: int
    """When the daemon first saw it (labels are awaited from here on)."""
    labels: Labels | None = None
    shown: str = ""
    hold_left_ns: int = 0
    ended_ns: int | None = None
    folded: bool = False
    final_ns: int = 0
    """Since when its series has its current value, without time in which it could not be
    scraped.
    """
    held: bool = False
    """Whether it has held or used a meter: only then does it get a series."""
    bill: Charges = {}
    """What it was charged; exposed like its energy."""
    shared: bool = False
    """Whether it ever held a part of a device only."""


# The order of its fields is the format of the ledger on disk: new ones go last.
class ExperimentState(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """The totals of an experiment: `balance` is true, `baseline` is exposed while it is held."""

    balance: Balance
    baseline: Balance
    hold_left_ns: int
    used_ns: int
    """Node time of the last posting, for expiry."""
    bill: Charges = {}
    bill_baseline: Charges = {}
    """What was charged, and what is exposed of it while the series are held."""
    named: bool = False
    """Whether a person gave it its name."""
    exposed: bool = True
    """Whether it has series: while it is used, and a day after."""


# The order of its fields is the format of the ledger on disk: new ones go last.
class Renamed(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Whom a workload is booked to since it was given to another experiment, and whom before.

    `earlier` has whom it was booked to before that, and until when, while energy of then is due.
    """

    now: WorkloadId
    before: WorkloadId
    from_ns: int
    earlier: tuple[tuple[WorkloadId, int], ...] = ()

    @property
    def past(self) -> tuple[tuple[WorkloadId, int], ...]:
        """Whom it was booked to, and until when, in order."""
        return (*self.earlier, (self.before, self.from_ns))

    def at(self, t_ns: int) -> WorkloadId:
        """Whom what began at `t_ns` is booked to."""
        return next((who for who, until_ns in self.past if t_ns < until_ns), self.now)


class Books(msgspec.Struct, frozen=True):
    """The committed state. Mappings are never mutated; a tick replaces them."""

    meters: Mapping[Meter, MeterState] = {}
    claims: tuple[Claim, ...] = ()
    workloads: Mapping[WorkloadId, WorkloadState] = {}
    experiments: Mapping[Labels, ExperimentState] = {}
    remainders: Mapping[tuple[Component, Remainder], int] = {}
    remainder_gpu_ns: Mapping[Remainder, int] = {}
    """GPU time that no workload held, by reason. With held time and gaps it adds up to the
    capacity.
    """
    evidence_uj: Mapping[str, int] = {}
    method_uj: Mapping[Method, int] = {}
    gaps_ns: Mapping[tuple[Meter, str], int] = {}
    foreign_ns: Mapping[tuple[Meter, WorkloadId], int] = {}
    """Time for which processes of others than the holder used a held device."""
    affirmed_ns: Mapping[Evidence, int] = {}
    """Until when each kind of evidence was last known to be complete."""
    overflow: Mapping[str, int] = {}
    """How many series were folded into `(overflow)`, by limit."""
    last_ns: int = 0
    """Node time of the last tick (0: there was none)."""
    charges: Mapping[Charge, ChargeState] = {}
    """Everything that was ever charged on this node."""
    remainder_bills: Mapping[tuple[Charge, Remainder], Exact] = {}
    unpriced_uj: Mapping[str, int] = {}
    """Energy consumed while a configured rate was unknown, by `Item`."""
    models: Mapping[Meter, str] = {}
    """The last known model of each device: a lost one still has its hourly rate."""
    snapshots: Mapping[int, HostSnapshot] = msgspec.field(default_factory=dict, name="census")
    """Use of the host by node time, as far back as its energy is still to be booked."""
    node_meters: Mapping[Meter, NodeMeter] = msgspec.field(default_factory=dict, name="supplies")
    """Meters of the whole node, of which only the difference to their children is booked."""
    children_uj: Mapping[ChildSecond, int] = msgspec.field(default_factory=dict, name="leaves_uj")
    """Energy of child meters that is still to be taken off a node meter."""
    renamed: Mapping[WorkloadId, Renamed] = {}
    """Workloads that were given to another experiment while they ran."""

    def booked_to(self, workload: WorkloadId) -> WorkloadId:
        """Whom a workload is booked to now."""
        renamed = self.renamed.get(workload)
        return workload if renamed is None else renamed.now


class Entry(msgspec.Struct, frozen=True):
    """What one tick adds to the ledger's permanent record, in addition to the books."""

    postings: Mapping[PostingKey, Amount] = {}
    gaps: tuple[Gap, ...] = ()
    facts: tuple[WorkloadFacts, ...] = ()
    """New or changed facts of workloads, including those no longer exposed."""
    charges: Mapping[ChargeKey, Exact] = {}
    rates: Mapping[RateUsed, Amount] = {}
    """The energy (for hardware: the held time) that was charged at each rate."""
    faults: tuple[str, ...] = ()
    """What could not be attributed and was booked to `unknown_holder`; for the log only."""

    def plus(self, later: Entry) -> Entry:
        """Join two entries, for a commit that has to catch up; later facts of a workload win."""
        if self == Entry():
            return later
        return Entry(
            summed(later.postings.items(), self.postings),
            self.gaps + later.gaps,
            tuple({fact.id: fact for fact in (*self.facts, *later.facts)}.values()),
            summed(later.charges.items(), self.charges),
            summed(later.rates.items(), self.rates),
        )
