"""An account, the researcher's words and the site's settings into a statement."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from msgspec import Struct
from msgspec.structs import replace

from joulebook import __version__
from joulebook.config.lab import ReportSection
from joulebook.core.evidence import ZERO, Amount
from joulebook.core.report import footprint
from joulebook.core.report.dataset import ReportData, Unknowable
from joulebook.core.report.rollup import own_rates
from joulebook.core.report.run_roles import (
    NOT_STATED,
    RoleChoice,
    RunRoles,
    State,
    sort_out,
)
from joulebook.core.report.runs import Run, runs
from joulebook.core.report.tally import Tally, added
from joulebook.core.workloads import WorkloadId
from joulebook.errors import ConfigError
from joulebook.lab.report import cost_carbon, energy
from joulebook.lab.report.about import About
from joulebook.lab.report.model import (
    VERSION,
    Counts,
    Figure,
    Gpus,
    Inventory,
    ModelCardFacts,
    ReportedResult,
    Restated,
    RunRow,
    StageRow,
    Stages,
    Statement,
)
from joulebook.lab.report.serving import served_rows
from joulebook.lab.report.sources import FOREVER_S
from joulebook.lab.report.wording import number
from joulebook.units import NS_PER_S, QUARTER_NS, kwh_from_uj

_ALL_OF_IT = 0.9995
"""If less of the held GPU time is measured, it counts as measured in part."""

LIMITS = (
    "Not in it: network, storage and other nodes than those named, cooling but for PUE, the "
    "energy of inference, and what was consumed before the ledger began."
)


class StatementContext(Struct, frozen=True):
    """Additional data: the source of run states, and the site's settings."""

    made_utc_s: float
    states: Mapping[WorkloadId, State] = {}
    states_from: str = ""
    settings: ReportSection = ReportSection()
    zone: str = ""


class Recharge(Struct, frozen=True):
    """An account at other rates: the file they are in, and the energy that they do not cover."""

    file: str
    account: ReportData
    unpriced_uj: Mapping[str, int]
    problems: Mapping[str, str] = {}


def make(
    data: ReportData,
    about: About,
    choice: RoleChoice,
    reported: StatementContext,
    anew: Recharge | None = None,
) -> Statement:
    """Return the statement; with `again`, at its rates, and what was booked beside it.

    Raises `ConfigError` for a run that was named and is none.
    """
    charged = replace(data, rates=own_rates(data)) if anew is None else anew.account
    found = runs(charged)
    try:
        roles = sort_out(found, choice, reported.states, reported.settings.stages)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    project = added(run.tally for run in found)
    inventory = _inventory(charged, found, project, reported.settings, about)
    return Statement(
        version=VERSION,
        title=about.title or ", ".join(inventory.experiments) or "all that is selected",
        made_by=f"joulebook {__version__}",
        made_utc=_utc(reported.made_utc_s),
        recorded_trace=any(run.replayed for run in found),
        named_in_code=any(run.workload.named_in_code for run in found),
        source=data.source,
        warnings=[*data.warnings, *(() if anew is None else anew.problems)],
        unknown={str(matter): why for matter, why in data.unknown.items()},
        since_utc=_utc(data.since_s) if data.since_s else None,
        until_utc=None if data.until_s >= FOREVER_S else _utc(data.until_s),
        inventory=inventory,
        counts=_counts(found, roles, reported.states_from),
        energy=energy.energy(found, roles, project),
        boundary=energy.boundary(project, reported.settings),
        stages=_stages(found, roles, project),
        quality=energy.quality(data, found, project, reported.settings),
        rates=cost_carbon.rates(charged.rates),
        carbon=cost_carbon.carbon(charged, found, project, reported.settings, about, reported.zone),
        cost=cost_carbon.cost(project),
        compute=cost_carbon.compute(charged, found, about),
        result=ReportedResult(
            about.params, about.flops, about.metric, about.split, about.value, about.tokens
        ),
        card=ModelCardFacts(
            about.training_type,
            about.stage,
            about.family,
            about.algorithm,
            about.data,
            about.country,
        ),
        restated=None if anew is None else _restated(data, project, anew),
        runs=[_row(run, roles) for run in found],
        limits=[LIMITS],
        served=served_rows(data.served),
    )


def _utc(utc_s: float) -> str:
    return datetime.fromtimestamp(utc_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _moment(utc_ns: int | None) -> str | None:
    return None if utc_ns is None else _utc(utc_ns // NS_PER_S)


def _inventory(
    data: ReportData,
    found: Sequence[Run],
    project: Tally,
    settings: ReportSection,
    about: About,
) -> Inventory:
    labels = [run.workload.labels for run in found]
    starts = [run.workload.started_utc_ns for run in found]
    ends = [run.workload.ended_utc_ns for run in found]
    if None in starts or not starts:
        quarters = [row.quarter_s * NS_PER_S for row in data.postings]
        known = Unknowable.QUARTERS not in data.unknown and quarters
        starts = [min(quarters)] if known else [None]
        ends = [max(quarters) + QUARTER_NS] if known else [None]
    return Inventory(
        sorted({each.experiment for each in labels} - {""}),
        sorted({each.user for each in labels} - {""}),
        sorted({each.account for each in labels} - {""}),
        sorted({node for run in found for node in run.nodes}),
        about.region or settings.region or None,
        _moment(min((t for t in starts if t is not None), default=None)),
        None if None in ends else _moment(max((t for t in ends if t is not None), default=None)),
        _gpus(data, found),
        _gpu_count(data, found),
        _gpu_hours(found, project),
    )


def _gpu_hours(found: Sequence[Run], project: Tally) -> Figure:
    if project.wall_ns is None:
        note = "booked time: when some runs began or ended is not known"
        return Figure(footprint.hours(sum(r.tally.gpu_ns for r in found)), "GPU-hours", note=note)
    note = ""
    if project.held_ns < _ALL_OF_IT * project.wall_ns:
        note = f"held; measured for {number(footprint.hours(project.held_ns))}: see coverage"
    return Figure(footprint.hours(project.gpu_ns), "GPU-hours", note=note)


def _gpus(data: ReportData, found: Sequence[Run]) -> list[Gpus]:
    amounts: dict[str, Amount] = {}
    for run in found:
        for model, amount in run.by_model.items():
            amounts[model] = amounts.get(model, ZERO).plus(amount)
    devices = {gpu for run in found for gpu in run.gpus}
    return [
        Gpus(
            model or "not known",
            sum(data.models.get(gpu, "") == model for gpu in devices),
            footprint.hours(amount.held_ns),
            kwh_from_uj(amount.energy_uj),
        )
        for model, amount in sorted(amounts.items(), key=lambda item: -item[1].energy_uj)
    ]


def _gpu_count(data: ReportData, found: Sequence[Run]) -> Figure:
    devices = {gpu for run in found for gpu in run.gpus}
    if devices or not found:
        return Figure(len(devices), "GPUs")
    most = max(run.gpu_count for run in found)
    if most:
        return Figure(most, "GPUs", note="held by one run at most")
    return Figure(None, "GPUs", unknown=f"not known from {data.source}")


def _counts(found: Sequence[Run], roles: RunRoles, states_from: str) -> Counts:
    ended: dict[State, list[str]] = {state: [] for state in State}
    for run in found:
        if run.workload.id not in roles.excluded:
            ended[roles.state(run)].append(run.shown)
    shown = {run.workload.id: run.shown for run in found}
    return Counts(
        len(found),
        len(ended[State.COMPLETED]),
        len(ended[State.FAILED]),
        len(ended[State.CANCELLED]),
        len(ended[State.PREEMPTED]),
        len(ended[State.RUNNING]),
        len(ended[State.UNKNOWN]),
        len(roles.excluded),
        ended[State.FAILED],
        ended[State.CANCELLED],
        ended[State.PREEMPTED],
        {shown[key]: why for key, why in roles.excluded.items()},
        [run.shown for run in found if run.cut],
        states_from,
    )


def _row(run: Run, roles: RunRoles) -> RunRow:
    workload, tally = run.workload, run.tally
    user, account, experiment = workload.labels
    return RunRow(
        run.shown,
        workload.name,
        user,
        account,
        experiment,
        str(roles.state(run)),
        roles.stages.get(workload.id, NOT_STATED),
        None if roles.final is None else workload.id in roles.final,
        not run.cut,
        roles.role(run),
        roles.excluded.get(workload.id, ""),
        list(run.nodes),
        _moment(workload.started_utc_ns),
        _moment(workload.ended_utc_ns),
        run.gpu_count,
        run.models,
        footprint.hours(tally.gpu_ns),
        kwh_from_uj(tally.energy_uj),
        tally.energy_uj,
        kwh_from_uj(tally.idle_uj),
        None if tally.coverage is None else 100 * tally.coverage,
        cost_carbon.kg(tally.bill),
        cost_carbon.litres(tally),
        cost_carbon.money(tally.bill),
        run.replayed,
    )


def _restated(booked: ReportData, project: Tally, anew: Recharge) -> Restated:
    """Return what was booked, and how far `project` at other rates is from it."""
    old, new = added(run.tally for run in runs(booked)).bill, project.bill
    before, after = cost_carbon.money(old), cost_carbon.money(new)
    kg_before, kg_after = cost_carbon.kg(old), cost_carbon.kg(new)
    return Restated(
        anew.file,
        before,
        kg_before,
        {kind: after[kind] - before[kind] for kind in sorted(before.keys() & after.keys())},
        None if kg_before is None or kg_after is None else kg_after - kg_before,
        {item: kwh_from_uj(energy_uj) for item, energy_uj in anew.unpriced_uj.items()},
    )


_LOST = (State.FAILED, State.CANCELLED, State.PREEMPTED)


def _stages(found: Sequence[Run], roles: RunRoles, project: Tally) -> Stages:
    """Return the energy of each stage, in the order in which they began."""
    groups: dict[str, list[Run]] = {}
    for run in found:
        groups.setdefault(roles.stages.get(run.workload.id, NOT_STATED), []).append(run)

    def row(name: str, runs: Sequence[Run]) -> StageRow:
        return _stage_row(name, runs, roles, added(run.tally for run in runs), project.energy_uj)

    final = development = None
    if roles.final is not None:
        of_final = [run for run in found if run.workload.id in roles.final]
        others = [run for run in found if run.workload.id not in roles.final]
        final, development = row("final runs", of_final), row("development", others)
    return Stages(
        [row(name, runs) for name, runs in groups.items()],
        _stage_row("all", found, roles, project, project.energy_uj),
        final,
        development,
        row("without a result", [run for run in found if roles.state(run) in _LOST]),
    )


def _stage_row(
    name: str, runs: Sequence[Run], roles: RunRoles, total: Tally, whole_uj: int
) -> StageRow:
    ends = Counter(roles.state(run) for run in runs)
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
