"""The workload source for SLURM: event files, cgroups, job-mapping files, then the controller.

One thread reads inotify and keeps the table of jobs; another calls `scontrol`, rarely. `jobs.py`
combines the sources, and `claims.py` turns them into claims; this module passes messages, and
converts wall-clock times to node time.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from joulebook.clock import Clock, Timers
from joulebook.config import host_name
from joulebook.core.attribution.claims import Claim, Evidence
from joulebook.core.energy.readings import DeviceStatus
from joulebook.core.experiments import DEFAULT_RULES
from joulebook.core.workloads import WorkloadFacts, WorkloadId
from joulebook.node.workloads.contract import (
    NOTHING_HELD,
    Before,
    Boundary,
    Holdings,
    Rejections,
    UsageGroup,
    joined,
)
from joulebook.node.workloads.host.cgroup_paths import CgroupReader
from joulebook.node.workloads.host.inotify import Event, Inotify, InotifyThread
from joulebook.node.workloads.slurm.cgroups import JobProcesses, SlurmTree
from joulebook.node.workloads.slurm.claims import claims_of, facts_of, group_of, unmapped
from joulebook.node.workloads.slurm.event_watcher import EventDirectory
from joulebook.node.workloads.slurm.gres import UNCOUNTED, GresMap
from joulebook.node.workloads.slurm.gres_conf import find_program, find_slurm_conf
from joulebook.node.workloads.slurm.gres_maps import GresMaps
from joulebook.node.workloads.slurm.hostlist import expand
from joulebook.node.workloads.slurm.job import Job, JobGrant
from joulebook.node.workloads.slurm.job_mapping import MappingDirectory
from joulebook.node.workloads.slurm.jobs import JobTable
from joulebook.node.workloads.slurm.labels import LabelReader
from joulebook.node.workloads.slurm.scontrol import Asker
from joulebook.node.workloads.slurm.tracker import JobTracker

_RETRY_S = 1.0
_RESCAN_PAUSE_S = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class SlurmSite:
    """The settings for SLURM on this host.

    Attributes:
        events_dir: Where the hooks write.
        hpc_job_mapping_dir: Job-mapping files of dcgm-exporter.
        gpustat_dir: Job-mapping files of Jobstats.
        node: The node meant by events without one; empty: found by itself.
        only: The nodes whose jobs count (`n1`, `n[1-2]`); empty: all of this host.
        slurm_conf: Path of slurm.conf; `None`: found by itself.
        gres_conf: Path of gres.conf; `None`: beside slurm.conf.
        gpu_ids: What the numbers in events are that do not say it.
        gpu_indices: The file that keeps the order of GPUs for the next start; `None`: none.
        scontrol, slurmd: Paths of programs; `None`: found by itself, empty: not used.
        ask_timeout_s: For how long an answer of the controller is waited for.

    """

    events_dir: Path = Path("/run/joulebook/jobs")
    cgroup_root: Path = Path("/sys/fs/cgroup")
    hpc_job_mapping_dir: Path | None = None
    gpustat_dir: Path | None = None
    rules: Sequence[str] = DEFAULT_RULES
    node: str = ""
    only: str = ""
    slurm_conf: Path | None = None
    gres_conf: Path | None = None
    gpu_ids: str = "gres"
    gpu_indices: Path | None = None
    scontrol: str | None = None
    slurmd: str | None = None
    ask_timeout_s: float = 5.0
    proc: Path = Path("/proc")


class SlurmWorkloads:
    """The SLURM jobs on this host."""

    name = "slurm"

    def __init__(self, clock: Clock, site: SlurmSite) -> None:
        self._clock = clock
        self._site = site
        self._only = frozenset(expand(site.only))
        self._node = site.node or (site.only if len(self._only) == 1 else "") or host_name()
        self._conf = site.slurm_conf or find_slurm_conf()
        slurmd = find_program("slurmd") if site.slurmd is None else site.slurmd
        kept, proc = site.gpu_indices, site.proc
        self._gres = GresMaps(self._conf, site.gres_conf, slurmd=slurmd, kept=kept, proc=proc)
        self._lock = threading.RLock()
        self._table = JobTable(self._node, site.gpu_ids)
        self._rejections = Rejections()
        self._reader = CgroupReader(site.proc)
        self._handed: list[tuple[Job, int, tuple[str, ...]]] = []
        self._handed_stale: list[str] = []
        self._handed_lost = 0
        self._faulty = False
        self._thread: InotifyThread | None = None

    # -- TenantSource

    def open(self, boundary: Boundary, before: Before = NOTHING_HELD) -> None:
        """Scan what exists and start watching. Raises `OSError` without inotify."""
        site = self._site
        self._boundary = boundary
        self._inotify = Inotify()
        self._timers = Timers()
        self._table = JobTable(self._node, self._site.gpu_ids, before)
        scontrol = find_program("scontrol") if site.scontrol is None else site.scontrol
        self._asker = Asker(
            scontrol, self._conf, timeout_s=site.ask_timeout_s, fault=self._rejections.fault
        )
        self._labels = LabelReader(site.events_dir / "labels", self._rejections)
        self._tracker = JobTracker(
            clock=self._clock, table=self._table, timers=self._timers, asker=self._asker,
            labels=self._labels, processes=JobProcesses(site.proc), gres_of=self._gres_of,
            lock=self._lock, poke=self._poke, refuse=self._rejections, only=self._only,
        )  # fmt: skip
        self._events = EventDirectory(
            site.events_dir, self._inotify, self._tracker, self._rejections
        )
        self._tree = SlurmTree(
            site.cgroup_root, self._inotify, self._rejections, self._tracker, self._only
        )
        mappings = {
            Evidence.JOB_MAPPING: site.hpc_job_mapping_dir,
            Evidence.GPUSTAT: site.gpustat_dir,
        }
        self._mappings = [
            MappingDirectory(path, evidence, self._inotify, self._rejections)
            for evidence, path in mappings.items()
            if path is not None
        ]
        self._handlers = [
            self._events.handle, self._tree.handle, self._gres.handle,
            *(mapping.handle for mapping in self._mappings),
        ]  # fmt: skip
        with contextlib.suppress(OSError):
            # Before the first job, so that its very first event is seen as it comes.
            site.events_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
        self._gres.watch(self._inotify)
        self._asker.start()
        with self._lock:
            self._scan()
            self._tracker.times.clear()
        self._rescan_after = 0.0
        self._retry_at = time.monotonic() + _RETRY_S
        self._thread = InotifyThread("slurm-watch", self._inotify, self._handle, self._wait_s)
        self._thread.start()

    def holdings(self, devices: Sequence[DeviceStatus]) -> Holdings:
        """Return the current view."""
        claims: list[Claim] = []
        facts: list[WorkloadFacts] = []
        with self._lock:
            complete = self._complete() if devices else set()
            self._handed = []
            self._handed_stale = list(self._tracker.stale)
            for lost, closed_claims in self._tracker.lost:
                facts += [lost] if lost is not None else []
                claims += closed_claims
            self._handed_lost = len(self._tracker.lost)
            for job in self._table:
                closed = []
                for key, grant in job.grants.items():
                    there = devices
                    if any(gpu.startswith(UNCOUNTED) for gpu in grant.gpus):
                        # It was one of those that nobody else is known to have held.
                        taken = self._table.taken(grant)
                        there = [device for device in devices if device.meter not in taken]
                    found = claims_of(job, grant, there, self._gres_of, self._unmapped)
                    if found is None:
                        complete.discard(grant.evidence)
                    else:
                        claims += found
                        if grant.t1_ns is not None:
                            closed.append(key)
                if job.sent < job.changed:
                    fact = facts_of(job, self._site.rules)
                    if fact is not None:
                        facts.append(fact)
                self._handed.append((job, job.changed, tuple(closed)))
            rejected = self._rejections.counts()
        return Holdings(joined(claims), frozenset(complete), tuple(facts), rejected)

    def settled(self) -> None:
        """Confirm that the last `holdings` are durable, and delete their event files."""
        with self._lock:
            stems = self._handed_stale
            self._tracker.stale = [s for s in self._tracker.stale if s not in stems]
            self._tracker.lost = self._tracker.lost[self._handed_lost :]
            for job, changed, closed in self._handed:
                # Not those of a later job of that number.
                stems += [key for key in closed if self._table.job_of(key) is job]
                job.sent = max(job.sent, changed)
                self._table.settle(job, closed)
            self._handed, self._handed_stale, self._handed_lost = [], [], 0
            forgotten = self._table.sweep(self._clock.now_ns())
        for stem in stems:
            self._events.delete(stem)
        for job in forgotten:
            if job.uid is not None:
                self._labels.forget(job.job_id, job.uid)

    def identify(self, pid: int) -> WorkloadId | None:
        """Return the owner of a process by its cgroup; `None` if it is in no known job."""
        place = self._reader.slurm(pid)
        if place is None or (self._only and place.node and place.node not in self._only):
            return None
        with self._lock:
            job = self._table.current(place.job)
            return None if job is None else job.id

    def groups(self) -> Sequence[UsageGroup]:
        """The cgroup directories of the jobs that run here, or just did, in every hierarchy."""
        with self._lock:
            return [group_of(job) for job in self._table if job.paths or job.past]

    def close(self) -> None:
        """Stop watching; `open` may be called again."""
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is None:
            return
        thread.stop()
        self._asker.stop()
        with self._lock:
            self._events.close()
            self._inotify.close()
            self._table = JobTable(self._node, self._site.gpu_ids)
            self._handed = []

    # -- the watching thread

    def _scan(self) -> None:
        self._events.scan()
        self._tree.scan()
        for mapping in self._mappings:
            mapping.dirty = True
        self._read_mappings()
        self._scanned()

    def _scanned(self) -> None:
        if self._events.whole and not self._faulty:
            self._tracker.scanned()

    def _handle(self, events: Sequence[Event]) -> None:
        try:
            self._take(events)
        except Exception:
            # A fault of ours with one job must not end the watch over all others: say it, claim
            # nothing to be complete, and begin again from what is there.
            with self._lock:
                self._faulty = True
                self._timers.once("rescan", _RETRY_S, self._rescan)
            self._rejections.fault(
                "watching SLURM failed: what jobs hold is uncertain; rescanning everything"
            )

    def _take(self, events: Sequence[Event]) -> None:
        now = time.monotonic()
        for event in events:
            if event.overflow:
                # At once, and then not again with every batch of a storm.
                with self._lock:
                    self._timers.once("rescan", max(0.0, self._rescan_after - now), self._rescan)
                continue
            with self._lock:
                any(handle(event) for handle in self._handlers)
            self._tell()
        with self._lock:
            self._read_mappings()
            if now >= self._retry_at:
                self._retry_at = now + _RETRY_S
                self._retry()
            for action in self._timers.due():
                action()
        self._tell()

    def _wait_s(self) -> float | None:
        with self._lock:
            whole = self._events.whole and all(m.whole for m in self._mappings)
            waits = [self._timers.wait_s(), None if whole else _RETRY_S]
        return min((w for w in waits if w is not None), default=None)

    def _rescan(self) -> None:
        self._rescan_after = time.monotonic() + _RESCAN_PAUSE_S
        self._scan()
        self._faulty = False

    def _retry(self) -> None:
        if not self._events.whole:
            self._events.scan()
            self._scanned()
        for mapping in self._mappings:
            mapping.dirty = mapping.dirty or not mapping.whole
        self._read_mappings()

    def _read_mappings(self) -> None:
        for mapping in self._mappings:
            if mapping.dirty:
                now = mapping.read()
                if now is not None:
                    self._tracker.mapped(mapping.evidence, now)

    def _tell(self) -> None:
        # Outside the lock: who is told may wait for another thread that asks for holdings.
        times, self._tracker.times = self._tracker.times, []
        for t_ns in times:
            self._boundary(t_ns)

    # -- helpers

    def _complete(self) -> set[Evidence]:
        if self._faulty:
            return set()
        complete = {m.evidence for m in self._mappings if m.whole}
        # What was found at the start and not yet confirmed must not read as "held throughout".
        if self._events.whole and not any(job.unproven for job in self._table):
            complete.add(Evidence.PROLOG)
        # An answer that is still awaited must not read as "holds nothing".
        if not any(job.id is None and not job.heard for job in self._table):
            complete.add(Evidence.SCONTROL)
        return complete

    def _gres_of(self, node: str) -> tuple[bool, GresMap | None]:
        return self._gres.of(node or self._node)

    def _poke(self) -> None:
        with self._lock:
            if self._thread is not None:
                self._thread.wake()

    def _unmapped(self, job: Job, grant: JobGrant, gpus: Sequence[str]) -> None:
        node = grant.node or self._node
        known, gres = self._gres_of(node)
        nobody_says = known and gres is None and grant.gpu_ids == "gres"
        self._rejections(unmapped(job, grant, gpus, node, self._gres.places if nobody_says else ""))
