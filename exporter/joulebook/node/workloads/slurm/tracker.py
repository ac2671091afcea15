"""React to events of SLURM jobs; every method is called with `lock` held."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from joulebook.clock import Clock, Timers
from joulebook.core.attribution.claims import Claim, Evidence
from joulebook.core.workloads import WorkloadFacts
from joulebook.errors import InputError
from joulebook.node.workloads.host.cgroup_paths import SlurmPlace, is_sluid
from joulebook.node.workloads.slurm.cgroups import JobProcesses
from joulebook.node.workloads.slurm.claims import GresOf
from joulebook.node.workloads.slurm.event_file import JobEvent, WallTime
from joulebook.node.workloads.slurm.job import Job, KeptJob
from joulebook.node.workloads.slurm.job_mapping import Mapped
from joulebook.node.workloads.slurm.job_record import ON_NODE, JobAnswer
from joulebook.node.workloads.slurm.jobs import JobTable
from joulebook.node.workloads.slurm.labels import FAST_S, SETTLED_S, LabelReader, next_poll_s
from joulebook.node.workloads.slurm.scontrol import SILENT, Questions, is_over, pause_s, take
from joulebook.units import NS_PER_S

_HOOK_GRACE_S = 0.2
"""Where the hooks are installed a job's event file is there before its cgroup. Nearly always."""
_NO_EPILOG_S = 30.0
"""How long a Prolog may run before checking whether a job without processes is over."""
_VANISHED_S = 1.0
"""The same for a job whose processes are gone: usually its Epilog follows at once."""
_DENIED = 2
"""How often in a row a job must be reported as over, since one answer may be wrong."""
_ALIVE_S = 60.0
"""How often it is seen whether the processes of a job still live."""
_ASKED_MAX = 9
_GIVE_UP_NS = 600 * NS_PER_S
"""How long the controller is queried after a job's end; it forgets jobs after 300 s."""


@dataclass(eq=False, kw_only=True)
class JobTracker:
    """Listener of the event directory and of the cgroup tree.

    Attributes:
        poke: Wakes the watching thread.
        only: The nodes whose jobs count; empty: all.
        times: Node times of begins and ends, to be reported once the lock is released.
        stale: Event files of an earlier boot, to be deleted once that is known to the ledger.
        lost: What is to be said of jobs that ended while nobody watched.

    """

    clock: Clock
    table: JobTable
    timers: Timers
    asker: Questions
    labels: LabelReader
    processes: JobProcesses
    gres_of: GresOf
    lock: threading.RLock
    poke: Callable[[], None]
    refuse: Callable[[InputError], None]
    only: frozenset[str] = frozenset()
    times: list[int] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)
    lost: list[tuple[WorkloadFacts | None, tuple[Claim, ...]]] = field(default_factory=list)
    _hooks_seen: bool = field(default=False, init=False)
    _time: WallTime = field(init=False)

    def __post_init__(self) -> None:
        self._time = WallTime(self.clock)

    def job_told(self, stem: str, event: JobEvent, end_wall_ns: int | None, live: bool) -> None:
        """An event file as it is now."""
        if self.only and event.node and event.node not in self.only:
            return  # Another slurmd's on this host, and another daemon's.
        self._hooks_seen = True
        known = self.table.knows(stem)
        if known is not None and known.told_ns != event.start_ns:
            known = None  # The number came again.
        same_boot = event.boot_id == self._time.boot_id if event.boot_id else None
        t0_ns = self._time.node_ns(event.start_ns, event.start_uptime_ms if same_boot else None)
        if known is None and end_wall_ns is None and self._time.earlier_boot(same_boot, t0_ns):
            self.stale.append(stem)  # The reboot killed it: it ended when it was last affirmed.
            return
        t1_ns = None
        if end_wall_ns is not None:
            t1_ns = self._time.node_ns(end_wall_ns, event.end_uptime_ms if same_boot else None)
        job = self.table.event(stem, event, t0_ns, t1_ns)
        if known is None:
            self.times.append(t0_ns)
            _, gres = self.gres_of(event.node)
            if event.gpus and gres is not None and gres.sharded:
                self._ask(job)
            if t1_ns is None:
                self._begin_polls(job)
                self._watch(job, _NO_EPILOG_S)
        if t1_ns is not None and (known is None or known.t1_ns == t1_ns):
            self._over(job, t1_ns)

    def job_unreported(self, stem: str) -> None:
        """The file of a running job is gone: that is its end."""
        now_ns = self.clock.now_ns()
        job = self.table.event_removed(stem, now_ns, self._lives)
        if job is not None:
            self._over(job, now_ns)

    def scanned(self) -> None:
        """End jobs from the ledger that ended unseen, after everything existing was reported."""
        self._give_up_lost()
        for job in self.table:
            if job.filed and job.ended_ns is None and not self._lives(job):
                job.unproven = True
                self._watch(job, 0.0)

    def _give_up_lost(self) -> None:
        until_ns = self.table.kept.last_ns
        restarted = self.clock.boottime_ns(until_ns) < 0  # Node time goes on over a reboot.
        because = "node restarted" if restarted else ""
        for kept, over in self.table.unclaimed():
            facts, claims = kept.ended(until_ns, because)
            if asked := over and not because and self.asker.able:
                self._ask_end(kept)
            self.lost.append((facts if over and not asked else None, claims))

    def _ask_end(self, kept: KeptJob, count: int = 0) -> None:
        """Query when a job ended that was gone at the start: nothing here tells."""

        def answered(answer: JobAnswer | None) -> None:
            with self.lock:
                if (answer is None or answer.state == "COMPLETING") and count < _ASKED_MAX:
                    self.timers.at(pause_s(count), lambda: self._ask_end(kept, count + 1))
                else:
                    end_ns = kept.end_ns(answer, self._time, self.table.kept.last_ns)
                    self.lost.append((kept.ended(end_ns, "")[0], ()))
            self.poke()

        if not self.asker.ask(kept.job_id, answered):
            answered(None)

    def open_stems(self) -> frozenset[str]:
        """The event files of which the end is not known yet."""
        return self.table.stems()

    # -- cgroups

    def job_seen(self, place: SlurmPlace, path: Path, live: bool) -> None:
        """A directory of a job."""
        now_ns = self.clock.now_ns()
        begun_ns = None if live else self.processes.begun_boottime_ns(path)
        if begun_ns is not None:
            begun_ns = min(now_ns, begun_ns - self.clock.boottime_ns(0))
        t_ns = now_ns if begun_ns is None else begun_ns
        job = self.table.seen(place, path, t_ns, self._time.utc_s(t_ns))
        if job is None:
            self._look_at_sluid(place, path, 0)
            return
        job.extern = job.extern or self.processes.has_extern(path)
        if job.hooked or len(job.paths) > 1:
            return
        if live:
            self.times.append(job.started_ns)
        # A site without our hooks is asked for at once; else the file is only a little late.
        self.timers.at(
            _HOOK_GRACE_S if live and self._hooks_seen else 0.0, lambda: self._ask_unless_told(job)
        )

    def step_seen(self, path: Path) -> None:
        """A step began: its processes are about to be there."""
        job = self.table.at(path)
        if job is None:
            return
        job.extern = job.extern or self.processes.has_extern(path)
        if not job.labels_done and "name" not in job.facts:
            self._begin_polls(job)

    def job_gone(self, path: Path) -> None:
        """The directory of a job is no more."""
        now_ns = self.clock.now_ns()
        job = self.table.gone(path, now_ns)
        if job is None:
            return
        if job.ended_ns == now_ns:
            self._over(job, now_ns)
        elif job.ended_ns is None:
            self._watch(job, _VANISHED_S)

    def mapped(self, evidence: Evidence, now: frozenset[Mapped]) -> None:
        """Receive the current content of a job-mapping directory."""
        now_ns = self.clock.now_ns()
        said = frozenset(m._replace(since_ns=self._time.node_ns(m.since_ns, None)) for m in now)
        if self.table.mapped(evidence, said, now_ns, self._time.utc_s(now_ns)):
            self.times.append(now_ns)
            for job in self.table:
                if job.ended_ns is None:
                    self._ask_unless_told(job)
                    if job.filed and not job.watch:
                        self._watch(job, _NO_EPILOG_S)

    def _lives(self, job: Job) -> bool:
        return self.processes.live(job.paths)

    # -- labels

    def _begin_polls(self, job: Job) -> None:
        job.polls += 1
        series, start_s = job.polls, self.timers.now_s()
        self.timers.at(FAST_S[0], lambda: self._poll(job, series, 0, start_s))

    def _poll(self, job: Job, series: int, count: int, start_s: float) -> None:
        if job.polls != series or job.ended_ns is not None:
            return
        self._read_labels(job, thorough=count >= len(FAST_S))
        count, at_s = next_poll_s(count, named="name" in job.facts)
        if not job.labels_done and at_s > SETTLED_S:
            self._labels_over(job)
        in_s = max(0.0, start_s + at_s - self.timers.now_s())
        self.timers.at(in_s, lambda: self._poll(job, series, count, start_s))
        if at_s >= 1.0:
            self._ask(job)

    def _read_labels(self, job: Job, *, thorough: bool) -> None:
        self.table.labels(job, self.labels.label_file(job))
        found = self.labels.environment(job.paths, thorough=thorough)
        if found is not None:
            self.table.environment(job, found)

    def _over(self, job: Job, t_ns: int) -> None:
        self.times.append(t_ns)
        if job.ended_ns is not None:
            # Once more: names that were exported late are in time for the ledger.
            self._read_labels(job, thorough=True)
            self._labels_over(job)

    def _labels_over(self, job: Job) -> None:
        job.labels_done = True
        job.changed += 1
        self._ask(job)

    def _look_at_sluid(self, place: SlurmPlace, path: Path, count: int) -> None:
        found = self.labels.environment({path}, thorough=False)
        if found is not None and self.table.name_sluid(place.job, found):
            self.job_seen(place, path, True)
            self.step_seen(path)
            return
        later, at_s = next_poll_s(count, named=False)
        if at_s < SETTLED_S and is_sluid(path.name) and path.exists():
            before_s = FAST_S[count] if count < len(FAST_S) else 0.0
            self.timers.at(
                max(0.005, at_s - before_s), lambda: self._look_at_sluid(place, path, later)
            )

    # -- the controller

    def _ask_unless_told(self, job: Job) -> None:
        if not job.hooked:
            self._ask(job)

    def _ask(self, job: Job) -> None:
        """Query the controller for a job until it answers."""
        if job.asking or job.heard:
            return
        if not self.asker.able:
            job.unheard()
            return
        self._question(job, lambda answer: None)

    def _question(self, job: Job, then: Callable[[JobAnswer | None], None]) -> None:
        job.asking = True

        def answered(answer: JobAnswer | None) -> None:
            with self.lock:
                try:
                    self.table.kept.recognise(job, answer)
                    take(job, self.table.runs(job.job_id), answer)
                except Exception:  # An answer that cannot be taken is none: it is asked again.
                    job.heard, answer = False, None
                    take(job, (), None)
                    raise
                finally:
                    self._give_up_lost()
                    if answer is None:
                        self.refuse(InputError(SILENT, reason="controller_silent"))
                    if not job.heard:
                        self._ask_again(job)
                    then(answer)
                    self.poke()

        if not self.asker.ask(job.job_id, answered):
            answered(None)

    def _ask_again(self, job: Job) -> None:
        age_ns = 0 if job.ended_ns is None else self.clock.now_ns() - job.ended_ns
        if age_ns > _GIVE_UP_NS:
            job.unheard()
        else:
            self.timers.at(pause_s(job.asked - 1), lambda: self._ask(job))

    # -- ends that no Epilog tells

    def _watch(self, job: Job, in_s: float) -> None:
        """See from now on whether a job that a file speaks of still lives."""
        job.watch += 1
        series = job.watch
        self.timers.at(in_s, lambda: self._check(job, series, 0, 0))

    def _check(self, job: Job, series: int, count: int, denied: int) -> None:
        """Run one query of a series; `denied`: how often in a row the job was reported as over."""
        if job.watch != series or job.ended_ns is not None or not job.filed:
            job.unproven = False
            return
        if self._lives(job):
            job.unproven = False
            job.alive_ns = self.clock.now_ns()
            self.timers.at(_ALIVE_S, lambda: self._check(job, series, 0, 0))
            return

        def answered(answer: JobAnswer | None) -> None:
            if job.watch != series or job.ended_ns is not None:
                return
            over = denied + 1 if not self._lives(job) and is_over(job, answer) else 0
            if over >= _DENIED:
                self._over_unseen(job, answer)
                return
            job.unproven = over > 0
            if not over and answer is not None and answer.state in ON_NODE:
                job.alive_ns = self.clock.now_ns()
            self.timers.at(
                pause_s(0 if over else count), lambda: self._check(job, series, count + 1, over)
            )

        if self.asker.able:
            self._question(job, answered)
        else:
            job.unproven = False

    def _over_unseen(self, job: Job, answer: JobAnswer | None) -> None:
        """No Epilog reported its end: it is when its processes were gone, else the controller's."""
        now_ns = self.clock.now_ns()
        end_ns = job.vanished_ns or job.alive_ns
        if job.vanished_ns is None and answer is not None and answer.end_s:
            end_ns = self._time.node_ns(answer.end_s * NS_PER_S, None)
        job.unproven = False
        job.presume_over(end_ns, now_ns)
        self._over(job, now_ns)
