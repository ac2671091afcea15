"""The part of a statement by stage: what was spent on which purpose, and what came of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from joulebook.core.report import footprint
from joulebook.core.report.run_roles import NOT_STATED, RunRoles, State
from joulebook.core.report.runs import Run
from joulebook.core.report.tally import added
from joulebook.lab.report import cost_carbon
from joulebook.lab.report.model import StageRow, Stages
from joulebook.units import kwh_from_uj

_LOST = (State.FAILED, State.CANCELLED, State.PREEMPTED)


def stages(effort: RunRoles) -> Stages:
    """Return the energy of each stage, in the order in which they began."""
    whole_uj = sum(run.tally.energy_uj for run in effort.project)

    def row(name: str, runs: Iterable[Run]) -> StageRow:
        return _row(name, list(runs), effort, whole_uj)

    groups: dict[str, list[Run]] = {}
    for run in effort.project:
        groups.setdefault(effort.stages.get(run.workload.id, NOT_STATED), []).append(run)
    final = effort.final
    return Stages(
        [row(name, runs) for name, runs in groups.items()],
        row("all", effort.project),
        None
        if final is None
        else row("final runs", (run for run in effort.project if run.workload.id in final)),
        None
        if final is None
        else row("development", (run for run in effort.project if run.workload.id not in final)),
        row("without a result", (run for run in effort.project if effort.state(run) in _LOST)),
    )


def _row(name: str, runs: list[Run], effort: RunRoles, whole_uj: int) -> StageRow:
    total = added(run.tally for run in runs)
    ends = Counter(effort.state(run) for run in runs)
    return StageRow(
        stage=name,
        runs=len(runs),
        completed=ends[State.COMPLETED],
        failed=ends[State.FAILED],
        cancelled=ends[State.CANCELLED],
        preempted=ends[State.PREEMPTED],
        running=ends[State.RUNNING],
        not_known=ends[State.UNKNOWN],
        gpu_hours=footprint.hours(total.gpu_ns),
        energy_kwh=kwh_from_uj(total.energy_uj),
        energy_uj=total.energy_uj,
        facility_kwh=None if total.facility_uj is None else kwh_from_uj(total.facility_uj),
        co2e_kg=cost_carbon.kg(total.bill),
        water_l=cost_carbon.litres(total),
        cost=cost_carbon.money(total.bill),
        percent=100 * total.energy_uj / whole_uj if whole_uj else 0.0,
    )
