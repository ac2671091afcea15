"""What the host's energy keeps in the books comes back as it was."""

from __future__ import annotations

from pathlib import Path

from joulebook.clock import Anchor
from joulebook.core.energy.host_usage import HostSnapshot, Use
from joulebook.core.energy.meter import MeterState
from joulebook.core.energy.node_meter import NodeMeter
from joulebook.core.energy.readings import Component, Meter, Reading
from joulebook.core.evidence import ChildSecond
from joulebook.core.ledger.state import Books, Entry
from joulebook.core.workloads import WorkloadId
from joulebook.ledger.sqlite import SqliteStore

NODE = Meter(Component.OTHER, "ipmi")


def test_censuses_supplies_and_leaves_survive(tmp_path: Path) -> None:
    reading = Reading(NODE, 5, power_mw=9, covers=(Component.CPU,), hole_ns=30, modelled=True)
    use = Use(WorkloadId("slurm", "1"), 1 << 60, 3, 4_000, 7)
    books = Books(
        snapshots={n: HostSnapshot(n, 8, 2, 3, 4, (use,)) for n in (1, 300, 70_000, 1 << 62)},
        node_meters={
            NODE: NodeMeter(MeterState(NODE, reading), (Component.CPU,), 1, 2, 3, 4, 5, 6, "gpu")
        },
        children_uj={
            ChildSecond(Component.GPU, 1_760_000_000): 12,
            ChildSecond(Component.CPU, 1): 0,
        },
        last_ns=9,
    )
    store = SqliteStore(tmp_path / "ledger.db", allow_volatile=True)
    before, _ = store.load()
    store.commit(before, books, Entry(), Anchor("boot", 0, 9))
    store.close()
    again = SqliteStore(tmp_path / "ledger.db", allow_volatile=True)
    found, _ = again.load()
    again.close()
    assert (found.snapshots, found.node_meters, found.children_uj) == (
        books.snapshots,
        books.node_meters,
        books.children_uj,
    )
