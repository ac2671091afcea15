"""The tick loop: what goes in is booked, committed and published, in this order and no other."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from tests.unit.node.stand_ins import JOB, METER, Cards, Jobs, Shelf, until

from joulebook.clock import NodeClock
from joulebook.core.attribution.claims import Claim, Evidence
from joulebook.core.energy.readings import ProcessUse
from joulebook.core.ledger.advance import BookingPolicy
from joulebook.core.workloads import Labels, WorkloadFacts
from joulebook.metrics.snapshot import Snapshot
from joulebook.node.daemon import Daemon, Settings
from joulebook.node.day_totals import DayTotals
from joulebook.node.health import Health
from joulebook.node.release import ReleaseHandler, ask, granted
from joulebook.node.sensor_thread import SensorThread
from joulebook.node.sensors.contract import PollResult


class Node:
    """One daemon on stand-ins; `tick()` runs it by hand."""

    def __init__(self, directory: Path, shelf: Shelf, *, by_hand: bool = True) -> None:
        self.ledger = directory / "ledger.db"
        self.shelf = shelf
        books, anchor = shelf.load()
        self.clock = NodeClock(anchor)
        self.cards, self.jobs = Cards(self.clock), Jobs()
        self.cards.tick_s = 0.001
        self.worker = SensorThread(self.cards, self.clock, kind="counter", known=set(books.meters))
        self.views: list[Snapshot] = []
        self.health = Health([self.worker], lately_s=0.2, hang_s=0.4)
        self.daemon = Daemon(
            Settings("n1", interval_s=0.02, process_interval_s=0.0, patience_s=0.1),
            BookingPolicy(settle_ns=20_000_000),
            self.clock,
            shelf,
            books,
            [self.worker],
            [self.jobs],
            ReleaseHandler(self.ledger),
            DayTotals({}, 0),
            self.health,
            self.views.append,
        )
        if by_hand:
            self.worker.start()

    def tick(self, times: int = 1) -> Snapshot:
        for _ in range(times):
            self.daemon.tick()
            time.sleep(0.01)
        return self.views[-1]

    def hold(self) -> None:
        now_ns = self.clock.now_ns()
        self.jobs.claims = [Claim(JOB, METER, now_ns, None, Evidence.PROLOG)]
        self.jobs.facts = [
            WorkloadFacts(JOB, labels=Labels("ada", "nlp", "bert"), started_ns=now_ns)
        ]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path, Shelf())
    yield node
    node.cards.hang.set()
    node.worker.stop()


def booked_uj(view: Snapshot) -> int:
    return sum(state.booked_uj for state in view.books.meters.values())


def accounted_uj(view: Snapshot) -> int:
    workloads = view.books.workloads.values()
    return sum(view.books.remainders.values()) + sum(
        amount.energy_uj for workload in workloads for amount in workload.balance.values()
    )


def test_a_jobs_energy_is_booked_committed_and_shown(node: Node) -> None:
    node.tick(3)
    node.hold()
    view = node.tick(20)
    assert view.books is node.shelf.books
    assert view.books.workloads[JOB].balance[METER.component].energy_uj > 0
    assert booked_uj(view) == accounted_uj(view) > 0
    assert [holder.workload for holder in view.holders[METER]] == [JOB]
    assert view.history
    assert view.statuses[0].meter == METER


def test_nothing_uncommitted_is_shown_and_nothing_is_lost_when_the_disk_is_full(
    node: Node,
) -> None:
    node.hold()
    before = node.tick(5)
    node.shelf.full = True
    during = node.tick(10)
    assert during.books is before.books, "only committed books are shown"
    assert during.statuses, "gauges go on"
    settled = node.jobs.times_settled
    node.tick()
    assert node.jobs.times_settled == settled, "event files stay until they are in the ledger"
    node.shelf.full = False
    after = node.tick(2)
    assert booked_uj(after) > booked_uj(before)
    posted = sum(a.energy_uj for entry in node.shelf.entries for a in entry.postings.values())
    assert posted == booked_uj(after) == accounted_uj(after)


def test_readiness_names_what_is_wrong(node: Node) -> None:
    assert not node.health.ready()[0]
    node.tick()
    assert node.health.ready() == (True, "ready")
    node.shelf.full = True
    until(lambda: node.tick() and "the disk is full" in node.health.ready()[1])
    node.shelf.full = False
    node.tick()
    assert node.health.ready()[0]
    node.cards.hang.clear()
    until(lambda: node.tick() and "sensor cards hangs in a call since" in node.health.ready()[1])
    assert node.health.healthy()[0], "a hang of seconds needs no restart"


def test_a_hang_is_a_gap_and_its_energy_is_booked_later(node: Node) -> None:
    node.hold()
    node.tick(5)
    node.cards.hang.clear()
    during = node.tick(3)
    assert during.books.gaps_ns[(METER, "hung")] > 0
    node.cards.hang.set()
    time.sleep(0.05)
    view = node.tick(20)
    assert booked_uj(view) == accounted_uj(view)
    assert view.books.meters[METER].gap_reason == ""


def test_processes_are_identified_once_in_their_life(node: Node) -> None:
    node.jobs.pids = {7: JOB}
    look = node.cards.look

    def with_process(*, processes: bool) -> PollResult:
        seen = look(processes=processes)
        used = msgspec.structs.replace(
            seen.readings[0], processes=(ProcessUse(7, 1, 5), ProcessUse(8, 1, 5))
        )
        return msgspec.structs.replace(seen, readings=(used,))

    node.cards.look = with_process  # type: ignore[method-assign]
    view = node.tick(30)
    assert node.jobs.asked.count(7) == 1
    assert node.jobs.asked.count(8) == 1, "not again within a second"
    assert view.books.workloads[JOB].balance, "nobody holds the card, so its user pays"


def test_a_restart_goes_on_where_it_was(tmp_path: Path) -> None:
    shelf = Shelf()
    first = Node(tmp_path, shelf)
    first.hold()
    claims = first.jobs.claims
    before = first.tick(10)
    second = Node(tmp_path, shelf)
    second.cards._t0 = first.cards._t0
    second.jobs.claims = claims
    view = second.tick(20)
    for node in (first, second):
        node.worker.stop()
    assert view.books.last_ns > before.books.last_ns
    assert view.books.meters[METER].booked_uj > before.books.meters[METER].booked_uj
    assert booked_uj(view) == accounted_uj(view)
    assert not any(reason == "daemon_down" for _, reason in view.books.remainders)


def test_release_lets_go_says_so_and_comes_back(node: Node) -> None:
    node.tick(2)
    ask(node.ledger, time.time() + 60)
    node.tick(2)
    assert granted(node.ledger, 0.5)
    assert node.cards.closed == 1
    assert node.tick().books.gaps_ns[(METER, "released")] > 0
    ask(node.ledger, time.time() - 1)
    node.tick(3)
    assert node.cards.opened == 2
    assert node.views[-1].statuses


def test_a_release_that_nobody_answers_is_not_granted(tmp_path: Path) -> None:
    ask(tmp_path / "ledger.db", time.time() + 60)
    assert not granted(tmp_path / "ledger.db", 0.2)


def test_run_ends_in_order_when_it_is_asked_to(tmp_path: Path) -> None:
    node = Node(tmp_path, Shelf(), by_hand=False)
    stop = threading.Event()
    thread = threading.Thread(target=node.daemon.run, args=(stop,))
    thread.start()
    until(lambda: len(node.views) > 3)
    stop.set()
    thread.join(5)
    assert not thread.is_alive()
    assert node.cards.closed == 1
    assert node.shelf.books is node.views[-1].books


def test_a_series_does_not_leave_its_zero_hold_while_nothing_can_be_committed(
    node: Node,
) -> None:
    node.hold()
    node.jobs.facts = [msgspec.structs.replace(fact, complete=True) for fact in node.jobs.facts]
    before = node.tick(2).books.workloads[JOB].hold_left_ns
    assert before > 0
    node.shelf.full = True
    node.tick(5)
    time.sleep(0.5)
    node.tick(5)
    node.shelf.full = False
    after = node.tick().books.workloads[JOB].hold_left_ns
    assert before - after < 100_000_000, "only time in which it was shown counts"


def test_a_tenant_source_that_raises_stops_nothing(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    node.tick()
    node.hold()
    node.tick(3)
    before = node.shelf.books
    assert [claim.workload for claim in before.claims] == [JOB]
    node.jobs.fault = UnicodeError("a comment nobody foresaw")
    view = node.tick(6)
    assert booked_uj(view) > sum(state.booked_uj for state in before.meters.values())
    assert [(c.workload, c.t1_ns) for c in view.books.claims] == [(JOB, None)], "on record still"
    assert view.rejected["jobs", "fault"] == 12, "holdings and settled, six times each"
    reported = [r.getMessage() for r in caplog.records if r.levelname == "ERROR"]
    assert len(reported) == 2, "a repeated failure is logged once"
    assert reported[0].startswith("jobs failed to answer (holdings): claims on record stand")
    node.jobs.fault = None
    node.jobs.rejected = {"fault": 1, "owner": 0}
    view = node.tick()
    assert view.rejected == {("jobs", "fault"): 13, ("jobs", "owner"): 0}


def test_a_step_of_the_wall_clock_is_said_and_changes_no_energy(
    node: Node, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.tick(3)
    steady = node.clock.utc_offset_ns()
    for hours in (3, -2, 0):
        monkeypatch.setattr(
            node.clock, "utc_offset_ns", lambda hours=hours: steady + hours * 3600 * 10**9
        )
        node.tick(3)
    view = node.tick(3)
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "the wall clock was set by +10800.0 s",
        "the wall clock was set by -18000.0 s",
        "the wall clock was set by +7200.0 s",
    ]
    assert booked_uj(view) == accounted_uj(view) > 0
    assert not view.books.gaps_ns


@pytest.mark.parametrize("ever_written", [True, False])
def test_an_end_with_a_full_disk_says_what_is_not_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, ever_written: bool
) -> None:
    node = Node(tmp_path, Shelf(), by_hand=False)
    stop = threading.Event()
    thread = threading.Thread(target=node.daemon.run, args=(stop,))
    node.shelf.full = not ever_written
    begun_ns = node.clock.now_ns()
    thread.start()
    until(lambda: node.shelf.entries or node.shelf.full)
    node.shelf.full = True
    until(lambda: node.views and node.views[-1].now_ns > begun_ns + 500_000_000)
    stop.set()
    thread.join(5)
    (said,) = re.findall(r"ends with (\d+\.\d) s that are not in the ledger", caplog.text)
    assert 0 <= float(said) < 60, "since the start, where nothing was ever written"
