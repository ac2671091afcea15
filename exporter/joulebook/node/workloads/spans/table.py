"""The known marks, in node time: their owners, starts and ends.

One lock guards all of it: the watching thread writes, the daemon's tick reads.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

import msgspec

from joulebook.clock import Clock
from joulebook.core.attribution.claims import Evidence
from joulebook.core.energy.readings import Meter, ProcessSpan, ProcessUse, Reading
from joulebook.core.workloads import Labels, WorkloadFacts, WorkloadId
from joulebook.errors import InputError
from joulebook.experiment_span import span_id
from joulebook.node.workloads.host.procfs import TICK_NS
from joulebook.node.workloads.spans import files
from joulebook.node.workloads.spans.files import Process, SpanFile
from joulebook.units import NS_PER_S

SCHEDULER = "process"

MOST = 4096
"""The most marks known at a time, and files read."""
MOST_OF_ONE_USER = 256
"""Marks in force of one user: nested ones, and those of all his processes together."""

MOST_RUNS = 64
"""Entries of one block that are runs of their own, of those that are remembered."""

REMEMBERED_NS = 60 * NS_PER_S
"""A mark that was left is known for so long, for the process lists that come after it."""


class SpanEntry(msgspec.Struct):
    """One mark: `left_ns` is `None` while it is in force, `used` once a device was used under it.

    `reported`: the ledger has everything known here.
    """

    process: Process
    workload: WorkloadId
    experiment: str
    uid: int
    user: str
    entered_ns: int
    left_ns: int | None = None
    window: str = ""
    used: bool = False
    reported: bool = False

    @property
    def span(self) -> ProcessSpan:
        """From when to when, and for whom."""
        return ProcessSpan(self.entered_ns, self.left_ns, self.workload)


class SpanTable:
    """Marks by the name of their file."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._marks: dict[str, SpanEntry] = {}
        self._handed: list[tuple[SpanEntry, int | None]] = []
        self._over: list[WorkloadFacts] = []
        self._families: dict[tuple[int, int], tuple[Process, ...]] = {}
        self._lately: dict[Meter, tuple[int, dict[tuple[int, int], ProcessUse]]] = {}

    def restore(self, before: Iterable[WorkloadFacts], last_ns: int) -> None:
        """Resume from the ledger while the process is alive; otherwise it ended at `last_ns`."""
        with self._lock:
            for facts in before:
                if facts.id.scheduler != SCHEDULER or "mark" not in facts.extra:
                    continue
                run, *windows = facts.id.workload.removeprefix("span-").split("_")
                stem, _, boot = run.rpartition(".")
                if windows:
                    stem = f"{stem.rpartition('-')[0]}-{windows[-1]}"
                process = files.process_of(f"{stem}.json")
                here = boot == self._clock.epoch[:8]
                uid = files.owner_of(process) if process is not None and here else None
                if process is None or uid is None:
                    self._over.append(msgspec.structs.replace(facts, ended_ns=last_ns))
                else:
                    labels = facts.labels
                    self._marks[f"{stem}.json"] = SpanEntry(
                        process, facts.id, labels.experiment, uid, labels.user, facts.started_ns,
                        window=facts.name if windows else "", reported=True,
                    )  # fmt: skip

    def uid_of(self, name: str) -> int | None:
        """Return the user of a known mark."""
        with self._lock:
            known = self._marks.get(name)
            return None if known is None else known.uid

    def note(self, name: str, process: Process, uid: int, user: str, said: SpanFile) -> bool:
        """Record a file of `user`; return whether a mark began or ended.

        An instant that cannot be (before the process began, in the time to come) is moved to the
        nearest that can. Raises `InputError` for one mark too many.
        """
        now_ns = self._clock.now_ns()
        shift_ns = now_ns - self._clock.boottime_ns(now_ns)
        left_ns = said.exited_boottime_ns
        if left_ns is not None:
            left_ns = min(left_ns + shift_ns, now_ns)
        with self._lock:
            known = self._marks.get(name)
            if known is not None:
                if known.left_ns is not None or left_ns is None:
                    return False
                known.left_ns, known.reported = max(left_ns, known.entered_ns), False
                return True
            mine = sum(e.left_ns is None and e.uid == uid for e in self._marks.values())
            if mine >= MOST_OF_ONE_USER or len(self._marks) >= MOST:
                text = f"uid {uid} has {mine} marks; at most {MOST_OF_ONE_USER} count at a time"
                raise InputError(text, reason="too_many")
            began_ns = process.ticks * TICK_NS + shift_ns
            entered_ns = max(min(said.entered_boottime_ns + shift_ns, now_ns), began_ns)
            self._marks[name] = SpanEntry(
                process,
                self._workload(name, process, said),
                said.experiment,
                uid,
                user,
                entered_ns,
                None if left_ns is None else max(left_ns, entered_ns),
                said.window,
            )
        return True

    def is_known(self, name: str) -> bool:
        """Return whether a file was taken in, and is remembered."""
        with self._lock:
            return name in self._marks

    def sweep(self) -> None:
        """End spans whose process is gone; forget those that ended a while ago.

        A removed file means nothing: cleaning /run does not end a program.
        """
        now_ns = self._clock.now_ns()
        with self._lock:
            for name, entry in list(self._marks.items()):
                if entry.left_ns is None and files.owner_of(entry.process) is None:
                    entry.left_ns, entry.reported = now_ns, False
                if entry.left_ns is not None and now_ns - entry.left_ns > REMEMBERED_NS:
                    del self._marks[name]

    def news(self) -> tuple[WorkloadFacts, ...]:
        """The facts of marks that a device was used under, where anything about them is new."""
        with self._lock:
            self._handed = [
                (e, e.left_ns) for e in self._marks.values() if e.used and not e.reported
            ]
            fresh = {entry.workload for entry, _ in self._handed}
            return (*self._over, *(self._facts(workload) for workload in sorted(fresh)))

    def settled(self) -> None:
        """What `news` gave last is durable."""
        with self._lock:
            for entry, left_ns in self._handed:
                entry.reported = entry.left_ns == left_ns
            self._handed = []
            self._over = []

    def marked(self, reading: Reading) -> Reading:
        """Return each process on the device with its recent marks.

        One that is gone since the list before is added again, as ended: under a mark it counts
        until the mark was left, or until this list.
        """
        if reading.processes is None:
            return reading
        with self._lock:
            listed_ns, before = self._lately.get(reading.meter, (0, {}))
            if not self._marks and not before:
                return reading
            processes = [self._under(process) for process in reading.processes]
            listed = {(p.pid, p.started_ns) for p in processes}
            for key, process in before.items():
                gone = self._under(process)
                lasted = any(s.t1_ns is None or s.t1_ns > listed_ns for s in gone.marks)
                if key not in listed and lasted:
                    processes.append(msgspec.structs.replace(gone, ended=True, sm_time_ns=None))
            now = {(p.pid, p.started_ns): p for p in processes if p.marks and not p.ended}
            self._lately[reading.meter] = (reading.t_ns, now)
        return msgspec.structs.replace(reading, processes=tuple(processes))

    def _under(self, process: ProcessUse) -> ProcessUse:
        """The process with its marks, the innermost first; a scheduler's process has none."""
        if process.workload is not None and process.workload.scheduler != SCHEDULER:
            return process
        key = (process.pid, process.started_ns)
        if key not in self._families:
            if len(self._families) >= MOST:
                self._families.clear()
            in_job = files.is_in_job(process.pid)
            self._families[key] = () if in_job else files.family_of(process.pid)
        depth = {member: n for n, member in enumerate(self._families[key])}
        own = [entry for entry in self._marks.values() if entry.process in depth]
        # In a dictionary the later entered come later: reversed, the inner before the outer.
        own = sorted(reversed(own), key=lambda e: (depth[e.process], -e.entered_ns))
        for entry in own:
            entry.used = True
        return msgspec.structs.replace(process, marks=tuple(entry.span for entry in own))

    def _workload(self, name: str, process: Process, said: SpanFile) -> WorkloadId:
        """One for each entry of a block; of very many, the later ones add to the last."""
        same = [
            entry.workload for entry in self._marks.values()
            if (entry.process, entry.experiment) == (process, said.experiment)
        ]  # fmt: skip
        if len(same) >= MOST_RUNS:
            return same[-1]
        head, _, number = name.removesuffix(".json").rpartition("-")
        chain = f"{said.within}_{number}" if said.within else number
        outermost, *windows = chain.split("_")
        run = span_id(f"{head}-{outermost}", self._clock.epoch)
        return WorkloadId(SCHEDULER, "_".join([run, *windows]))

    def _facts(self, workload: WorkloadId) -> WorkloadFacts:
        same = [e for e in self._marks.values() if e.workload == workload]
        ends = [e.left_ns for e in same if e.left_ns is not None]
        return WorkloadFacts(
            id=workload,
            name=same[0].window or same[0].experiment,
            labels=Labels(same[0].user, "", same[0].experiment),
            started_ns=min(e.entered_ns for e in same),
            ended_ns=max(ends) if len(ends) == len(same) else None,
            complete=True,
            evidence=Evidence.PROCESSES.label,
            extra={"mark": f"pid {same[0].process.pid}"},
            named=True,
        )
