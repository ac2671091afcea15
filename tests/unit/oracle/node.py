"""The real daemon in that world: its loop, ledger, exposition and collection.

`Node.play` runs `Daemon.run` in virtual time. It is the event that the loop waits for: while the
loop waits, what is planned happens.
"""

from __future__ import annotations

import itertools
import logging
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast
from unittest import mock

from tests.unit.oracle import ledgers
from tests.unit.oracle.account import Fault, Undecided
from tests.unit.oracle.machine import MS, InlineSensor, S, Teller, Time
from tests.unit.oracle.scenario import Plan
from tests.unit.oracle.world import CALM_NS, Killed, World

from joulebook import clock as clock_module
from joulebook.clock import Anchor, NodeClock
from joulebook.core.attribution.claims import Claim
from joulebook.core.ledger.advance import BookingPolicy
from joulebook.core.ledger.series import SeriesPolicy
from joulebook.core.ledger.state import Books, Entry
from joulebook.errors import InputError, LedgerUnavailable
from joulebook.lab.collect import validate
from joulebook.lab.collected import ingest
from joulebook.lab.collected.database import opened
from joulebook.ledger.query import LedgerReader
from joulebook.ledger.sqlite import SqliteStore
from joulebook.metrics.catalogue import CATALOGUE
from joulebook.metrics.collector import PRODUCERS
from joulebook.metrics.derived import Derived
from joulebook.metrics.exposition import Exposition
from joulebook.metrics.metric import Kind
from joulebook.metrics.snapshot import Snapshot
from joulebook.node import daemon, health, release, sensor_thread
from joulebook.node.daemon import Daemon
from joulebook.node.day_totals import Charging, DayTotals
from joulebook.node.health import Health
from joulebook.node.parts import Parts, Settings
from joulebook.node.release import ReleaseHandler
from joulebook.node.sensors.contract import PollResult

WITH_TIME = (clock_module, daemon, health, release, sensor_thread)
OF_THE_PROCESS = ("sensor_errors", "rejected_inputs", "feed_errors", "exposition_errors")
PERSISTED = [
    metric.name
    for metric in CATALOGUE
    if metric.kind is Kind.COUNTER
    and metric.name.startswith("joulebook_")
    and not metric.name.startswith("joulebook_gpu_")
    and not any(name in metric.name for name in OF_THE_PROCESS)
    and metric.name in PRODUCERS
]


class FaultyStore:
    """The real ledger, whose disk fails as planned, and at whose calls the daemon may die."""

    def __init__(self, path: Path, world: World) -> None:
        self.store = SqliteStore(path, allow_volatile=True)
        self._world = world

    def load(self) -> tuple[Books, Anchor | None]:
        return self.store.load()

    def commit(self, before: Books, after: Books, entry: Entry, anchor: Anchor) -> None:
        fault, self._world.store_fault = self._world.store_fault, ""
        lasting = "refused" if self._world.disk_is_full else ""
        what, _, at = (fault or lasting).partition(":")
        if what == "before":
            raise Killed
        conn = self.store._conn
        if what in {"interrupt", "midst"}:
            conn.set_progress_handler(lambda: 1, max(int(at), 1))
        elif what == "full":
            (pages,) = conn.execute("PRAGMA page_count").fetchone()
            conn.execute(f"PRAGMA max_page_count = {pages}")
        try:
            if what == "refused":
                raise LedgerUnavailable("the disk is full")
            self.store.commit(before, after, entry, anchor)
        except LedgerUnavailable:
            if what == "midst":
                raise Killed from None
            raise
        finally:
            conn.set_progress_handler(None, 0)
            conn.execute("PRAGMA max_page_count = 1073741823")
        self._world.account.committed(entry)
        if what in {"midst", "after"}:
            raise Killed

    def close(self) -> None:
        self.store.close()


class Restored(Killed):
    """Somebody stopped it and put an older ledger in its place."""


class Node(World):
    """One plan, played."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        super().__init__(plan)
        self.folder = folder
        self.ledger = folder / "0" / "ledger.db"
        self.collection: tuple[Path, int] | None = None
        self.put_back = False
        self.refused = ""
        self._store: FaultyStore | None = None
        self._make: Callable[[], Snapshot] | None = None
        self._exposition: Exposition | None = None
        self.lives = itertools.count(1)
        self._copy: tuple[Path, Any] | None = None

    # ---- the daemon ------------------------------------------------------------------------------

    def play(self) -> None:
        """Run daemons until the plan is over. Raises `Fault`."""
        with _in_time(self.now):
            while not (self.calm and self.stopping):
                self.down_ns, self.stopping = 500 * MS, False
                try:
                    self._run()
                except Restored:
                    pass
                except Killed:
                    self._crash()
                self.workers, self._make = [], None
                if not self.calm:
                    self.pass_by(self.down_ns)
            self._check_end()

    def _run(self) -> None:
        self._store = store = FaultyStore(self.ledger, self)
        books, anchor = store.load()
        if books.last_ns:
            self.account.resumed()
            ledgers.check_sums(store.store._conn, self.account)
        clock = self.clock = NodeClock(anchor, epoch=f"boot-{self.now.boot}")
        deliver = self._deliver
        for sensor in self.sensors:
            sensor.clock, sensor.made_ns = clock, None
        self.workers = [
            InlineSensor(each, clock, set(filter(each.owns, books.meters)), self.pass_by, deliver)
            for each in self.sensors
        ]
        plan = self.plan
        series = SeriesPolicy(
            zero_hold_ns=plan.zero_hold_ns, linger_ns=plan.linger_ns, label_wait_ns=4 * S,
            expire_ns=plan.expire_ns, expose_ns=plan.expire_ns // 2,
            max_workloads=plan.most, max_experiments=plan.most, max_experiments_per_owner=plan.most,
        )  # fmt: skip
        health_ = Health(self.workers, lately_s=5, hang_s=60)
        charges = ledgers.CHARGES if plan.rates else frozenset()
        settings = Settings("n1", interval_s=plan.interval_s, commit_s=plan.commit_s)
        self._exposition = Exposition(
            Snapshot("n1", books), health_.ready, health_.healthy, on_error=_fail
        )
        for teller in self.truth.all:
            teller.hear = self._hear
            if books.last_ns and plan.seed % 2:
                teller.forget_begins(clock.now_ns())
        self._daemon = Daemon(
            Parts(
                settings=settings,
                policy=BookingPolicy(plan.settle_ns, series),
                clock=clock,
                store=store,
                books=books,
                workers=self.workers,
                sources=self.truth.all,
                release=ReleaseHandler(self.ledger),
                today=DayTotals({}, 0),
                health=health_,
                publish=self._publish,
                money=Charging(cast(Any, self), charges),
            )
        )
        self._daemon.run(self)
        store.close()
        self.account.crashed()  # the last commit may have failed

    @property
    def current(self) -> Any:
        """The rates as a poller has them."""
        return ledgers.rate_set(self.rates[-1])

    def health(self) -> tuple[()]:
        return ()

    def _publish(self, make: Callable[[], Snapshot]) -> None:
        self._make = make
        assert self._exposition is not None
        self._exposition.publish(make)

    def _deliver(self, result: PollResult) -> None:
        self.account.delivered(
            (r, *card.truth[r.t_ns, r.energy_uj])
            for r in result.readings
            for card in self.cards
            if card.meter == r.meter
        )

    def _hear(self, teller: Teller, claims: tuple[Claim, ...], whole: bool) -> None:
        assert self.clock is not None
        self.account.told(self.clock.now_ns(), teller.evidence, claims, whole)

    def _crash(self) -> None:
        """Only what is on the disk is left: the file and its log, as they are this moment."""
        assert self._store is not None
        self.account.crashed()
        self.store_fault = ""
        self._move_ledger(self.ledger)
        with suppress(sqlite3.Error):
            self._store.close()

    def _move_ledger(self, source: Path) -> None:
        folder = self.folder / str(next(self.lives))
        _copy(source, folder / source.name)
        self.ledger = folder / source.name

    def _check_end(self) -> None:
        self._end_processes()
        with sqlite3.connect(self.ledger) as conn:
            ledgers.check_sums(conn, self.account)
            ledgers.check_rows(conn, self.account)
            if self.plan.rates:
                ledgers.check_money(conn, self.rates, steady=len(self.offsets_ns) == 1)
        conn.close()
        now_ns = self.clock.now_ns() if self.clock else 0
        for card in self.cards:
            if self.account.seen[card.meter]:
                late_ns = now_ns - self.account.edge(card.meter)
                if late_ns > self.plan.settle_ns + CALM_NS // 2 + 5 * S:
                    raise Fault(f"{card.meter.name}: books end {late_ns / S:.1f} s ago")
                self.account.check_holders(card.meter)
        if self._exposition is not None and self.plan.seed % 3 == 0:
            ledgers.check_page(self._exposition.metrics()[0].decode())
        if self.collection is not None:
            self.do_collect(1_000)
            self.do_collect(1_000)
            if not self.refused:
                ledgers.check_collected(self.collection[0], self.ledger, put_back=self.put_back)

    # ---- what may happen to its ledger ----------------------------------------------------------

    def do_backup(self) -> None:
        if self.workers:
            folder = self.folder / "copy" / str(next(self.lives))
            _copy(self.ledger, folder / "ledger.db")
            kept = self.account.copied()
            self._copy = (folder / "ledger.db", kept)

    def do_restore(self, down_ms: int) -> None:
        if self._copy is None or not self.workers:
            return
        self.down_ns = down_ms * MS
        assert self._store is not None
        self.store_fault = ""
        source, kept = self._copy
        with suppress(sqlite3.Error):
            self._store.close()
        self._move_ledger(source)
        self.account.put_back(kept)
        self.page.forget()
        self.put_back = True
        raise Restored

    def do_scrape(self) -> None:
        if self._make is None or self.clock is None:
            return
        scene = Derived(self._make(), None, {})
        counters = {
            (name, tuple(map(str, labels))): value
            for name in PERSISTED
            for labels, value in PRODUCERS[name](scene)
        }
        self.page.scraped(counters, self.clock.now_ns())

    def do_collect(self, limit: int) -> None:
        if self.collection is None:
            self.collection = (ledgers.fresh_collection(self.folder), 0)
        path, since = self.collection
        if self.refused or not (self.workers or self.calm):
            return
        with LedgerReader(self.ledger) as reader:
            page = reader.page("n1", "", since, ledgers.LEDGER_ID, limit)
        with opened(f"sqlite://{path}") as database:
            try:
                validate.check(page, since, page.ledger_id, "t")
                taken = ingest.take(database, page, "t", self.now.utc_ns // S)
            except InputError as error:
                if error.reason not in {"went_back", "fell"} or not self.put_back:
                    raise Fault(f"the collector refuses a page: {error}") from error
                self.refused = str(error)
                return
        if taken is None:
            raise Fault("the collector takes its own position for another one's")
        if self._store is not None and self.workers:
            self._store.store.handed(page.next)
        self.collection = (path, page.next)


def _fail(family: str, error: Exception) -> None:
    raise Fault(f"{family} cannot be shown: {error!r}")


def _copy(ledger: Path, to: Path) -> None:
    to.parent.mkdir(parents=True)
    for name in (ledger.name, f"{ledger.name}-wal"):
        if (source := ledger.with_name(name)).exists():
            shutil.copy(source, to.with_name(name))


@contextmanager
def _in_time(now: Time) -> Iterator[None]:
    with mock.patch.multiple(clock_module, time=now):
        patches = [mock.patch.object(module, "time", now) for module in WITH_TIME]
        for patch in patches:
            patch.start()
        try:
            yield
        finally:
            for patch in patches:
                patch.stop()


def play(plan: Plan) -> None:
    """Play a plan in a folder of its own. Raises `Fault`, or what joulebook raised."""
    folder = Path(tempfile.mkdtemp(prefix="jb-oracle-", dir=ledgers.MEMORY))
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        ledgers.fresh(folder / "0" / "ledger.db")
        with suppress(Undecided):
            Node(plan, folder).play()
    finally:
        logging.disable(level)
        shutil.rmtree(folder, ignore_errors=True)
