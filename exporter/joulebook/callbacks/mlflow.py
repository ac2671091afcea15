"""The energy of an MLflow run, logged to it as metrics.

with mlflow.start_run(), joulebook.callbacks.mlflow.energy("bert"):
    train()
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import mlflow

from joulebook.callbacks.ranks import added_up
from joulebook.experiment_span import WAIT_S, Span, experiment
from joulebook.warn_once import warn


@contextmanager
def energy(name: str, *, wait_s: float = WAIT_S, estimate: bool = False) -> Iterator[Span]:
    """Book the block to an experiment, and log its figures to the active run when it ends.

    Figures are those of all ranks together; ranks without an active run log none. The tag
    `joulebook.workload` joins the run with the books. A block that fails ends as it would without.
    """
    with experiment(name, wait_s=wait_s, estimate=estimate) as run:
        yield run
    found = added_up(run.booked)
    try:
        if found is not None and mlflow.active_run() is not None:
            mlflow.log_metrics(found.as_dict())
            mlflow.set_tag("joulebook.workload", found.name or run.id)
    except Exception as error:
        warn(f"figures are not logged to MLflow: {error!r}")
