"""The part of a statement that meters gave: energy, and how well it is known."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from joulebook.config.lab import ReportSection
from joulebook.core.energy.audit import Verdict
from joulebook.core.energy.readings import Component
from joulebook.core.evidence import Method
from joulebook.core.report import footprint
from joulebook.core.report.dataset import ReportData, Unknowable
from joulebook.core.report.footprint import SENSOR_PERCENT, SENSOR_SOURCE
from joulebook.core.report.run_roles import RunRoles
from joulebook.core.report.runs import Run
from joulebook.core.report.tally import HOST, UNKNOWN, Held, Tally, added, calibrations
from joulebook.lab.report.model import Boundary, Energy, EnergyQuality, Figure, SharePercent
from joulebook.lab.report.wording import listed, percent, quantity, run_count
from joulebook.units import UJ_PER_KWH, kwh_from_uj

KWH, PERCENT = "kWh", "%"

_HOST = (Component.CPU, Component.DRAM, Component.OTHER)


def why_unknown(data: ReportData, matter: Unknowable) -> str:
    """`not known from SOURCE`, and why."""
    return f"not known from {data.source}: {data.unknown[matter]}"


def energy(runs: Sequence[Run], roles: RunRoles, project: Tally) -> Energy:
    """Energy by part, and by the role of runs."""
    best = next((run for run in runs if run.workload.id == roles.best), None)
    sweep = added(run.tally for run in runs if run.workload.id in roles.sweep)
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
        sweep=_of_machines(sweep, run_count(len(roles.sweep))),
        project=_of_machines(project, f"{run_count(len(runs))}, failed and excluded ones too"),
    )


def boundary(project: Tally, settings: ReportSection) -> Boundary:
    """Return what is measured of accelerators, nodes and facility, and what the site models."""
    unread_uj = project.parts.gpu_uj - project.parts_with.get(HOST, Held()).gpu_uj
    hosts = _modelled(
        settings.host_multiplier, unread_uj, "E_gpu without a host meter", settings.host_source,
        "report.host_multiplier",
    )  # fmt: skip
    nodes_uj = project.energy_uj + round((hosts.value or 0.0) * UJ_PER_KWH)
    network = _modelled(
        settings.network_multiplier, nodes_uj, "E_it with modelled hosts", settings.network_source,
        "report.network_multiplier",
    )  # fmt: skip
    added_kwh = sum(each.value or 0.0 for each in (hosts, network))
    facility_uj = project.facility_uj
    whole = Figure(None, KWH, unknown="nothing is modelled, or no PUE is known")
    if facility_uj is not None and added_kwh and project.energy_uj:
        pue = facility_uj / project.energy_uj
        whole = Figure(
            (kwh_from_uj(project.energy_uj) + added_kwh) * pue, KWH, note="modelled in part"
        )
    hosts_share = percent(100 * project.measured_with(HOST))
    share = f"hosts measured for {hosts_share} of the {_weighed_by(project)}"
    return Boundary(
        _kwh(project.gpu_uj, "measured", _uncovered(project)),
        _kwh(project.energy_uj, share, _uncovered(project), _partly(project, HOST, "E_host ")),
        _facility(project),
        hosts,
        network,
        whole,
    )


def _modelled(multiplier: float | None, energy_uj: int, of: str, source: str, key: str) -> Figure:
    """Return what a multiplier adds to an energy."""
    if multiplier is None:
        return Figure(None, KWH, unknown=f"no multiplier is declared ({key})")
    value = kwh_from_uj(energy_uj) * (multiplier - 1)
    return Figure(value, KWH, source=source, note=f"modelled: {multiplier:g} x {of}, less it")


def _kwh(energy_uj: int, *notes: str) -> Figure:
    return Figure(kwh_from_uj(energy_uj), KWH, note="; ".join(filter(None, notes)))


def _of_machines(tally: Tally, what: str = "") -> Figure:
    """Energy of GPUs and hosts together, and whether it is less than was consumed."""
    boundary = "" if HOST in tally.parts_with or not tally.energy_uj else "GPUs alone"
    return _kwh(tally.energy_uj, what, boundary, _uncovered(tally), _partly(tally, HOST, "E_host "))


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
    return f"a lower bound: {what}measured for {percent(100 * share)} of the {_weighed_by(tally)}"


def _weighed_by(tally: Tally) -> str:
    """Return what a share of `Tally.measured_with` is of."""
    return "GPU-hours" if tally.parts.held_ns else "runs and nodes"


def _uncovered(tally: Tally) -> str:
    covered = tally.coverage
    return "" if covered is None or covered >= 0.9995 else "a lower bound: see coverage"


def _facility(tally: Tally) -> Figure:
    facility_uj = tally.facility_uj
    if facility_uj is None:
        why = "no PUE is known"
        if tally.no_pue_uj != tally.energy_uj:
            part, whole = kwh_from_uj(tally.no_pue_uj), kwh_from_uj(tally.energy_uj)
            why += f" for {part:,.4g} of {whole:,.4g} kWh"
        return Figure(None, KWH, unknown=why)
    return _kwh(facility_uj, _uncovered(tally), _partly(tally, HOST, "E_host "))


def quality(
    data: ReportData, runs: Sequence[Run], project: Tally, settings: ReportSection
) -> EnergyQuality:
    """How well the energy is known."""
    sensor = _sensor(data, runs, settings)
    reading = 100 * data.error_ratio
    return EnergyQuality(
        coverage=_coverage(data, project),
        methods=_shares(project.by_method, project.energy_uj),
        evidence=_shares(project.by_evidence, project.energy_uj),
        host=_host_share(project),
        sensor=sensor,
        reading=Figure(reading, PERCENT, source=data.source),
        uncertainty=Figure(
            footprint.uncertainty_percent(sensor.value or 0.0, reading),
            PERCENT,
            default=sensor.default,
        ),
        attribution=_attribution(data, project),
        counters=_counters(data, runs),
        how_combined=(
            "sensor and reading errors are bounds and are added, not their squares: the error of a "
            "meter is the same in every run. Attribution, coverage, PUE, prices and intensities "
            "are not in it"
        ),
    )


def _sensor(data: ReportData, runs: Sequence[Run], settings: ReportSection) -> Figure:
    """Return the error of the meters, weighted by energy; for calibrated ones the remaining error.

    Errors of several meters are added like their energies: nothing is known to average out.
    """
    is_default = settings.sensor_percent is None
    rest = settings.sensor_percent if settings.sensor_percent is not None else SENSOR_PERCENT
    sources = {
        settings.sensor_source or ("report.sensor_percent" if not is_default else SENSOR_SOURCE)
    }
    known = calibrations(data.rates)
    parts = frozenset().union(*(run.parts for run in runs))
    whole_uj = right_uj = added_uj = 0
    left = 0.0
    used: set[str] = set()
    for row in data.postings:
        if row.subject in parts:
            whole_uj += row.amount.energy_uj
            found = known.get((row.node, row.meter.name, row.quarter_s))
            if found is not None:
                right_uj += row.amount.energy_uj
                added_uj += row.amount.calibration_uj
                left += row.amount.energy_uj * found.percent
                used |= found.sources
    if not right_uj:
        note = "the meters were not calibrated" if is_default else ""
        return Figure(rest, PERCENT, default=is_default, source=listed(sorted(sources)), note=note)
    note = f"calibrated for {percent(100 * right_uj / whole_uj)} of the energy"
    read = quantity(kwh_from_uj(whole_uj - added_uj), KWH)
    note += f"; {read} as read, {kwh_from_uj(added_uj):+.4g} kWh by calibration"
    return Figure(
        (left + (whole_uj - right_uj) * rest) / whole_uj,
        PERCENT,
        default=is_default and right_uj < whole_uj,
        source=listed(sorted(used | (sources if right_uj < whole_uj else set()))),
        note=note,
    )


_GRAVEST = (Verdict.WRONG, Verdict.CANNOT_TELL, Verdict.NONE, Verdict.SOUND)


def _counters(data: ReportData, runs: Sequence[Run]) -> Figure:
    """Return the current audit of the GPUs' counters against power."""
    used = sorted({gpu for run in runs for gpu in run.gpus})
    audits = {gpu: data.audits[gpu] for gpu in used if gpu in data.audits}
    if not audits:
        why = f"cannot tell: {data.source} knows no audit of them (joulebook doctor does)"
        return Figure(None, PERCENT, unknown=why)
    verdicts = {audits[gpu].verdict if gpu in audits else Verdict.NONE for gpu in used}
    verdict = next(each for each in _GRAVEST if each in verdicts)
    ratios = [100 * each.ratio for each in audits.values() if each.ratio]
    wrong = [meter.name for (_, meter), each in audits.items() if each.verdict is Verdict.WRONG]
    note = str(verdict or Verdict.CANNOT_TELL) + (f" ({listed(wrong)})" if wrong else "")
    if not ratios:
        return Figure(None, PERCENT, unknown=note)
    mean = math.fsum(ratios) / len(ratios)
    return Figure(mean, PERCENT, min(ratios), max(ratios), note=note)


def _coverage(data: ReportData, project: Tally) -> Figure:
    if Unknowable.COVERAGE in data.unknown:
        return Figure(None, PERCENT, unknown=why_unknown(data, Unknowable.COVERAGE))
    if project.wall_ns is None:
        return Figure(None, PERCENT, unknown="when a run started or ended is not known")
    if project.coverage is None:
        return Figure(None, PERCENT, unknown="no GPU was held")
    return Figure(100 * project.coverage, PERCENT, note="measured time / time held")


def _host_share(project: Tally) -> Figure:
    note = f"{_weighed_by(project)} for which E_host was measured"
    return Figure(100 * project.measured_with(HOST), PERCENT, note=note)


def _shares(parts: Mapping[str, int], whole_uj: int) -> list[SharePercent]:
    return [
        SharePercent(name or "not known", 100 * energy_uj / whole_uj)
        for name, energy_uj in sorted(parts.items(), key=lambda item: (-item[1], item[0]))
        if whole_uj > 0
    ]


def _attribution(data: ReportData, project: Tally) -> Figure:
    if UNKNOWN in project.by_method:
        why = (
            why_unknown(data, Unknowable.METHOD)
            if Unknowable.METHOD in data.unknown
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
