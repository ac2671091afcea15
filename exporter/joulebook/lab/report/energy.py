"""The part of a statement that meters gave: energy, and how well it is known."""

from __future__ import annotations

from collections.abc import Mapping

from joulebook.config.lab import ReportSection
from joulebook.core.energy.readings import Component
from joulebook.core.evidence import Method
from joulebook.core.report import footprint
from joulebook.core.report.dataset import ReportData, Unknowable
from joulebook.core.report.run_roles import RunRoles
from joulebook.core.report.tally import HOST, UNKNOWN, Tally, added
from joulebook.lab.report.model import Energy, EnergyQuality, Figure, SharePercent
from joulebook.lab.report.wording import percent
from joulebook.units import kwh_from_uj

KWH, PERCENT = "kWh", "%"

_HOST = (Component.CPU, Component.DRAM, Component.OTHER)


def why_unknown(account: ReportData, matter: Unknowable) -> str:
    """`not known from SOURCE`, and why."""
    return f"not known from {account.source}: {account.unknown[matter]}"


def energy(effort: RunRoles, project: Tally) -> Energy:
    """Energy by part, and by the role of runs."""
    best, sweep = effort.best, added(run.tally for run in effort.sweep)
    return Energy(
        gpu=_kwh(project.gpu_uj, _uncovered(project)),
        host=_host(project, HOST, *_HOST),
        cpu=_host(project, Component.CPU, Component.CPU),
        dram=_host(project, Component.DRAM, Component.DRAM),
        other=_host(project, Component.OTHER, Component.OTHER),
        idle=_kwh(project.idle_uj, "part of E_it: held, and doing no work"),
        it=_of_machines(project),
        facility=_facility(project),
        best=_unnamed() if best is None else _of_machines(best.tally, f"run {best.shown}"),
        sweep=_of_machines(sweep, _several(len(effort.sweep))),
        project=_of_machines(
            project, f"{_several(len(effort.project))}, failed and excluded ones too"
        ),
    )


def _kwh(energy_uj: int, *notes: str) -> Figure:
    return Figure(kwh_from_uj(energy_uj), KWH, note="; ".join(filter(None, notes)))


def _of_machines(tally: Tally, what: str = "") -> Figure:
    """Energy of GPUs and hosts together, and whether it is less than was consumed."""
    boundary = "" if HOST in tally.parts_with or not tally.energy_uj else "GPUs alone"
    return _kwh(tally.energy_uj, what, boundary, _uncovered(tally), _partly(tally, HOST, "E_host "))


def _several(count: int) -> str:
    return "1 run" if count == 1 else f"{count:,} runs"


def _unnamed() -> Figure:
    return Figure(None, KWH, unknown="nobody said which whole run it is (--best)")


def _host(tally: Tally, name: str, *components: Component) -> Figure:
    found = [tally.by_component[each] for each in components if each in tally.by_component]
    if not found:
        return Figure(None, KWH, unknown="not measured")
    return _kwh(sum(found), _partly(tally, name, ""))


def _partly(tally: Tally, name: str, what: str) -> str:
    """That a component was measured on a part of the nodes only."""
    share = tally.measured_with(name)
    if not 0 < share < 1:
        return ""
    of = "GPU-hours" if tally.parts.held_ns else "runs and nodes"
    return f"a lower bound: {what}measured for {percent(100 * share)} of the {of}"


def _uncovered(tally: Tally) -> str:
    return "a lower bound: see coverage" if (tally.coverage or 1.0) < 0.9995 else ""


def _facility(tally: Tally) -> Figure:
    facility_uj = tally.facility_uj
    if facility_uj is None:
        why = "no PUE is known"
        if tally.no_pue_uj != tally.energy_uj:
            part, whole = kwh_from_uj(tally.no_pue_uj), kwh_from_uj(tally.energy_uj)
            why += f" for {part:,.4g} of {whole:,.4g} kWh"
        return Figure(None, KWH, unknown=why)
    return _kwh(facility_uj, _uncovered(tally), _partly(tally, HOST, "E_host "))


def quality(account: ReportData, project: Tally, settings: ReportSection) -> EnergyQuality:
    """Return how well the energy is known."""
    calibrated = settings.sensor_percent is not None
    sensor = (
        footprint.SENSOR_PERCENT if settings.sensor_percent is None else settings.sensor_percent
    )
    source = settings.sensor_source or ("report.sensor_percent" if calibrated else "")
    reading = 100 * account.error_ratio
    return EnergyQuality(
        coverage=_coverage(account, project),
        methods=_shares(project.by_method, project.energy_uj),
        evidence=_shares(project.by_evidence, project.energy_uj),
        host=_host_share(project),
        sensor=Figure(
            sensor,
            PERCENT,
            default=not calibrated,
            source=source or footprint.SENSOR_SOURCE,
            note="" if calibrated else "the meters were not calibrated",
        ),
        reading=Figure(reading, PERCENT, source=account.source),
        uncertainty=Figure(
            footprint.uncertainty_percent(sensor, reading), PERCENT, default=not calibrated
        ),
        attribution=_attribution(account, project),
        how_combined=(
            "sensor and reading errors are bounds and are added, not their squares: the error of a "
            "meter is the same in every run. Attribution, coverage, PUE, prices and intensities "
            "are not in it"
        ),
    )


def _coverage(account: ReportData, project: Tally) -> Figure:
    if Unknowable.COVERAGE in account.unknown:
        return Figure(None, PERCENT, unknown=why_unknown(account, Unknowable.COVERAGE))
    if project.wall_ns is None:
        return Figure(None, PERCENT, unknown="when a run started or ended is not known")
    if project.coverage is None:
        return Figure(None, PERCENT, unknown="no GPU was held")
    return Figure(100 * project.coverage, PERCENT, note="measured time / time held")


def _host_share(project: Tally) -> Figure:
    of = "GPU-hours" if project.parts.held_ns else "runs and nodes"
    return Figure(
        100 * project.measured_with(HOST), PERCENT, note=f"{of} for which E_host was measured"
    )


def _shares(parts: Mapping[str, int], whole_uj: int) -> list[SharePercent]:
    return [
        SharePercent(name or "not known", 100 * energy_uj / whole_uj)
        for name, energy_uj in sorted(parts.items(), key=lambda item: (-item[1], item[0]))
        if whole_uj > 0
    ]


def _attribution(account: ReportData, project: Tally) -> Figure:
    if UNKNOWN in project.by_method:
        why = (
            why_unknown(account, Unknowable.METHOD)
            if Unknowable.METHOD in account.unknown
            else "the method is not on record"
        )
        return Figure(None, PERCENT, unknown=why)
    shared = sum(
        project.by_method.get(method, 0) for method in (Method.APPORTIONED, Method.MODELLED)
    )
    whole = project.energy_uj
    return Figure(
        100 * shared / whole if whole else 0.0,
        PERCENT,
        note="apportioned among several holders, or modelled; the rest is of meters held alone",
    )
