"""What was refused of all that is said of SLURM's jobs: counted by reason, and told to the log."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Sequence

from joulebook.errors import InputError
from joulebook.tenants.slurm.job import Grant, Job

TOLD_MAX = 16
"""So many different refusals are logged for each reason: users can make up any number."""

_LOG = logging.getLogger(__name__)


class Refusals:
    """Call it with an error that was caught."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._told: dict[str, set[str]] = {}

    def __call__(self, error: InputError) -> None:
        """Count it, and log it unless the same was logged (its message names file or job)."""
        with self._lock:
            self._counts[error.reason] += 1
            told = self._told.setdefault(error.reason, set())
            new = str(error) not in told and len(told) < TOLD_MAX
            if new:
                told.add(str(error))
            last = len(told) == TOLD_MAX
        if new:
            more = f"all further ones for the reason {error.reason}" if last else "the same again"
            _LOG.warning("refused: %s (%s: only counted)", error, more)

    def count(self, reason: str) -> None:
        """Count what is logged elsewhere."""
        with self._lock:
            self._counts[reason] += 1

    def counts(self) -> dict[str, int]:
        """How many of each reason since the start."""
        with self._lock:
            return dict(self._counts)


def unmapped(job: Job, grant: Grant, gpus: Sequence[str], node: str, places: str) -> InputError:
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
    text = (
        f"job {job.job_id} holds GPUs {', '.join(gpus)} ({grant.gpu_ids}) of node {node}, and it "
        "is not known which devices these are: booked as unknown_holder"
    )
    return InputError(text, reason="gpu_unknown")
