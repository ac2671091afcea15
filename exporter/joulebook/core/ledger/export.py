"""What a node hands on of its ledger: a page of rows, in the order in which they changed.

A row that changes gets a new `seq`, ledger-wide and for ever. Whoever asks for everything after
`since`, puts each row in the place of its older self and goes on from `next`, holds what the
ledger holds, however often it is interrupted. Rows hold totals, not increments: a page taken in
twice is taken in once. What leaves the node for its age is not reported; it stays with who has it.

The page says by itself who the workloads in it are, whether they changed or not. Amounts are
integers (uJ, ns, `bills.Exact`), and a page is JSON on its way (`GET /v1/postings?since=SEQ`).
"""

from __future__ import annotations

from msgspec import Struct

VERSION = 2
OLDEST = 1
"""The version before, which a collector still reads: a fleet is upgraded node by node."""
PATH = "/v1/postings"

MAX_ROWS = 5_000
"""Rows of a page at most, the workloads it only names not counted."""


class MeterRow(Struct, frozen=True, gc=False, array_like=True):
    """A meter: what its books say in all, and what of it left the node for its age (uJ).

    `replayed` says that it plays a recorded trace: nothing of it was measured there.
    """

    id: int
    component: str
    name: str
    model: str
    booked_uj: int
    expired_uj: int
    replayed: bool = False


class WorkloadRow(Struct, frozen=True, gc=False, array_like=True):
    """What is known of a workload; times are UTC ns, `None`: not known.

    What a later version added has the value that a page of the version before means.
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
    """So much of one meter in one quarter hour (UTC start) to a workload, or a remainder (id 0)."""

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
    """What was charged for it: an exact amount in three parts, as in `bills.Exact`."""

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
    """A stretch (UTC ns) in which a meter was not read."""

    id: int
    seq: int
    meter_id: int
    reason: str
    t0_utc_ns: int
    t1_utc_ns: int


class ChargedRow(Struct, frozen=True, gc=False, array_like=True):
    """What the books say was charged of one kind in all, and what of it left for its age."""

    item: str
    currency: str
    booked: tuple[int, int, int]
    expired: tuple[int, int, int]


class PostingsPage(Struct, frozen=True):
    """One answer. `next` is where to go on; it is `last`, the newest `seq`, when all is reported.

    `booked_to_s` is the UTC second up to which the node has booked what it read. What
    meters and `charged` say in all is of the same instant as `last`.
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
