"""What a daemon is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from joulebook.clock import NodeClock
from joulebook.core.energy.readings import Reading
from joulebook.core.ledger.advance import BookingPolicy
from joulebook.core.ledger.state import Books
from joulebook.core.workloads import Allowance
from joulebook.ledger.retention import Store
from joulebook.metrics.snapshot import Snapshot
from joulebook.node.day_totals import Charging, DayTotals
from joulebook.node.health import Health
from joulebook.node.release import ReleaseHandler
from joulebook.node.sensor_thread import SensorThread
from joulebook.node.workload_sources import Mask
from joulebook.node.workloads.contract import WorkloadSource
from joulebook.node.workloads.host.usage import HostUsageReader


class Settings(msgspec.Struct, frozen=True):
    """What the loop needs of the configuration."""

    node: str
    cluster: str = ""
    interval_s: float = 1.0
    commit_s: float = 10.0
    process_interval_s: float = 2.0
    patience_s: float = 0.5
    """How long a tick waits for its sensors before it continues without them."""
    sees_pids: bool = True
    """Whether pids mean here what they mean to the driver."""
    budgets: tuple[Allowance, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Everything that `Daemon` works with.

    Attributes:
        settings: What the loop needs of the configuration.
        policy: The booking policy.
        clock: Node time.
        store: The ledger.
        books: The books at the start.
        workers: One per sensor.
        sources: The workload sources.
        release: Requests to release the driver.
        today: The totals of the day.
        health: Notified of every tick and commit.
        publish: Gets the snapshot's maker after each tick.
        masked: Applied to every user's name.
        rejected: Counts inputs rejected elsewhere, by source and reason.
        money: The rates.
        marked: Annotates the processes in a reading with their spans.
        host: Reads the use of CPU and memory; `None`: nothing measures these.

    """

    settings: Settings
    policy: BookingPolicy
    clock: NodeClock
    store: Store
    books: Books
    workers: Sequence[SensorThread]
    sources: Sequence[WorkloadSource]
    release: ReleaseHandler
    today: DayTotals
    health: Health
    publish: Callable[[Callable[[], Snapshot]], None]
    masked: Mask = str
    rejected: Callable[[], Mapping[str, Mapping[str, int]]] = dict
    money: Charging = field(default_factory=Charging)
    marked: Callable[[Reading], Reading] = lambda reading: reading
    host: HostUsageReader | None = None
