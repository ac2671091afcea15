"""Processes outside any scheduler as a source of tenants: who uses a device that nobody allots.

No claims come from here: who runs on a device does not hold it. What a process consumes goes to its
container, its service, or the session that it was started from, and only where nobody holds the
device (or the MIG instance). Names and environments are looked up in a thread of its own: a
directory of users may be far away and slow.
"""

from __future__ import annotations

import logging
import pwd
import queue
import threading
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from joulebook.clock import Clock
from joulebook.core.energy.devices import DeviceStatus
from joulebook.core.energy.readings import Reading
from joulebook.core.experiments import DEFAULT_RULES, ENVIRONMENT
from joulebook.core.sanitize import clean_label
from joulebook.core.workloads import WorkloadId
from joulebook.node.workloads.contract import (
    INFRASTRUCTURE,
    NOTHING_HELD,
    Before,
    Boundary,
    Holdings,
    UsageGroup,
)
from joulebook.node.workloads.host.cgroup_paths import pod_place, slurm_place
from joulebook.node.workloads.processes import proc
from joulebook.node.workloads.processes.owners import Place, place_of
from joulebook.node.workloads.processes.proc import Exits, Key
from joulebook.node.workloads.processes.table import SCHEDULER, ProcessTable
from joulebook.node.workloads.rejections import Rejections
from joulebook.units import NS_PER_MS

log = logging.getLogger(__name__)

GRAIN_NS = 20 * NS_PER_MS
"""Linux tells the start of a process in hundredths of a second."""

_ASKED_AT_MOST = 4096


class ProcessWorkloads:
    """What runs on the GPUs of `node` by itself.

    `infrastructure` are names of programs that serve everybody. Cgroups of the schedulers in
    `others` (`slurm`, `kubernetes`) are left to them, also while they do not know them yet. Pids
    are those of `proc_root`; unless they are also `own_pids` (those of this process's own
    namespace), ends are known from process lists alone, and CPU time of single processes is
    nobody's.
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
        user_of: Callable[[int], str] | None = None,
    ) -> None:
        self._clock = clock
        self._node = node
        self._infrastructure = frozenset(infrastructure)
        self._others = frozenset(others)
        self._proc = proc_root
        self._own_pids = own_pids
        self._user_of = user_of or _user_name
        self._lock = threading.Lock()
        self._refuse = Rejections()
        self._table = ProcessTable(rules)
        self._boundary: Boundary = lambda t_ns: None
        self._exits = Exits(self._ended)
        self._questions: queue.Queue[tuple[WorkloadId, Place, int] | None] = queue.Queue(
            _ASKED_AT_MOST
        )
        self._resolver = threading.Thread(target=self._resolve, name="process-names", daemon=True)

    # -- TenantSource

    def open(self, boundary: Boundary, before: Before = NOTHING_HELD) -> None:
        """Begin to wait for the ends of processes."""
        self._boundary = boundary
        self._exits.start()
        self._resolver.start()

    def holdings(self, devices: Sequence[DeviceStatus]) -> Holdings:
        """The workloads of which anything is new."""
        models = {device.meter: device.model for device in devices}
        with self._lock:
            self._table.sweep(self._clock.now_ns())
            facts = self._table.news(models)
        return Holdings(facts=facts, rejected=self._refuse.counts())

    def settled(self) -> None:
        """What was handed over last need not be said again."""
        with self._lock:
            self._table.settled()

    def identify(self, pid: int) -> WorkloadId | None:
        """The workload of any process that is no scheduler's."""
        facts = proc.facts_of(pid, self._proc)
        if facts is None or any(self._is_others(path) for path in facts.paths):
            return None
        if proc.is_infrastructure(pid, self._infrastructure, self._proc):
            return INFRASTRUCTURE
        place = place_of(facts)
        workload = WorkloadId(SCHEDULER, self._id(place))
        with self._lock:
            if workload not in self._table:
                self._table.meet(workload, place)
                try:
                    self._questions.put_nowait((workload, place, pid))
                except queue.Full:
                    log.warning("%s: too many workloads at once to look up who they are", workload)
        return workload

    def close(self) -> None:
        """Stop waiting; a look-up that hangs is left behind."""
        self._exits.stop()
        try:
            self._questions.put_nowait(None)
        except queue.Full:
            return

    # -- Accounted

    def groups(self) -> Sequence[UsageGroup]:
        """The processes on devices, by workload."""
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
        with self._lock:
            reading = self._table.lived(reading, self._lives)
            ours = self._table.living(reading.meter)
        for key in ours if self._own_pids else ():
            if not self._exits.watch(key, self._lives):
                self._ended(key)
        return reading

    def _lives(self, key: Key) -> bool:
        """Whether the pid is still that of the process which started then."""
        boottime_ns = proc.started_boottime_ns(key[0], self._proc)
        if boottime_ns is None or not key[1]:
            return boottime_ns is not None
        now_ns = self._clock.now_ns()
        started_ns = boottime_ns + now_ns - self._clock.boottime_ns(now_ns)
        return abs(started_ns - key[1]) <= GRAIN_NS

    def _ended(self, key: Key) -> None:
        now_ns = self._clock.now_ns()
        with self._lock:
            self._table.ended(key, now_ns)
        self._boundary(now_ns)

    # -- who they are

    def _is_others(self, path: str) -> bool:
        if "slurm" in self._others and slurm_place(path) is not None:
            return True
        return "kubernetes" in self._others and pod_place(path) is not None

    def _id(self, place: Place) -> str:
        """Never with the name of a user: that is in a label of its own, which can be masked."""
        return place.name if place.unique else f"{place.name}@{self._node}.{self._clock.epoch[:8]}"

    def _resolve(self) -> None:
        while (question := self._questions.get()) is not None:
            try:
                self._look_up(*question)
            except Exception:
                # A fault of ours with one process must not leave all later ones without a name.
                self._refuse.fault("looking up whose a process is failed; it goes without a name")

    def _look_up(self, workload: WorkloadId, place: Place, pid: int) -> None:
        environment = proc.environment_of(pid, ENVIRONMENT, self._proc)
        sources = {f"env:{name}": clean_label(v) for name, v in environment.items() if v}
        name = clean_label(proc.comm_of(pid, self._proc))
        if place.kind != "session":
            name = place.name
        if place.kind == "unit":
            sources["job_name"] = place.name.removesuffix(".service")
        user = "" if place.uid is None else clean_label(self._user_of(place.uid))
        with self._lock:
            self._table.learn(workload, name, user, sources)


def _user_name(uid: int) -> str:
    """The name of a user; the number of one who has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid-{uid}"
