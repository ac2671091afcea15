"""What is said of a SLURM job where that cannot be used."""

from __future__ import annotations

from collections.abc import Sequence

from joulebook.errors import InputError
from joulebook.node.workloads.slurm.gres import UNCOUNTED
from joulebook.node.workloads.slurm.job import Job, JobGrant


def unmapped(job: Job, grant: JobGrant, gpus: Sequence[str], node: str, places: str) -> InputError:
    """That nobody can be booked for GPUs of a job, see `docs/adr/0005-unknown-positions.md`.

    `places` is where the order of GPUs was looked for in vain; empty where it is known.
    """
    if places:
        # Without the job: it is one fault of the node, and the same for all of its jobs.
        text = (
            f"neither {places} says which devices the positions of node {node} are: GPUs that "
            "jobs hold are booked as unknown_holder; set tenants.slurm.gres_conf or slurm_conf, "
            "or let the Prolog write UUIDs"
        )
        return InputError(text, reason="gres_unknown")
    if gpus[0].startswith(UNCOUNTED):
        text = (
            f"job {job.job_id} had ended when the controller answered: it held GPUs of node "
            f"{node}, and it is no longer known which: booked as unknown_holder"
        )
        return InputError(text, reason="gpu_unknown")
    text = (
        f"job {job.job_id} holds GPUs {', '.join(gpus)} ({grant.gpu_ids}) of node {node}, and it "
        "is not known which devices these are: booked as unknown_holder"
    )
    return InputError(text, reason="gpu_unknown")
