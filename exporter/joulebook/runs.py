"""Measured figures of a run, for the program itself or for its experiment tracker.

    import wandb, joulebook.runs
    wandb.summary.update(joulebook.runs.figures(job="1234"))

    joulebook.runs.log_energy(run_id, job="1234", tracking_uri="sqlite:///mlflow.db")

Energy is booked a few seconds after it was consumed, so call this when the run is over. See
docs/in-code.md; `joulebook mlflow URI` does it for all runs of a store.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec

from joulebook.block_figures import of_job, own_job
from joulebook.errors import ConfigError, SourceError
from joulebook.run_figures import RunFigures, ask, fetch, total
from joulebook.warn_once import warn

LAB_URL, LAB_TOKEN = "JOULEBOOK_LAB_URL", "JOULEBOOK_LAB_TOKEN"
LEDGER = "JOULEBOOK_LEDGER_PATH"
LAB_TIMEOUT_S = 20.0
_FIRST, _LAST = "1970-01-01", "2999-12-31"


def figures(
    *,
    job: str = "",
    experiment: str = "",
    user: str = "",
    account: str = "",
    ledger: str | Path = "",
    lab: str = "",
) -> dict[str, float]:
    """Return the figures of a job or experiment: `energy_kwh`, `gpu_hours`, `co2e_g`, ...

    The default is the SLURM job of this process. `user` and `account` select among experiments of
    the same name. This node's daemon is asked (or JOULEBOOK_URL), and if none answers the lab
    server at JOULEBOOK_LAB_URL or the ledger at JOULEBOOK_LEDGER_PATH; `lab` and `ledger` name one
    to ask instead.

    Never raises, since it is called at the end of a training: whatever is missing, unreadable or
    ambiguous gives `{}` and a warning. Partial figures have an `energy_coverage_ratio` (measured
    time / time held) or `energy_nodes_ratio` below 1.
    """
    try:
        found = _found(job, experiment, user, account, ledger, lab)
        made = {} if found is None else found.as_dict()
    except Exception as error:
        warn(f"no figures: {error or type(error).__name__}")
        return {}
    if not made:
        what = f"experiment {experiment!r}" if experiment else f"job {job or own_job()!r}"
        warn(f"no figures: nothing is booked to {what} here")
    elif "energy_nodes_ratio" in made:
        warn("figures cover only part of the job's nodes")
    return made


def _found(
    job: str, experiment: str, user: str, account: str, ledger: str | Path, lab: str
) -> RunFigures | None:
    """Return the sum of what is asked for. Raises a `JoulebookError`."""
    job = job or ("" if experiment else own_job())
    if not (job or experiment):
        raise ConfigError("no SLURM_JOB_ID here: give job= or experiment=")
    query = {"job": str(job), "experiment": experiment, "user": user, "account": account}
    runs = found_runs(query, str(ledger), lab)
    if job:
        return _whole(job, of_job(runs))
    owners = sorted({run.owner for run in runs} - {""})
    if len(owners) > 1 and not (user or account):
        raise ConfigError(
            f"{', '.join(owners)} each have an experiment of that name: give account= or user="
        )
    return total(runs) if runs else None


def found_runs(query: dict[str, str], ledger: str = "", lab: str = "") -> tuple[RunFigures, ...]:
    """Return the runs that a daemon, lab server or ledger has. Raises a `JoulebookError`."""
    if not (ledger or lab):
        try:
            return ask(query).runs
        except SourceError:
            lab, ledger = os.environ.get(LAB_URL, ""), os.environ.get(LEDGER, "")
            if not (ledger or lab):
                raise
    if lab:
        return _of_lab(lab, dict(query))
    from joulebook.ledger.run_answer import answer  # noqa: PLC0415 - seldom, and larger

    return answer(*named_ledger(ledger), query).runs


def named_ledger(ledger: str) -> tuple[str, str]:
    """Return path and node of `FILE` or `NODE=FILE`."""
    node, is_named, path = ledger.partition("=")
    return (path, node) if is_named and "/" not in node else (ledger, Path(ledger).stem)


def _whole(job: str, found: RunFigures | None) -> RunFigures | None:
    """Return it with the number of nodes, which the job itself knows best."""
    count = os.environ.get("SLURM_JOB_NUM_NODES", "")
    if found is None or job != own_job() or not count.isdecimal() or len(count) > 6:
        return found
    return msgspec.structs.replace(found, node_count=max(found.node_count, int(count)))


class LabFigures(msgspec.Struct, frozen=True):
    """What is read of the figures of a job."""

    energy_uj: int
    idle_uj: int
    held_ns: int
    cost: dict[str, str]
    idle_cost: dict[str, str]
    co2e_kg: str | None


class LabJob(msgspec.Struct, frozen=True):
    """What is read of a job."""

    id: str
    account: str
    user: str
    figures: LabFigures


class LabJobs(msgspec.Struct, frozen=True):
    """A page of jobs; `next` is empty on the last one."""

    jobs: list[LabJob]
    next: str


class LabLogin(msgspec.Struct, frozen=True):
    """What a login takes: a nonce, for the account of the server, and at last the session."""

    nonce: str = ""
    server_uid: int = 0
    secret: str = ""


_JOB, _JOBS, _LOGIN = (
    msgspec.json.Decoder(list[LabJob]),
    msgspec.json.Decoder(LabJobs),
    msgspec.json.Decoder(LabLogin),
)


def _of_lab(url: str, query: dict[str, str]) -> tuple[RunFigures, ...]:
    """Return the runs that the lab server has, of all nodes. Raises `SourceError`."""
    from urllib.parse import quote  # noqa: PLC0415

    base, job = url.rstrip("/"), query.pop("job")
    ask_lab = partial(fetch, base=base, timeout_s=LAB_TIMEOUT_S)
    try:
        own = os.environ.get(LAB_TOKEN, "") or _session(base, ask_lab)
        ask_lab = partial(ask_lab, authorization=f"Bearer {own}")
        if job:
            jobs = _JOB.decode(ask_lab(f"/api/v1/jobs/{quote(job, safe='')}"))
        else:
            query |= {"since": _FIRST, "until": _LAST, "limit": "1000"}
            page = _JOBS.decode(ask_lab("/api/v1/jobs", query))
            jobs = page.jobs
            while page.next:
                page = _JOBS.decode(ask_lab("/api/v1/jobs", {**query, "after": page.next}))
                jobs += page.jobs
    except msgspec.DecodeError as error:
        raise SourceError(f"{base}: not a lab server: {error}") from None
    return tuple(map(_of_job, jobs))


def _of_job(job: LabJob) -> RunFigures:
    told = job.figures
    return RunFigures(
        job.id,
        job.account or job.user,
        told.energy_uj,
        told.idle_uj,
        told.held_ns,
        cost_nano={currency: round(float(text) * 1e9) for currency, text in told.cost.items()},
        idle_cost_nano={name: round(float(text) * 1e9) for name, text in told.idle_cost.items()},
        co2e_ug=None if told.co2e_kg is None else round(float(told.co2e_kg) * 1e9),
    )


def payload(url: str, nonce: str) -> str:
    """Return what the lab server expects in a credential of MUNGE."""
    return f"joulebook-lab\n{url}\n{nonce}\n"


def _session(base: str, ask_lab: Callable[..., bytes]) -> str:
    """Log in by MUNGE, as `joulebook acct` does. Raises `SourceError`."""
    import subprocess  # noqa: PLC0415

    told = _LOGIN.decode(ask_lab("/api/v1/nonce", post=True))
    words = ["munge", "--restrict-uid", str(told.server_uid)]
    try:
        made = subprocess.run(
            words, input=payload(base, told.nonce), capture_output=True, text=True, timeout=10,
            check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        raise SourceError(f"{base}: set {LAB_TOKEN}, or run where MUNGE is: {error}") from None
    shown = f"Munge {made.stdout.strip()}"
    return _LOGIN.decode(ask_lab("/api/v1/session", post=True, authorization=shown)).secret


def log_energy(
    run_id: str,
    *,
    job: str = "",
    experiment: str = "",
    tracking_uri: str = "",
    ledger: str | Path = "",
) -> dict[str, float]:
    """Write the figures of a job or experiment to an MLflow run as metrics, and return them.

    `tracking_uri` is MLFLOW_TRACKING_URI unless given. Raises `ConfigError` without MLflow (`pip
    install 'joulebook[mlflow]'`), without a store, and for its errors.
    """
    made = figures(job=job, experiment=experiment, ledger=ledger)
    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI", "")
    if not uri:
        raise ConfigError("no tracking store: give tracking_uri= or set MLFLOW_TRACKING_URI")
    from joulebook.mlflow_store import client  # noqa: PLC0415

    with client(uri) as store:
        for name, value in made.items():
            store.log_metric(run_id, name, value)
    return made
