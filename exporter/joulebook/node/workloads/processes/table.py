"""The workloads outside any scheduler that have used a device, and the lives of their processes.

Not locked: `source` calls it under its own lock.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import msgspec

from joulebook.core.attribution.claims import Evidence
from joulebook.core.attribution.spans import START_GRAIN_NS
from joulebook.core.energy.readings import Meter, ProcessSpan, ProcessUse, Reading
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


class Stated(NamedTuple):
    """What a process's environment says of its run; empty: nothing."""

    experiment: str = ""
    stage: str = ""


class Member(msgspec.Struct):
    """One process of a workload on a device: from when, and to when if that is known."""

    workload: WorkloadId
    use: ProcessUse
    meter: Meter
    ended_ns: int | None = None

    @property
    def life(self) -> ProcessSpan:
        """From when to when it consumes for its workload."""
        return ProcessSpan(self.use.started_ns, self.ended_ns, self.workload)


class KnownProcess(msgspec.Struct):
    """One workload.

    Attributes:
        given: The experiment and stage that its owner states; they never change.
        user: Its user; `None` until looked up.
        before: Its state in the ledger when the daemon started; `None` once it is seen.
        again_ns: When it was revived after its end; 0: never.
        used: Whether energy may be booked to it: it had a process without a span.
        reported: Whether the ledger has everything known here.

    """

    id: WorkloadId
    place: Place
    name: str = ""
    given: Stated = Stated()
    user: str | None = None
    started_ns: int = 0
    again_ns: int = 0
    ended_ns: int | None = None
    meters: set[Meter] = set()
    used: bool = False
    before: WorkloadFacts | None = None
    reported: bool = False


class ProcessTable:
    """The table of workloads and processes."""

    def __init__(self) -> None:
        self._workloads: dict[WorkloadId, KnownProcess] = {}
        self._members: dict[tuple[Meter, Key, str], Member] = {}
        self._lists: dict[Meter, tuple[int, int]] = {}
        self._away: dict[Key, WorkloadId] = {}
        """Processes that left their devices, and live."""
        self._renamed: dict[Key, WorkloadId] = {}
        self._handed: list[tuple[KnownProcess, WorkloadFacts]] = []

    def __getitem__(self, workload: WorkloadId) -> KnownProcess:
        return self._workloads[workload]

    def meet(self, known: KnownProcess) -> None:
        """Note a workload of which a process was seen on a device."""
        there = self._workloads.get(known.id)
        if there is not None:
            if there.user is None and known.user is not None:
                there.user, there.reported = known.user, False
            return
        if len(self._workloads) >= MOST:
            over = [w for w, each in self._workloads.items() if each.ended_ns is not None]
            for each in over or list(self._workloads)[: MOST // 2]:
                del self._workloads[each]
        self._workloads[known.id] = known

    def rename(self, process: Key, workload: WorkloadId) -> None:
        """Move a process to another workload from now on, since its name came late."""
        if len(self._renamed) >= MOST:
            self._renamed.clear()
        self._renamed[process] = workload

    def given(self, place: Place) -> Stated:
        """Return the one statement under which a place's processes ran until now; else none."""
        names = {
            each.given for each in self._workloads.values()
            if each.place[:3] == place[:3] and each.ended_ns is None
        }  # fmt: skip
        return names.pop() if len(names) == 1 else Stated()

    def learn_user(self, uid: int, user: str) -> None:
        """Note the name of a user."""
        for known in self._workloads.values():
            if known.place.uid == uid and known.user is None:
                known.user, known.reported = user, False

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
        if not self._workloads and not self._members:
            return reading
        processes: list[ProcessUse] = []
        listed: set[tuple[Meter, Key, str]] = set()
        for use in reading.processes:
            process = (use.pid, use.started_ns)
            workload = self._renamed.get(process, use.workload)
            known = self._workloads.get(workload) if workload is not None else None
            if known is None:
                processes.append(use)
                continue
            key = (reading.meter, process, use.instance)
            listed.add(key)
            self._away.pop(process, None)
            member = self._members.get(key)
            if member is None or member.workload != known.id:
                member = self._members[key] = Member(known.id, use, reading.meter)
            member.use = msgspec.structs.replace(use, workload=known.id)
            if not _is_covered(use, before[1], member.ended_ns or reading.t_ns):
                self._uses(known, member)
            processes.append(_with(member.use, member.life))
        for key, member in list(self._members.items()):
            if key[0] == reading.meter and key not in listed:
                if member.ended_ns is None and not lives(key[1]):
                    self.ended(key[1], reading.t_ns)
                if member.ended_ns is not None:
                    sm_time_ns = _went_on(member.use, *times)
                    gone = msgspec.structs.replace(member.use, ended=True, sm_time_ns=sm_time_ns)
                    processes.append(_with(gone, member.life))
                elif len(self._away) < MOST:
                    self._away[key[1]] = member.workload
                del self._members[key]
        return msgspec.structs.replace(reading, processes=tuple(processes))

    def ended(self, key: Key, now_ns: int) -> None:
        """A process is gone."""
        workloads = set()
        for (_, process, _), member in self._members.items():
            if process == key and member.ended_ns is None:
                member.ended_ns = max(now_ns, member.use.started_ns)
                workloads.add(member.workload)
        self._renamed.pop(key, None)
        if key in self._away:
            workloads.add(self._away.pop(key))
        living = {m.workload for m in self._members.values() if m.ended_ns is None}
        living.update(self._away.values())
        for each in workloads - living:
            known = self._workloads.get(each)
            if known is not None:
                known.ended_ns, known.reported = now_ns, False

    def living(self, meter: Meter) -> list[Key]:
        """Return the processes on a device that have not ended, as far as is known."""
        return [k for (m, k, _), each in self._members.items() if m == meter and not each.ended_ns]

    def look_after(self, lives: Callable[[Key], bool], now_ns: int) -> None:
        """Note the ends of those that are on no list any more."""
        for key in [key for key in self._away if not lives(key)]:
            self.ended(key, now_ns)

    def sweep(self, now_ns: int) -> None:
        """Forget workloads that ended a while ago, and are on record as ended."""
        for workload, known in list(self._workloads.items()):
            over = known.ended_ns is not None and now_ns - known.ended_ns > REMEMBERED_NS
            if over and known.reported:
                del self._workloads[workload]

    def restore(self, facts: WorkloadFacts, place: Place) -> None:
        """Resume a workload from the ledger that may still be alive."""
        given = Stated(facts.labels.experiment if facts.named else "", facts.stage)
        self._workloads[facts.id] = KnownProcess(
            facts.id, place, facts.name, given, facts.labels.user or None, facts.started_ns,
            before=facts, reported=True,
        )  # fmt: skip

    def unseen(self) -> list[KnownProcess]:
        """Return the workloads of before the start that no process list has shown since."""
        return [k for k in self._workloads.values() if k.before is not None and k.ended_ns is None]

    def end_unseen(self, known: KnownProcess, ended_ns: int) -> None:
        """End a workload from the ledger that ended unseen."""
        known.ended_ns, known.reported = max(ended_ns, known.started_ns), False

    def news(
        self, models: Mapping[Meter, str], now_ns: int, is_over: Callable[[Place], bool]
    ) -> tuple[WorkloadFacts, ...]:
        """Return the facts of workloads of which anything is new; `models` names the devices.

        An end is reported at once where `is_over` says that nobody can come after the last, else if
        nobody came for a while.
        """
        fresh = [
            known for known in self._workloads.values()
            if not known.reported and (known.used or known.before is not None)
        ]  # fmt: skip
        self._handed = [
            (known, self._facts(known, models, self._end_of(known, now_ns, is_over)))
            for known in fresh
        ]
        return tuple(facts for _, facts in self._handed)

    def settled(self) -> None:
        """What `news` gave last is on record."""
        for known, facts in self._handed:
            same = (known.ended_ns, known.user) == (facts.ended_ns, facts.labels.user)
            known.reported = same and facts.complete
        self._handed = []

    def pids(self) -> dict[WorkloadId, set[int]]:
        """Return the processes on devices that live now, by workload."""
        found: dict[WorkloadId, set[int]] = {}
        for (_, (pid, _), _), member in self._members.items():
            if member.ended_ns is None:
                found.setdefault(member.workload, set()).add(pid)
        return found

    def _uses(self, known: KnownProcess, member: Member) -> None:
        """Energy of a device goes to a workload, by one process of it."""
        started_ns = member.use.started_ns
        if known.ended_ns is not None and member.ended_ns is None and not member.use.ended:
            known.again_ns = max(started_ns, known.ended_ns + 1)
            known.ended_ns, known.reported = None, False
        if started_ns and not 0 < known.started_ns <= started_ns:
            known.started_ns, known.reported = started_ns, False
        if member.meter not in known.meters:
            known.meters, known.reported = {*known.meters, member.meter}, False
        if not known.used or known.before is not None:
            known.used, known.before = True, None

    @staticmethod
    def _end_of(known: KnownProcess, now_ns: int, is_over: Callable[[Place], bool]) -> int | None:
        if known.ended_ns is None or known.before is not None:
            return known.ended_ns
        over = now_ns - known.ended_ns > REMEMBERED_NS or is_over(known.place)
        return known.ended_ns if over else None

    @staticmethod
    def _facts(
        known: KnownProcess, models: Mapping[Meter, str], ended_ns: int | None
    ) -> WorkloadFacts:
        if known.before is not None:
            return msgspec.structs.replace(known.before, ended_ns=ended_ns, complete=True)
        of = {clean_label(models[meter]) for meter in known.meters if models.get(meter)}
        experiment = known.given.experiment or known.place.experiment
        return WorkloadFacts(
            id=known.id,
            name=known.name,
            labels=Labels(known.user or "", "", clean_label(experiment)),
            started_ns=known.again_ns or known.started_ns,
            ended_ns=ended_ns,
            complete=known.user is not None or ended_ns is not None,
            gpu_count=len(known.meters),
            evidence=Evidence.PROCESSES.label,
            extra={"kind": known.place.kind, "gpu_model": ",".join(sorted(of))},
            named=bool(known.given.experiment),
            stage=known.given.stage,
        )


def _went_on(use: ProcessUse, first_ns: int, second_ns: int, third_ns: int) -> int | None:
    """The SM time of a process from the second list to the third, as from the first to the second.

    Only the share of it in that of all counts, so it does not matter that it ended in between.
    """
    if use.sm_time_ns is None or not first_ns < second_ns:
        return None
    return use.sm_time_ns * (third_ns - second_ns) // (second_ns - first_ns)


def _with(use: ProcessUse, life: ProcessSpan) -> ProcessUse:
    """Return the process with its life as the outermost of its marks."""
    marks = tuple(mark for mark in use.marks if mark.workload != life.workload)
    return msgspec.structs.replace(use, marks=(*marks, life))


def _is_covered(use: ProcessUse, since_ns: int, until_ns: int) -> bool:
    """Return whether one span held all of a process's time on the device since the list before."""
    since_ns = max(use.started_ns + START_GRAIN_NS, since_ns)
    return any(s.t0_ns <= since_ns and (s.t1_ns is None or s.t1_ns >= until_ns) for s in use.marks)
