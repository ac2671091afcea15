"""SLURM's sources in virtual time, with answers that are late, missing, empty or false.

A small cluster node is the truth; what the tracker of jobs makes of its evidence goes through the
core's own merging into a ledger that is settled late, as the daemon's is.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from hypothesis import given, settings
from hypothesis import strategies as st

from joulebook.clock import Timers
from joulebook.core.attribution.claims import Claim, Evidence, merge, settle
from joulebook.core.energy.readings import Component, DeviceStatus, Meter
from joulebook.core.workloads import WorkloadFacts, WorkloadId, merged
from joulebook.node.workloads.contract import NOTHING_HELD, Before
from joulebook.node.workloads.host.cgroup_paths import SlurmPlace
from joulebook.node.workloads.slurm.event_file import JobEvent
from joulebook.node.workloads.slurm.gres import GresMap, Position
from joulebook.node.workloads.slurm.job_record import GONE, HeldGpu, JobAnswer
from joulebook.node.workloads.slurm.jobs import JobTable
from joulebook.node.workloads.slurm.labels import JobEnvironment
from joulebook.node.workloads.slurm.source import SlurmSite, SlurmWorkloads
from joulebook.node.workloads.slurm.tracker import JobTracker
from joulebook.units import NS_PER_S

EPOCH_S = 1_800_000_000
SETTLE_NS = 3 * NS_PER_S
GPUS = 2
DEVICES = [DeviceStatus(Meter(Component.GPU, f"GPU-{n}"), n, 0, minor=n) for n in range(GPUS)]
GRES = GresMap(tuple(Position(f"/dev/nvidia{n}") for n in range(GPUS)))


@dataclass
class Truth:
    """One run of a job: seconds of its Prolog, its processes, its Epilog."""

    number: int
    restart: int
    uid: int
    gpu: int
    begin: float
    first: float
    last: float
    end: float
    epilog: bool
    swept: bool
    extern: bool
    gap: tuple[float, float] | None
    """Between two steps: without SLURM's own step there is no process, and no cgroup."""
    ids: set[WorkloadId] = field(default_factory=set)

    @property
    def path(self) -> Path:
        return Path(f"/cg/uid_{self.uid}/job_{self.number}.{self.begin}")

    @property
    def stem(self) -> str:
        return f"{self.number}.{self.restart}"

    def runs(self, now: float) -> bool:
        between = self.gap is not None and self.gap[0] <= now < self.gap[1]
        return self.first <= now < self.last and not between


@st.composite
def runs(draw: st.DrawFn) -> list[Truth]:
    """Jobs one after the other on each card; numbers come again and requeued runs too."""
    second = st.integers(1, 80).map(lambda tenths: tenths / 4)
    found: list[Truth] = []
    numbers = itertools.count(10)
    for gpu in range(GPUS):
        now, again = draw(second), None
        for _ in range(draw(st.integers(1, 4))):
            prolog, life, after, pause = (draw(second) for _ in range(4))
            uid = draw(st.sampled_from([1000, 1001]))
            number, restart = next(numbers), 0
            if again is not None and draw(st.booleans()):
                number, uid, restart = again.number, again.uid, again.restart + 1
            first = now + min(prolog, 8.0)
            last = first + life
            end = last + draw(st.sampled_from([0.05, after]))
            extern = draw(st.booleans())
            again = Truth(
                number, restart, uid, gpu, now, first, last, end,
                epilog=draw(st.sampled_from([True, True, False])),
                swept=draw(st.sampled_from([False, False, True])),
                extern=extern,
                gap=None if extern else (first + life / 4, first + life / 2),
            )  # fmt: skip
            found.append(again)
            now = end + pause
    return found


class World:
    """The clock, the kernel, the files and the controller of one node."""

    def __init__(self, truths: list[Truth], hooked: bool, data: st.DataObject) -> None:
        self.truths, self.hooked, self.data = truths, hooked, data
        self.now = 0.0
        self.quiet = False
        self.order = itertools.count()
        self.todo: list[tuple[float, int, Callable[[], None]]] = []
        self.claims: tuple[Claim, ...] = ()
        self.facts: dict[WorkloadId, WorkloadFacts] = {}
        self.affirmed: dict[Evidence, int] = {}
        self.edge_ns = self.last_ns = 0
        self.booked: list[tuple[Meter, int, int, WorkloadId | None]] = []
        self.up = False
        self.downs: list[tuple[float, float]] = []
        self.files: dict[str, tuple[JobEvent, float | None]] = {}
        self.last_gone: set[str] = set()

    # the clock

    def now_ns(self) -> int:
        return int(self.now * NS_PER_S)

    def utc_offset_ns(self) -> int:
        return EPOCH_S * NS_PER_S

    def boottime_ns(self, t_ns: int) -> int:
        return t_ns + 10**15

    def at(self, when: float, what: Callable[[], None]) -> None:
        heapq.heappush(self.todo, (when, next(self.order), what))

    # the controller

    able = True

    def ask(self, job_id: str, answered: Callable[[JobAnswer | None], None]) -> bool:
        mood = "true" if self.quiet else self.data.draw(
            st.sampled_from(["true", "true", "late", "missing", "gone", "foreign"])
        )  # fmt: skip
        if mood == "gone" and job_id in self.last_gone:
            mood = "true"  # One answer may be false, not every one.
        self.last_gone = self.last_gone - {job_id} | ({job_id} if mood == "gone" else set())
        answer = None if mood == "missing" else self.answer(job_id)
        if mood == "gone":
            answer = JobAnswer(job_id, GONE)
        elif mood == "foreign" and answer is not None and answer.uid is not None:
            answer = JobAnswer(job_id, "COMPLETED", uid=answer.uid + 7, restart_count=0)
        delay = {"late": 9.0, "missing": 5.0}.get(mood, 0.02)
        incarnation = self.tracker

        def deliver() -> None:
            if self.up and self.tracker is incarnation:
                answered(answer)

        self.at(self.now + delay, deliver)
        return True

    def answer(self, job_id: str) -> JobAnswer:
        begun = [t for t in self.truths if str(t.number) == job_id and t.begin <= self.now]
        if not begun:
            return JobAnswer(job_id, GONE)
        t = begun[-1]
        if self.now > t.end + 300:
            return JobAnswer(job_id, GONE)
        state = "RUNNING" if self.now < t.last else "COMPLETING"
        over = self.now >= t.end
        return JobAnswer(
            job_id, "COMPLETED" if over else state, restart_count=t.restart, uid=t.uid,
            start_s=EPOCH_S + int(t.begin), end_s=EPOCH_S + int(t.last) if over else 0,
            user=f"u{t.uid}", gpus=() if over else (HeldGpu("n1", str(t.gpu), None),),
            nodes=("n1",), gpu_count=1,
        )  # fmt: skip

    # the kernel

    def truth(self, path: Path) -> Truth:
        return next(t for t in self.truths if t.path == path)

    def live(self, paths: set[Path]) -> bool:
        return any(t.runs(self.now) for t in map(self.truth, paths))

    def begun_boottime_ns(self, path: Path) -> int:
        t = self.truth(path)
        later = t.gap is not None and self.now >= t.gap[1]
        return self.boottime_ns(int((t.gap[1] if later and t.gap else t.first) * NS_PER_S))

    def has_extern(self, path: Path) -> bool:
        return self.truth(path).extern

    # what users say

    expected = False

    def label_file(self, job: object) -> dict[str, str]:
        return {}

    def forget(self, job_id: str, uid: int) -> None:
        pass

    def environment(self, paths: set[Path], *, thorough: bool) -> JobEnvironment | None:
        for path in paths:
            t = self.truth(path)
            return JobEnvironment({"SLURM_JOB_NAME": "inherited"}, str(t.number), t.uid)
        return None

    # the daemon

    def start(self) -> None:
        held = tuple(c for c in self.claims if c.t1_ns is None)
        holders = {c.workload for c in held}
        facts = tuple(f for f in self.facts.values() if f.ended_ns is None or f.id in holders)
        before = Before(facts, held, self.last_ns) if self.last_ns else NOTHING_HELD
        self.timers = Timers(lambda: self.now)
        site = SlurmSite(node="n1", slurm_conf=Path("/none"), scontrol="", slurmd="")
        self.source = SlurmWorkloads(cast(Any, self), site)
        table = JobTable("n1", before=before)
        self.tracker = JobTracker(
            clock=cast(Any, self), table=table, timers=self.timers, asker=cast(Any, self),
            labels=cast(Any, self), processes=cast(Any, self),
            gres_of=lambda node: (True, GRES), lock=threading.RLock(), poke=lambda: None,
            refuse=lambda error: None,
        )  # fmt: skip
        parts: dict[str, object] = {
            "_table": table, "_tracker": self.tracker, "_labels": self,
            "_events": SimpleNamespace(whole=True, delete=self.delete), "_mappings": [],
            "_gres_of": lambda node: (True, GRES),
        }  # fmt: skip
        for name, part in parts.items():
            setattr(self.source, name, part)
        self.edge_ns = self.now_ns()  # Energy of an outage waits for proof: the core's tests.
        self.up = True
        for stem in sorted(self.files, key=lambda s: self.files[s][1] is not None):
            self.tell(stem, live=False)
        for t in self.truths:
            if t.runs(self.now):
                self.tracker.job_seen(SlurmPlace(str(t.number), "n1", t.uid), t.path, False)
        self.tracker.scanned()

    def tell(self, stem: str, *, live: bool) -> None:
        event, end = self.files[stem]
        end_ns = None if end is None else int((EPOCH_S + end) * NS_PER_S)
        if self.up:
            self.tracker.job_told(stem, event, end_ns, live)

    def delete(self, stem: str) -> None:
        self.files.pop(stem, None)

    def tick(self) -> None:
        now_ns = self.now_ns()
        if not self.up:
            return
        held = self.source.holdings(DEVICES)
        self.claims = merge(self.claims, held.claims, held.complete, self.affirmed)
        self.affirmed |= dict.fromkeys(held.complete, now_ns)
        for fact in held.facts:
            known = self.facts.get(fact.id, WorkloadFacts(fact.id))
            after = merged(known, fact)
            if known.started_ns:
                assert after.started_ns == known.started_ns, "no begin moves"
            assert after.ended_ns is None or after.ended_ns >= after.started_ns
            assert not known.labels.user or after.labels.user == known.labels.user
            self.facts[fact.id] = after
        self.source.settled()
        until_ns = now_ns - SETTLE_NS
        for device in DEVICES:
            claims = [c for c in self.claims if c.meter == device.meter]
            if until_ns > self.edge_ns:
                for tenure in settle(claims, self.edge_ns, until_ns):
                    for holder in tenure.holders:
                        piece = (device.meter, tenure.t0_ns, tenure.t1_ns, holder.workload)
                        self.booked.append(piece)
        self.edge_ns, self.last_ns = max(self.edge_ns, until_ns), now_ns

    # what happens

    def plan(self) -> None:
        for t in self.truths:
            if self.hooked:
                self.at(t.begin, lambda t=t: self.prolog(t))  # type: ignore[misc]
                if t.swept:
                    self.at((t.first + 3 * t.last) / 4, lambda t=t: self.sweep(t))  # type: ignore[misc]
                if t.epilog:
                    self.at(t.end, lambda t=t: self.epilog(t))  # type: ignore[misc]
            gap = t.gap or ()
            for when, came in zip((t.first, *gap, t.last), itertools.cycle((True, False))):
                self.at(when, lambda t=t, came=came: self.cgroup(t, came=came))  # type: ignore[misc]

    def prolog(self, t: Truth) -> None:
        event = JobEvent(
            v=1, scheduler="slurm", job_id=str(t.number), restart_count=t.restart,
            start_ns=int((EPOCH_S + t.begin) * NS_PER_S), gpus=(str(t.gpu),), uid=t.uid,
            user=f"u{t.uid}", node="n1",
        )  # fmt: skip
        self.files[t.stem] = (event, None)
        self.tell(t.stem, live=True)

    def sweep(self, t: Truth) -> None:
        if self.files.pop(t.stem, None) is not None and self.up:
            self.tracker.job_unreported(t.stem)

    def epilog(self, t: Truth) -> None:
        if t.stem in self.files and self.files[t.stem][1] is None:
            self.files[t.stem] = (self.files[t.stem][0], self.now)
            self.tell(t.stem, live=True)

    def cgroup(self, t: Truth, *, came: bool) -> None:
        if self.up and came:
            self.tracker.job_seen(SlurmPlace(str(t.number), "n1", t.uid), t.path, True)
        elif self.up:
            self.tracker.job_gone(t.path)

    def run(self, until: float) -> None:
        while self.now < until:
            wait = self.timers.wait_s() if self.up else None
            beat = 15.0 if self.now > max(t.end for t in self.truths) + 30 else 1.0
            ahead = [until, self.now + beat - self.now % beat]
            ahead += [self.todo[0][0]] if self.todo else []
            ahead += [self.now + wait] if wait is not None else []
            before, self.now = self.now, max(self.now, min(ahead))
            while self.todo and self.todo[0][0] <= self.now:
                heapq.heappop(self.todo)[2]()
            if self.up:
                for action in self.timers.due():
                    action()
            if self.now // beat > before // beat:
                self.tick()


def owner(world: World, workload: WorkloadId) -> list[Truth]:
    number, _, restart = workload.workload.partition(".r")
    return [t for t in world.truths if (t.number, t.restart) == (int(number), int(restart or 0))]


@settings(max_examples=40, deadline=None)
@given(st.data(), runs(), st.booleans(), st.lists(st.integers(1, 100), max_size=2))
def test_no_answer_gives_a_live_holders_energy_to_another_or_keeps_a_dead_one(
    data: st.DataObject, truths: list[Truth], hooked: bool, outages: list[int]
) -> None:
    if not hooked:  # With neither, nobody tells one run's steps from another's: the doctor says so.
        for each in truths:
            each.extern, each.gap = True, None
    world = World(truths, hooked, data)
    world.plan()
    world.start()
    for begin in sorted(outages):
        world.run(float(begin))
        world.up, down = False, world.now
        world.run(begin + float(data.draw(st.integers(1, 20))))
        world.downs.append((down, world.now))
        world.start()
    last = max(t.end for t in truths)
    world.run(last)
    world.quiet = True
    world.run(last + 900)

    for meter, t0_ns, t1_ns, workload in world.booked:
        if workload is None:
            continue
        (run,) = owner(world, workload)
        run.ids.add(workload)
        assert meter.name == f"GPU-{run.gpu}"
        for other in truths:
            if other is run or other.gpu != run.gpu:
                continue
            lived = (int(other.first * NS_PER_S), int(other.last * NS_PER_S))
            together_ns = min(t1_ns, lived[1]) - max(t0_ns, lived[0])
            assert together_ns <= NS_PER_S // 20, (run, other)
    assert all(claim.t1_ns is not None for claim in world.claims), "no dead one holds on"
    for run in truths:
        rows = [f for f in world.facts.values() if run in owner(world, f.id)]
        assert all(f.ended_ns is not None for f in rows)
        assert {f.labels.user for f in rows} <= {"", f"u{run.uid}"}
        watched = not any(a - 4 <= run.last and run.begin <= b for a, b in world.downs)
        if hooked and (watched or not run.swept):
            assert len({f.id for f in rows}) <= 1, (run, rows, world.downs)
        if hooked and watched and not run.swept:
            begin_ns, end_ns = int(run.begin * NS_PER_S), int(run.last * NS_PER_S)
            booked_ns = sum(
                min(t1_ns, end_ns) - max(t0_ns, begin_ns)
                for _, t0_ns, t1_ns, workload in world.booked
                if workload in run.ids and t0_ns < end_ns
            )
            assert booked_ns > end_ns - begin_ns - NS_PER_S // 20, "a live one keeps its energy"
