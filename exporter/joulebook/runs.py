"""Measured figures of a run, for the program that made it or for the one who keeps the tracker.

    import wandb, joulebook.runs
    wandb.summary.update(joulebook.runs.figures(job="1234"))

    joulebook.runs.log_energy(run_id, job="1234", tracking_uri="sqlite:///mlflow.db")

Energy is booked a few seconds after it was consumed: ask when the run is over, or what comes is of
up to then. docs/in-code.md says more; `joulebook mlflow URI` does it for all runs of a store.
"""

from __future__ import annotations

import os
from pathlib import Path

from joulebook.config import load
from joulebook.core.report.dataset import Selection
from joulebook.errors import ConfigError
from joulebook.lab.leaderboard.join import spent
from joulebook.lab.leaderboard.mlflow import client
from joulebook.lab.leaderboard.mlflow import figures as figures_of
from joulebook.lab.report.sources import FOREVER_S, LedgerSource, ReportSource, named, own


def figures(
    *,
    job: str = "",
    experiment: str = "",
    ledger: str | Path = "",
    source: ReportSource | None = None,
) -> dict[str, float]:
    """What a job, or all of an experiment, took: `energy_kwh`, `gpu_hours`, `co2e_g`, ...

    Without either it is the SLURM job that this process runs in. `ledger` is a node's ledger
    (default: this node's), `source` any other source of reports. Empty if nothing is booked yet.
    Raises `ConfigError` if it is not known whose figures are meant, `LedgerError`.
    """
    job = job or ("" if experiment else os.environ.get("SLURM_JOB_ID", ""))
    if not job and not experiment:
        raise ConfigError("whose figures? Give job= or experiment=; there is no SLURM_JOB_ID here")
    selection = Selection(experiments=frozenset({experiment} if experiment else ()))
    if source is None:
        config = load(None, os.environ)
        ledgers = [named(str(ledger)) if ledger else own(config.ledger.path, config.node.name)]
        source = LedgerSource(ledgers)
    found = spent(source.account(0, FOREVER_S, selection))
    # A requeued job has several workloads.
    return figures_of([e for e in found if not job or job in e.names]) if found else {}


def log_energy(
    run_id: str,
    *,
    job: str = "",
    experiment: str = "",
    tracking_uri: str = "",
    ledger: str | Path = "",
) -> dict[str, float]:
    """Write the figures of a job or experiment as metrics of an MLflow run; returns them.

    `tracking_uri` is MLFLOW_TRACKING_URI unless given. Needs the extra `mlflow`. Raises
    `ConfigError` and `LedgerError`.
    """
    made = figures(job=job, experiment=experiment, ledger=ledger)
    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI", "")
    if not uri:
        raise ConfigError("no tracking store: give tracking_uri= or set MLFLOW_TRACKING_URI")
    with client(uri) as store:
        for name, value in made.items():
            store.log_metric(run_id, name, value)
    return made
