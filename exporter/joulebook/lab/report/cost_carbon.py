"""The part of a statement that rates gave: the rates themselves, carbon, cost and compute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from joulebook.config.lab import ReportSection
from joulebook.core.money.amounts import CALIBRATION, Charge, Charges, Exact, Item, RateUsed
from joulebook.core.money.rates import NANO, PPM, UG_PER_G, UL_PER_L, Quality
from joulebook.core.report import footprint
from joulebook.core.report.dataset import ReportData, Unknowable, UsedRate
from joulebook.core.report.footprint import peaks_of
from joulebook.core.report.rollup import net
from joulebook.core.report.runs import Run
from joulebook.core.report.tally import PUE, WATER_GRID, WATER_SITE, Tally, mean_of
from joulebook.lab.report.about import About
from joulebook.lab.report.energy import why_unknown
from joulebook.lab.report.model import Carbon, Compute, CostFigure, Figure, Rate
from joulebook.units import kwh_from_uj

KG, GRAMS_PER_KWH, PFLOPS_DAYS = "kg CO2e", "g CO2e/kWh", "PFLOP/s-days"
LITRES = "L"
G_PER_KG = 1000

_NEARLY_ALL = 0.95
"""If known for less of the held time, a value is not used for the whole."""

_CO2E = Charge(Item.CO2E)
_PRECISIONS = ("bf16", "fp16", "tf32", "fp32")
"""The usual precision of training is the first that a model has."""

_PER = {
    "price": NANO,
    "hardware": NANO,
    "carbon": UG_PER_G,
    PUE: PPM,
    WATER_SITE: UL_PER_L,
    WATER_GRID: UL_PER_L,
}
_ON_FACILITY = {"price", "carbon", WATER_GRID}
_UNITS = {"carbon": GRAMS_PER_KWH, PUE: "", WATER_SITE: "L/kWh", WATER_GRID: "L/kWh"}


def rates(used: Sequence[UsedRate]) -> list[Rate]:
    """Return the rates that were used, by quantity, source and quality.

    What is charged on the energy of the facility weighs by that, so that a mean here is what the
    cost or CO2e comes to for each kWh of it.
    """
    pue = mean_of(used, PUE)
    groups: dict[tuple[str, str, str, str], list[tuple[RateUsed, int]]] = {}
    for row in used:
        rate = row.used
        if rate.quantity.startswith(CALIBRATION):
            continue
        weight = row.energy_uj or row.held_ns
        if rate.quantity in _ON_FACILITY:
            weight *= pue.get((row.node, rate.quarter_s), PPM)
        key = (rate.quantity, rate.source, str(rate.quality), rate.unit)
        groups.setdefault(key, []).append((rate, weight))
    whole: dict[str, int] = {}
    for (quantity, *_), members in groups.items():
        whole[quantity] = whole.get(quantity, 0) + sum(weight for _, weight in members)
    return [
        _rate(quantity, source, quality, unit, members, whole[quantity])
        for (quantity, source, quality, unit), members in sorted(groups.items())
    ]


def _rate(
    quantity: str,
    source: str,
    quality: str,
    unit: str,
    rows: Sequence[tuple[RateUsed, int]],
    whole: int,
) -> Rate:
    per = _PER.get(quantity, 1)
    values = [used.value for used, _ in rows]
    weight = sum(weight for _, weight in rows)
    mean = sum(used.value * part for used, part in rows) / weight if weight else values[0]
    years = sorted({datetime.fromtimestamp(used.quarter_s, UTC).year for used, _ in rows})
    return Rate(
        quantity,
        min(values) / per,
        max(values) / per,
        mean / per,
        _UNITS.get(quantity, unit.removeprefix("n")),
        source,
        quality,
        "-".join(str(year) for year in dict.fromkeys((years[0], years[-1]))),
        100 * weight / whole if whole else 0.0,
        default=quality == Quality.DEFAULT,
    )


def kg(bill: Charges) -> float | None:
    """CO2e of a bill; `None` if none was charged."""
    return bill[_CO2E].floor / (UG_PER_G * G_PER_KG) if _CO2E in bill else None


def litres(total: Tally) -> float | None:
    """Water of a tally; `None`: not known."""
    water_ul = total.water_ul
    return None if water_ul is None else water_ul / UL_PER_L


def _water(project: Tally) -> Figure:
    litres_ = litres(project)
    if litres_ is None:
        why = "no WUE of site and grid is known (rates.water), or no PUE"
        return Figure(None, LITRES, unknown=why)
    note = "E_it x WUE of the site + E_fac x WUE of the grid"
    return Figure(litres_, LITRES, note=note)


def money(bill: Charges) -> dict[str, float]:
    """Money of a bill by kind and currency: `electricity_EUR`."""
    return {f"{kind}_{currency}": a.floor / NANO for (kind, currency), a in _kinds(bill).items()}


def _kinds(bill: Charges) -> Mapping[tuple[str, str], Exact]:
    power = {c: a for c, a in bill.items() if c.item in (Item.ELECTRICITY, Item.CREDIT)}
    held = {c: a for c, a in bill.items() if c.item is Item.HARDWARE}
    return {
        (kind, currency): amount
        for kind, part in (("electricity", power), ("hardware", held))
        for currency, amount in net(part).items()
    }


def cost(project: Tally) -> list[CostFigure]:
    """Return what it cost, by kind; a kind that has no rate says so."""
    found = [
        CostFigure(kind, Figure(amount.floor / NANO, currency))
        for (kind, currency), amount in _kinds(project.bill).items()
    ]
    lacking = {"electricity": "no price was known", "hardware": "no hourly rate was known"}
    there = {each.kind for each in found}
    return found + [
        CostFigure(kind, Figure(None, "", unknown=why))
        for kind, why in lacking.items()
        if kind not in there
    ]


def carbon(
    data: ReportData,
    runs: Sequence[Run],
    project: Tally,
    settings: ReportSection,
    about: About,
    zone: str,
) -> Carbon:
    """Operational CO2e, embodied CO2e as a range, and both per functional unit."""
    operational = kg(project.bill)
    is_default = any(
        row.used.quality == Quality.DEFAULT for row in data.rates if row.used.quantity == "carbon"
    )
    located = (
        Figure(None, KG, unknown="no carbon intensity was known")
        if operational is None
        else Figure(operational, KG, default=is_default, note="sum of E_fac x intensity over time")
    )
    embodied = _embodied(runs, settings)
    return Carbon(
        _intensity(project, operational, is_default),
        zone or None,
        _water(project),
        located,
        _market_based(project, settings),
        embodied,
        _sci(located, embodied, len(runs), about),
    )


def _market_based(project: Tally, settings: ReportSection) -> Figure:
    """CO2e by the site's contract: one factor for all energy of the facility, as the site says it.

    GHG Protocol, Scope 2 Guidance (2015): beside the location-based figure, never instead of it.
    """
    factor, facility_uj = settings.market_grams_per_kwh, project.facility_uj
    if factor is None:
        why = "no contracts or certificates are on record (report.market_grams_per_kwh)"
        return Figure(None, KG, unknown=why)
    if not settings.market_source:
        why = f"report.market_source does not say of which contract {factor:g} g/kWh are"
        return Figure(None, KG, unknown=why)
    if facility_uj is None:
        return Figure(None, KG, unknown="no PUE was known")
    emitted = kwh_from_uj(facility_uj) * factor / G_PER_KG
    note = f"E_fac x {factor:g} g CO2e/kWh"
    return Figure(emitted, KG, source=settings.market_source, note=note)


def _intensity(project: Tally, operational: float | None, is_default: bool) -> Figure:
    facility_uj = project.facility_uj
    if operational is None or not facility_uj:
        return Figure(None, GRAMS_PER_KWH, unknown="no carbon intensity or no PUE was known")
    mean = operational * G_PER_KG / kwh_from_uj(facility_uj)
    note = "mean by energy; location-based, average (not marginal)"
    return Figure(mean, GRAMS_PER_KWH, default=is_default, note=note)


def _embodied(runs: Sequence[Run], settings: ReportSection) -> Figure:
    server = footprint.HostServer(
        footprint.SERVER_KG if settings.server_kg is None else settings.server_kg,
        settings.server_gpus or footprint.SERVER_GPUS,
        settings.server_life_years or footprint.LIFE_YEARS,
    )
    site = tuple(
        footprint.Embodied(pattern, row.low_kg, row.high_kg, row.source)
        for pattern, row in settings.embodied.items()
    )
    low = high = 0.0
    sources: list[str] = []
    is_default = None in (settings.server_kg, settings.server_gpus, settings.server_life_years)
    for run in runs:
        for model, amount in run.by_model.items():
            row = footprint.embodied_of(model, site)
            if row is None:
                row = footprint.embodied_of(model)
                is_default = True
            if row is None:
                why = f"no figure is published for {model or 'a GPU model that is not known'}"
                return Figure(None, KG, unknown=f"{why} (report.embodied)")
            held = footprint.hours(amount.held_ns)
            low += footprint.embodied_kg(held, row.low_kg, server)
            high += footprint.embodied_kg(held, row.high_kg, server)
            sources.append(row.source)
    if not sources:
        return Figure(None, KG, unknown="no GPU was held")
    if settings.server_kg is None:
        sources.append(f"server {server.kg:g} kg: {footprint.SERVER_SOURCE}")
    note = f"SCI v1.1: {server.gpus} GPUs to a server, {server.life_years:g} years; not in CO2e"
    return Figure(
        (low + high) / 2, KG, low, high, is_default, "; ".join(dict.fromkeys(sources)), note
    )


def _sci(operational: Figure, embodied: Figure, count: int, about: About) -> Figure:
    unit = f"{KG} per {about.unit or 'run'}"
    units = about.units or count
    if operational.value is None or not units:
        return Figure(None, unit, unknown=operational.unknown or "there were no runs")
    if embodied.low is None or embodied.high is None:
        return Figure(None, unit, unknown=embodied.unknown)
    low, high = (footprint.sci(operational.value, m, units) for m in (embodied.low, embodied.high))
    is_default = operational.default or embodied.default
    name = about.unit or ("run" if units == 1 else "runs")
    note = f"SCI v1.1: (E x I + M) / R, R = {units:g} {name}"
    return Figure((low + high) / 2, unit, low, high, is_default, note=note)


_AT_MOST = "at most"
_MEASURED = "measured by GPM: share of the time held in which tensor cores worked"


def _utilization(runs: Sequence[Run], about: About) -> Figure:
    """How much of the peak was used: as was said, as was measured at most, or as is assumed."""
    if about.utilization is not None:
        return Figure(100 * about.utilization, "%", source="said by the researcher")
    held_ns, known_ns, tensor_ns = (
        sum(getattr(amount, name) for run in runs for amount in run.by_model.values())
        for name in ("held_ns", "tensor_known_ns", "tensor_ns")
    )
    if not known_ns or known_ns < _NEARLY_ALL * held_ns:
        source = footprint.UTILIZATION_SOURCE
        return Figure(100 * footprint.UTILIZATION, "%", default=True, source=source)
    return Figure(
        100 * tensor_ns / known_ns,
        "%",
        source=_MEASURED,
        note=f"{_AT_MOST}: a tensor core that is active need not run at its peak",
    )


def compute(data: ReportData, runs: Sequence[Run], about: About) -> Compute:
    """Compute from held time, peak and utilization; at most, where that was measured."""
    utilization = _utilization(runs, about)
    share = (utilization.value or 0.0) / 100
    total = 0.0
    sources: list[str] = []
    precisions: list[str] = []
    for run in runs:
        for model, amount in run.by_model.items():
            peaks = {peak.precision: peak for peak in peaks_of(model)}
            wanted = (about.precision,) if about.precision else _PRECISIONS
            peak = next((peaks[each] for each in wanted if each in peaks), None)
            if peak is None:
                why = f"the peak of {model or 'the GPU model'} in {'/'.join(wanted)} is not known"
                if not model and Unknowable.MODELS in data.unknown:
                    why = why_unknown(data, Unknowable.MODELS)
                return Compute(Figure(None, PFLOPS_DAYS, unknown=why), "", utilization, "")
            held = footprint.hours(amount.held_ns)
            total += footprint.pflops_days(held, peak.flops, share)
            sources.append(peak.source)
            precisions.append(peak.precision)
    if not sources:
        return Compute(Figure(None, PFLOPS_DAYS, unknown="no GPU was held"), "", utilization, "")
    precision = ", ".join(dict.fromkeys(precisions))
    is_default = utilization.default or not about.precision
    note = f"dense {precision} peak" + (f"; {_AT_MOST}" if utilization.note else "")
    return Compute(
        Figure(total, PFLOPS_DAYS, default=is_default, note=note),
        precision,
        utilization,
        "; ".join(dict.fromkeys(sources)),
    )
