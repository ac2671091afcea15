"""Results of an MLflow tracking store: sqlite, another database, files or a server.

MLflow's own client reads it (the optional extra `mlflow`), so that every kind of store works that
it knows. Runs give their id, times, metrics and tags.
"""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from joulebook.errors import ConfigError, JoulebookError
from joulebook.report.leaderboard.results import LARGEST, MAX_NAME_CHARS, Result, exact
from joulebook.report.wording import nearest
from joulebook.units import NS_PER_MS

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
        raise ConfigError(f"MLflow at {uri}: there is no file {place}")
    if "://" not in uri or uri.startswith("file:"):
        # MLflow reads stores of files only where it is told that this is meant.
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
    """The last value of every metric of every run that is not deleted, by experiment.

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
                f"MLflow at {_shown(uri)}: more than {MOST_RUNS:,} runs: name an experiment"
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
        if name not in FLOPS and abs(value) < LARGEST:
            where = f"run {run.info.run_id}, {name[:40]}"
            yield _result(run, experiment, uri, name, exact(repr(value), where), flops)


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
    )


def _number(value: object) -> bool:
    try:
        return value is not None and abs(float(str(value))) < LARGEST
    except ValueError:
        return False


def _ns(ms: int | None) -> int | None:
    return None if not ms else ms * NS_PER_MS


def _shown(uri: str) -> str:
    """The address without a password."""
    head, at, tail = uri.rpartition("@")
    return f"{head.partition('://')[0]}://...@{tail}" if at and "://" in head else uri


def _said(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
