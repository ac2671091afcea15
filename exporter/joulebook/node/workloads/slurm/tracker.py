"""What to do when something is heard of a SLURM job: note it, look for labels, ask, tell the time.

Every method is called with the lock of `SlurmTenants` held.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from joulebook.clock import Clock
from joulebook.core.attribution.claims import Evidence
from joulebook.node.workloads.host.cgroup_paths import SlurmPlace, is_sluid
from joulebook.node.workloads.host.timers import Timers
from joulebook.node.workloads.slurm.claims import GresOf
from joulebook.node.workloads.slurm.event_file import JobEvent
from joulebook.node.workloads.slurm.job import Job
from joulebook.node.workloads.slurm.job_mapping import Mapped
from joulebook.node.workloads.slurm.jobs import JobTable
from joulebook.node.workloads.slurm.labels import FAST_S, LabelReader, next_look_s
from joulebook.node.workloads.slurm.scontrol import Asker, JobAnswer
from joulebook.units import NS_PER_MS, NS_PER_S

_HOOK_GRACE_S = 0.2
"""Where the hooks are installed a job's event file is there before its cgroup. Nearly always."""
_NO_EPILOG_S = 30.0
_ASK_AGAIN_S = 600.0
_STEP_NS = 50 * NS_PER_MS
_OFFSET_GRAIN_NS = 100_000
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class JobTracker:
    """Listener of the event directory and of the cgroup tree.

    `times` collects the node times of begins and ends, to be reported once the lock is released;
    `stale` the event files of an earlier boot, to be deleted once that is known to the ledger.
    """

    def __init__(
        self,
        clock: Clock,
        table: JobTable,
        agenda: Timers,
        asker: Asker,
        labels: LabelReader,
        gres_of: GresOf,
        lock: threading.RLock,
        poke: Callable[[], None],
        only: frozenset[str],
        has_cgroups: Callable[[], bool],
    ) -> None:
        self._clock = clock
        self._table = table
        self._agenda = agenda
        self._asker = asker
        self._labels = labels
        self._gres_of = gres_of
        self._lock = lock
        self._poke = poke
        self._only = only
        self._has_cgroups = has_cgroups
        self._boot_id = _BOOT_ID.read_text().strip()
        self._hooks_seen = False
        self.times: list[int] = []
        self.stale: list[str] = []

    # -- event files

    def job_told(self, stem: str, event: JobEvent, end_wall_ns: int | None, live: bool) -> None:
        """An event file as it is now."""
        if self._only and event.node and event.node not in self._only:
            return  # Another slurmd's on this host, and another daemon's.
        self._hooks_seen = True
        known = self._table.knows(stem)
        same_boot = event.boot_id == self._boot_id if event.boot_id else None
        t0_ns = self._node_ns(event.start_ns, event.start_uptime_ms if same_boot else None)
        if known is None and end_wall_ns is None and self._earlier_boot(same_boot, t0_ns):
            # It did not survive the reboot, and nobody saw when it ended: the core closes what is
            # on record at the last instant at which it was affirmed.
            self.stale.append(stem)
            return
        t1_ns = None
        if end_wall_ns is not None:
            t1_ns = self._node_ns(end_wall_ns, event.end_uptime_ms if same_boot else None)
        job = self._table.event(stem, event, t0_ns, t1_ns)
        if known is None:
            self.times.append(t0_ns)
            _, gres = self._gres_of(event.node)
            if event.gpus and gres is not None and gres.sharded:
                self._ask(job)
            if t1_ns is None:
                self._begin_looks(job)
                if not job.paths:  # A cgroup that comes and goes at once is never seen.
                    self._agenda.at(_NO_EPILOG_S, lambda: self._check_alive(job))
        if t1_ns is not None and (known is None or known.t1_ns == t1_ns):
            self.times.append(t1_ns)
            self._over(job)

    def job_untold(self, stem: str) -> None:
        """The file of a running job is gone: that is its end."""
        now_ns = self._clock.now_ns()
        job = self._table.event_removed(stem, now_ns)
        if job is not None:
            self.times.append(now_ns)
            self._over(job)

    def open_stems(self) -> frozenset[str]:
        """The event files of which the end is not known yet."""
        return self._table.stems()

    def _earlier_boot(self, same_boot: bool | None, t0_ns: int) -> bool:
        return not same_boot if same_boot is not None else self._clock.boottime_ns(t0_ns) < 0

    def _node_ns(self, wall_ns: int, uptime_ms: int | None) -> int:
        # In grains: reading the same file after a restart must give the same instant.
        offset_ns = self._clock.utc_offset_ns()
        node_ns = wall_ns - round(offset_ns / _OFFSET_GRAIN_NS) * _OFFSET_GRAIN_NS
        if uptime_ms is not None:
            by_boot_ns = uptime_ms * NS_PER_MS - self._clock.boottime_ns(0)
            if abs(by_boot_ns - node_ns) > _STEP_NS:
                node_ns = by_boot_ns  # The wall clock was set since.
        return min(node_ns, self._clock.now_ns())

    # -- cgroups

    def job_seen(self, place: SlurmPlace, path: Path, live: bool) -> None:
        """A directory of a job."""
        job = self._table.seen(place, path, self._clock.now_ns())
        if job is None:
            self._look_at_sluid(place, path, 0)
            return
        if job.hooked or len(job.paths) > 1:
            return
        if live:
            self.times.append(job.started_ns)
        # A site without our hooks is asked for at once; else the file is only a little late.
        self._agenda.at(
            _HOOK_GRACE_S if live and self._hooks_seen else 0.0, lambda: self._ask_unless_told(job)
        )

    def step_seen(self, path: Path) -> None:
        """A step began: its processes are about to be there."""
        job = self._table.at(path)
        if job is not None and not job.labels_done and "name" not in job.facts:
            self._begin_looks(job)

    def job_gone(self, path: Path) -> None:
        """The directory of a job is no more."""
        now_ns = self._clock.now_ns()
        job = self._table.gone(path, now_ns)
        if job is None:
            return
        if job.ended_ns == now_ns:
            self.times.append(now_ns)
            self._over(job)
        elif job.ended_ns is None:
            self._agenda.at(_NO_EPILOG_S, lambda: self._check_alive(job))

    def mapped(self, evidence: Evidence, now: frozenset[Mapped]) -> None:
        """What a job-mapping directory says now."""
        now_ns = self._clock.now_ns()
        if self._table.mapped(evidence, now, now_ns):
            self.times.append(now_ns)
            for job in self._table:
                if job.ended_ns is None:
                    self._ask_unless_told(job)

    # -- labels

    def _begin_looks(self, job: Job) -> None:
        job.series += 1
        series, start_s = job.series, time.monotonic()
        self._agenda.at(FAST_S[0], lambda: self._look(job, series, 0, start_s))

    def _look(self, job: Job, series: int, count: int, start_s: float) -> None:
        if job.series != series or job.labels_done:
            return
        self._read_labels(job, thorough=count >= len(FAST_S))
        following = next_look_s(count, named="name" in job.facts)
        if following is None:
            self._labels_over(job)
            return
        count, at_s = following
        in_s = max(0.0, start_s + at_s - time.monotonic())
        self._agenda.at(in_s, lambda: self._look(job, series, count, start_s))
        if at_s >= 1.0 and "name" not in job.facts:
            self._ask(job)
            self._leave_alone(job)

    def _leave_alone(self, job: Job) -> None:
        """No longer wait for a name if nobody is left to tell it, and so none of an array either.

        Not before the fast looks are over: on cgroup v1 the first job after a boot brings SLURM's
        directories with it, as a rule within some 100 ms of its Prolog.
        """
        age_ns = self._clock.now_ns() - job.started_ns
        asking = job.waiting or job.answered or not job.asked
        heard = job.paths or self._has_cgroups() or self._labels.expected
        if not (job.hooked and age_ns >= FAST_S[-1] * NS_PER_S) or asking or heard or job.alone:
            return
        job.alone = True
        job.changed += 1

    def _read_labels(self, job: Job, *, thorough: bool) -> None:
        self._table.labels(job, self._labels.label_file(job))
        found = self._labels.environment(job.paths, thorough=thorough)
        if found is not None:
            self._table.environment(job, found)

    def _over(self, job: Job) -> None:
        if job.ended_ns is not None and not job.labels_done:
            self._read_labels(job, thorough=True)
            self._labels_over(job)

    def _labels_over(self, job: Job) -> None:
        job.labels_done = True
        job.changed += 1
        if "name" not in job.facts or not job.hooked:
            self._ask(job)

    def _look_at_sluid(self, place: SlurmPlace, path: Path, count: int) -> None:
        found = self._labels.environment({path}, thorough=False)
        if found is not None and self._table.name_sluid(place.job, found):
            self.job_seen(place, path, True)
            self.step_seen(path)
            return
        following = next_look_s(count, named=False)
        if following is not None and is_sluid(path.name) and path.exists():
            later, at_s = following
            before_s = FAST_S[count] if count < len(FAST_S) else 0.0
            self._agenda.at(
                max(0.005, at_s - before_s), lambda: self._look_at_sluid(place, path, later)
            )

    # -- the controller

    def _ask_unless_told(self, job: Job) -> None:
        if not job.hooked:
            self._ask(job)

    def _ask(self, job: Job) -> None:
        if job.asked:
            return
        job.asked = job.waiting = True

        def answered(answer: JobAnswer | None) -> None:
            with self._lock:
                self._table.answered(job, answer)
                self._leave_alone(job)
            self._poke()

        if not self._asker.ask(job.job_id, answered):
            self._table.answered(job, None)

    def _check_alive(self, job: Job) -> None:
        """Neither processes nor an Epilog: is it a job with nothing to do, or is it over?"""
        has_files = any(
            g.evidence is Evidence.PROLOG and g.t1_ns is None for g in job.grants.values()
        )
        now_s = time.monotonic()
        if job.paths or job.ended_ns is not None or not has_files or now_s < job.ask_again_s:
            return
        job.ask_again_s = now_s + _ASK_AGAIN_S

        def answered(answer: JobAnswer | None) -> None:
            with self._lock:
                if job.paths or job.ended_ns or not self._table.ended_elsewhere(job, answer):
                    return
                if job.vanished_ns is None:
                    self.stale += self._table.drop_events(job)
                self._table.end(job, job.vanished_ns or self._clock.now_ns())
                self.times.append(self._clock.now_ns())
            self._poke()

        self._asker.ask(job.job_id, answered)
