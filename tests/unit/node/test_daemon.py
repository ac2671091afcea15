"""The tick loop: what goes in is booked, committed and published, in this order and no other."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from tests.unit.node.stand_ins import JOB, METER, OTHER, Cards, Jobs, Shelf, until

from joulebook.clock import NodeClock
from joulebook.core.attribution.claims import Claim, Evidence
from joulebook.core.energy.audit import Audit, Verdict
from joulebook.core.energy.meter import MeterState
from joulebook.core.energy.readings import Component, DeviceStatus, Meter, ProcessUse, Reading
from joulebook.core.ledger.advance import BookingPolicy
from joulebook.core.ledger.state import Books
from joulebook.core.workloads import Labels, WorkloadFacts, WorkloadId
from joulebook.metrics.snapshot import Snapshot
from joulebook.node import health
from joulebook.node.daemon import Daemon
from joulebook.node.day_totals import Charging, DayTotals
from joulebook.node.health import Health
from joulebook.node.parts import Parts, Settings
from joulebook.node.release import ReleaseHandler, ask, granted
from joulebook.node.sensor_thread import SensorThread
from joulebook.node.sensors.contract import PollResult

NEIGHBOUR = WorkloadId("slurm", "102")


class Node:
    """One daemon on stand-ins; `tick()` runs it by hand."""

    def __init__(
        self,
        directory: Path,
        shelf: Shelf,
        *,
        by_hand: bool = True,
        commit_s: float = 0.0,
        process_interval_s: float = 0.0,
        money: Charging | None = None,
    ) -> None:
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
            Parts(
                settings=Settings(
                    "n1",
                    interval_s=0.02,
                    commit_s=commit_s,
                    patience_s=0.1,
                    process_interval_s=process_interval_s,
                ),
                policy=BookingPolicy(settle_ns=20_000_000),
                clock=self.clock,
                store=shelf,
                books=books,
                workers=[self.worker],
                sources=[self.jobs],
                release=ReleaseHandler(self.ledger),
                today=DayTotals({}, 0),
                health=self.health,
                publish=lambda make: self.views.append(make()),
                money=money or Charging(),
            )
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
    assert view.books.workloads[JOB].facts.extra == {"gpu_power_limits_w": "300"}


def test_a_meter_that_is_in_anothers_is_not_booked_besides(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    socket = Meter(Component.CPU, "grace-0")
    node.cards.meters = [METER, socket]
    told = node.cards.poll
    monkeypatch.setattr(
        node.cards,
        "poll",
        lambda *, processes: msgspec.structs.replace(
            told(processes=processes), within=frozenset({socket})
        ),
    )
    view = node.tick(10)
    assert booked_uj(view) > 0
    node.cards.look_error = RuntimeError("once")  # a failed poll says nothing of it
    node.tick()
    node.cards.look_error = None
    view = node.tick(10)
    assert set(view.books.meters) == {METER}


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
    until(
        lambda: (
            node.tick() and "sensor cards has been hanging in a call for" in node.health.ready()[1]
        )
    )
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
    poll = node.cards.poll

    def with_process(*, processes: bool) -> PollResult:
        seen = poll(processes=processes)
        used = msgspec.structs.replace(
            seen.readings[0], processes=(ProcessUse(7, 1, 5), ProcessUse(8, 1, 5))
        )
        return msgspec.structs.replace(seen, readings=(used,))

    node.cards.poll = with_process  # type: ignore[method-assign]
    view = node.tick(30)
    assert node.jobs.asked.count(7) == 1
    assert node.jobs.asked.count(8) == 1, "not again within a second"
    assert view.books.workloads[JOB].balance, "nobody holds the card, so its user pays"


def test_lists_come_at_every_poll_while_use_splits_a_card(tmp_path: Path) -> None:
    """The two seconds after a list would be split by held share, whatever is used in them."""
    node = Node(tmp_path, Shelf(), process_interval_s=3600)
    node.tick(2)
    listed = node.cards.asked_processes

    def asked(*holders: WorkloadId) -> list[bool]:
        now_ns = node.clock.now_ns()
        node.jobs.claims = [
            Claim(who, METER, now_ns, None, Evidence.PROLOG, of=len(holders)) for who in holders
        ]
        node.tick()
        listed.clear()
        node.tick(3)
        return list(listed)

    try:
        assert asked(JOB) == [False] * 3, "one holder pays for everything"
        assert asked(JOB, NEIGHBOUR) == [True] * 3
        assert asked(NEIGHBOUR) == [False] * 3
    finally:
        node.worker.stop()


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
    assert reported[0].startswith("jobs failed (holdings): existing claims stay")
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
    (said,) = re.findall(r"stopping with (\d+\.\d) s not in the ledger", caplog.text)
    assert 0 <= float(said) < 60, "since the start, where nothing was ever written"


# --- beats ----------------------------------------------------------------------------------------


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[Node]:
    """A daemon that books at its first tick, and then for an hour only where something happens."""
    node = Node(tmp_path, Shelf(), commit_s=3600)
    node.daemon._sources.open(node.daemon._boundary, node.shelf.books)
    node.hold()
    node.tick()
    yield node
    node.cards.hang.set()
    node.worker.stop()


def test_between_two_beats_sensors_are_looked_at_and_nothing_is_committed(slow: Node) -> None:
    committed, polls = slow.shelf.books, slow.cards.polls
    views = [slow.tick() for _ in range(5)]
    assert slow.cards.polls == polls + 5
    assert slow.shelf.books is committed
    assert all(view.books is committed for view in views), "what is shown is committed"
    assert len({view.now_ns for view in views}) == 5 and all(view.statuses for view in views)


def test_what_was_read_between_two_beats_is_booked_with_the_next_one(slow: Node) -> None:
    slow.tick(8)
    slow.daemon.tick(last=True)
    books = slow.shelf.books
    assert books.meters[METER].read_uj > 0
    assert len(slow.shelf.entries) == 2
    time.sleep(0.03)
    slow.daemon.tick(last=True)
    view = slow.views[-1]
    assert booked_uj(view) == accounted_uj(view) > 0
    assert view.books.workloads[JOB].balance[METER.component].energy_uj == booked_uj(view)


def test_a_boundary_is_committed_soon_and_many_together(
    slow: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    commits = len(slow.shelf.entries)
    monkeypatch.setattr("joulebook.node.daemon.AT_MOST_EVERY_S", 1000.0)
    for _ in range(3):
        slow.jobs.boundary(slow.clock.now_ns())
        slow.tick()
    assert len(slow.shelf.entries) == commits, "not so soon after the last commit"
    monkeypatch.setattr("joulebook.node.daemon.AT_MOST_EVERY_S", 0.0)
    slow.tick(3)
    assert len(slow.shelf.entries) == commits + 1, "all that came meanwhile with one commit"


def test_a_boundary_while_sensors_are_read_is_committed_with_a_reading_after_it(
    slow: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("joulebook.node.daemon.AT_MOST_EVERY_S", 0.0)
    poll, boundaries = slow.cards.poll, list[int]()

    def meanwhile(*, processes: bool) -> PollResult:
        seen = poll(processes=processes)
        if not boundaries:
            boundaries.append(slow.clock.now_ns())
            slow.jobs.boundary(boundaries[0])
        return seen

    slow.cards.poll = meanwhile  # type: ignore[method-assign]
    slow.tick(3)
    (boundary_ns,) = boundaries
    assert slow.shelf.books.meters[METER].last.t_ns > boundary_ns


def test_a_boundary_is_committed_until_sensors_answer(
    slow: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("joulebook.node.daemon.AT_MOST_EVERY_S", 0.0)
    slow.cards.hang.clear()
    slow.jobs.boundary(slow.clock.now_ns())
    boundary_ns = slow.clock.now_ns()
    slow.tick(2)
    assert slow.shelf.books.meters[METER].last.t_ns < boundary_ns
    slow.cards.hang.set()
    until(lambda: slow.tick() and slow.shelf.books.meters[METER].last.t_ns > boundary_ns)
    commits = len(slow.shelf.entries)
    slow.tick(3)
    assert len(slow.shelf.entries) <= commits + 1


def test_the_slow_beat_comes_by_itself(slow: Node) -> None:
    commits = len(slow.shelf.entries)
    slow.daemon._booked_at -= 3600
    slow.tick(3)
    assert len(slow.shelf.entries) == commits + 1


def test_a_commit_that_failed_is_tried_again_at_every_tick(slow: Node) -> None:
    slow.shelf.full = True
    slow.daemon.tick(last=True)
    assert slow.daemon._committed is not slow.daemon._books
    slow.tick(2)
    slow.shelf.full = False
    assert slow.tick().books is slow.shelf.books is slow.daemon._books
    commits = len(slow.shelf.entries)
    slow.tick(3)
    assert len(slow.shelf.entries) == commits


def test_a_crash_between_two_beats_loses_no_energy_of_who_held_the_card(tmp_path: Path) -> None:
    shelf = Shelf()
    first = Node(tmp_path, shelf, commit_s=3600)
    first.hold()
    first.tick(12)  # what the first of them read is committed, and no more
    first.worker.stop()
    begun_uj = shelf.books.meters[METER].last.energy_uj
    second = Node(tmp_path, shelf, commit_s=0)
    second.cards._t0, second.jobs.claims = first.cards._t0, first.jobs.claims
    view = second.tick(20)
    second.worker.stop()
    meter = view.books.meters[METER]
    assert meter.last.energy_uj is not None and begun_uj is not None
    assert meter.read_uj == meter.last.energy_uj - begun_uj
    assert booked_uj(view) == accounted_uj(view) > 0
    assert view.books.workloads[JOB].balance[METER.component].energy_uj == booked_uj(view)


def test_a_claim_on_a_die_is_one_on_its_part_of_the_module(node: Node) -> None:
    node.daemon._devices = {
        METER: DeviceStatus(METER, 0, 1, module=METER, slices=2),
        OTHER: DeviceStatus(OTHER, 1, 1, module=METER, slices=2),
    }
    claim = Claim(JOB, OTHER, 5, None, Evidence.PROLOG)
    assert node.daemon._on_module(claim) == Claim(
        JOB, METER, 5, None, Evidence.PROLOG, 1, 2, OTHER.name
    )
    replica = Claim(JOB, METER, 5, None, Evidence.POD_RESOURCES, 1, 4)
    assert node.daemon._on_module(replica) == Claim(
        JOB, METER, 5, None, Evidence.POD_RESOURCES, 1, 8, METER.name
    )
    assert node.daemon._on_module(node.daemon._on_module(claim)) == node.daemon._on_module(claim)


def test_a_counter_that_is_given_up_or_wrong_is_named_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fine = MeterState(METER, Reading(METER, 1))
    stalled = msgspec.structs.replace(fine, stalled=True)
    wrong = msgspec.structs.replace(fine, audit=Audit(verdict=Verdict.WRONG, ratio=0.9))
    asked = msgspec.structs.replace(
        fine, audit=Audit(verdict=Verdict.CANNOT_TELL, ratio=1.0, odd=((1.12, 3e8),))
    )
    states = [fine, stalled, stalled, fine, wrong, wrong, fine, asked, asked, fine]
    with caplog.at_level("INFO"):
        for before, after in pairwise(states):
            health.say_stalls(Books(meters={METER: before}), Books(meters={METER: after}))
            health.say_audits(Books(meters={METER: before}), Books(meters={METER: after}))
    said = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert [level for level, _ in said] == [*["WARNING", "INFO"] * 2, "WARNING"]
    assert all(f"gpu {METER.name}" in text for _, text in said)
    assert "shows 90 % of the energy integrated from power" in said[2][1]
    assert "shows 112 % of the energy integrated from power at full load" in said[4][1]
