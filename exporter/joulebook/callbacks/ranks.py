"""The figures of a training on several ranks, added up.

Outside of a scheduler each rank is a run of its own. In a SLURM job all ranks of a node see the
job's part on that node, which counts once.
"""

from __future__ import annotations

import os
import socket
import sys
from typing import Any

from joulebook.run_figures import RunFigures, total
from joulebook.warn_once import say_once


def added_up(figures: RunFigures | None) -> RunFigures | None:
    """Return the sum over all ranks of torch.distributed, which all of them must ask for.

    Without it, the figures themselves; those of fewer ranks than there are, with a warning.
    """
    every = _gathered((os.environ.get("SLURM_JOB_ID", ""), socket.gethostname(), figures))
    jobs = {(job, node): each for job, node, each in every if job and each is not None}
    known = [*jobs.values(), *(each for job, _, each in every if not job and each is not None)]
    if any(each is None for *_, each in every):
        say_once(f"figures of {len(known)} of {len(every)} ranks: nothing is known of the others")
    return total(known) if known else None


def _gathered(own: tuple[str, str, RunFigures | None]) -> list[tuple[str, str, RunFigures | None]]:
    distributed: Any = sys.modules.get("torch.distributed")
    if distributed is None or not (distributed.is_available() and distributed.is_initialized()):
        return [own]
    every: list[Any] = [None] * distributed.get_world_size()
    try:
        distributed.all_gather_object(every, own)
    except Exception as error:
        say_once(f"figures of this rank alone: the others cannot be asked: {error!r}")
        return [own]
    return every
