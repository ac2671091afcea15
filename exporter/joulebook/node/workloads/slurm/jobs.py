"""The jobs of one host as all sources of evidence together tell them. No I/O, no clock, no locks.

A `Job` is one run of a job (after a requeue there is another). What says that it holds GPUs is a
`JobGrant`: an event file, an answer of the controller, a job-mapping file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from joulebook.core.attribution.claims import Evidence
from joulebook.node.workloads.host.cgroup_paths import SlurmPlace
from joulebook.node.workloads.slurm.event_file import JobEvent
from joulebook.node.workloads.slurm.job import Job, JobGrant
from joulebook.node.workloads.slurm.job_mapping import Mapped
from joulebook.node.workloads.slurm.labels import JobEnvironment
from joulebook.node.workloads.slurm.scontrol import GONE, HeldGpu, JobAnswer

_ON_NODE = frozenset(
    {"RUNNING", "SUSPENDED", "COMPLETING", "CONFIGURING", "STAGE_OUT", "STOPPED", "SIGNALING"}
)


class JobTable:
    """All jobs that are not yet settled. The caller serialises access.

    `node` and `gpu_ids` are meant where an event or a cgroup directory names none.
    """

    def __init__(self, node: str, gpu_ids: str = "gres") -> None:
        self._node = node
        self._gpu_ids = gpu_ids
        self._jobs: dict[str, list[Job]] = {}
        self._by_path: dict[Path, Job] = {}
        self._by_stem: dict[str, Job] = {}
        self._sluids: dict[str, str] = {}

    def __iter__(self) -> Iterator[Job]:
        for runs in self._jobs.values():
            yield from runs

    def __len__(self) -> int:
        return sum(len(runs) for runs in self._jobs.values())

    def current(self, job: str) -> Job | None:
        """The latest run of a job id (or SLUID) on this host."""
        runs = self._jobs.get(self._sluids.get(job, job))
        return runs[-1] if runs else None

    def at(self, path: Path) -> Job | None:
        """The job of a cgroup directory."""
        return self._by_path.get(path)

    def _open(self, job_id: str, t_ns: int) -> Job:
        job = self.current(job_id)
        if job is None or job.ended_ns is not None:
            job = Job(job_id, t_ns)
            self._jobs.setdefault(job_id, []).append(job)
        return job

    # -- event files

    def event(self, stem: str, event: JobEvent, t0_ns: int, t1_ns: int | None) -> Job:
        """An event file as it stands now."""
        job = self._by_stem.get(stem)
        if job is None:
            runs = self._jobs.setdefault(event.job_id, [])
            # A run that only its cgroup was seen of is this one, else it would have ended.
            fits = (r for r in runs if r.restart == event.restart_count or r.restart is None)
            job = next(fits, None)
            if job is None:
                job = Job(event.job_id, t0_ns)
                runs.append(job)
                runs.sort(key=lambda r: r.started_ns)
            self._by_stem[stem] = job
            job.restart = event.restart_count
            job.started_ns = min(job.started_ns, t0_ns)
            job.uid = event.uid if event.uid is not None else job.uid
            job.hooked = True
            job.facts.update(user=event.user, account=event.account)
            job.learn(
                partition=event.partition,
                cluster=event.cluster,
                het_job_id="" if event.het_job_id is None else str(event.het_job_id),
            )
            job.source("comment", event.comment)
            job.grants = {
                k: g for k, g in job.grants.items() if g.evidence is not Evidence.SCONTROL
            }
            node, gpu_ids = event.node or self._node, event.gpu_ids or self._gpu_ids
            job.give(stem, JobGrant(Evidence.PROLOG, node, event.gpus, t0_ns, gpu_ids=gpu_ids))
            job.ended_ns = None
        if t1_ns is not None:
            self._close_event(job, stem, t1_ns)
        return job

    def event_removed(self, stem: str, t_ns: int) -> Job | None:
        """An event file is gone; returns the job if that ended it just now."""
        job = self._by_stem.get(stem)
        grant = job.grants.get(stem) if job is not None else None
        if job is None or grant is None or grant.t1_ns is not None:
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
            self.end(job, t_ns)

    def knows(self, stem: str) -> JobGrant | None:
        """What an event file said before."""
        job = self._by_stem.get(stem)
        return None if job is None else job.grants.get(stem)

    def stems(self) -> frozenset[str]:
        """The event files whose end is not known."""
        return frozenset(
            stem for stem, job in self._by_stem.items()
            if stem in job.grants and job.grants[stem].t1_ns is None
        )  # fmt: skip

    def end(self, job: Job, t_ns: int) -> None:
        """A job holds nothing any more."""
        job.ended_ns = max(t_ns, job.started_ns)
        for grant in job.grants.values():
            grant.close(t_ns)
        job.changed += 1

    def drop_events(self, job: Job) -> list[str]:
        """Forget event files of a job whose end nobody saw; returns their stems."""
        stems = [s for s, j in self._by_stem.items() if j is job and s in job.grants]
        for stem in stems:
            del job.grants[stem]
            del self._by_stem[stem]
        return stems

    # -- cgroups

    def seen(self, place: SlurmPlace, path: Path, t_ns: int) -> Job | None:
        """A directory of a job; `None` while nobody knows which job a SLUID is."""
        job_id = self._sluids.get(place.job) if place.is_sluid else place.job
        if job_id is None:
            return None
        # Before its Epilog the cgroup of an ended run may still be there, never appear.
        job = self._open(job_id, t_ns)
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
        """A directory of a job is gone; returns the job if it was the last one."""
        job = self._by_path.pop(path, None)
        if job is None:
            return None
        job.paths.discard(path)
        job.past.add(path)
        self._sluids.pop(path.name, None)
        if job.paths:
            return None
        job.vanished_ns = t_ns
        open_files = any(
            g.t1_ns is None and g.evidence is not Evidence.SCONTROL for g in job.grants.values()
        )
        if not open_files and job.ended_ns is None:
            self.end(job, t_ns)
        return job

    # -- what else is learnt

    def environment(self, job: Job, found: JobEnvironment) -> None:
        """Labels out of a process of the job."""
        if job.uid is None:
            job.uid = found.uid
        elif job.uid != found.uid:
            return  # `su` inside the job: not the words of its owner.
        if job.restart is None:
            job.restart = found.restart_count
            job.changed += 1
        if job.env_shards is None:
            job.env_shards = found.shards
        self.labels(job, found.labels)

    def labels(self, job: Job, labels: dict[str, str]) -> None:
        """Allow-listed names, from environ or a TaskProlog label file."""
        job.learn(
            name=labels.get("SLURM_JOB_NAME", ""),
            qos=labels.get("SLURM_JOB_QOS", ""),
            **_array(labels.get("SLURM_ARRAY_JOB_ID", ""), labels.get("SLURM_ARRAY_TASK_ID", "")),
        )
        job.source("job_name", labels.get("SLURM_JOB_NAME", ""))
        for name, value in labels.items():
            if not name.startswith("SLURM_"):
                job.source(f"env:{name}", value)

    def answered(self, job: Job, answer: JobAnswer | None) -> None:
        """The controller spoke of a job, or gave no answer (`None`)."""
        job.waiting = False
        job.changed += 1
        if job.restart is None:
            reported = answer.restart_count if answer is not None else None
            job.restart = reported or 0
        if answer is None or answer.doubtful or answer.state == GONE:
            return
        if answer.uid is not None and job.uid not in {None, answer.uid}:
            return
        if answer.restart_count not in {None, job.restart}:
            return  # It was requeued meanwhile: this is the next run's answer.
        if any(r is not job and r.restart == job.restart for r in self._jobs.get(job.job_id, [])):
            return  # Only what is left of the cgroups of a run that is known already.
        if not job.hooked:
            job.learn(user=answer.user, account=answer.account)
        job.answered = True
        job.learn(
            name=answer.name, qos=answer.qos, partition=answer.partition, wckey=answer.wckey,
            **_array(answer.array_job_id, answer.array_task_id),
        )  # fmt: skip
        job.source("comment", answer.comment)
        job.source("wckey", answer.wckey)
        job.source("job_name", answer.name)
        self._take_gpus(job, answer.gpus)

    def _take_gpus(self, job: Job, held: Iterable[HeldGpu]) -> None:
        by_node: dict[str, list[HeldGpu]] = {}
        for each in held:
            by_node.setdefault(each.node, []).append(each)
        events = [g for g in job.grants.values() if g.evidence is Evidence.PROLOG]
        for grant in events:
            for gpu in by_node.get(grant.node, []):
                if gpu.shards is not None:
                    grant.shards[gpu.position] = gpu.shards
        for node, gpus in by_node.items():
            if job.hooked or job.ended_ns is not None or node not in job.nodes:
                continue
            positions = tuple(g.position for g in gpus)
            shards = {g.position: g.shards for g in gpus if g.shards is not None}
            grant = JobGrant(Evidence.SCONTROL, node, positions, job.started_ns, shards=shards)
            job.give(f"scontrol:{node}", grant)

    def ended_elsewhere(self, job: Job, answer: JobAnswer | None) -> bool:
        """Whether the controller says that this run is over though no Epilog reported us."""
        if answer is None or answer.doubtful:
            return False
        again = answer.restart_count is not None and answer.restart_count > (job.restart or 0)
        return again or answer.state not in _ON_NODE

    def mapped(self, evidence: Evidence, now: frozenset[Mapped], t_ns: int) -> bool:
        """All that a job-mapping directory says now; whether anything changed."""
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
            job = self._open(job_id, t_ns)
            job.uid = each.uid if job.uid is None else job.uid
            grant = JobGrant(evidence, self._node, (each.gpu,), t_ns, gpu_ids=each.index_kind)
            grant.parts = (each.parts, each.of)
            # Held again within the same run is another grant.
            job.give(f"{key}@{t_ns}", grant)
            changed = True
        for job in list(self) if changed else ():
            held = job.paths or any(g.t1_ns is None for g in job.grants.values())
            if job.ended_ns is None and job.grants and not held:
                self.end(job, t_ns)
        return changed

    # -- letting go

    def settle(self, job: Job, keys: Iterable[str]) -> None:
        """Closed grants are booked and need not be reported again."""
        for key in keys:
            job.grants.pop(key, None)
            self._by_stem.pop(key, None)

    def sweep(self) -> list[Job]:
        """Forget, and return, the jobs of which nothing is left to say."""
        done = [
            job for job in self
            if job.ended_ns is not None and job.sent >= job.changed
            and not (job.grants or job.paths or job.waiting)
        ]  # fmt: skip
        for job in done:
            runs = self._jobs[job.job_id]
            runs.remove(job)
            if not runs:
                del self._jobs[job.job_id]
        return done


def _array(job_id: str, task_id: str) -> dict[str, str]:
    if job_id.isdecimal() and task_id.isdecimal():
        return {"array_job_id": job_id, "array_task_id": task_id}
    return {}
