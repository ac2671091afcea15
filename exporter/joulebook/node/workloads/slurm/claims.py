"""Turn SLURM jobs into claims on meters and facts of workloads."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from joulebook.core import experiments
from joulebook.core.attribution.claims import Claim, Evidence
from joulebook.core.energy.readings import DeviceStatus, Meter
from joulebook.core.sanitize import clean_label
from joulebook.core.workloads import Labels, WorkloadFacts, WorkloadId
from joulebook.errors import InputError
from joulebook.node.workloads.contract import UsageGroup
from joulebook.node.workloads.slurm.gres import UNCOUNTED, GresMap, GresPart, Unmappable, find_part
from joulebook.node.workloads.slurm.job import Job, JobGrant
from joulebook.units import NS_PER_S

Unmapped = Callable[[Job, JobGrant, Sequence[str]], None]
"""Called once per grant with its GPUs that could not be mapped."""

GresOf = Callable[[str], tuple[bool, GresMap | None]]
"""The GPUs of a node by its name; first whether that is settled (`slurmd -G` takes a while)."""

MIG_WAIT_NS = 5 * NS_PER_S
"""For so long a job waits for its MIG instance to be seen: they are listed every few seconds."""

_EXTRA = ("partition", "qos", "cluster", "wckey", "het_job_id", "array_job_id", "array_task_id",
          "time_limit_s")  # fmt: skip


def claims_of(
    job: Job,
    grant: JobGrant,
    devices: Sequence[DeviceStatus],
    gres_of: GresOf,
    unmapped: Unmapped = lambda job, grant, gpus: None,
) -> tuple[Claim, ...] | None:
    """Return the claims of one grant; `None` while it cannot be reported yet.

    Once reported they are kept: neither a device that drops out nor an edited gres.conf changes
    what a running job was given. So are the models of the devices, which `facts_of` tells for good.
    """
    if grant.claims is None:
        workload = job.id
        known, gres = gres_of(grant.node)
        if workload is None or not devices or (grant.gpu_ids == "gres" and not known):
            return None
        sharded = gres is not None and gres.sharded
        if grant.evidence is Evidence.PROLOG and sharded and not job.asked:
            return None  # The Prolog does not say how many shards; the controller is being asked.
        claims, unknown = _resolve(job, workload, grant, devices, gres)
        if unknown and any(d.mig and d.t_ns < grant.t0_ns + MIG_WAIT_NS for d in devices):
            return None  # An instance made for the job may not have been seen yet.
        grant.claims = tuple(claims)
        given = {claim.meter for claim in claims if claim.workload == workload}
        job.was_given(clean_label(d.model) for d in devices if d.meter in given)
        if unknown:
            unmapped(job, grant, unknown)
    if grant.t1_ns is None:
        return grant.claims
    return tuple(msgspec.structs.replace(c, t1_ns=grant.t1_ns) for c in grant.claims)


def _resolve(
    job: Job,
    workload: WorkloadId,
    grant: JobGrant,
    devices: Sequence[DeviceStatus],
    gres: GresMap | None,
) -> tuple[list[Claim], list[str]]:
    """Return the claims, and the GPUs that became `unknown_holder`."""

    def claim(who: WorkloadId | None, part: GresPart, evidence: Evidence) -> Claim:
        return Claim(
            who, part.meter, grant.t0_ns, None, evidence, part.parts, part.of, part.instance
        )

    found: dict[tuple[Meter, str], GresPart] = {}
    unknown: list[str] = []
    cut: dict[Meter, GresPart] = {}
    for gpu in grant.gpus:
        try:
            part = find_part(gpu, grant.gpu_ids, gres, devices)
        except Unmappable as error:
            if error.meter is None:
                unknown.append(gpu)
            else:
                cut[error.meter] = GresPart(error.meter)
            continue
        if part is not None:
            part = _shared(job, grant, gpu, part, gres)
            before = found.get((part.meter, part.instance))
            if before is not None and before.of == part.of:
                part = part._replace(parts=min(before.parts + part.parts, part.of))
            found[part.meter, part.instance] = part
    claims = [claim(workload, part, grant.evidence) for part in found.values()]
    # Somebody holds an instance of these, nobody can say which.
    claims += [claim(None, part, Evidence.SCONTROL) for part in cut.values()]
    if unknown:
        known = {meter for meter, _ in found} | set(cut)
        mig = [u for u in unknown if u.startswith("MIG-")]
        open_to = [d for d in devices if d.meter not in known and (d.mig or not mig)]
        if len(unknown) == len(open_to) and not mig and UNCOUNTED not in unknown:
            # It was given as many as there are, so it has them all.
            claims += [claim(workload, GresPart(d.meter), grant.evidence) for d in open_to]
            return claims, [meter.name for meter in cut]
        # Somebody holds some of these. Of the lowest rank, so that any better knowledge wins.
        claims += [claim(None, GresPart(d.meter), Evidence.SCONTROL) for d in open_to]
    return claims, [*unknown, *(meter.name for meter in cut)]


def _shared(job: Job, grant: JobGrant, gpu: str, part: GresPart, gres: GresMap | None) -> GresPart:
    if grant.parts != (1, 1):
        parts, of = grant.parts
        return part._replace(parts=part.parts * parts, of=part.of * of)
    of = gres.shards(gpu) if gres is not None and grant.gpu_ids == "gres" else 0
    shards = grant.shards.get(gpu)
    if shards is None and not job.answered and job.env_shards is not None:
        shards = max(1, job.env_shards // len(grant.gpus))
    if not of or shards is None or part.instance:
        return part
    return GresPart(part.meter, min(shards, of), of)


def facts_of(job: Job, rules: Sequence[str]) -> WorkloadFacts | None:
    """Return the facts of a job; `None` while its identity is unknown.

    It is complete once nothing that may still be heard could change its labels, or when they must
    be settled. That it is a task of an array or a component of a heterogeneous job, which changes
    the name that is shown, is known from the controller alone.
    """
    workload = job.id
    if workload is None:
        return None
    facts = job.facts
    display = ""
    if "array_job_id" in facts:
        display = f"{facts['array_job_id']}_{facts['array_task_id']}"
    elif "het_offset" in facts:
        display = f"{facts['het_job_id']}+{facts['het_offset']}"
    if display and job.restart:
        display += f".r{job.restart}"
    sources = {**job.sources, "workload": display or workload.workload}
    pending: frozenset[str] = frozenset()
    if not job.labels_done:
        pending = frozenset(f"env:{name}" for name in experiments.ENVIRONMENT)
    if not job.heard:
        pending |= {"comment", "job_name", "wckey"} - job.sources.keys()
    decided = job.heard and experiments.decided(rules, sources, pending)
    over = job.ended_ns is not None and (job.heard or job.asked > 0)
    experiment = experiments.chosen(rules, sources)
    evidence = min(job.held, default=None)
    return WorkloadFacts(
        id=workload,
        display=display,
        name=facts.get("name", ""),
        labels=Labels(
            facts.get("user", ""), facts.get("account", ""), clean_label(experiment.name)
        ),
        started_ns=job.started_ns,
        ended_ns=job.ended_ns,
        complete=decided or over or (job.labels_done and job.ended_ns is None),
        gpu_count=len(job.held[evidence]) if evidence is not None else 0,
        evidence=_evidence(job, evidence),
        extra=_extra(job),
        scheduler_start_s=job.scheduler_start_s,
        named=experiment.named,
        stage=experiments.stage_of(sources),
    )


def _evidence(job: Job, held: Evidence | None) -> str:
    """Return how it is known what a job holds, or that it holds nothing."""
    if held is None and job.hooked:
        held = Evidence.PROLOG
    elif held is None and job.answered:
        held = Evidence.SCONTROL
    return "" if held is None else held.label


def _extra(job: Job) -> dict[str, str]:
    extra = {name: job.facts[name] for name in _EXTRA if job.facts.get(name)}
    if "array_job_id" in extra:
        extra["array"] = extra["array_job_id"]
    if job.models:
        extra["gpu_model"] = ",".join(sorted(job.models))
    return extra


def group_of(job: Job) -> UsageGroup:
    """Where the kernel counts what a job uses of the host; of one that ended, where it did."""
    directories = tuple(sorted(job.paths | job.past))
    # v1 has slurm_NODE/uid_U/job_J, and the last job of a user takes uid_U with it.
    under_user = any(path.parent.name.startswith("uid_") for path in directories)
    levels = 2 if under_user else 1
    return UsageGroup(job.id, directories, outlived_by=levels, since_ns=job.started_ns)


def unmapped(job: Job, grant: JobGrant, gpus: Sequence[str], node: str, places: str) -> InputError:
    """Return the message that GPUs of a job are unknown, see `docs/adr/0005-unknown-positions.md`.

    `places` is where the order of GPUs was looked for in vain; empty where it is known.
    """
    if places:
        # Without the job: it is one fault of the node, and the same for all of its jobs.
        text = (
            f"neither {places} gives the devices of the GRES indices of node {node}: GPUs held "
            "by jobs are booked to unknown_holder; set tenants.slurm.gres_conf or slurm_conf, "
            "or let the Prolog write UUIDs"
        )
        return InputError(text, reason="gres_unknown")
    if gpus[0].startswith(UNCOUNTED):
        text = (
            f"job {job.job_id} had ended when the controller answered: it held GPUs of node "
            f"{node}, but it is no longer known which: booked to unknown_holder"
        )
        return InputError(text, reason="gpu_unknown")
    text = (
        f"job {job.job_id} holds GPUs {', '.join(gpus)} ({grant.gpu_ids}) of node {node}, but "
        "unknown which devices these are: booked to unknown_holder"
    )
    return InputError(text, reason="gpu_unknown")
