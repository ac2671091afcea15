"""The tick loop: look, ask who holds what, advance the books, commit, publish.

Everything slow or able to hang is elsewhere (sensors and workload sources have threads of their
own, HTTP reads only what was published). A commit that fails loses nothing: the books go on in
memory, and the next commit writes all that came since the last one.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence

import msgspec

from joulebook.clock import NodeClock
from joulebook.core.energy.devices import DeviceStatus
from joulebook.core.energy.host_usage import HostSnapshot
from joulebook.core.energy.readings import Failure, Meter, Reading
from joulebook.core.ledger.advance import BookingPolicy, Tick, advance
from joulebook.core.ledger.state import Books, Entry
from joulebook.core.workloads import Allowance
from joulebook.errors import LedgerUnavailable
from joulebook.ledger.retention import Store
from joulebook.log import once
from joulebook.metrics.snapshot import HISTORY_POINTS, Snapshot
from joulebook.node.day_totals import Charging, DayTotals
from joulebook.node.health import Health
from joulebook.node.privacy import Mask
from joulebook.node.release import ReleaseHandler
from joulebook.node.sensor_thread import SensorThread
from joulebook.node.sharing import Sharing, sharing
from joulebook.node.workload_sources import ProcessOwners, WorkloadSources
from joulebook.node.workloads.contract import WorkloadSource
from joulebook.node.workloads.host.usage import HostUsageReader
from joulebook.units import NS_PER_S, s_from_ns

log = logging.getLogger(__name__)

CLOCK_STEP_NS = NS_PER_S
"""An NTP daemon slews what is less; a step of so much is worth a line in the log."""

MAX_SNAPSHOTS = 256
"""So many boundaries in one tick are reported apart."""


class Settings(msgspec.Struct, frozen=True):
    """What the loop needs of the configuration."""

    node: str
    cluster: str = ""
    interval_s: float = 1.0
    process_interval_s: float = 2.0
    patience_s: float = 0.5
    """For how long a tick waits for its sensors before it goes on without them."""
    sees_pids: bool = True
    """Whether pids mean here what they mean to the driver."""
    budgets: tuple[Allowance, ...] = ()


class Daemon:
    """One node's daemon. `publish` is handed each new view."""

    def __init__(
        self,
        settings: Settings,
        policy: BookingPolicy,
        clock: NodeClock,
        store: Store,
        books: Books,
        workers: Sequence[SensorThread],
        tenants: Sequence[WorkloadSource],
        desk: ReleaseHandler,
        today: DayTotals,
        health: Health,
        publish: Callable[[Snapshot], None],
        *,
        masked: Mask = str,
        refused: Callable[[], Mapping[str, Mapping[str, int]]] = dict,
        money: Charging | None = None,
        marked: Callable[[Reading], Reading] = lambda reading: reading,
        host: HostUsageReader | None = None,
    ) -> None:
        """`masked` is applied to every user's name; `refused` counts what others refused.

        `marked` says of the processes in a reading which marks they were under. `host` is who
        takes the snapshot of those that use CPU and memory (`None`: nothing measures these).
        """
        self._settings = settings
        self._policy = policy
        self._clock = clock
        self._store = store
        self._books = books  # as they stand in memory
        self._committed = books
        self._backlog = Entry()
        self._workers = workers
        self._witnesses = WorkloadSources(tenants, masked)
        self._desk = desk
        self._today = today
        self._health = health
        self._publish = publish
        self._refused = refused
        self._money = money or Charging()
        self._marked = marked
        self._host = host
        self._snapshots: deque[HostSnapshot] = deque(maxlen=MAX_SNAPSHOTS)
        self._resumed = bool(books.last_ns)
        self._utc_offset_ns = clock.utc_offset_ns()
        self._devices: dict[Meter, DeviceStatus] = {}
        self._statuses: tuple[DeviceStatus, ...] = ()
        self._owners = ProcessOwners(tenants if settings.sees_pids else ())
        self._sharing: dict[Meter, Sharing] = {}
        self._history: deque[tuple[float, float]] = deque(maxlen=HISTORY_POINTS)
        self._processes_due = 0.0
        self._tick_s = 0.0

    def run(self, stop: threading.Event) -> None:
        """Tick until `stop` is set, then commit what is known and let go of everything."""
        for worker in self._workers:
            worker.start()
        self._witnesses.open(self._boundary, self._books)
        due, begun_ns = time.monotonic(), self._clock.now_ns()
        while not stop.is_set():
            self.tick()
            due += self._settings.interval_s
            now = time.monotonic()
            due = max(due, now)  # after a long stall: no burst of ticks to catch up
            stop.wait(due - now)
        self.tick()
        if self._books is not self._committed:
            log.error(
                "ends with %.1f s that are not in the ledger: at the next start what the counters "
                "know of that time is booked, mostly to daemon_down",
                s_from_ns(self._books.last_ns - (self._committed.last_ns or begun_ns)),
            )
        self._witnesses.close()
        for worker in self._workers:
            worker.stop()

    def tick(self) -> None:
        """One tick, whole: from the sensors to the published view."""
        began = time.monotonic()
        self._release()
        self._ask(began)
        readings, failures = self._listen()
        self._owners.look()
        holdings = self._witnesses.heard(list(self._devices.values()))
        self._take_snapshot()
        now_ns = self._clock.now_ns()
        tick = Tick(
            now_ns,
            self._clock.utc_offset_ns(),
            tuple(self._identified(reading) for reading in readings),
            tuple(failures),
            holdings.claims,
            holdings.complete,
            holdings.facts,
            resumed=self._resumed,
            served=self._books is self._committed,
            rates=self._money.rates,
            wanted=self._money.charges,
            models={meter: status.model for meter, status in self._devices.items()},
            snapshots=tuple(self._snapshots.popleft() for _ in range(len(self._snapshots))),
        )
        before = self._books
        self._books, entry = advance(before, tick, self._policy)
        self._say_omissions(before)
        _say_stalls(before, self._books)
        for fault in entry.faults:
            once(log, fault, "booked to unknown_holder, since it cannot be shared out: %s", fault)
        self._resumed = False
        self._say_clock_step(tick.utc_offset_ns)
        self._today.add(tick.utc_offset_ns + now_ns, entry, self._books)
        self._backlog = self._backlog.plus(entry)
        self._commit(now_ns)
        self._tick_s = time.monotonic() - began
        self._show(tick)
        self._health.ticked(bool(readings), [worker.problem for worker in self._workers])

    def _say_omissions(self, before: Books) -> None:
        """Say once when a meter of the whole node turns out not to measure all that it should."""
        for meter, each in self._books.node_meters.items():
            known = before.node_meters.get(meter)
            if not each.omits or (known is not None and known.omits == each.omits):
                continue
            sensor = next((w.sensor.name for w in self._workers if w.sensor.owns(meter)), "")
            log.warning(
                "the meter of the whole node (%s) tells less than %s alone: it seems to leave the "
                "%s out. If so, set sensors.%s.includes_gpus = false",
                meter.name, each.omits, each.omits, sensor,
            )  # fmt: skip

    def _say_clock_step(self, utc_offset_ns: int) -> None:
        """Say when the wall clock was set: quarter hours follow it, and nothing else does."""
        step_ns = utc_offset_ns - self._utc_offset_ns
        self._utc_offset_ns = utc_offset_ns
        if abs(step_ns) >= CLOCK_STEP_NS:
            log.warning(
                "the wall clock was set by %+.1f s: no energy is lost or made, but it is booked "
                "to the quarter hours that the clock now says",
                s_from_ns(step_ns),
            )

    def _boundary(self, _t_ns: int) -> None:
        for worker in self._workers:
            worker.burst()
        self._take_snapshot()

    def _take_snapshot(self) -> None:
        """Count who uses the host: at the end of a tick, and at once where a workload changed."""
        if self._host is None:
            return
        snapshot = self._host.snapshot(self._witnesses.groups())
        if snapshot is not None:
            self._snapshots.append(snapshot)

    def _release(self) -> None:
        wanted = self._desk.wanted()
        for worker in self._workers:
            worker.release(wanted)
        if wanted and not any(worker.is_open for worker in self._workers):
            self._desk.grant()

    def _ask(self, now: float) -> None:
        """Ask for a look; for process lists on their slower beat, or where a GPU is shared."""
        shared = any(len(each.holders) > 1 for each in self._sharing.values())
        processes = shared or now >= self._processes_due
        if processes:
            self._processes_due = now + self._settings.process_interval_s
        for worker in self._workers:
            worker.ask(processes=processes)
        deadline = now + self._settings.patience_s
        for worker in self._workers:
            worker.wait(deadline - time.monotonic())

    def _listen(self) -> tuple[list[Reading], list[Failure]]:
        readings: list[Reading] = []
        failures: list[Failure] = []
        statuses: list[DeviceStatus] = []
        for worker in self._workers:
            look = worker.collect()
            readings += look.readings
            failures += look.failures
            statuses += look.statuses
        self._statuses = tuple(statuses)
        for status in statuses:
            self._devices[status.meter] = status
        return readings, failures

    def _identified(self, reading: Reading) -> Reading:
        """Say of each process on the device whose it is; and under which marks it was."""
        reading = self._owners.identified(reading, self._devices.get(reading.meter))
        return reading if reading.processes is None else self._marked(reading)

    def _commit(self, now_ns: int) -> None:
        try:
            anchor = self._clock.anchor(now_ns)
            self._store.commit(self._committed, self._books, self._backlog, anchor)
        except LedgerUnavailable as e:
            self._health.commit_failed(str(e))
            return
        self._committed, self._backlog = self._books, Entry()
        self._health.committed()
        self._witnesses.settled()

    def _show(self, tick: Tick) -> None:
        now_ns, utc_offset_ns = tick.now_ns, tick.utc_offset_ns
        refused = {
            **{worker.sensor.name: worker.rejected for worker in self._workers},
            **self._witnesses.refused(),
            **self._refused(),
        }
        self._sharing = sharing(self._books, self._devices, now_ns)
        view = Snapshot(
            self._settings.node,
            self._committed,
            cluster=self._settings.cluster,
            statuses=self._statuses,
            now_ns=now_ns,
            utc_offset_ns=utc_offset_ns,
            holders={meter: each.holders for meter, each in self._sharing.items()},
            draws={meter: each.draws for meter, each in self._sharing.items()},
            sensors=tuple(worker.health() for worker in self._workers),
            rejected={
                (source, reason): count
                for source, reasons in refused.items()
                for reason, count in reasons.items()
            },
            tick_s=self._tick_s,
            today=self._today.energy_uj(),
            today_bills=self._today.bills(),
            rates=tick.rates,
            charges=tick.wanted,
            feeds=self._money.feeds(),
            lacking=self._money.lacking,
            budgets=self._settings.budgets,
        )
        if drawn_w := view.power_w:
            self._history.append((view.utc_s, sum(drawn_w.values())))
        self._publish(msgspec.structs.replace(view, history=tuple(self._history)))


def _say_stalls(before: Books, after: Books) -> None:
    """Say once when a counter is given up, and when it is believed again."""
    for meter, state in after.meters.items():
        known = before.meters.get(meter)
        if state.stalled == (known is not None and known.stalled):
            continue
        name = f"{meter.component} {meter.name}"
        if state.stalled:
            log.warning(
                "the energy counter of %s stands still, or all but, while power is drawn: its "
                "energy is booked by power (method integrated) until the counter moves again",
                name,
            )
        else:
            log.info("the energy counter of %s moves again and is read again", name)
