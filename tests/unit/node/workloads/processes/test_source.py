"""Processes as tenants: real ones on a card, and what comes of them."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from joulebook.clock import NodeClock
from joulebook.core.energy.readings import (
    Component,
    DeviceStatus,
    Meter,
    ProcessSpan,
    ProcessUse,
    Reading,
)
from joulebook.core.workloads import INFRASTRUCTURE, WorkloadFacts, WorkloadId, merged
from joulebook.node.workloads.contract import NOTHING_HELD, Before
from joulebook.node.workloads.host.procfs import stat_of
from joulebook.node.workloads.processes import owners, proc, table
from joulebook.node.workloads.processes.owners import Facts, ProcessRun, run_place
from joulebook.node.workloads.processes.source import ProcessWorkloads

CARD = Meter(Component.GPU, "GPU-a")
DEVICES = (DeviceStatus(CARD, 0, 1, model="NVIDIA A100"),)
MS = 1_000_000
ID = "3f2a91bc0d12" + "e5" * 26


class Place:
    """A source, its clock and its card; processes in cgroups that the test tells."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch
        self.clock = NodeClock()
        self.boundaries: list[int] = []
        self.cgroups: dict[int, str] = {}
        # These tests launch processes of users, and are none of their scripts.
        self.uids: dict[int, int] = {os.getpid(): 4711}
        self.user_of: Callable[[int], str] = lambda uid: f"user{uid}"
        self.processes: list[subprocess.Popen[bytes]] = []
        real = proc.facts_of

        def facts_of(pid: int, *rest: object) -> Facts | None:
            found = real(pid)
            if found is None:
                return None
            uid = self.uids.get(pid, found.uid)
            return Facts((self.cgroups.get(pid, "/"),), uid)

        monkeypatch.setattr(proc, "facts_of", facts_of)
        self.source = self.made()

    def made(self, before: Before = NOTHING_HELD, **settings: object) -> ProcessWorkloads:
        source = ProcessWorkloads(
            self.clock,
            node="ws1",
            user_of=self._named,
            **settings,  # type: ignore[arg-type]
        )
        source.open(self.boundaries.append, before)
        return source

    def _named(self, uid: int) -> str:
        return self.user_of(uid)

    def start(self, cgroup: str = "/", uid: int = 1000, group: int = 0, **environment: str) -> int:
        process = subprocess.Popen(
            ["/bin/sleep", "600"], process_group=group, env=dict(environment)
        )
        self.processes.append(process)
        until(lambda: (stat := stat_of(process.pid)) is not None and stat.comm == "sleep")
        self.cgroups[process.pid], self.uids[process.pid] = cgroup, uid
        return process.pid

    def end(self, pid: int) -> None:
        process = next(p for p in self.processes if p.pid == pid)
        process.kill()
        process.wait()

    def use(self, pid: int, sm_time_ns: int | None = None) -> ProcessUse:
        stat = stat_of(pid)
        assert stat is not None
        started_ns = stat.started_boottime_ns - self.clock.boottime_ns(0)
        return ProcessUse(pid, started_ns, sm_time_ns, None, self.source.identify(pid))

    def list(self, *uses: ProcessUse) -> Reading:
        return self.source.lived(Reading(CARD, self.clock.now_ns(), 0, processes=uses))

    def facts(self) -> dict[WorkloadId, WorkloadFacts]:
        return {fact.id: fact for fact in self.source.holdings(DEVICES).facts}


def until(done: Callable[[], object], timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    place = Place(monkeypatch)
    yield place
    for process in place.processes:
        process.kill()
        process.wait()
    place.source.close()


def resolved(place: Place) -> WorkloadFacts:
    """The facts of the one workload there is, once nothing more will be learnt."""
    found: list[WorkloadFacts] = []

    def poll() -> bool:
        found[:] = place.facts().values()
        return bool(found) and found[0].complete

    until(poll)
    return found[0]


def run_name(place: Place, pid: int, uid: int = 1000, experiment: str = "") -> WorkloadId:
    """The name of the run that a process leads."""
    stat = stat_of(pid)
    assert stat is not None
    machine = f"ws1.{place.clock.epoch[:8]}"
    run = run_place(ProcessRun(pid, stat.ticks), uid)
    return WorkloadId("process", run.identity(machine, experiment))


def test_facts_of_a_run(place: Place) -> None:
    pid = place.start(JOULEBOOK_EXPERIMENT="bert", SECRET="t0k3n")
    use = place.use(pid)
    place.list(use)
    assert use.workload == run_name(place, pid, experiment="bert")
    fact = resolved(place)
    assert (fact.labels, fact.named) == (("user1000", "", "bert"), True)
    assert (fact.name, fact.started_ns, fact.ended_ns) == ("sleep", use.started_ns, None)
    assert (fact.gpu_count, fact.evidence) == (1, "processes")
    assert fact.extra == {"kind": "run", "gpu_model": "NVIDIA A100"}
    assert "t0k3n" not in repr(fact)
    place.source.settled()
    assert place.facts() == {}, "said once"


def test_two_stages_of_one_place_are_two_runs(place: Place) -> None:
    uses = []
    for stage in ("SFT", "RL"):
        pid = place.start(f"docker/{ID}", JOULEBOOK_EXPERIMENT="bert", JOULEBOOK_STAGE=stage)
        uses.append(place.use(pid))
    place.list(*uses)
    assert {fact.stage for fact in place.facts().values()} == {"SFT", "RL"}
    assert len({use.workload for use in uses}) == 2


def test_what_nobody_named_is_one_experiment_of_each_user(place: Place) -> None:
    place.list(place.use(place.start()))
    fact = resolved(place)
    assert (fact.labels, fact.named) == (("user1000", "", "sessions"), False)


def test_one_after_the_other_in_one_place_each_keeps_what_was_booked_to_it(place: Place) -> None:
    for cgroup in ("/", "/system.slice/hub.service", f"/docker/{ID}"):
        reported: dict[WorkloadId, WorkloadFacts] = {}
        group = place.start(cgroup)
        for name in ("bert", "vit", "gpt"):
            # As a script does it: in one process group.
            pid = place.start(cgroup, group=group, JOULEBOOK_EXPERIMENT=name)
            place.list(place.use(pid))
            place.end(pid)
            place.list()
            until(lambda: all(f.complete for f in place.facts().values()))
            reported |= place.facts()
            place.source.settled()
        place.end(group)
        reported |= place.facts()
        named = {fact.labels.experiment: fact for fact in reported.values()}
        assert set(named) == {"bert", "vit", "gpt"}
        begins = [named[name].started_ns for name in ("bert", "vit", "gpt")]
        assert begins == sorted(begins)
        assert {fact.labels.user for fact in named.values()} == {"user1000"}


def test_each_users_part_of_a_service_and_of_a_container_is_his(place: Place) -> None:
    for cgroup, experiment in (
        ("/system.slice/hub.service", "hub"), (f"/docker/{ID}", "containers"),
    ):  # fmt: skip
        uses = [place.use(place.start(cgroup, uid=uid)) for uid in (1001, 1002)]
        place.list(*uses)
        until(lambda: all(fact.complete for fact in place.facts().values()))
        assert {fact.labels for fact in place.facts().values()} == {
            (f"user{uid}", "", experiment) for uid in (1001, 1002)
        }
        place.source.settled()
    place.list(place.use(place.start(f"/docker/{ID}", uid=0)))
    fact = resolved(place)
    assert fact.id == WorkloadId("process", "docker-3f2a91bc0d12")
    assert fact.labels == ("", "", "containers"), "nobody can say who started it"


def test_a_restart_changes_nothing(place: Place) -> None:
    """Neither name, begin nor user; what ended meanwhile ended when it was last known to live."""
    named = place.start(JOULEBOOK_EXPERIMENT="bert")
    part = place.start("/system.slice/hub.service", uid=1001)
    gone = place.start(uid=1003)
    uses = [place.use(pid) for pid in (named, part, gone)]
    place.list(*uses)
    until(lambda: len(place.facts()) == 3 and all(f.complete for f in place.facts().values()))
    facts = place.facts()
    ledger = dict(facts)
    last_ns = place.clock.now_ns()
    place.source.close()
    place.end(gone)
    # Its directory of users does not answer, and its environment cannot be read.
    place.user_of = lambda uid: (_ for _ in ()).throw(ZeroDivisionError())
    place.source = place.made(before=Before(tuple(facts.values()), (), last_ns))
    place.monkeypatch.setattr(proc, "names_of", lambda *args: None)
    later = place.start(group=named)
    again = [place.use(pid) for pid in (later, named, part)]
    assert [use.workload for use in again] == [uses[0].workload, *(u.workload for u in uses[:2])]
    for use in again:
        place.list(use)
        for id_, fact in place.facts().items():
            ledger[id_] = merged(ledger[id_], fact)
        place.source.settled()
    for id_, before in facts.items():
        now = ledger[id_]
        assert (now.labels, now.started_ns) == (before.labels, before.started_ns)
        assert now.ended_ns == (last_ns if id_ == uses[2].workload else None)


def test_a_process_that_gave_up_roots_rights_is_one_workload_over_a_restart(place: Place) -> None:
    dropped = place.start(uid=0)
    place.list(place.use(dropped))
    held = resolved(place)
    assert held.id.workload.startswith(f"run-{dropped}-")
    place.source.close()
    place.source = place.made(Before((held,), (), place.clock.now_ns()))
    place.uids[dropped] = 1000
    # Another user's process of that run, which began after the restart, is his own.
    time.sleep(0.05)
    other = place.start(uid=1001, group=dropped)
    uses = [place.use(pid) for pid in (other, dropped)]
    assert [use.workload == held.id for use in uses] == [False, True]
    place.list(*uses)
    until(lambda: all(fact.complete for fact in place.facts().values()))
    assert place.facts()[held.id].labels.user == held.labels.user


def test_a_users_process_is_not_roots_whose_own_lives(place: Place) -> None:
    root = place.start(uid=0)
    place.list(place.use(root))
    held = resolved(place)
    ada = place.start(uid=1000, group=root)
    place.source.close()
    place.source = place.made(Before((held,), (), place.clock.now_ns()))
    place.list(place.use(root))
    assert place.use(root).workload == held.id != place.use(ada).workload


def test_what_the_ledger_held_of_another_boot_or_an_older_version_is_over(place: Place) -> None:
    ids = ["run-1-2.u5@ws1.ffffffff", "hub.service.u5@ws1.ffffffff", "session-4.u5@ws1.0", "x"]
    before = tuple(
        WorkloadFacts(WorkloadId("process", id_), started_ns=7, extra={"kind": kind})
        for id_, kind in zip(ids, ("run", "unit", "session", "session"), strict=True)
    )
    place.source.close()
    place.source = place.made(before=Before(before, (), 100))
    assert {fact.ended_ns for fact in place.facts().values()} == {100}
    assert len(place.facts()) == 4


def test_a_name_that_comes_late_counts_from_then_on(place: Place) -> None:
    release = threading.Event()
    real = proc.names_of

    def slow(pid: int, names: Collection[str], leader: int, root: Path) -> dict[str, str] | None:
        release.wait(60)
        return real(pid, names, leader, root)

    place.monkeypatch.setattr(proc, "names_of", slow)
    place.monkeypatch.setattr(place.source._lookups, "_patience_s", 0.01)
    pid = place.start(JOULEBOOK_EXPERIMENT="bert")
    use = place.use(pid)
    assert use.workload == run_name(place, pid)
    (listed,) = place.list(use).processes or ()
    assert listed.workload == use.workload
    # Who hangs his own look-ups hangs nobody else's.
    release.set()
    bert = run_name(place, pid, experiment="bert")
    until(lambda: (place.list(use).processes or (use,))[0].workload == bert)


def test_a_zombie_and_a_dead_pid_hold_nothing(place: Place) -> None:
    zombie = place.start(JOULEBOOK_EXPERIMENT="bert")
    use = place.use(zombie)
    place.list(use)
    next(p for p in place.processes if p.pid == zombie).kill()  # and nobody waits for it
    until(lambda: place.boundaries)
    (gone,) = place.list().processes or ()
    assert gone.marks[0].t1_ns == place.boundaries[0]
    assert not place.source._lives((use.pid, use.started_ns))
    assert not place.source._lives((2**22 + 1, 5))


def test_what_is_wholly_under_a_span_is_no_second_workload(place: Place) -> None:
    pid = place.start()
    use = place.use(pid)
    span = ProcessSpan(use.started_ns + 5 * MS, None, WorkloadId("process", "span-1"))
    under = replace(use, marks=(span,))
    place.list(under)
    place.list(under)
    assert place.facts() == {}
    place.list(replace(use, marks=(span._replace(t1_ns=place.clock.now_ns()),)))
    assert len(place.facts()) == 1, "now something goes to itself"


def test_the_cgroups_of_a_scheduler_are_its_own(place: Place) -> None:
    job = place.start("/slurm/uid_1000/job_7/step_0")
    pod = place.start("/kubepods/burstable/pod8a5e7e2c-3b6d-4c1c-9f0e-1d2c3b4a5f60/" + ID)
    assert place.source.identify(job) is not None, "none is watched here"
    place.source.close()
    place.source = place.made(others=("slurm", "kubernetes"))
    assert place.source.identify(job) is None
    assert place.source.identify(pod) is None


def test_infrastructure(place: Place) -> None:
    place.source.close()
    place.source = place.made(infrastructure=("sleep",))
    assert place.source.identify(place.start(uid=0)) == INFRASTRUCTURE
    assert place.source.identify(place.start(uid=1000)) != INFRASTRUCTURE
    assert place.source.identify(2**22 + 1) is None


def test_a_display_server_of_a_users_login_serves_everybody_while_it_only_draws(
    place: Place,
) -> None:
    place.source.close()
    place.source = place.made(infrastructure=("sleep",))
    use = place.use(place.start(uid=1000))
    (draws,) = place.list(replace(use, graphics=True)).processes or ()
    assert (draws.workload, draws.marks) == (INFRASTRUCTURE, ())
    assert place.facts() == {}
    (computes,) = place.list(use).processes or ()
    assert computes.workload == use.workload != INFRASTRUCTURE
    job = replace(use, graphics=True, workload=WorkloadId("slurm", "7"))
    assert place.list(job).processes == (job,), "inside a job it is the job's"


def test_a_process_has_a_life_and_its_end_is_a_boundary(place: Place) -> None:
    pid = place.start()
    use = place.use(pid, sm_time_ns=100 * MS)
    assert use.workload is not None
    (listed,) = place.list(use).processes or ()
    assert listed.marks == (ProcessSpan(use.started_ns, None, use.workload),)
    time.sleep(0.05)
    place.list(use)
    before_ns = place.clock.now_ns()
    place.end(pid)
    until(lambda: place.boundaries)
    assert before_ns <= place.boundaries[0] <= place.clock.now_ns()
    # The list after it names it still, with its end, and as busy as before.
    (gone,) = place.list().processes or ()
    assert gone.ended
    assert gone.marks == (ProcessSpan(use.started_ns, place.boundaries[0], use.workload),)
    assert gone.sm_time_ns is not None
    assert place.list().processes == (), "once"
    assert resolved(place).ended_ns == place.boundaries[0]


def test_an_end_that_was_not_told_in_time_is_seen_when_it_is_missing(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place.source._exits, "watch", lambda key, lives: True)
    pid = place.start()
    use = place.use(pid)
    place.list(use)
    place.end(pid)
    reading = place.list()
    (gone,) = reading.processes or ()
    assert gone.marks[0].t1_ns == reading.t_ns


def test_one_that_leaves_the_card_and_lives_is_not_ended(place: Place) -> None:
    pid = place.start()
    use = place.use(pid)
    place.list(use)
    assert place.list().processes == ()
    assert place.boundaries == []
    (back,) = place.list(use).processes or ()
    assert back.marks[0].t1_ns is None
    assert resolved(place).ended_ns is None


def test_one_that_left_the_card_ends_all_the_same(place: Place) -> None:
    pid = place.start()
    place.list(place.use(pid))
    place.list()
    place.end(pid)
    until(lambda: place.boundaries)
    assert resolved(place).ended_ns == place.boundaries[0]


def test_a_workload_ends_with_its_last_process_and_may_begin_again(place: Place) -> None:
    unit = "/system.slice/hub.service"
    first, second = place.start(unit), place.start(unit)
    uses = [place.use(first), place.use(second)]
    place.list(*uses)
    place.end(first)
    until(lambda: len(place.boundaries) == 1)
    assert resolved(place).ended_ns is None
    place.end(second)
    until(lambda: len(place.boundaries) == 2)
    assert resolved(place).ended_ns == place.boundaries[1]
    place.list()
    place.list(place.use(place.start(unit)))
    assert resolved(place).ended_ns is None


def test_marks_come_before_the_life(place: Place) -> None:
    pid = place.start()
    use = place.use(pid)
    mark = ProcessSpan(1, None, WorkloadId("process", "mark.1"))
    reading = Reading(CARD, place.clock.now_ns(), 0, processes=(
        ProcessUse(use.pid, use.started_ns, None, None, use.workload, marks=(mark,)),
    ))  # fmt: skip
    (listed,) = place.source.lived(reading).processes or ()
    assert listed.marks[0] == mark
    assert listed.marks[1].workload == use.workload


def test_processes_of_others_are_left_alone(place: Place) -> None:
    theirs = ProcessUse(1, 2, None, None, WorkloadId("slurm", "7"))
    assert place.list(theirs).processes == (theirs,)
    assert place.source.lived(Reading(CARD, 1, 0)).processes is None


def test_a_directory_of_users_that_hangs_holds_nothing_up(place: Place) -> None:
    release = threading.Event()

    def slow(uid: int) -> str:
        release.wait(20)
        return "late"

    place.user_of = slow
    place.list(place.use(place.start()))
    (fact,) = place.facts().values()
    assert (fact.labels.user, fact.complete) == ("", False)
    release.set()
    assert resolved(place).labels.user == "late"


def test_a_fault_of_ours_with_one_process_leaves_the_others_their_names(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(uid: int) -> str:
        if uid == 1001:
            raise ZeroDivisionError
        return "ada"

    place.user_of = broken
    place.list(place.use(place.start(uid=1001)))
    until(lambda: place.source.holdings(()).rejected)
    place.list(place.use(place.start(uid=1000)))
    until(lambda: "ada" in {fact.labels.user for fact in place.facts().values()})
    assert place.source.holdings(()).rejected == {"fault": 1}
    assert "it has no name" in caplog.text


def test_state_is_bounded_and_what_is_over_is_forgotten(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "REMEMBERED_NS", 0)
    pid = place.start()
    use = place.use(pid)
    place.list(use)
    place.end(pid)
    until(lambda: place.boundaries)
    place.list()
    resolved(place)
    place.source.settled()
    place.facts()
    assert not place.source._table._workloads
    assert not place.source._table._members
    monkeypatch.setattr(table, "MOST", 8)
    for n in range(50):
        id_ = WorkloadId("process", str(n))
        place.source._table.meet(table.KnownProcess(id_, owners.Place("unit", "", 1)))
    assert len(place.source._table._workloads) <= 8


def test_groups_are_the_processes_that_live(place: Place) -> None:
    pid = place.start()
    use = place.use(pid)
    place.list(use)
    (group,) = place.source.groups()
    assert (group.workload, group.pids) == (use.workload, (pid,))
    place.end(pid)
    until(lambda: place.boundaries)
    assert place.source.groups() == []


def test_a_pid_of_another_namespace_is_never_put_into_a_system_call(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr("os.pidfd_open", asked.append)
    place.source._own_pids = False
    process = place.use(place.start(), 5)
    (kept,) = place.list(process).processes or ()
    assert not kept.ended
    assert not place.source.groups(), "its CPU time would be another process's"
    assert not asked
