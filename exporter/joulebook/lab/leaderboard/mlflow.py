"""Read results from an MLflow tracking store, and write measured figures back to its runs.

MLflow's own client does both (the optional extra `mlflow`), so every kind of store works that it
knows.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from joulebook.core.money.rates import NANO, UG_PER_G
from joulebook.core.report.dataset import ReportData
from joulebook.core.report.leaderboard import Join
from joulebook.errors import ConfigError, JoulebookError
from joulebook.lab.leaderboard.join import JOINED_BY, WORKLOAD_TAG, Match, WithoutEnergy, matches
from joulebook.lab.leaderboard.results import LARGEST, MAX_NAME_CHARS, Result, finite
from joulebook.lab.leaderboard.run_energy import WorkloadEnergy, mean
from joulebook.lab.report.wording import nearest
from joulebook.units import NS_PER_HOUR, NS_PER_MS, kwh_from_uj

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient


MOST_RUNS = 20_000
_PAGE = 500
_THEIRS = frozenset({"sqlalchemy", "sqlite3", "requests", "urllib3"})

HOST_TAGS = ("host", "hostname", "node", "mlflow.host", "joulebook.node")
FLOPS = ("flops", "total_flos", "total_flops")
"""Metrics or parameters that say how much was computed."""


@contextlib.contextmanager
def client(uri: str) -> Iterator[MlflowClient]:
    """MLflow's client of a tracking store. Raises `ConfigError` without MLflow, or for its errors.

    `uri` is as MLflow takes it: `sqlite:///mlflow.db`, `./mlruns`, `https://...`.
    """
    place = uri.removeprefix("sqlite:///").partition("?")[0] if uri.startswith("sqlite:") else ""
    if place and not Path(place).is_file():
        # MLflow would make it: a wrong name must not become an empty store.
        raise ConfigError(f"MLflow at {uri}: no file {place}")
    if "://" not in uri or uri.startswith("file:"):
        # MLflow reads stores of files only where it is reported that this is meant.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of SQLAlchemy and others, and none of ours
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            from mlflow.exceptions import MlflowException  # noqa: PLC0415 - heavy, and optional
            from mlflow.tracking import MlflowClient  # noqa: PLC0415
        except ImportError as error:
            raise ConfigError(
                f"MLflow is not installed here ({error.name}): pip install 'joulebook[mlflow]'"
            ) from None
        try:
            yield MlflowClient(tracking_uri=uri)
        except JoulebookError:
            raise
        except (MlflowException, OSError) as error:
            raise ConfigError(f"MLflow at {_shown(uri)}: {_said(error)}") from None
        except Exception as error:
            if type(error).__module__.partition(".")[0] not in _THEIRS:
                raise
            raise ConfigError(f"MLflow at {_shown(uri)}: {_said(error)}") from None


def read_runs(uri: str, experiments: Sequence[str] = ()) -> list[Result]:
    """Return the last value of every metric of every run that is not deleted, by experiment.

    Raises `ConfigError` where the store cannot be read, or lacks a named experiment.
    """
    with client(uri) as store:
        names = _experiments(store, uri, experiments)
        found: list[Result] = []
        for run in _runs(store, list(names), uri):
            found += _results(run, names[run.info.experiment_id], uri)
        return found


def read_list(
    store: MlflowClient, uri: str, experiments: Sequence[str] = ()
) -> tuple[list[Result], dict[str, Mapping[str, float]]]:
    """Every run once, whatever its metrics (its value means nothing), and the metrics by run."""
    names = _experiments(store, uri, experiments)
    runs = list(_runs(store, list(names), uri))
    return (
        [_result(run, names[run.info.experiment_id], uri, "", Fraction(0), None) for run in runs],
        {run.info.run_id: run.data.metrics for run in runs},
    )


def _experiments(store: MlflowClient, uri: str, wanted: Sequence[str]) -> dict[str, str]:
    """Names of experiments by id; all, or those that are wanted."""
    known = {each.experiment_id: each.name for each in store.search_experiments()}
    missing = sorted(set(wanted) - set(known.values()))
    if missing:
        has = nearest(missing[0], known.values())
        raise ConfigError(f"MLflow at {_shown(uri)}: no experiment {missing[0]!r}; has: {has}")
    return {key: name for key, name in known.items() if not wanted or name in wanted}


def _runs(store: MlflowClient, ids: list[str], uri: str) -> Iterator[Run]:
    token, count = None, 0
    while ids:
        page = store.search_runs(ids, max_results=_PAGE, page_token=token)
        count += len(page)
        if count > MOST_RUNS:
            raise ConfigError(
                f"MLflow at {_shown(uri)}: more than {MOST_RUNS:,} runs: select an experiment"
            )
        yield from page
        token = page.token
        if not token:
            return


def _results(run: Run, experiment: str, uri: str) -> Iterator[Result]:
    data = run.data
    flops = next(
        (float(d[n]) for d in (data.metrics, data.params) for n in FLOPS if _number(d.get(n))), None
    )
    for name, value in sorted(data.metrics.items()):
        if name in FLOPS or LARGEST <= abs(value) < math.inf:
            continue
        number, problem = finite(repr(value), f"run {run.info.run_id}, {name[:40]}")
        result = _result(run, experiment, uri, name, number, flops)
        yield msgspec.structs.replace(result, problem=problem)


def _result(
    run: Run, experiment: str, uri: str, metric: str, value: Fraction, flops: float | None
) -> Result:
    info = run.info
    tags = {str(key): str(value)[:MAX_NAME_CHARS] for key, value in run.data.tags.items()}
    return Result(
        experiment[:MAX_NAME_CHARS],
        info.run_id,
        metric[:MAX_NAME_CHARS],
        value,
        started_utc_ns=_ns(info.start_time),
        ended_utc_ns=_ns(info.end_time),
        host=next((tags[name] for name in HOST_TAGS if name in tags), ""),
        user=tags.get("mlflow.user", ""),
        tags=tags,
        flops=flops,
        where=f"run {info.run_id} of {_shown(uri)}",
        title=_title(run),
    )


def _title(run: Run) -> str:
    """Return what people call a run, with a part of its id: names of runs come again."""
    name = run.info.run_name or run.data.tags.get("mlflow.runName", "")
    return f"{name[:MAX_NAME_CHARS]} ({run.info.run_id[:6]})" if name else ""


def _number(value: object) -> bool:
    try:
        return value is not None and abs(float(str(value))) < LARGEST
    except ValueError:
        return False


def _ns(ms: int | None) -> int | None:
    return None if not ms else ms * NS_PER_MS


def _shown(uri: str) -> str:
    """Return the address without a password."""
    head, at, tail = uri.rpartition("@")
    return f"{head.partition('://')[0]}://...@{tail}" if at and "://" in head else uri


def _said(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


ENERGY = "energy_kwh"


def figures(found: Sequence[WorkloadEnergy]) -> dict[str, float]:
    """Return the totals of workloads by metric name, without unknown ones.

    `energy_kwh`, `energy_idle_kwh`, `gpu_hours`, `energy_measured_ratio` (the part that was
    measured, not apportioned or modelled), `energy_coverage_ratio` (measured time to time held:
    below 1 energy is a lower bound), `co2e_g`, and `cost_eur` or another currency.
    """
    energy_uj = sum(each.energy_uj for each in found)
    made = {
        ENERGY: kwh_from_uj(energy_uj),
        "energy_idle_kwh": kwh_from_uj(sum(each.idle_uj for each in found)),
        "gpu_hours": sum(each.gpu_ns for each in found) / NS_PER_HOUR,
    }
    measured = [each.measured_uj for each in found]
    if energy_uj and None not in measured:
        made["energy_measured_ratio"] = sum(uj or 0 for uj in measured) / energy_uj
    covered = [(each.coverage, each.gpu_ns) for each in found if each.coverage is not None]
    if covered and len(covered) == len(found):
        made["energy_coverage_ratio"] = mean(covered)
    emitted = [each.co2e_ug for each in found]
    if emitted and None not in emitted:
        made["co2e_g"] = sum(ug or 0 for ug in emitted) / UG_PER_G
    for currency in sorted({currency for each in found for currency in each.cost_nano}):
        nano = sum(each.cost_nano.get(currency, 0) for each in found)
        made[f"cost_{re.sub('[^a-z]', '', currency.lower())}"] = nano / NANO
    return made


class Written(NamedTuple):
    """A run, its figures, how they were joined, and whether they are new to the store."""

    result: Result
    figures: dict[str, float]
    join: Join
    new: bool


def write_back(
    uri: str, data: ReportData, experiments: Sequence[str] = (), *, dry: bool = False
) -> tuple[list[Written], list[WithoutEnergy]]:
    """Write the figures of every run with energy; `dry`: only return them.

    A figure that the run has already is not written again, so this may be repeated. A job that made
    several runs cannot be divided among them: those are left out, with the reason. Raises
    `ConfigError`.
    """
    with client(uri) as store:
        runs, known = read_list(store, uri, experiments)
        made, left = matches(runs, data)
        uses = Counter(each.workload.id for match in made for each in match.found)
        written: list[Written] = []
        for match in made:
            shared = max(uses[each.workload.id] for each in match.found)
            if shared > 1:
                left.append(WithoutEnergy(match.result, f"its job made {shared} runs"))
                continue
            wanted = figures(match.found)
            have = known[match.result.run]
            new = {name: value for name, value in wanted.items() if have.get(name) != value}
            if new and not dry:
                for name, value in new.items():
                    store.log_metric(match.result.run, name, value)
                for name, text in _tags(match).items():
                    store.set_tag(match.result.run, name, text)
            written.append(Written(match.result, wanted, match.join, bool(new)))
    return written, left


def _tags(match: Match) -> dict[str, str]:
    return {
        WORKLOAD_TAG: ",".join(sorted(str(e.workload.id) for e in match.found))[:250],
        JOINED_BY: match.join.value,
        "joulebook.gpu": ",".join(sorted({e.gpu for e in match.found} - {""}))[:250],
    }
