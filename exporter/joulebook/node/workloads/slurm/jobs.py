"""The jobs of one host, combined from all sources of evidence. No I/O, no clock, no locks.

A `Job` is one run of a job (after a requeue there is another, and numbers come again). The evidence
that it holds GPUs is a `JobGrant`: an event file, an answer of the controller, a job-mapping file.
`docs/evidence.md` has their precedence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from joulebook.core.attribution.claims import Evidence
from joulebook.core.energy.readings import Meter
from joulebook.node.workloads.contract import NOTHING_HELD, Before
from joulebook.node.workloads.host.cgroup_paths import SlurmPlace
from joulebook.node.workloads.slurm.event_file import JobEvent
from joulebook.node.workloads.slurm.job import Job, JobGrant, KeptJob, KeptJobs
from joulebook.node.workloads.slurm.job_mapping import Mapped
from joulebook.node.workloads.slurm.labels import JobEnvironment
from joulebook.units import NS_PER_S

GONE_AT = 2
"""So often in a row the controller must not know a job, for a single answer may be wrong."""

_PRESUMED_NS = 86_400 * NS_PER_S
"""For so long a job that was thought over may come back to life."""
_UNLIMITED_S = 365 * 86_400
"""The time limit that SLURM reports of a job without any."""


class JobTable:
    """All jobs that are not yet settled. The caller serialises access.

    `node` and `gpu_ids` are meant where an event or a cgroup directory names none; `before` is
    what the ledger held when the daemon stopped.
    """

    def __init__(self, node: str, gpu_ids: str = "gres", before: Before = NOTHING_HELD) -> None:
        self._node = node
        self._gpu_ids = gpu_ids
        self._jobs: dict[str, list[Job]] = {}
        self._by_path: dict[Path, Job] = {}
        self._by_stem: dict[str, Job] = {}
        self._sluids: dict[str, str] = {}
        self.kept = KeptJobs(before)

    def __iter__(self) -> Iterator[Job]:
        for runs in self._jobs.values():
            yield from runs

    def __len__(self) -> int:
        return sum(len(runs) for runs in self._jobs.values())

    def current(self, job: str) -> Job | None:
        """Return the latest run of a job id (or SLUID) on this host."""
        runs = self._jobs.get(self._sluids.get(job, job))
        return runs[-1] if runs else None

    def at(self, path: Path) -> Job | None:
        """Return the job of a cgroup directory."""
        return self._by_path.get(path)

    def _open(self, job_id: str, t_ns: int, start_s: int) -> Job:
        job = self.current(job_id)
        if job is None or job.ended_ns is not None:
            job = Job(job_id, t_ns, start_s, seen_ns=t_ns, alive_ns=t_ns)
            self._jobs.setdefault(job_id, []).append(job)
        return job

    def unclaimed(self) -> list[tuple[KeptJob, bool]]:
        """See `KeptJobs`."""
        return self.kept.unclaimed({j.job_id for j in self if j.id is None and not j.heard})

    # -- event files

    def event(self, stem: str, event: JobEvent, t0_ns: int, t1_ns: int | None) -> Job:
        """Take the current content of an event file; return its job."""
        job = self._by_stem.get(stem)
        known = job.grants.get(stem) if job is not None else None
        if job is None or (known is not None and known.told_ns != event.start_ns):
            job = self._begun(stem, event, t0_ns)
        if t1_ns is not None:
            self._close_event(job, stem, t1_ns)
        return job

    def _begun(self, stem: str, event: JobEvent, t0_ns: int) -> Job:
        node, start_s = event.node or self._node, event.start_ns // NS_PER_S
        job = self._run_of(event, node, t0_ns)
        if job is None:
            job = Job(event.job_id, t0_ns, start_s)
            runs = self._jobs.setdefault(event.job_id, [])
            runs.append(job)
            runs.sort(key=lambda r: r.started_ns)
        kept = None
        if job.restart is None:
            job.start_s = start_s
            kept = self.kept.adopt(job, t0_ns, event.restart_count)
        self._by_stem[stem] = job
        job.hooked = True
        job.restart = event.restart_count
        job.started_ns = min(job.started_ns, t0_ns)
        job.alive_ns = max(job.alive_ns, t0_ns)
        job.uid = event.uid if event.uid is not None else job.uid
        job.facts.update(user=event.user, account=event.account)
        job.learn(
            partition=event.partition,
            cluster=event.cluster,
            het_job_id="" if event.het_job_id is None else str(event.het_job_id),
            time_limit_s=f"{event.time_limit_s}" if 0 < event.time_limit_s < _UNLIMITED_S else "",
        )
        job.source("comment", event.comment)
        job.grants = {
            k: g for k, g in job.grants.items()
            if g.evidence is not Evidence.SCONTROL and not g.by_processes
        }  # fmt: skip
        gpu_ids = event.gpu_ids or self._gpu_ids
        grant = JobGrant(Evidence.PROLOG, node, event.gpus, t0_ns, gpu_ids=gpu_ids)
        grant.told_ns = event.start_ns
        if kept is not None and event.gpus:
            grant.claims = kept.claims_of(Evidence.PROLOG) or None
        job.give(stem, grant)
        job.ended_ns = None
        return job

    def _run_of(self, event: JobEvent, node: str, t0_ns: int) -> Job | None:
        """Return the run that an event speaks of, if another source or another node reported of it.

        A node has one run of a number at a time: another event of the same node is another run's,
        and the run before is over, unless its processes live.
        """
        for run in self._jobs.get(event.job_id, ()):
            if run.restart not in {None, event.restart_count}:
                continue
            reported = [
                g for g in run.grants.values() if g.evidence is Evidence.PROLOG and g.node == node
            ]
            if reported and not (run.paths and run.ended_ns is None):
                if run.ended_ns is None and t0_ns > run.started_ns:
                    run.end(t0_ns)
                continue
            if run.ended_ns is None or t0_ns < run.ended_ns:
                return run
        return None

    def event_removed(self, stem: str, t_ns: int, lives: Callable[[Job], bool]) -> Job | None:
        """Take note that an event file is gone; return the job if that ended it just now.

        An Epilog runs when the processes of a job are gone. So if it is still alive (`lives`), the
        file was removed, and its processes will show the end.
        """
        job = self._by_stem.get(stem)
        grant = job.grants.get(stem) if job is not None else None
        if job is None or grant is None or grant.t1_ns is not None:
            return None
        if lives(job):
            grant.by_processes = True
            return None
        self._close_event(job, stem, t_ns)
        return job

    def _close_event(self, job: Job, stem: str, t_ns: int) -> None:
        grant = job.grants.get(stem)
        if grant is None or grant.t1_ns is not None:
            return
        grant.close(t_ns)
        job.changed += 1
        open_events = [
            g for g in job.grants.values() if g.evidence is Evidence.PROLOG and g.t1_ns is None
        ]
        if not open_events:
            job.end(t_ns)

    def knows(self, stem: str) -> JobGrant | None:
        """Return the previous content of an event file."""
        job = self._by_stem.get(stem)
        return None if job is None else job.grants.get(stem)

    def stems(self) -> frozenset[str]:
        """Return the event files without an end."""
        return frozenset(
            stem for stem, job in self._by_stem.items()
            if stem in job.grants
            and job.grants[stem].t1_ns is None and not job.grants[stem].by_processes
        )  # fmt: skip

    # -- cgroups

    def seen(self, place: SlurmPlace, path: Path, t_ns: int, start_s: int) -> Job | None:
        """Take a directory of a job whose processes began at `t_ns`; return the job.

        `None` while nobody knows which job a SLUID is.
        """
        job_id = self._sluids.get(place.job) if place.is_sluid else place.job
        if job_id is None:
            return None
        before = self.current(job_id)
        if before is not None and before.presumed_ns is not None and before.hooked:
            before.revive(t_ns)  # An event file would tell of another run.
        # Before its Epilog the cgroup of an ended run may still be there, never appear.
        job = self._open(job_id, t_ns, start_s)
        if job is not before:
            kept = self.kept.adopt(job, t_ns, None)
            if kept is not None:
                for evidence, claims in kept.by_evidence():
                    grant = JobGrant(evidence, place.node or self._node, (), claims[0].t0_ns)
                    grant.claims, grant.by_processes = claims, True
                    job.give(f"ledger:{evidence.label}", grant)
        job.uid = place.uid if job.uid is None else job.uid
        job.paths.add(path)
        job.past.discard(path)
        job.nodes.add(place.node or self._node)
        job.vanished_ns = None
        self._by_path[path] = job
        return job

    def name_sluid(self, sluid: str, environment: JobEnvironment) -> bool:
        """Learn which job a SLUID is from one of its processes; `False` if that cannot be."""
        job = self.current(environment.job_id)
        if job is not None and job.uid not in {None, environment.uid}:
            return False  # A process that says it is part of somebody else's job.
        self._sluids[sluid] = environment.job_id
        return True

    def gone(self, path: Path, t_ns: int) -> Job | None:
        """Take note that a directory of a job is gone; return the job if it was the last one."""
        job = self._by_path.pop(path, None)
        if job is None:
            return None
        job.paths.discard(path)
        job.past.add(path)
        self._sluids.pop(path.name, None)
        if job.paths:
            return None
        job.vanished_ns = job.alive_ns = t_ns
        if not job.filed and job.ended_ns is None:
            job.end(t_ns)
            if not job.extern:
                job.presumed_ns = t_ns  # Perhaps it only waits for its next step.
        return job

    # -- what else is learnt

    def environment(self, job: Job, found: JobEnvironment) -> None:
        """Labels out of a process of the job."""
        if job.uid is None:
            job.uid = found.uid
        elif job.uid != found.uid:
            return  # `su` inside the job: not the words of its owner.
        if job.env_shards is None:
            job.env_shards = found.shards
        self.labels(job, found.labels)

    def labels(self, job: Job, labels: dict[str, str]) -> None:
        """Allow-listed names, from environ or a TaskProlog label file."""
        job.learn(name=labels.get("SLURM_JOB_NAME", ""), qos=labels.get("SLURM_JOB_QOS", ""))
        job.source("job_name", labels.get("SLURM_JOB_NAME", ""))
        for name, value in labels.items():
            if not name.startswith("SLURM_"):
                job.source(f"env:{name}", value)

    def taken(self, grant: JobGrant) -> set[Meter]:
        """Return the devices that others are known to have held, whole, at any time of a grant."""
        return {
            claim.meter
            for job in self
            for other in job.grants.values()
            for claim in other.claims or ()
            if claim.workload is not None
            and claim.parts == claim.of
            and (grant.t1_ns is None or claim.t0_ns < grant.t1_ns)
            and (other.t1_ns is None or other.t1_ns > grant.t0_ns)
        }

    def job_of(self, stem: str) -> Job | None:
        """Return the job of an event file."""
        return self._by_stem.get(stem)

    def runs(self, job_id: str) -> tuple[Job, ...]:
        """Return all runs of a number that are not yet forgotten."""
        return tuple(self._jobs.get(job_id, ()))

    def mapped(self, evidence: Evidence, now: frozenset[Mapped], t_ns: int, start_s: int) -> bool:
        """Take the content of a job-mapping directory; return whether anything changed."""
        wanted = {(m.job_id, f"{evidence.label}:{m.file}:{m.parts}/{m.of}"): m for m in now}
        changed = False
        for job in list(self):
            for key, grant in job.grants.items():
                is_open = grant.evidence is evidence and grant.t1_ns is None
                if is_open and wanted.pop((job.job_id, key.rpartition("@")[0]), None) is None:
                    grant.close(t_ns)
                    job.changed += 1
                    changed = True
        for (job_id, key), each in wanted.items():
            before = self.current(job_id)
            if before is not None and before.presumed_ns is not None:
                continue  # A file that its Epilog should have removed.
            job = self._open(job_id, t_ns, start_s)
            if job is not before:
                self.kept.adopt(job, each.since_ns, None)
            job.uid = each.uid if job.uid is None else job.uid
            grant = JobGrant(evidence, self._node, (each.gpu,), t_ns, gpu_ids=each.index_kind)
            grant.parts = (each.parts, each.of)
            # Held again within the same run is another grant.
            job.give(f"{key}@{t_ns}", grant)
            changed = True
        for job in list(self) if changed else ():
            held = job.paths or any(g.t1_ns is None for g in job.grants.values())
            if job.ended_ns is None and job.grants and not held:
                job.end(t_ns)
        return changed

    # -- letting go

    def settle(self, job: Job, keys: Iterable[str]) -> None:
        """Closed grants are booked and need not be reported again."""
        for key in keys:
            job.grants.pop(key, None)
            if self._by_stem.get(key) is job:
                del self._by_stem[key]

    def sweep(self, now_ns: int) -> list[Job]:
        """Drop and return the jobs with nothing left to report."""
        done = [
            job for job in self
            if job.ended_ns is not None and job.sent >= job.changed and job.heard
            and not (job.grants or job.paths or job.asking)
            and (
                job.presumed_ns is None or now_ns - job.presumed_ns > _PRESUMED_NS
                or not (job.hooked or job.answered)
            )
        ]  # fmt: skip
        for job in done:
            runs = self._jobs[job.job_id]
            runs.remove(job)
            if not runs:
                del self._jobs[job.job_id]
        return done
