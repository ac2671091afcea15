"""Read results from an MLflow tracking store, and write measured figures back to its runs.

MLflow's own client does both (the optional extra `mlflow`), so every kind of store works that it
knows.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from joulebook.core.report.dataset import ReportData
from joulebook.core.report.leaderboard import Join
from joulebook.errors import ConfigError
from joulebook.lab.leaderboard.join import JOINED_BY, WORKLOAD_TAG, Match, WithoutEnergy, matches
from joulebook.lab.leaderboard.results import LARGEST, MAX_NAME_CHARS, Result, finite
from joulebook.lab.leaderboard.run_energy import WorkloadEnergy
from joulebook.lab.report.wording import nearest
from joulebook.mlflow_store import client, shown
from joulebook.run_figures import COUNTER, RunFigures, total
from joulebook.units import NS_PER_MS

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient


MOST_RUNS = 20_000
_PAGE = 500

HOST_TAGS = ("host", "hostname", "node", "mlflow.host", "joulebook.node")
FLOPS = ("flops", "total_flos", "total_flops")
"""Metrics or parameters that say how much was computed."""


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
        raise ConfigError(f"MLflow at {shown(uri)}: no experiment {missing[0]!r}; has: {has}")
    return {key: name for key, name in known.items() if not wanted or name in wanted}


def _runs(store: MlflowClient, ids: list[str], uri: str) -> Iterator[Run]:
    token, count = None, 0
    while ids:
        page = store.search_runs(ids, max_results=_PAGE, page_token=token)
        count += len(page)
        if count > MOST_RUNS:
            raise ConfigError(
                f"MLflow at {shown(uri)}: more than {MOST_RUNS:,} runs: select an experiment"
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
        where=f"run {info.run_id} of {shown(uri)}",
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


ENERGY = "energy_kwh"


def figures(found: Sequence[WorkloadEnergy]) -> dict[str, float]:
    """Return the totals of workloads by metric name, as `joulebook.runs.figures` has them."""
    return total(map(_run, found)).as_dict()


def _run(spent: WorkloadEnergy) -> RunFigures:
    measured_uj, share = spent.measured_uj, spent.coverage
    return RunFigures(
        energy_uj=spent.energy_uj,
        idle_uj=spent.idle_uj,
        gpu_ns=spent.gpu_ns,
        known_ns=None if share is None else round(share * spent.gpu_ns),
        methods={} if measured_uj is None else {COUNTER: measured_uj},
        cost_nano=dict(spent.cost_nano),
        co2e_ug=spent.co2e_ug,
    )


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
