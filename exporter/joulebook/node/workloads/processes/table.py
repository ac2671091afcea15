"""The workloads outside any scheduler that have used a device, and the lives of their processes.

Not locked: `source` calls it under its own lock.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec

from joulebook.core import experiments
from joulebook.core.attribution.claims import Evidence
from joulebook.core.energy.readings import Meter, ProcessUse, Reading, Span
from joulebook.core.sanitize import clean_label
from joulebook.core.workloads import Labels, WorkloadFacts, WorkloadId
from joulebook.node.workloads.processes.owners import Place
from joulebook.node.workloads.processes.proc import Key
from joulebook.units import NS_PER_S

SCHEDULER = "process"

MOST = 4096
"""Workloads and processes that are known at a time."""

REMEMBERED_NS = 60 * NS_PER_S
"""How long a process that ended is known, for the process lists that come after it."""

SESSIONS = "sessions"
"""The experiment of all that people run from sessions without naming one."""


class Member(msgspec.Struct):
    """One process of a workload on a device: from when, and to when if that is known."""

    workload: WorkloadId
    use: ProcessUse
    meter: Meter
    ended_ns: int | None = None

    @property
    def life(self) -> Span:
        """From when to when it consumes for its workload."""
        return Span(self.use.started_ns, self.ended_ns, self.workload)


class Known(msgspec.Struct):
    """One workload. `resolved` says that nothing more will be learnt of its labels."""

    id: WorkloadId
    place: Place
    name: str = ""
    user: str = ""
    sources: dict[str, str] = {}
    resolved: bool = False
    started_ns: int = 0
    ended_ns: int | None = None
    meters: set[Meter] = set()
    reported: bool = False


class ProcessTable:
    """What is known, by workload and by process."""

    def __init__(self, rules: Sequence[str]) -> None:
        self._rules = rules
        self._workloads: dict[WorkloadId, Known] = {}
        self._members: dict[tuple[Meter, Key, str], Member] = {}
        self._lists: dict[Meter, tuple[int, int]] = {}
        self._handed: list[tuple[Known, int | None, bool]] = []

    def __contains__(self, workload: WorkloadId) -> bool:
        return workload in self._workloads

    def meet(self, workload: WorkloadId, place: Place) -> None:
        """A workload of which a process was seen on a device."""
        if len(self._workloads) >= MOST:
            over = [w for w, known in self._workloads.items() if known.ended_ns is not None]
            for each in over or list(self._workloads)[: MOST // 2]:
                del self._workloads[each]
        self._workloads[workload] = Known(workload, place)

    def learn(self, workload: WorkloadId, name: str, user: str, sources: Mapping[str, str]) -> None:
        """What was found out of a workload, once and for all."""
        known = self._workloads.get(workload)
        if known is not None:
            known.name, known.user, known.sources = name, user, dict(sources)
            known.resolved, known.reported = True, False

    def lived(self, reading: Reading, lives: Callable[[Key], bool]) -> Reading:
        """The reading, each process with its life; with those that ended since the list before.

        A process counts in its life and not outside: also from the last list that it was in until
        it ended, and there it is taken to have worked on as before. `lives` says whether a process
        still does of which no end was reported.
        """
        if reading.processes is None:
            return reading
        before = self._lists.get(reading.meter, (0, 0))
        times = (*before, reading.t_ns)
        self._lists[reading.meter] = (before[1], reading.t_ns)
        processes: list[ProcessUse] = []
        listed: set[tuple[Meter, Key, str]] = set()
        for use in reading.processes:
            known = self._workloads.get(use.workload) if use.workload is not None else None
            if known is None:
                processes.append(use)
                continue
            key = (reading.meter, (use.pid, use.started_ns), use.instance)
            listed.add(key)
            member = self._members.get(key)
            if member is None:
                member = self._members[key] = Member(known.id, use, reading.meter)
                self._joined(known, member)
            member.use = use
            processes.append(_with(use, member.life))
        for key, member in list(self._members.items()):
            if key[0] == reading.meter and key not in listed:
                if member.ended_ns is None and not lives(key[1]):
                    self.ended(key[1], reading.t_ns)
                if member.ended_ns is not None:
                    sm_time_ns = _went_on(member.use, *times)
                    gone = msgspec.structs.replace(member.use, ended=True, sm_time_ns=sm_time_ns)
                    processes.append(_with(gone, member.life))
                # One that left the device, and lives on, is met again if it comes back.
                del self._members[key]
        return msgspec.structs.replace(reading, processes=tuple(processes))

    def ended(self, key: Key, now_ns: int) -> None:
        """A process is gone."""
        workloads = set()
        for (_, process, _), member in self._members.items():
            if process == key and member.ended_ns is None:
                member.ended_ns = max(now_ns, member.use.started_ns)
                workloads.add(member.workload)
        for each in workloads:
            alive = any(m.workload == each and m.ended_ns is None for m in self._members.values())
            known = self._workloads.get(each)
            if not alive and known is not None:
                known.ended_ns, known.reported = now_ns, False

    def living(self, meter: Meter) -> list[Key]:
        """The processes on a device that have not ended, as far as is known."""
        return [k for (m, k, _), each in self._members.items() if m == meter and not each.ended_ns]

    def sweep(self, now_ns: int) -> None:
        """Forget workloads that ended a while ago, and are on record as ended."""
        for workload, known in list(self._workloads.items()):
            over = known.ended_ns is not None and now_ns - known.ended_ns > REMEMBERED_NS
            if over and known.reported:
                del self._workloads[workload]

    def news(self, models: Mapping[Meter, str]) -> tuple[WorkloadFacts, ...]:
        """The facts of workloads of which anything is new; `models` names the devices."""
        fresh = [known for known in self._workloads.values() if not known.reported and known.meters]
        self._handed = [(known, known.ended_ns, known.resolved) for known in fresh]
        return tuple(self._facts(known, models) for known in fresh)

    def settled(self) -> None:
        """What `news` gave last is on record."""
        for known, ended_ns, resolved in self._handed:
            known.reported = (known.ended_ns, known.resolved) == (ended_ns, resolved)
        self._handed = []

    def pids(self) -> dict[WorkloadId, set[int]]:
        """The processes on devices that live now, by workload."""
        found: dict[WorkloadId, set[int]] = {}
        for (_, (pid, _), _), member in self._members.items():
            if member.ended_ns is None:
                found.setdefault(member.workload, set()).add(pid)
        return found

    def _joined(self, known: Known, member: Member) -> None:
        started_ns = member.use.started_ns
        if started_ns and (not known.started_ns or started_ns < known.started_ns):
            known.started_ns, known.reported = started_ns, False
        if member.meter not in known.meters:
            known.meters, known.reported = {*known.meters, member.meter}, False
        if known.ended_ns is not None:
            known.ended_ns, known.reported = None, False

    def _facts(self, known: Known, models: Mapping[Meter, str]) -> WorkloadFacts:
        sources = {**known.sources, "workload": known.id.workload}
        if known.place.kind == "session":
            sources["workload"] = SESSIONS
        of = {clean_label(models[meter]) for meter in known.meters if models.get(meter)}
        return WorkloadFacts(
            id=known.id,
            name=known.name,
            labels=Labels(known.user, "", clean_label(experiments.choose(self._rules, sources))),
            started_ns=known.started_ns,
            ended_ns=known.ended_ns,
            complete=known.resolved or known.ended_ns is not None,
            gpu_count=len(known.meters),
            evidence=Evidence.PROCESSES.label,
            extra={"kind": known.place.kind, "gpu_model": ",".join(sorted(of))},
        )


def _went_on(use: ProcessUse, first_ns: int, second_ns: int, third_ns: int) -> int | None:
    """The SM time of a process from the second list to the third, as from the first to the second.

    Only the share of it in that of all counts, so it does not matter that it ended in between.
    """
    if use.sm_time_ns is None or not first_ns < second_ns:
        return None
    return use.sm_time_ns * (third_ns - second_ns) // (second_ns - first_ns)


def _with(use: ProcessUse, life: Span) -> ProcessUse:
    """The process with its life as the outermost of its marks."""
    marks = tuple(mark for mark in use.marks if mark.workload != life.workload)
    return msgspec.structs.replace(use, marks=(*marks, life))
