"""The tick loop: poll the sensors; now and then collect claims, book, and commit.

There are three rates. Sensors are polled every `interval_s`. The books are advanced and committed
at each boundary (at most once a second), else every `commit_s`: counters keep what was consumed, so
a crash between two commits loses no energy. The exposition is rendered on request.

Everything slow or able to hang is elsewhere (sensors and sources have their own threads, HTTP only
reads what was published). A failed commit loses nothing: the books continue in memory, and the next
commit writes everything since the last one.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Mapping
from functools import partial

import msgspec

from joulebook.core.attribution.claims import Claim
from joulebook.core.energy.host_usage import HostSnapshot
from joulebook.core.energy.readings import DeviceStatus, Failure, Meter, Reading
from joulebook.core.ledger.advance import Tick, advance
from joulebook.core.ledger.card_facts import with_card_facts
from joulebook.core.ledger.state import Books, Entry
from joulebook.errors import LedgerUnavailable
from joulebook.log import LogOnce
from joulebook.metrics.snapshot import HISTORY_POINTS, Snapshot
from joulebook.node import health
from joulebook.node.day_totals import DayTotals
from joulebook.node.parts import Parts
from joulebook.node.sharing import is_shared, sharing
from joulebook.node.workload_sources import ProcessOwners, WorkloadSources
from joulebook.units import NS_PER_S, s_from_ns

log = logging.getLogger(__name__)
_once = LogOnce(log)

CLOCK_STEP_NS = NS_PER_S
"""NTP daemons slew smaller offsets; a step of this much is logged."""

MAX_SNAPSHOTS = 256
"""So many boundaries between two commits are reported apart."""

AT_MOST_EVERY_S = 1.0
"""Boundaries are committed at most so often."""


class Daemon:
    """One node's daemon."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._settings = parts.settings
        self._clock = parts.clock
        self._workers = parts.workers
        self._lasting = msgspec.structs.replace(
            parts.policy, series=msgspec.structs.replace(parts.policy.series, retire=False)
        )
        self._books = parts.books  # as they stand in memory
        self._committed = parts.books
        self._backlog = Entry()
        self._sources = WorkloadSources(parts.sources, parts.masked)
        self._owners = ProcessOwners(parts.sources if parts.settings.sees_pids else ())
        self._resumed = bool(parts.books.last_ns)
        self._utc_offset_ns = parts.clock.utc_offset_ns()
        self._readings: list[Reading] = []  # not booked yet, nor the failures
        self._failures: list[Failure] = []
        self._snapshots: deque[HostSnapshot] = deque(maxlen=MAX_SNAPSHOTS)
        self._changed = threading.Event()  # a workload may have begun or ended
        self._booked_at = float("-inf")
        self._slack_s = parts.settings.interval_s / 2  # what is due so soon is done now
        self._devices: dict[Meter, DeviceStatus] = {}
        self._statuses: tuple[DeviceStatus, ...] = ()
        self._history: deque[tuple[float, float]] = deque(maxlen=HISTORY_POINTS)
        self._is_shared = False
        self._processes_due = 0.0
        self._tick_s = 0.0

    def run(self, stop: threading.Event) -> None:
        """Tick until `stop` is set, then commit and close everything."""
        for worker in self._workers:
            worker.start()
        self._sources.open(self._boundary, self._books)
        due, begun_ns = time.monotonic(), self._clock.now_ns()
        while not stop.is_set():
            self.tick()
            due += self._settings.interval_s
            now = time.monotonic()
            due = max(due, now)  # after a long stall: no burst of ticks to catch up
            stop.wait(due - now)
        self.tick(last=True)
        if self._books is not self._committed:
            log.error(
                "stopping with %.1f s not in the ledger: the next start books the counters' "
                "energy of that time, mostly to daemon_down",
                s_from_ns(self._books.last_ns - (self._committed.last_ns or begun_ns)),
            )
        self._sources.close()
        for worker in self._workers:
            worker.stop()

    def tick(self, *, last: bool = False) -> None:
        """Poll the sensors, and book if it is time, or if it is the `last` tick."""
        began = time.monotonic()
        changed = self._changed.is_set()
        due = last or self._is_due(began)
        if due:
            # Before the sensors are asked: a boundary needs a reading after it on record, or an
            # outage from then on would not be proven to be its holder's.
            self._changed.clear()
            self._booked_at = began
        self._release()
        # Use splits the energy of a shared device, and a list is the use since the one before: what
        # follows the last list with a process on it would be split by held share.
        self._ask(began, processes=changed or self._is_shared or began >= self._processes_due)
        read = self._listen()
        if due:
            self._book()
            if changed and not read:
                self._changed.set()
        self._tick_s = time.monotonic() - began
        self._show()
        self._parts.health.ticked(read, [worker.problem for worker in self._workers])

    def _is_due(self, now: float) -> bool:
        """Return whether it is time to book: something happened, or nothing did for long."""
        since_s, slack_s = now - self._booked_at, self._slack_s
        if self._books is not self._committed:
            return True
        if self._changed.is_set() and since_s >= AT_MOST_EVERY_S - slack_s:
            return True
        return since_s >= self._settings.commit_s - slack_s

    def _book(self) -> None:
        """Advance the books by everything that came in since the last time, and commit."""
        holdings = self._sources.heard(list(self._devices.values()))
        self._take_snapshot()
        now_ns, money = self._clock.now_ns(), self._parts.money
        tick = Tick(
            now_ns,
            self._clock.utc_offset_ns(),
            tuple(self._readings),
            tuple(self._failures),
            tuple(self._on_module(claim) for claim in holdings.claims),
            holdings.complete,
            with_card_facts(holdings.facts, self._books, self._statuses),
            resumed=self._resumed,
            served=self._books is self._committed,
            rates=money.rates,
            wanted=money.charges,
            models={meter: status.model for meter, status in self._devices.items()},
            snapshots=tuple(self._snapshots.popleft() for _ in range(len(self._snapshots))),
        )
        before = self._books
        self._books, entry = advance(before, tick, self._parts.policy)
        self._readings, self._failures, self._resumed = [], [], False
        self._is_shared = is_shared(self._books, self._devices, now_ns)
        self._say(before, entry, tick)
        self._parts.today.add(tick.utc_offset_ns + now_ns, entry, self._books)
        self._backlog = self._backlog.plus(entry)
        if not self._commit(now_ns):
            # Series that left in these books would be gone, and begin anew if they came back,
            # without anybody having seen them leave: they stay.
            self._books, _ = advance(before, tick, self._lasting)

    def _say(self, before: Books, entry: Entry, tick: Tick) -> None:
        """Log what of a tick an administrator should know."""
        self._say_omissions(before)
        health.say_stalls(before, self._books)
        health.say_audits(before, self._books)
        for fault in entry.faults:
            _once.failed(
                fault, "booked to unknown_holder, since it cannot be attributed: %s", fault
            )
        self._say_clock_step(tick.utc_offset_ns)

    def _say_omissions(self, before: Books) -> None:
        """Log once if a meter of the whole node leaves out a component."""
        for meter, each in self._books.node_meters.items():
            known = before.node_meters.get(meter)
            if not each.omits or (known is not None and known.omits == each.omits):
                continue
            sensor = next((w.sensor.name for w in self._workers if w.sensor.owns(meter)), "")
            log.warning(
                "the meter of the whole node (%s) reports less than the %s meters: it appears to "
                "leave out the %s. If so, set sensors.%s.includes_gpus = false",
                meter.name, each.omits, each.omits, sensor,
            )  # fmt: skip

    def _say_clock_step(self, utc_offset_ns: int) -> None:
        """Log when the wall clock was set; only quarter hours follow it."""
        step_ns = utc_offset_ns - self._utc_offset_ns
        self._utc_offset_ns = utc_offset_ns
        if abs(step_ns) >= CLOCK_STEP_NS:
            log.warning(
                "the wall clock was set by %+.1f s: no energy is lost or added, but it is booked "
                "to quarter hours by the new time",
                s_from_ns(step_ns),
            )

    def _boundary(self, _t_ns: int) -> None:
        for worker in self._workers:
            worker.burst()
        self._take_snapshot()
        self._changed.set()

    def _take_snapshot(self) -> None:
        """Count who uses the host: at the end of a tick, and at once where a workload changed."""
        if self._parts.host is None:
            return
        snapshot = self._parts.host.snapshot(self._sources.groups())
        if snapshot is not None:
            self._snapshots.append(snapshot)

    def _release(self) -> None:
        wanted = self._parts.release.wanted()
        for worker in self._workers:
            worker.release(wanted)
        if wanted and not any(worker.is_open for worker in self._workers):
            self._parts.release.grant()

    def _ask(self, now: float, *, processes: bool) -> None:
        """Request a poll, and wait for it; `processes`: with process lists."""
        if processes:
            self._processes_due = now + self._settings.process_interval_s - self._slack_s
        for worker in self._workers:
            worker.ask(processes=processes)
        deadline = now + self._settings.patience_s
        for worker in self._workers:
            worker.wait(deadline - time.monotonic())

    def _listen(self) -> bool:
        """Take what the sensors gave; whether they gave a reading."""
        self._owners.poll()
        polls = [worker.collect() for worker in self._workers]
        within = frozenset[Meter]().union(*(worker.within for worker in self._workers))
        readings = [
            self._identified(reading)
            for poll in polls
            for reading in poll.readings
            if reading.meter not in within
        ]
        self._readings += readings
        self._failures += [
            failure for poll in polls for failure in poll.failures if failure.meter not in within
        ]
        self._statuses = tuple(status for poll in polls for status in poll.statuses)
        self._devices.update((status.meter, status) for status in self._statuses)
        return bool(readings)

    def _on_module(self, claim: Claim) -> Claim:
        """Return a claim on a die as one on its part of the module, which is the meter."""
        status = self._devices.get(claim.meter)
        if status is None or status.module is None or claim.instance:
            return claim
        return msgspec.structs.replace(
            claim,
            meter=status.module,
            of=claim.of * status.slices,
            instance=claim.meter.name,
        )

    def _identified(self, reading: Reading) -> Reading:
        """Set the owner of each process on the device, and its marks."""
        reading = self._owners.identified(reading)
        return reading if reading.processes is None else self._parts.marked(reading)

    def _commit(self, now_ns: int) -> bool:
        """Return whether the books are durable."""
        try:
            anchor = self._clock.anchor(now_ns)
            self._parts.store.commit(self._committed, self._books, self._backlog, anchor)
        except LedgerUnavailable as e:
            self._parts.health.commit_failed(str(e))
            return False
        self._committed, self._backlog = self._books, Entry()
        self._parts.health.committed()
        self._sources.settled()
        return True

    def _show(self) -> None:
        """Publish a snapshot; the expensive part is made on request."""
        parts, money = self._parts, self._parts.money
        rejected = {
            **{worker.sensor.name: worker.rejected for worker in self._workers},
            **self._sources.rejected(),
            **parts.rejected(),
        }
        view = Snapshot(
            self._settings.node,
            self._committed,
            cluster=self._settings.cluster,
            statuses=self._statuses,
            now_ns=self._clock.now_ns(),
            utc_offset_ns=self._clock.utc_offset_ns(),
            sensors=tuple(worker.health() for worker in self._workers),
            rejected={
                (source, reason): count
                for source, reasons in rejected.items()
                for reason, count in reasons.items()
            },
            tick_s=self._tick_s,
            rates=money.rates,
            charges=money.charges,
            feeds=money.feeds(),
            lacking=money.lacking,
            budgets=self._settings.budgets,
        )
        if drawn_w := view.power_w:
            self._history.append((view.utc_s, sum(drawn_w.values())))
        devices, history = dict(self._devices), tuple(self._history)
        parts.publish(partial(_shown, view, self._books, devices, history, parts.today))


def _shown(
    view: Snapshot,
    books: Books,
    devices: Mapping[Meter, DeviceStatus],
    history: tuple[tuple[float, float], ...],
    today: DayTotals,
) -> Snapshot:
    """Return a snapshot with lazily derived values."""
    shared = sharing(books, devices, view.now_ns)
    energy_uj, bills = today.totals()
    return msgspec.structs.replace(
        view,
        holders={meter: each.holders for meter, each in shared.items()},
        draws={meter: each.draws for meter, each in shared.items()},
        history=history,
        today=energy_uj,
        today_bills=bills,
    )
