"""Measured figures of a run, for the program itself or for its experiment tracker.

    import wandb, joulebook.runs
    wandb.summary.update(joulebook.runs.figures(job="1234"))

    joulebook.runs.log_energy(run_id, job="1234", tracking_uri="sqlite:///mlflow.db")

Energy is booked a few seconds after it was consumed, so call this when the run is over. See
docs/in-code.md; `joulebook mlflow URI` does it for all runs of a store.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path

from joulebook.config import load
from joulebook.core.report.dataset import Selection
from joulebook.errors import ConfigError, JoulebookError
from joulebook.lab.leaderboard.mlflow import client
from joulebook.lab.leaderboard.mlflow import figures as figures_of
from joulebook.lab.leaderboard.run_energy import WorkloadEnergy, spent
from joulebook.lab.report.sources import FOREVER_S, LedgerSource, ReportSource, named, own


def figures(
    *,
    job: str = "",
    experiment: str = "",
    user: str = "",
    account: str = "",
    ledger: str | Path = "",
    source: ReportSource | None = None,
) -> dict[str, float]:
    """Return the figures of a job or experiment: `energy_kwh`, `gpu_hours`, `co2e_g`, ...

    The default is the SLURM job of this process. `user` and `account` select among experiments of
    the same name. `ledger` is a node's ledger (default: this node's), `source` any other source of
    reports.

    Never raises, since it is called at the end of a training: whatever is missing, unreadable or
    ambiguous gives `{}` and a warning. Partial figures have an `energy_coverage_ratio` (measured
    time / time held) or `energy_nodes_ratio` below 1.
    """
    try:
        found = _spent(job, Selection(
            experiments=frozenset({experiment} - {""}), users=frozenset({user} - {""}),
            accounts=frozenset({account} - {""}),
        ), ledger, source)  # fmt: skip
    except (JoulebookError, OSError) as error:
        warnings.warn(f"joulebook: no figures: {error}", stacklevel=2)
        return {}
    if not found:
        what = f"experiment {experiment!r}" if experiment else f"job {job or _own_job()!r}"
        warnings.warn(f"joulebook: no figures: nothing is booked to {what} here", stacklevel=2)
        return {}
    made = figures_of(found)
    if (ratio := _nodes_ratio(job, experiment, found)) < 1:
        made["energy_nodes_ratio"] = ratio
        warnings.warn("joulebook: figures cover only part of the job's nodes", stacklevel=2)
    return made


def _own_job() -> str:
    return os.environ.get("SLURM_JOB_ID", "")


def _spent(
    job: str, selection: Selection, ledger: str | Path, source: ReportSource | None
) -> list[WorkloadEnergy]:
    """Return the selected runs. Raises `ConfigError` if they are ambiguous."""
    if not selection.experiments:
        job = job or _own_job()
        if not job:
            raise ConfigError("no SLURM_JOB_ID here: give job= or experiment=")
    if source is None:
        config = load(None, os.environ)
        ledgers = [named(str(ledger)) if ledger else own(config)]
        source = LedgerSource(ledgers)
    found = spent(source.account(0, FOREVER_S, selection))
    if not job:
        labels = [each.workload.labels for each in found]
        owners = {each.account or each.user for each in labels} - {""}
        if len(owners) > 1 and not (selection.users or selection.accounts):
            raise ConfigError(
                f"{', '.join(sorted(owners))} each have an experiment of that name: give "
                "account= or user="
            )
        return found
    # A requeued job has several workloads; of two jobs with one number, the later one is meant.
    latest: dict[str, WorkloadEnergy] = {}
    for each in sorted(found, key=lambda each: each.workload.started_utc_ns or 0):
        if job in each.names:
            latest[each.workload.id.workload] = each
    return list(latest.values())


def _nodes_ratio(job: str, experiment: str, found: Sequence[WorkloadEnergy]) -> float:
    """Return the share of a job's nodes that the figures cover, if known."""
    known = {node for each in found for node in each.nodes}
    count = os.environ.get("SLURM_JOB_NUM_NODES", "")
    is_own = not experiment and job in {"", _own_job()}
    nodes = int(count) if is_own and count.isdecimal() and len(count) < 7 else 0
    nodes = max(nodes, len(known) + sum(each.other_nodes for each in found))
    return len(known) / nodes if nodes else 1.0


def log_energy(
    run_id: str,
    *,
    job: str = "",
    experiment: str = "",
    tracking_uri: str = "",
    ledger: str | Path = "",
) -> dict[str, float]:
    """Write the figures of a job or experiment to an MLflow run as metrics, and return them.

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
