"""The runs behind a result: the best run, the sweep it was chosen from, all runs, and their stages.

Strubell et al. (2019) and Schwartz et al. (Green AI, 2020) ask for all three, since the published
run is the smallest part. Failed runs and runs that were left out of a paper consumed energy like
the others: they are in the project's energy, and listed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from fnmatch import fnmatchcase

import msgspec

from joulebook.core.report.runs import Run
from joulebook.core.workloads import WorkloadId


class State(StrEnum):
    """The outcome of a run."""

    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    PREEMPTED = "preempted"
    RUNNING = "running"
    UNKNOWN = "not known"


_OUTCOMES = {
    "completed": State.COMPLETED,
    "failed": State.FAILED,
    "cancelled": State.CANCELLED,
    "preempted": State.PREEMPTED,
}
"""The outcomes that the scheduler reports to the node."""


class RoleChoice(msgspec.Struct, frozen=True):
    """The roles of runs, as stated by the researcher.

    Each is an id or a displayed name; in `sweep`, `*` matches anything. An empty `sweep` is all
    runs that are not excluded. `excluded` gives a reason for each. `final` are the runs whose
    models were published, `stages` the stages of runs: both by pattern of run or experiment.
    """

    best: str = ""
    sweep: tuple[str, ...] = ()
    excluded: Mapping[str, str] = {}
    final: tuple[str, ...] = ()
    stages: Mapping[str, str] = {}


DEVELOPMENT = "development"

NOT_STATED = "not stated"
"""The stage of runs of which nobody stated one."""


class RunRoles(msgspec.Struct, frozen=True):
    """Which runs of a statement have which role, by their ids.

    Attributes:
        best: The run whose result is reported; `None`: nobody stated which.
        stages: The stage of each run.
        final: The runs whose models were published; all others are development. `None`: nobody
            stated which.

    """

    best: WorkloadId | None
    sweep: frozenset[WorkloadId]
    excluded: Mapping[WorkloadId, str]
    states: Mapping[WorkloadId, State]
    stages: Mapping[WorkloadId, str] = {}
    final: frozenset[WorkloadId] | None = None

    def state(self, run: Run) -> State:
        """Return what became of a run."""
        reported = self.states.get(run.workload.id)
        return _OUTCOMES.get(run.workload.outcome, State.UNKNOWN) if reported is None else reported

    def role(self, run: Run) -> str:
        """Return the role of a run: `best`, `sweep`, `excluded`, or none."""
        key = run.workload.id
        if key in self.excluded:
            return "excluded"
        return "best" if key == self.best else "sweep" if key in self.sweep else ""


def sort_out(
    runs: Sequence[Run],
    choice: RoleChoice,
    states: Mapping[WorkloadId, State],
    site_stages: Mapping[str, str] | None = None,
) -> RunRoles:
    """Assign the roles of runs. Raises `ValueError` for a name that matches none.

    `site_stages` are the site's patterns, for runs whose author stated no stage.
    """
    excluded = {
        run.workload.id: why for name, why in choice.excluded.items() for run in _named(runs, name)
    }
    sweep = frozenset(
        run.workload.id
        for run in runs
        if run.workload.id not in excluded
        and (not choice.sweep or any(_is(run, pattern) for pattern in choice.sweep))
    )
    for pattern in choice.sweep:
        _named(runs, pattern)
    best = None
    if choice.best:
        found = _named(runs, choice.best)
        if len(found) > 1:
            names = ", ".join(max(run.names, key=len) for run in found)
            raise ValueError(f"{choice.best!r} is more than one run: {names}")
        best = found[0].workload.id
        if best in excluded:
            raise ValueError(f"{choice.best!r} is the best run and an excluded one")
        if found[0].cut:
            raise ValueError(
                f"{choice.best!r} is incomplete: it started before or ended after this time range"
            )
    elif len(sweep) == 1:
        best = next(iter(sweep - {run.workload.id for run in runs if run.cut}), None)
    stages = {run.workload.id: _stage(run, choice.stages, site_stages or {}) for run in runs}
    return RunRoles(
        best,
        sweep,
        excluded,
        states,
        stages,
        _final(runs, choice, best, stages),
    )


def _stage(run: Run, stated: Mapping[str, str], of_site: Mapping[str, str]) -> str:
    """Return the stage by the paper's author, else by that of the run, else by the site."""
    return _by_pattern(run, stated) or run.workload.stage or _by_pattern(run, of_site) or NOT_STATED


def _by_pattern(run: Run, stages: Mapping[str, str]) -> str:
    return next((stage for pattern, stage in stages.items() if _matches(run, pattern)), "")


def _matches(run: Run, pattern: str) -> bool:
    names = (run.workload.name, run.workload.labels.experiment)
    return _is(run, pattern) or any(fnmatchcase(name, pattern) for name in names if name)


def _final(
    runs: Sequence[Run],
    choice: RoleChoice,
    best: WorkloadId | None,
    stages: Mapping[WorkloadId, str],
) -> frozenset[WorkloadId] | None:
    """Return the final runs: as named, else the best one, else those not of development."""
    for pattern in choice.final:
        if not any(_matches(run, pattern) for run in runs):
            raise ValueError(f"{pattern!r} matches no run of this report; known: {_some(runs)}")
    if choice.final:
        return frozenset(
            run.workload.id for run in runs if any(_matches(run, each) for each in choice.final)
        )
    if choice.best and best is not None:
        return frozenset({best})
    told = {key: stage.casefold() for key, stage in stages.items()}
    if DEVELOPMENT in told.values():
        return frozenset(
            key for key, stage in told.items() if stage not in {DEVELOPMENT, NOT_STATED}
        )
    return None


def _named(runs: Sequence[Run], pattern: str) -> list[Run]:
    found = [run for run in runs if _is(run, pattern)]
    if not found:
        raise ValueError(f"{pattern!r} matches no run of this report; known: {_some(runs)}")
    return found


def _some(runs: Sequence[Run]) -> str:
    if not runs:
        return "no run at all"
    names = [run.shown for run in runs[:5]]
    return ", ".join(names) + (f" and {len(runs) - 5:,} more" if len(runs) > 5 else "")


def _is(run: Run, pattern: str) -> bool:
    # A name may contain brackets: an array is `101_[1-5]` while it is pending.
    return pattern in run.names or any(fnmatchcase(name, pattern) for name in run.names)
