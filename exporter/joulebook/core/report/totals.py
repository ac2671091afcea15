"""The totals of one job: by meter, method and evidence, and the time it held GPUs."""

from __future__ import annotations

import msgspec

from joulebook.core.energy.readings import Component, Meter
from joulebook.core.evidence import ZERO, Amount, Method, Subject
from joulebook.core.money.amounts import Charges
from joulebook.core.report.dataset import Posting, ReportData, ReportWorkload
from joulebook.core.report.runs import runs
from joulebook.units import NS_PER_S, QUARTER_NS


class WorkloadTotals(msgspec.Struct, frozen=True):
    """Everything booked to one workload; each mapping of amounts adds up to `total`.

    Attributes:
        first_s: UTC start of the first quarter hour with a posting; `None`: nothing was booked.
        last_s: UTC end of the last one.
        replayed: Whether one of its meters replayed a recorded trace.
        nodes: Nodes that it was booked on.
        wall_ns: GPU time that it held, from start to end; `None`: unknown.

    """

    workload: ReportWorkload
    total: Amount
    by_meter: dict[Meter, Amount]
    by_method: dict[Method, Amount]
    by_evidence: dict[str, Amount]
    bill: Charges
    first_s: int | None
    last_s: int | None
    replayed: bool = False
    nodes: tuple[str, ...] = ()
    wall_ns: int | None = None

    @property
    def gpu(self) -> Amount:
        """The part of GPUs."""
        found = ZERO
        for meter, amount in self.by_meter.items():
            if meter.component is Component.GPU:
                found = found.plus(amount)
        return found

    @property
    def coverage(self) -> float | None:
        """Return the booked share of the held GPU time; `None`: unknown, or no GPU was held."""
        return min(self.gpu.held_ns / self.wall_ns, 1.0) if self.wall_ns else None


def totals(data: ReportData) -> list[WorkloadTotals]:
    """Return the totals of each run, in the order in which they began."""
    of: dict[Subject, list[Posting]] = {}
    for row in data.postings:
        of.setdefault(row.subject, []).append(row)
    found = []
    for run in runs(data):
        rows = [row for part in run.parts for row in of.get(part, ())]
        total = ZERO
        by_meter: dict[Meter, Amount] = {}
        by_method: dict[Method, Amount] = {}
        by_evidence: dict[str, Amount] = {}
        for row in rows:
            meter = row.meter
            if len(run.nodes) > 1:
                meter = Meter(meter.component, f"{row.node}/{meter.name}")
            total = total.plus(row.amount)
            by_meter[meter] = by_meter.get(meter, ZERO).plus(row.amount)
            if row.method is not None:
                by_method[row.method] = by_method.get(row.method, ZERO).plus(row.amount)
            evidence = row.evidence or ""
            by_evidence[evidence] = by_evidence.get(evidence, ZERO).plus(row.amount)
        quarters = [row.quarter_s for row in rows]
        found.append(
            WorkloadTotals(
                run.workload,
                total,
                by_meter,
                by_method,
                by_evidence,
                run.tally.bill,
                min(quarters, default=None),
                max(quarters) + QUARTER_NS // NS_PER_S if quarters else None,
                run.replayed,
                run.nodes,
                run.tally.wall_ns,
            )
        )
    return found
