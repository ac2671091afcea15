"""A sensor, a store and a workload source without hardware, disk or scheduler."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence

from joulebook.clock import Anchor, NodeClock
from joulebook.core.attribution.claims import Claim, Evidence
from joulebook.core.energy.readings import Component, DeviceStatus, Failure, Meter, Reading
from joulebook.core.ledger.state import Books, Entry
from joulebook.core.workloads import WorkloadFacts, WorkloadId
from joulebook.errors import LedgerUnavailable, SensorError
from joulebook.node.sensors.contract import PollResult
from joulebook.node.workloads.contract import NOTHING_HELD, Before, Boundary, Holdings

METER = Meter(Component.GPU, "GPU-a")
OTHER = Meter(Component.GPU, "GPU-b")
JOB = WorkloadId("slurm", "101")


class Cards:
    """A sensor whose counters rise by `watts` of real time, in ticks of `tick_s`."""

    name = "cards"
    kind = "counter"
    components = frozenset({Component.GPU})

    def owns(self, meter: Meter) -> bool:
        return meter.component is Component.GPU

    def __init__(self, clock: NodeClock, meters: Sequence[Meter] = (METER,)) -> None:
        self.clock = clock
        self.meters = list(meters)
        self.watts = 100.0
        self.tick_s = 0.05
        self.lost: dict[Meter, str] = {}
        self.open_error: SensorError | None = None
        self.look_error: Exception | None = None
        self.glance_error: Exception | None = None
        self.hang = threading.Event()
        self.hang.set()
        self.opened = self.closed = self.polls = self.of_burst = 0
        self.asked_processes: list[bool] = []
        self._t0 = time.monotonic()

    def open(self) -> None:
        if self.open_error:
            raise self.open_error
        self.opened += 1

    def close(self) -> None:
        self.closed += 1

    def poll(self, *, processes: bool) -> PollResult:
        self.hang.wait()
        self.polls += 1
        self.asked_processes.append(processes)
        if self.look_error:
            raise self.look_error
        readings = tuple(self._reading(m) for m in self.meters if m not in self.lost)
        failures = tuple(Failure(m, self.clock.now_ns(), reason) for m, reason in self.lost.items())
        statuses = tuple(
            DeviceStatus(
                r.meter,
                i,
                r.t_ns,
                values={"power_watts": self.watts, "power_limit_watts": 300.0},
            )
            for i, r in enumerate(readings)
        )
        silent = tuple(DeviceStatus(f.meter, len(readings), f.t_ns) for f in failures)
        return PollResult(readings, failures, statuses + silent)

    def poll_energy(self, meters: Iterable[Meter]) -> Sequence[Reading]:
        self.hang.wait()
        self.of_burst += 1
        if self.glance_error:
            raise self.glance_error
        return [self._reading(m) for m in meters if m not in self.lost]

    def _reading(self, meter: Meter) -> Reading:
        ticks = int((time.monotonic() - self._t0) / self.tick_s)
        energy_uj = int(ticks * self.tick_s * self.watts * 1e6)
        return Reading(meter, self.clock.now_ns(), energy_uj, epoch="boot", busy=True)


class Shelf:
    """A store in memory; `full` makes commits fail."""

    def __init__(self) -> None:
        self.full = False
        self.books = Books()
        self.entries: list[Entry] = []
        self.anchor: Anchor | None = None

    def load(self) -> tuple[Books, Anchor | None]:
        return self.books, self.anchor

    def commit(self, before: Books, after: Books, entry: Entry, anchor: Anchor) -> None:
        if self.full:
            raise LedgerUnavailable("the disk is full")
        assert before is self.books, "a commit must start from what was last committed"
        self.books, self.anchor = after, anchor
        self.entries.append(entry)

    def close(self) -> None:
        pass


class Jobs:
    """A workload source that says what it is reported to."""

    name = "jobs"

    def __init__(self) -> None:
        self.claims: list[Claim] = []
        self.facts: list[WorkloadFacts] = []
        self.rejected: dict[str, int] = {}
        self.fault: Exception | None = None
        self.pids: dict[int, WorkloadId] = {}
        self.times_settled = 0
        self.asked: list[int] = []
        self.boundary: Boundary = lambda _: None
        self.before = Before()

    def open(self, boundary: Boundary, before: Before = NOTHING_HELD) -> None:
        self.boundary = boundary
        self.before = before

    def holdings(self, devices: Sequence[DeviceStatus]) -> Holdings:
        self._fail()
        return Holdings(
            tuple(self.claims), frozenset({Evidence.PROLOG}), tuple(self.facts), self.rejected
        )

    def settled(self) -> None:
        self._fail()
        self.times_settled += 1

    def _fail(self) -> None:
        if self.fault:
            raise self.fault

    def identify(self, pid: int) -> WorkloadId | None:
        self.asked.append(pid)
        return self.pids.get(pid)

    def close(self) -> None:
        pass


def until(done: Callable[[], object], timeout_s: float = 60.0) -> None:
    """Wait for another thread."""
    deadline = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.002)
