"""What the controller's answers come to: which run a job is, what it holds, whether it is over.

Which answer is believed when is the table of `docs/evidence.md`.
"""

from __future__ import annotations

from collections.abc import Iterable

from joulebook.core.attribution.claims import Evidence
from joulebook.node.workloads.slurm.job import Job, JobGrant
from joulebook.node.workloads.slurm.job_record import GONE, HeldGpu, JobAnswer

GONE_AT = 2
"""So often in a row the controller must not know a job, for a single answer may be wrong."""


def take(job: Job, runs: Iterable[Job], answer: JobAnswer | None) -> None:
    """Note what the controller said of a job (`None`: nothing); `runs` are all of its number."""
    job.asking = False
    if answer is not None:
        job.gone = job.gone + 1 if answer.state == GONE else 0
    if job.heard:
        return
    job.asked += 1
    job.changed += 1
    if answer is None:
        return
    if answer.doubtful or answer.state == GONE:
        if answer.doubtful or job.gone >= GONE_AT or job.ended_ns is not None:
            unheard(job)
        return
    job.heard = True
    run = answer.run or 0
    if answer.uid is not None and job.uid not in {None, answer.uid}:
        unheard(job)
    elif job.restart is None:
        twin = next((r for r in runs if r.restart == run), None)
        if twin is not None and answer.start_s <= twin.start_s:
            if twin.hooked or twin.presumed_ns is None:
                job.end(job.started_ns)  # Only what is left of the cgroups of that run.
                return
            # Its next step: one run, though nobody knows that it held GPUs in between.
            job.start_s, job.started_ns = twin.start_s, twin.started_ns
        job.restart = run
        _learn(job, answer)
    elif run == job.restart:
        _learn(job, answer)


def unheard(job: Job) -> None:
    """Nobody will say which run of the job this is: its start tells it from all others."""
    job.heard = True
    job.restart = job.restart or 0
    job.changed += 1


def is_over(job: Job, answer: JobAnswer | None) -> bool:
    """Whether a job without processes is over by the controller's word, noted by `take` before.

    `False` also where it cannot be reported.
    """
    if answer is None or answer.doubtful:
        return False
    if answer.state == GONE:
        # Where jobs of others are kept from us, SLURM's own step must have ended too.
        return not answer.hidden or (job.extern and job.vanished_ns is not None)
    if answer.uid is not None and job.uid not in {None, answer.uid}:
        return False
    if answer.run is not None and answer.run > (job.restart or 0):
        return True
    if answer.state == "COMPLETING":
        return job.vanished_ns is not None
    return answer.over


def _learn(job: Job, answer: JobAnswer) -> None:
    job.answered = True
    job.scheduler_start_s = job.scheduler_start_s or answer.start_s
    if not job.hooked:
        job.learn(user=answer.user, account=answer.account)
    # What the environment says of these may come from where the job was submitted.
    job.correct(name=answer.name, qos=answer.qos)
    job.source("job_name", answer.name, better=True)
    job.learn(partition=answer.partition, wckey=answer.wckey)
    if answer.array_job_id.isdecimal() and answer.array_task_id.isdecimal():
        job.learn(array_job_id=answer.array_job_id, array_task_id=answer.array_task_id)
    job.source("comment", answer.comment)
    job.source("wckey", answer.wckey)
    _take_gpus(job, answer)


def _take_gpus(job: Job, answer: JobAnswer) -> None:
    by_node: dict[str, list[HeldGpu]] = {}
    for each in answer.gpus:
        by_node.setdefault(each.node, []).append(each)
    for grant in job.grants.values():
        if grant.evidence is Evidence.PROLOG:
            for gpu in by_node.get(grant.node, []):
                if gpu.shards is not None:
                    grant.shards[gpu.position] = gpu.shards
    if job.hooked or job.grants:
        return
    for node in sorted(job.nodes & set(answer.nodes)):
        gpus = by_node.get(node, [])
        positions = tuple(g.position for g in gpus)
        if not gpus and answer.over:
            # It has let go of them, and with them went which they were.
            alone = len(answer.nodes) == 1
            positions = tuple(f"?{n}" if alone else "?" for n in range(answer.gpu_count))
        if not positions:
            continue
        shards = {g.position: g.shards for g in gpus if g.shards is not None}
        grant = JobGrant(Evidence.SCONTROL, node, positions, job.seen_ns, shards=shards)
        job.give(f"scontrol:{node}", grant)
        if job.ended_ns is not None:
            grant.close(job.ended_ns)
