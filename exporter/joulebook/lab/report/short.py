"""What a statement says in one sentence, for an abstract, and in one paragraph, for an appendix.

Every figure is rounded to its uncertainty; nothing local (paths, messages of programs) is in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime

from joulebook.lab.report.model import Figure, Rate, Statement
from joulebook.lab.report.tables import rounded
from joulebook.lab.report.wording import hosts_share, number, percent, run_count, stages, subject


def abstract(statement: Statement) -> str:
    """Return one sentence, for an abstract."""
    energy, carbon, what = statement.energy, statement.carbon, statement.inventory
    at_facility = energy.facility.value is not None
    consumed = _round(statement, energy.facility if at_facility else energy.it)
    lacking = ["" if at_facility else "without the facility's overhead", hosts_share(statement)]
    but = f" ({', '.join(filter(None, lacking))})" if any(lacking) else ""
    text = f"{subject(statement)} consumed {consumed} of electricity{but}"
    text += f" in {number(what.gpu_hours.value or 0)} GPU-hours"
    if covered := _covered(statement):
        text += f", measured for {covered} of that time"
    if carbon.location_based.value is not None:
        text += f", emitting {_round(statement, carbon.location_based)} (location-based)"
    if carbon.water.value is not None:
        text += f" and consuming {_round(statement, carbon.water)} of water"
    if cost := _costs(statement):
        text += f", at a cost of {cost}"
    development = statement.stages.development
    if development is not None and development.runs < statement.stages.total.runs:
        text += f"; {percent(development.percent)} of the energy went into development"
    return f"{_replayed(statement)}{text}."


def short(statement: Statement) -> tuple[str, ...]:
    """Return the sentences of a paragraph for an appendix, as a journal would print them."""
    return tuple(
        text
        for part in (_ran, _consumed, _spent_on, _emitted, _paid, _measured)
        for text in part(statement)
        if text
    )


def _round(statement: Statement, figure: Figure) -> str:
    return rounded(figure, statement.quality.uncertainty.value or 0.0)


def _replayed(statement: Statement) -> str:
    """Say that nothing was measured, where figures come from a recorded trace."""
    return "In a replay of a recorded trace, not measured: " if statement.recorded_trace else ""


def _covered(statement: Statement) -> str:
    """Return for how much of the time held energy was measured: empty if for all."""
    covered = statement.quality.coverage.value
    return percent(covered) if covered is not None and covered < 99.95 else ""


def _sources(rates: Iterable[Rate]) -> str:
    return "; ".join(("default, " if each.default else "") + each.source for each in rates)


def _day(iso: str) -> str:
    moment = datetime.fromisoformat(iso)
    return f"{moment.day} {moment:%B %Y}"


def _ran(statement: Statement) -> Iterator[str]:
    what = statement.inventory
    gpus = _enumerated(f"{gpu.count or ''} {gpu.model}".strip() for gpu in what.gpus)
    noun = "GPU" if [gpu.count for gpu in what.gpus] == [1] else "GPUs"
    on = f" on {gpus} {noun}" if what.gpus else ""
    where = f" in {what.region}" if what.region else ""
    when = ""
    if what.started_utc:
        first, last = _day(what.started_utc), _day(what.ended_utc) if what.ended_utc else ""
        when = f" between {first} and {last}" if last else f" since {first}"
        when = f" on {first}" if first == last else when
    yield (
        f"{_replayed(statement)}{subject(statement)} comprised "
        f"{run_count(statement.counts.total)} ({number(what.gpu_hours.value or 0)} GPU-hours)"
        f"{on}{where}{when}."
    )


def _consumed(statement: Statement) -> Iterator[str]:
    energy, host = statement.energy, statement.quality.host.value or 0.0
    node = f"the GPUs consumed {_round(statement, energy.gpu)}"
    if energy.host.value is None:
        node += "; the energy of their hosts was not measured"
    else:
        node += f" and their nodes {_round(statement, energy.it)} in all"
        if host < 100:
            node += f" (a lower bound: hosts were measured for {percent(host)} of the GPU-hours)"
    if covered := _covered(statement):
        node += f", measured for {covered} of that time"
    pue = [rate for rate in statement.rates if rate.quantity == "pue"]
    if energy.facility.value is None or not pue:
        yield f"{node[:1].upper()}{node[1:]}."
        return
    mean = energy.facility.value / energy.it.value if energy.it.value else 1.0
    yield (
        f"{node[:1].upper()}{node[1:]}; with a power usage effectiveness of {mean:.3g} "
        f"({_sources(pue)}), the facility consumed {_round(statement, energy.facility)}."
    )


def _spent_on(statement: Statement) -> Iterator[str]:
    yield from stages(statement)
    counts = statement.counts
    ends = [f"{counts.failed:,} failed"] if counts.failed else []
    for count, name in ((counts.cancelled, "cancelled"), (counts.preempted, "preempted")):
        if count:
            ends.append(f"{count:,} {'was' if count == 1 else 'were'} {name}")
    if ends:
        lost = percent(statement.stages.lost.percent)
        yield (
            f"Of the runs, {_enumerated(ends)}; they account for {lost} of the energy, which is "
            "included."
        )


def _emitted(statement: Statement) -> Iterator[str]:
    carbon = statement.carbon
    if carbon.location_based.value is not None:
        rates = [rate for rate in statement.rates if rate.quantity == "carbon"]
        source = _sources(rates)
        text = f"Location-based emissions were {_round(statement, carbon.location_based)}"
        if carbon.intensity.value is not None:
            text += f", at a mean grid intensity of {carbon.intensity.value:,.0f} g CO2e/kWh"
        text += f" ({source})" if source else ""
        if carbon.embodied.value is not None:
            text += f"; embodied emissions add {_round(statement, carbon.embodied)}"
            text += " (default figures)" if carbon.embodied.default else ""
        yield f"{text}."
    if carbon.water.value is not None:
        rates = [rate for rate in statement.rates if rate.quantity.startswith("water_")]
        source = "; ".join(dict.fromkeys(rate.source for rate in rates))
        yield f"Water consumption was {_round(statement, carbon.water)} ({source})."


def _costs(statement: Statement) -> str:
    return _enumerated(
        f"{_money(each.cost.value)} {each.cost.unit} for {each.kind}"
        for each in statement.cost
        if each.cost.value is not None
    )


def _paid(statement: Statement) -> Iterator[str]:
    if cost := _costs(statement):
        yield f"The cost was {cost}."


def _measured(statement: Statement) -> Iterator[str]:
    quality = statement.quality
    modelled = sum(each.percent for each in quality.methods if each.name == "modelled")
    how = "played from a recorded trace" if statement.recorded_trace else "measured"
    text = f"Energy was {how} by {statement.made_by.capitalize()}"
    if modelled:
        text += f", except for {percent(modelled)} of it, which was modelled"
    sensors = "uncalibrated sensors; default" if quality.sensor.default else "calibrated sensors"
    error = f"{quality.uncertainty.value or 0:.3g}"
    yield f"{text}, with an uncertainty of \u00b1{error} % ({sensors})."


def _money(value: float) -> str:
    """Return an amount in whole units, or as exact as it is small."""
    if abs(value) >= 1:
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:,.2f}"
    return number(value)


def _enumerated(parts: Iterable[str]) -> str:
    """Return `a, b and c`."""
    *rest, last = [*parts] or [""]
    return f"{', '.join(rest)} and {last}" if rest else last
