"""The export of a node's ledger: a page of rows, in the order in which they changed.

A row that changes gets a new `seq`, unique in the ledger. A client that requests everything after
`since`, replaces each row by its newer version and continues from `next` has what the ledger has,
however often it is interrupted. Rows are totals, not increments, so writing a page twice is the
same as once. Rows that expire on the node are not reported; they stay with the client.

A page includes the workloads that its rows refer to, whether they changed or not. Amounts are
integers (uJ, ns, `bills.Exact`), and a page is JSON on its way (`GET /v1/postings?since=SEQ`).
"""

from __future__ import annotations

from msgspec import Struct

VERSION = 2
OLDEST = 1
"""The previous version, which a collector still reads: nodes are upgraded one by one."""
PATH = "/v1/postings"

MAX_ROWS = 5_000
"""The most rows in a page, not counting workloads that are only referred to."""


class MeterRow(Struct, frozen=True, gc=False, array_like=True):
    """A meter: its total, and what of it expired on the node (uJ).

    `replayed`: it replays a recorded trace, so nothing was measured there.
    """

    id: int
    component: str
    name: str
    model: str
    booked_uj: int
    expired_uj: int
    replayed: bool = False


class WorkloadRow(Struct, frozen=True, gc=False, array_like=True):
    """A workload; times are UTC ns, `None`: unknown.

    Fields added by a later version default to what a page of the previous version means.
    """

    id: int
    seq: int
    scheduler: str
    workload: str
    display: str
    name: str
    user: str
    account: str
    experiment: str
    started_utc_ns: int | None
    ended_utc_ns: int | None
    complete: bool
    gpu_count: int
    evidence: str
    extra: dict[str, str]
    start: int = 0
    scheduler_start_s: int = 0
    named: bool = False
    stage: str = ""
    outcome: str = ""


class PostingRow(Struct, frozen=True, gc=False, array_like=True):
    """Energy of one meter in one quarter hour (UTC start) to a workload or a remainder (id 0)."""

    seq: int
    quarter_s: int
    meter_id: int
    workload_id: int
    remainder: str
    method: str
    evidence: str
    energy_uj: int
    idle_uj: int
    held_ns: int
    idle_ns: int = 0
    calibration_uj: int = 0
    tensor_ns: int = 0
    tensor_known_ns: int = 0


class ChargeRow(Struct, frozen=True, gc=False, array_like=True):
    """A charge: an exact amount in three parts, as in `Exact`."""

    seq: int
    quarter_s: int
    workload_id: int
    remainder: str
    item: str
    currency: str
    whole: int
    nano: int
    rest: int


class RateRow(Struct, frozen=True, gc=False, array_like=True):
    """A rate that was in force, and what was charged at it."""

    seq: int
    quarter_s: int
    quantity: str
    value: int
    unit: str
    source: str
    quality: str
    energy_uj: int
    held_ns: int


class GapRow(Struct, frozen=True, gc=False, array_like=True):
    """A time (UTC ns) in which a meter was not read."""

    id: int
    seq: int
    meter_id: int
    reason: str
    t0_utc_ns: int
    t1_utc_ns: int


class ChargedRow(Struct, frozen=True, gc=False, array_like=True):
    """The total of one kind of charge, and what of it expired."""

    item: str
    currency: str
    booked: tuple[int, int, int]
    expired: tuple[int, int, int]


class PostingsPage(Struct, frozen=True):
    """One page. `next` is where to continue; it is `last`, the newest `seq`, when all is reported.

    `booked_to_s` is the UTC second up to which the node has booked its readings. The totals of
    meters and `charged` are of the same instant as `last`. `since_writer` and `next_writer` are ids
    of the daemon's runs that gave these two numbers (`""`: not known): a ledger that was restored
    from a copy gives numbers again.
    """

    v: int
    node: str
    cluster: str
    ledger_id: str
    created_s: int
    since: int
    next: int
    last: int
    booked_to_s: int
    meters: tuple[MeterRow, ...] = ()
    charged: tuple[ChargedRow, ...] = ()
    workloads: tuple[WorkloadRow, ...] = ()
    postings: tuple[PostingRow, ...] = ()
    charges: tuple[ChargeRow, ...] = ()
    rates: tuple[RateRow, ...] = ()
    gaps: tuple[GapRow, ...] = ()
    since_writer: str = ""
    next_writer: str = ""

    @property
    def rows(self) -> int:
        """How many rows it brings."""
        return (
            len(self.workloads)
            + len(self.postings)
            + len(self.charges)
            + len(self.rates)
            + len(self.gaps)
        )
