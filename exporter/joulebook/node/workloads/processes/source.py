"""The workload source for processes outside any scheduler.

It makes no claims: a process that runs on a device does not hold it. What a process consumes goes
to its user's part of a container or service, or to the run that it is a part of; and of these to
the part that runs under the experiment which it was started for. That is asked once in a process's
life, and what was booked under a name keeps it. docs/evidence.md says what is believed of whom.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import msgspec

from joulebook.clock import Clock
from joulebook.core import experiments
from joulebook.core.energy.readings import DeviceStatus, ProcessUse, Reading
from joulebook.core.experiments import DEFAULT_RULES, VARIABLES
from joulebook.core.sanitize import clean_label
from joulebook.core.workloads import INFRASTRUCTURE, WorkloadFacts, WorkloadId
from joulebook.node.workloads.contract import (
    NOTHING_HELD,
    Before,
    Boundary,
    Holdings,
    Rejections,
    UsageGroup,
)
from joulebook.node.workloads.host.cgroup_paths import pod_place, slurm_place
from joulebook.node.workloads.host.procfs import UserNames, is_gone, stat_of, user_name
from joulebook.node.workloads.processes import proc
from joulebook.node.workloads.processes.owners import (
    CONTAINERS,
    RUNS,
    Facts,
    Place,
    ProcessRun,
    place_of,
    run_place,
)
from joulebook.node.workloads.processes.proc import Exits, Key, Lookups
from joulebook.node.workloads.processes.table import (
    REMEMBERED_NS,
    SCHEDULER,
    KnownProcess,
    ProcessTable,
    Stated,
)
from joulebook.units import NS_PER_MS

GRAIN_NS = 20 * NS_PER_MS
"""Linux reports the start of a process in hundredths of a second."""

_RUN = re.compile(r"run-(\d+)-(\d+)")
_OWNER = re.compile(r"(.+?)(?:\.u(\d+))?(?:\.[0-9a-f]{8})?", re.DOTALL)


class ProcessWorkloads:
    """Watch processes on the GPUs of `node`.

    `infrastructure` are names of programs that serve everyone. Cgroups of the schedulers in
    `others` (`slurm`, `kubernetes`) are left to them, even while they do not know them yet. PIDs
    are those of `proc_root`; unless they are also `own_pids` (of this process's own namespace),
    ends are known from process lists alone, and CPU time of single processes is unattributed.
    """

    name = "processes"

    def __init__(
        self,
        clock: Clock,
        *,
        node: str,
        rules: Sequence[str] = DEFAULT_RULES,
        infrastructure: Collection[str] = (),
        others: Collection[str] = (),
        proc_root: Path = Path("/proc"),
        own_pids: bool = True,
        user_of: Callable[[int], str] = user_name,
    ) -> None:
        self._clock = clock
        self._machine = f"{node}.{clock.epoch[:8]}"
        self._rules = rules
        self._infrastructure = frozenset(infrastructure)
        self._others = frozenset(others)
        self._proc = proc_root
        self._own_pids = own_pids
        self._lock = threading.Lock()
        self._rejections = Rejections()
        self._table = ProcessTable()
        self._runs: dict[int, ProcessRun] = {}
        self._users = UserNames(user_of)
        self._opened_ns = self._before_ns = 0
        self._boundary: Boundary = lambda t_ns: None
        self._exits = Exits(self._ended)
        self._lookups = Lookups(
            lambda: self._rejections.fault(
                "looking up the owner of a process failed; it has no name"
            )
        )

    # -- WorkloadSource

    def open(self, boundary: Boundary, before: Before = NOTHING_HELD) -> None:
        """Start watching the ends of processes; continue from the ledger."""
        self._boundary = boundary
        self._opened_ns, self._before_ns = self._clock.now_ns(), before.last_ns
        with self._lock:
            for facts in before.facts:
                if facts.id.scheduler == SCHEDULER and "kind" in facts.extra:
                    self._restore(facts)
        self._exits.start()

    def holdings(self, devices: Sequence[DeviceStatus]) -> Holdings:
        """Return the workloads of which anything is new."""
        models = {device.meter: device.model for device in devices}
        now_ns = self._clock.now_ns()
        with self._lock:
            self._runs = {n: run for n, run in self._runs.items() if not self._is_gone(n, run)}
            for known in self._table.unseen():
                late = now_ns - self._opened_ns > REMEMBERED_NS and self._is_left(known.place)
                if late or (known.place.kind == "run" and self._is_over(known.place)):
                    self._table.end_unseen(known, self._before_ns)
            self._table.look_after(self._lives, now_ns)
            self._table.sweep(now_ns)
            facts = self._table.news(models, now_ns, self._is_over)
        return Holdings(facts=facts, rejected=self._rejections.counts())

    def settled(self) -> None:
        """Confirm that the last holdings are durable."""
        with self._lock:
            self._table.settled()

    def identify(self, pid: int) -> WorkloadId | None:
        """Return the workload of any process that is no scheduler's."""
        facts = proc.facts_of(pid, self._proc)
        if facts is None or any(self._is_others(path) for path in facts.paths):
            return None
        if proc.is_infrastructure(pid, self._infrastructure, facts, self._proc):
            return INFRASTRUCTURE
        stat = stat_of(pid, self._proc)
        run = None if stat is None else self._run_of(pid, stat.group, facts.uid)
        if stat is None or run is None:
            return None
        started_ns = stat.started_boottime_ns - self._clock.boottime_ns(0)
        place = place_of(facts) or self._run_place(run, facts.uid, started_ns)
        given = self._given((pid, started_ns), place, facts, run)
        return self._meet(place, given, clean_label(stat.comm))

    def close(self) -> None:
        """Stop watching; a hanging lookup is abandoned."""
        self._exits.stop()

    # -- Accounted

    def groups(self) -> Sequence[UsageGroup]:
        """Return the processes on devices, by workload."""
        if not self._own_pids:
            return ()
        with self._lock:
            return [
                UsageGroup(workload, pids=tuple(sorted(pids)))
                for workload, pids in self._table.pids().items()
            ]

    # -- lives

    def lived(self, reading: Reading) -> Reading:
        """The reading, each process with its life, and those that ended since the list before."""
        if any(use.graphics for use in reading.processes or ()):
            uses = tuple(self._serving(use) for use in reading.processes or ())
            reading = msgspec.structs.replace(reading, processes=uses)
        with self._lock:
            reading = self._table.lived(reading, self._lives)
            ours = self._table.living(reading.meter)
        for key in ours if self._own_pids else ():
            if not self._exits.watch(key, self._lives):
                self._ended(key)
        return reading

    def _lives(self, key: Key) -> bool:
        """Return whether the pid is still that of the process which started then, and it runs."""
        stat = stat_of(key[0], self._proc)
        if stat is None:
            return not is_gone(key[0], self._proc)
        started_ns = stat.started_boottime_ns - self._clock.boottime_ns(0)
        same = not key[1] or abs(started_ns - key[1]) <= GRAIN_NS
        return same and not stat.is_over

    def _ended(self, key: Key) -> None:
        now_ns = self._clock.now_ns()
        with self._lock:
            self._table.ended(key, now_ns)
        self._boundary(now_ns)

    def _serving(self, use: ProcessUse) -> ProcessUse:
        """Return the process, as infrastructure if it is a display server of a user's login.

        Only if it just draws: a process that computes is charged, whatever its name.
        """
        if not use.graphics or use.workload is None or use.workload.scheduler != SCHEDULER:
            return use
        serves = proc.serves(self._comm(use.pid), self._infrastructure)
        return msgspec.structs.replace(use, workload=INFRASTRUCTURE) if serves else use

    # -- who they are

    def _is_others(self, path: str) -> bool:
        if "slurm" in self._others and slurm_place(path) is not None:
            return True
        return "kubernetes" in self._others and pod_place(path) is not None

    def _run_of(self, pid: int, group: int, uid: int) -> ProcessRun | None:
        """Return the run of a process group, which is fixed while any of it is alive."""
        run = self._runs.get(group) or proc.run_of(pid, uid, self._runs.get, self._proc)
        if run is not None:
            with self._lock:
                self._runs[group] = run
        return run

    def _run_place(self, run: ProcessRun, uid: int, started_ns: int) -> Place:
        """Return the place of a process in a run; one that gave up root's rights goes on as root's.

        So it does while the daemon runs, which asks once in a process's life; after a restart the
        ledger says that it was root's, and nobody else of the run is left who can have been that.
        """
        place = run_place(run, uid)
        if uid and started_ns <= self._before_ns:
            with self._lock:
                held = {k.place.uid for k in self._table.unseen() if k.place.name == place.name}
            if held == {0}:
                return place._replace(uid=0)
        return place

    def _given(self, process: Key, place: Place, facts: Facts, run: ProcessRun) -> Stated:
        """Return the experiment and stage that a process was started for.

        An answer that comes too late counts from then on. Where none can be had, the process is
        taken for one of those that run under a name in its place already, if that is only one.
        """
        answers: list[Stated | None] = []
        waited = threading.Event()

        def ask() -> None:
            until = run.pid if place.kind == "run" else 0
            found = proc.names_of(process[0], VARIABLES, until, self._proc)
            answers.append(None if found is None else self._chosen(found, place))
            if waited.is_set() and answers[0] and any(answers[0]):
                workload = self._meet(place, answers[0], clean_label(self._comm(process[0])))
                with self._lock:
                    self._table.rename(process, workload)

        if not self._lookups.ask(facts.uid, ask, wait=True):
            waited.set()
        if answers and answers[0] is not None:
            return answers[0]
        with self._lock:
            return self._table.given(place)

    def _chosen(self, names: dict[str, str], place: Place) -> Stated:
        named = {f"env:{name}": value for name, value in names.items()}
        derived = {"workload": place.experiment}
        if place.kind == "unit":
            derived["job_name"] = place.experiment
        given = experiments.choose(self._rules, named)
        if given != experiments.choose(self._rules, {**named, **derived}):
            given = ""
        return Stated(given, experiments.stage_of(named))

    def _meet(self, place: Place, given: Stated, comm: str) -> WorkloadId:
        workload = WorkloadId(SCHEDULER, place.identity(self._machine, *given))
        name = comm if place.kind == "run" else place.name
        with self._lock:
            user = "" if place.uid is None else self._users.known(place.uid)
            self._table.meet(KnownProcess(workload, place, name, given, user))
        if user is None and place.uid is not None:
            uid = place.uid
            self._lookups.ask(("user", uid), lambda: self._look_up(uid))
        return workload

    def _look_up(self, uid: int) -> None:
        user = self._users.look_up(uid)
        with self._lock:
            self._table.learn_user(uid, user)

    def _comm(self, pid: int) -> str:
        stat = stat_of(pid, self._proc)
        return "" if stat is None else stat.comm

    # -- what the ledger held

    def _restore(self, facts: WorkloadFacts) -> None:
        name, kind = facts.id.workload, facts.extra["kind"]
        here = name.removesuffix(f"@{self._machine}")
        found = _OWNER.fullmatch(here)
        base, uid = (found[1], found[2]) if found is not None else (here, None)
        unique = kind == "container" and here == name
        place = Place(kind, base, int(uid) if uid else None, unique, RUNS)
        if unique:
            place = place._replace(experiment=CONTAINERS)
        self._table.restore(facts, place)
        run = self._run_in(place)
        if run is not None and not self._is_gone(run.pid, run):
            self._runs.setdefault(run.pid, run)
        elif run is not None or (here == name and not unique):
            # It is over, or of another boot.
            self._table.end_unseen(self._table[facts.id], self._before_ns)

    @staticmethod
    def _run_in(place: Place) -> ProcessRun | None:
        found = _RUN.fullmatch(place.name) if place.kind == "run" else None
        return None if found is None else ProcessRun(int(found[1]), int(found[2]))

    def _is_over(self, place: Place) -> bool:
        """Return whether nothing can be started in it any more; unknown for containers and
        units.
        """
        run = self._run_in(place)
        return run is None or self._is_gone(run.pid, run)

    def _is_left(self, place: Place) -> bool:
        """Return whether nothing is known to be alive in it."""
        run = self._run_in(place)
        leader = None if run is None else stat_of(run.pid, self._proc)
        return leader is None or leader.is_over

    def _is_gone(self, group: int, run: ProcessRun) -> bool:
        """Return whether a process group has no process any more."""
        return proc.group_is_gone(group, run.ticks if run.pid == group else 0, self._proc)
