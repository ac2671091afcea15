"""A leaderboard of results: joined to energy and ranked, as command and lab server show it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from joulebook.core.report.dataset import ReportData
from joulebook.core.report.leaderboard import (
    ComparedMetric,
    Entrant,
    Expected,
    Join,
    against_budget,
    boards,
)
from joulebook.core.sanitize import one_line
from joulebook.errors import ConfigError
from joulebook.lab.leaderboard.formats import Leaderboard
from joulebook.lab.leaderboard.join import Joined, by_experiment, by_run
from joulebook.lab.leaderboard.results import Result, metric_of, pick
from joulebook.lab.leaderboard.tables import SAME_HARDWARE
from joulebook.lab.report.sources import FOREVER_S
from joulebook.lab.report.wording import nearest


class Asked(NamedTuple):
    """How results are ranked; what is empty follows from the results.

    Attributes:
        experiments: Only these.
        metric: The metric, if there are several.
        better: `higher` or `lower`.
        unit: `percent`, `ratio` or `plain`.
        by: `run` or `experiment`.

    """

    experiments: tuple[str, ...] = ()
    metric: str = ""
    better: str = ""
    unit: str = ""
    by: str = ""


def ranked(
    results: Sequence[Result], asked: Asked, measured: Callable[[], ReportData]
) -> Leaderboard:
    """Return the leaderboards of results; `measured` is only asked if energy is not stated.

    Raises `ConfigError`.
    """
    if asked.experiments:
        there = {r.experiment for r in results} - {""}
        for name in sorted({*asked.experiments} - there):
            has = nearest(name, there) or "none at all"
            raise ConfigError(
                f"--experiment {one_line(name, 60)}: no result belongs to it; known: {has}"
            )
        results = [r for r in results if r.experiment in asked.experiments]
    results = pick(results, asked.metric)
    usable = [r for r in results if not r.problem]
    if not usable:
        raise ConfigError(f"{results[0].problem}: no result has a value")
    values = (result.value for result in usable)
    metric, notes = metric_of(usable[0].metric, values, asked.better, asked.unit)
    data = ReportData("the results' own files", 0, FOREVER_S)
    if any(r.energy_uj is None for r in usable):
        data = measured()
    how = asked.by or ("run" if all(r.run for r in results) else "experiment")
    runs = by_run([r for r in results if r.run or r.energy_uj is not None], data)
    joined = runs if how == "run" else by_experiment(metric, results, data)
    made = boards("", metric, joined.entrants)
    said = [f"{metric.name}: {note}" for note in notes]
    if len(made) > 1:
        said.append(SAME_HARDWARE)
    said += [f"unknown from {data.source}: {m.value}" for m in data.unknown]
    return Leaderboard(
        tuple(made),
        _expected(metric, runs),
        tuple(joined.left),
        (*said, *_sources(joined.entrants, data), *data.warnings),
        data.source,
    )


def _sources(entrants: Sequence[Entrant], data: ReportData) -> Iterator[str]:
    """Return the lines that name the sources of the energies."""
    given = sum(each.join is Join.GIVEN for each in entrants)
    if given < len(entrants) or not entrants:
        yield f"Energy: {data.source}"
    if given:
        results = f"{given:,} result{'' if given == 1 else 's'}"
        yield f"Energy of {results}: as stated in the authors' files, not measured here"


def _expected(metric: ComparedMetric, runs: Joined) -> dict[str, dict[str, list[Expected]]]:
    """Return expected energies by GPU model and experiment, from the runs that compare."""
    found: dict[str, dict[str, list[Expected]]] = {}
    for board in boards("", metric, runs.entrants):
        groups: dict[str, list[Entrant]] = {}
        for entrant in board.compared:
            groups.setdefault(entrant.experiment, []).append(entrant)
        made = {
            name: against_budget(metric, group)
            for name, group in sorted(groups.items())
            if name and len(group) > 1
        }
        if made:
            found[board.gpu] = made
    return found
