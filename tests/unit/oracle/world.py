"""What happens to a node: time, its cards, and who is said to hold them, as a plan has it."""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Callable
from contextlib import suppress

import msgspec
from tests.unit.oracle.account import Account, Page, Stay
from tests.unit.oracle.machine import MS, Card, Cards, InlineSensor, S, Teller, Time
from tests.unit.oracle.scenario import UTC_S, Action, Plan, RateStep

from joulebook.clock import NodeClock
from joulebook.core.attribution.claims import Claim, Evidence
from joulebook.core.energy.readings import Component, Meter, ProcessSpan, ProcessUse
from joulebook.core.workloads import Labels, WorkloadFacts, WorkloadId

UTC_NS = UTC_S * S
CALM_NS = 120 * S
FAR_NS = 1 << 62
ABSENT = Meter(Component.GPU, "GPU-absent")


class Killed(BaseException):
    """The process is gone: nothing that it had in memory is left."""


class NoCard(Exception):
    """It would happen to a card, and the node has none."""


class Tellers:
    """Who tells of jobs: SLURM's own files, and one whose word counts for less."""

    def __init__(self) -> None:
        self.prolog = Teller("prolog", Evidence.PROLOG)
        self.rumours = Teller("rumours", Evidence.SCONTROL)
        self.all = [self.prolog, self.rumours]
        self.jobs: set[int] = set()


class World(threading.Event):
    """A plan in time: the event that the daemon's loop waits for, while things happen."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan
        self.now = Time(UTC_NS + plan.start_s * S)
        self.account = Account(plan.settle_ns)
        self.page = Page(plan.zero_hold_ns, plan.expire_ns)
        self.disk_is_full, self.store_fault = False, ""
        self.truth = Tellers()
        self.cards = [Card(*each) for each in plan.cards]
        self.sensors = [
            Cards(f"sensor{i}", self.cards[i :: plan.sensors], self.now)
            for i in range(min(plan.sensors, len(self.cards)))
        ]
        self.rates: list[tuple[RateStep, ...]] = [plan.rates]
        self.offsets_ns = {0}
        self.clock: NodeClock | None = None
        self.workers: list[InlineSensor] = []
        """Those of the daemon that lives now."""
        self.stopping = self.calm = False
        self.down_ns = self.calm_ns = 0
        self._order = itertools.count()
        self._due: list[tuple[int, int, Callable[[], None]]] = []
        for action in plan.actions:
            self.at(action.at_ms * MS, action)

    # ---- time ------------------------------------------------------------------------------------

    def at(self, t_ns: int, what: Action | Callable[[], None]) -> None:
        def act() -> None:
            if isinstance(what, Action):
                with suppress(NoCard):
                    getattr(self, f"do_{what.what}")(*what.arguments)
            else:
                what()

        heapq.heappush(self._due, (t_ns, next(self._order), act))

    def after(self, duration_ns: int, what: Callable[[], None]) -> None:
        self.at(self.now.true_ns + duration_ns, what)

    def pass_by(self, duration_ns: int) -> None:
        """Time goes by, and what is planned for it happens."""
        until_ns = self.now.true_ns + duration_ns
        while self._due and self._due[0][0] <= until_ns:
            t_ns, _, act = heapq.heappop(self._due)
            self.now.pass_by(max(t_ns - self.now.true_ns, 0))
            act()
            next_ns = self._due[0][0] if self._due else until_ns
            for worker in self.workers:
                worker.glance_until(min(next_ns, until_ns))
        self.now.pass_by(max(until_ns - self.now.true_ns, 0))

    def card(self, index: int) -> Card:
        if not self.cards:
            raise NoCard
        return self.cards[index % len(self.cards)]

    def is_set(self) -> bool:
        return self.stopping

    def wait(self, timeout: float | None = None) -> bool:
        over = self.now.true_ns >= self.plan.length_ms * MS
        if over and not self.calm:
            self._be_calm()
        self.pass_by(CALM_NS // 4 if self.calm else max(round((timeout or 0) * S), MS))
        if self.calm and self.now.true_ns >= self.calm_ns + CALM_NS:
            self.stopping = True
        return self.stopping

    def _be_calm(self) -> None:
        """Everything answers again, and time enough passes to book all that can be booked."""
        self.calm, self.calm_ns = True, self.now.true_ns
        self.disk_is_full, self.store_fault = False, ""
        self._due.clear()
        for teller in self.truth.all:
            teller.raises = teller.silent = False
        for sensor in self.sensors:
            sensor.broken = False
        for card in self.cards:
            card.lost, card.gone, card.garbage = "", False, ""
        for worker in self.workers:
            worker.answer_late(stale=False)

    # ---- what may happen -------------------------------------------------------------------------

    def do_begin(self, job: int, card: int, parts: int, of: int, told_ms: int, by: str) -> None:
        if self.clock is None or job in self.truth.jobs:
            return
        now_ns = self.clock.now_ns()
        id_ = WorkloadId("slurm", str(500 + job % 3), job + 1)
        meter, instance = ABSENT, ""
        if self.cards:
            meter = self.card(card).meter
            if of == 2 and (there := self.card(card).instances):
                instance = there[job % 2].uuid
        labels = Labels("ab"[job % 2], "nlp", f"e{job % 4}")
        facts = WorkloadFacts(
            id_, labels=labels, started_ns=now_ns, complete=job % 3 > 0, named=job % 2 > 0
        )
        self.truth.jobs.add(job)

        def tell() -> None:
            for teller in self.truth.all if job in self.truth.jobs else ():
                if by in {teller.name, "both"}:
                    evidence = teller.evidence
                    claim = Claim(id_, meter, now_ns, None, evidence, parts, of, instance)
                    teller.claims[str(job)], teller.facts[str(job)] = claim, facts
                    teller.boundary(now_ns)

        self.after(told_ms * MS, tell)

    def do_end(self, job: int, told_ms: int, vanishes: bool) -> None:
        if job not in self.truth.jobs or self.clock is None:
            return
        self.truth.jobs.discard(job)
        now_ns = self.clock.now_ns()

        def tell() -> None:
            for teller in self.truth.all:
                known = teller.claims.get(str(job))
                if known is None:
                    continue
                if vanishes:
                    del teller.claims[str(job)], teller.facts[str(job)]
                else:
                    teller.claims[str(job)] = msgspec.structs.replace(known, t1_ns=now_ns)
                    fact = teller.facts[str(job)]
                    teller.facts[str(job)] = msgspec.structs.replace(fact, ended_ns=now_ns)
                teller.boundary(now_ns)

        self.after(told_ms * MS, tell)

    def do_power(self, card: int, milliwatts: int) -> None:
        self.card(card).draw(self.now.true_ns, milliwatts)

    def do_reload(self, card: int) -> None:
        each = self.card(card)
        # Uptime is told in seconds: a short life may be overtaken by the next; without it, any.
        is_told = each.uptime and self.now.true_ns - each.born_ns > 5 * S
        if each.wrap_uj is None and (is_told or each.lifetime_uj):
            each.reload(self.now.true_ns)

    def do_hang(self, sensor: int, for_ms: int, stale: bool) -> None:
        if self.workers:
            worker = self.workers[sensor % len(self.workers)]
            worker.hung = True
            self.after(for_ms * MS, lambda: worker.answer_late(stale=stale))

    def do_lose(self, card: int, for_ms: int, gone: bool) -> None:
        each = self.card(card)
        each.lost, each.gone = "gpu_lost", gone

        def found() -> None:
            each.lost, each.gone = "", False

        self.after(for_ms * MS, found)

    def do_break(self, sensor: int, for_ms: int) -> None:
        if not self.sensors:
            return
        each = self.sensors[sensor % len(self.sensors)]
        each.broken = True
        self.after(for_ms * MS, lambda: setattr(each, "broken", False))

    def do_garbage(self, card: int, kind: str) -> None:
        self.card(card).garbage = kind

    def do_step_clock(self, by_s: int) -> None:
        # Set back just before a boot it makes time short, and only uptime tells how long it was.
        boots = any(action.what == "reboot" for action in self.plan.actions)
        if boots and not all(card.uptime for card in self.cards):
            return
        self.now.utc_ns += by_s * S
        self.offsets_ns.add(self.now.utc_ns - self.now.true_ns - UTC_NS)

    def do_suspend(self, for_ms: int) -> None:
        self.now.pass_by(for_ms * MS, asleep=True)

    def do_stall(self, for_ms: int) -> None:
        self.now.pass_by(for_ms * MS)

    def do_reboot(self, off_ms: int) -> None:
        if self.clock is None:
            return
        for job in [*self.truth.jobs]:
            self.do_end(job, 0, vanishes=True)
        for teller in self.truth.all:
            teller.claims.clear()
            teller.facts.clear()
        self.truth.jobs.clear()
        self._end_processes()
        self.now.reboot(off_ms * MS)
        for card in self.cards:
            card.reload(self.now.true_ns)
        self.clock = None
        self.down_ns = 0
        if self.workers:
            raise Killed

    def do_disk(self, for_ms: int) -> None:
        self.disk_is_full = True
        self.after(for_ms * MS, lambda: setattr(self, "disk_is_full", False))

    def do_fail(self, fault: str) -> None:
        self.store_fault = fault

    def do_kill(self, down_ms: int) -> None:
        if self.workers:
            self.down_ns = down_ms * MS
            raise Killed

    def do_stop(self, down_ms: int) -> None:
        self.stopping, self.down_ns = True, down_ms * MS

    def do_silence(self, teller: int, for_ms: int, raises: bool) -> None:
        each = self.truth.all[teller % 2]
        name = "raises" if raises else "silent"
        setattr(each, name, True)
        self.after(for_ms * MS, lambda: setattr(each, name, False))

    def do_rates(self, rates: tuple[RateStep, ...]) -> None:
        if self.plan.rates:
            self.rates.append(rates)

    def do_process(self, card: int, pid: int, job: int, for_ms: int, marked: bool) -> None:
        if self.clock is None:
            return
        each, now_ns = self.card(card), self.clock.now_ns()
        owner = WorkloadId("process", f"user-{job % 3}")
        marks: tuple[ProcessSpan, ...] = ()
        if marked:
            marks = (ProcessSpan(now_ns + 200 * MS, None, WorkloadId("process", f"mark-{pid}")),)
        each.processes[pid] = ProcessUse(pid, now_ns, workload=owner, marks=marks)
        self.truth.prolog.pids[pid] = owner
        self.after(for_ms * MS, lambda: self._end_process(each, pid))

    def _end_process(self, card: Card, pid: int) -> None:
        process = card.processes.pop(pid, None)
        if process is not None and process.workload is not None:
            end_ns = self.clock.now_ns() if self.clock else FAR_NS
            whose = [process.workload, *(mark.workload for mark in process.marks)]
            for who in whose:
                stay = Stay(card.meter, who, process.started_ns, end_ns)
                self.account.stays.append(stay)

    def _end_processes(self) -> None:
        for card in self.cards:
            for pid in [*card.processes]:
                self._end_process(card, pid)
