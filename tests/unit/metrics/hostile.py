"""Names that somebody may give a job to break what shows them, in every string of a view."""

from __future__ import annotations

import msgspec
from tests.unit.metrics.sample import NOW_NS, meter_state, small_view

from joulebook.core.attribution.claims import Evidence, Holder
from joulebook.core.energy.readings import Component, DeviceStatus, Meter
from joulebook.core.ledger.state import ExperimentState, WorkloadState
from joulebook.core.money.amounts import Charge, Exact, Item
from joulebook.core.money.rates import Point, Quality, RateSet, StepCurve
from joulebook.core.workloads import Labels, WorkloadFacts, WorkloadId
from joulebook.metrics.snapshot import Build, RateFeed, SensorHealth, Snapshot

NAMES = (
    'quote " brace } comma , equals = {',
    "new\nline # HELP fake",
    "back\\slash\\n \\",
    "ünïcödé \u65e5\u672c \U0001f525",
    "lone \ud800 surrogate \udcff",
    "nul \x00 bell \x07 return \r del \x7f next \x85 separators \u2028\u2029",
    "<script>alert('1')</script> & <img src=x onerror=y> \"'><b>",
    "right \u202e to left",
    "x" * 65_536,
    "\n" * 300,
    "",
)


def hostile_view(name: str) -> Snapshot:
    """A view that says `name` wherever something from outside can say anything."""
    meter = Meter(Component.GPU, f"GPU {name}")
    running, ended = WorkloadId(name, name), WorkloadId("slurm", f"{name}2")
    labels = Labels(name, name, name)
    base = small_view()
    workloads = {
        id_: WorkloadState(
            WorkloadFacts(
                id_, name, name, labels, evidence=name, gpu_count=1, extra={"image": name}
            ),
            base.books.workloads[next(iter(base.books.workloads))].balance,
            0,
            labels,
            id_.workload,
            ended_ns=None if id_ is running else NOW_NS,
        )
        for id_ in (running, ended)
    }
    curve = StepCurve((Point(0, 10**6, name, name, Quality.DEFAULT),))
    books = msgspec.structs.replace(
        base.books,
        meters={meter: meter_state(meter, 5, 7)},
        workloads=workloads,
        experiments={
            labels: ExperimentState(workloads[running].balance, {}, 0, 0),
        },
        evidence_uj={name: 3},
        gaps_ns={(meter, name): 1},
        foreign_ns={(meter, running): 1},
        overflow={name: 1},
    )
    return msgspec.structs.replace(
        base,
        node=name,
        cluster=name,
        books=books,
        statuses=(
            DeviceStatus(
                meter,
                0,
                NOW_NS,
                vendor=name,
                model=name,
                driver=name,
                pci=name,
                values={"power_watts": 1.0, "utilization_ratio": 2.0},
                throttle_ns={name: 1},
            ),
        ),
        holders={meter: (Holder(running, Evidence.PROLOG, 1, 2),)},
        sensors=(SensorHealth(name, name, True, {name: 1}, 1.0),),
        rejected={(name, name): 1},
        build=Build(name, name, name),
        today={labels: 5},
        today_bills={labels: {Charge(Item.ELECTRICITY, name): Exact(1)}},
        rates=RateSet(name, name, curve, curve, curve),
        charges=frozenset({Charge(Item.ELECTRICITY, name)}),
        feeds=(RateFeed(name, name, False, 1, {name: 1}),),
        lacking=((name, name),),
    )
