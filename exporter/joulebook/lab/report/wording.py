"""How a statement puts figures into words, one by one and as the paragraph of a paper.

A figure has four digits, its unit, and never a bare unknown. In the paragraph nothing unmeasured is
stated as if it were measured: an unknown figure is left out, or stated as missing.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Iterator, Sequence

from joulebook.core.sanitize import one_line
from joulebook.lab.report.model import Figure, Statement

NOT_KNOWN = "not known"
_DIGITS = 4
_MOST_NAMES = 12
_MOST_NEAR = 5
_NAME_CHARS = 60


def number(value: float) -> str:
    """Four digits that count: `0.01234`, `1.234`, `123.4`, `12,345`."""
    if not value:
        return "0"
    ahead = math.floor(math.log10(abs(value))) + 1
    if ahead < -5:
        return f"{value:.3e}"
    return f"{value:,.{max(_DIGITS - ahead, 0)}f}"


_SCALES = {
    "kWh": (
        (1e-4, 3.6e6, "J"),
        (0.1, 1e3, "Wh"),
        (1e3, 1.0, "kWh"),
        (1e6, 1e-3, "MWh"),
        (math.inf, 1e-6, "GWh"),
    ),
    "L": ((0.1, 1e3, "mL"), (1e3, 1.0, "L"), (math.inf, 1e-3, "kL")),
    "kg CO2e": ((0.1, 1e3, "g CO2e"), (1e3, 1.0, "kg CO2e"), (math.inf, 1e-3, "t CO2e")),
}
"""By unit: below which value which factor makes which unit of it."""


def quantity(value: float, unit: str, high: float | None = None) -> str:
    """A value, or a range up to `high`, in the unit of its size: `4.533 Wh`, `0.5 to 1.2 kg`."""
    per, space, rest = unit.partition(" per ")
    most = value if high is None else high
    factor, scaled = scale(most, per) if most else (1.0, per)
    least, most = value * factor, most * factor
    text = number(least) if most == least else f"{number(least)} to {number(most)}"
    return f"{text} {scaled}{space}{rest}".rstrip()


def scale(value: float, unit: str) -> tuple[float, str]:
    """Return the factor and the unit that suit a value."""
    for limit, factor, scaled in _SCALES.get(unit, ()):
        if abs(value) < limit:
            return factor, scaled
    return 1.0, unit


def significant(value: float) -> float:
    """Return a figure for a form of others in six significant digits."""
    return float(f"{value:.6g}")


def percent(value: float) -> str:
    """Return a share; `100 %` and `0 %` only where it is exactly that."""
    if value in (0, 100):
        return f"{value:.0f} %"
    if 99.95 <= value < 100:
        return "99.9 %"
    return f"{value:.1f} %" if value >= 0.05 else f"{value:.2g} %"


def figure(shown: Figure) -> str:
    """Return a figure with its unit, its range, and the mark of a default."""
    if shown.value is None:
        why = shown.unknown
        return why if why.startswith(NOT_KNOWN) else f"{NOT_KNOWN}: {why}" if why else NOT_KNOWN
    if shown.unit == "%":
        text = percent(shown.value)
    elif shown.unit == "GPUs":
        text = f"{shown.value:,.0f}"
    elif shown.low is not None:
        text = quantity(shown.low, shown.unit, shown.high)
    else:
        text = quantity(shown.value, shown.unit)
    return f"{text} (default)" if shown.default else text


def listed(names: Sequence[str]) -> str:
    """Names, the first dozen of them."""
    if not names:
        return NOT_KNOWN
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {more:,} more" if more > 0 else "")


def nearest(name: str, there: Iterable[str]) -> str:
    """Return the existing names most similar to an unknown one: `bert-base, bert (of 7)`."""
    names = sorted(set(there))
    near = difflib.get_close_matches(name, names, _MOST_NEAR, cutoff=0.5) or names[:_MOST_NEAR]
    said = ", ".join(one_line(each, _NAME_CHARS) for each in near)
    return said + (f" (of {len(names):,})" if len(names) > len(near) else "")


def sentence(text: str) -> str:
    """Return the text with a full stop, if it has none."""
    return text if text.endswith((".", "!", "?")) else f"{text}."


def run_count(count: int) -> str:
    """Return how many runs: `1 run`, `2,400 runs`."""
    return "1 run" if count == 1 else f"{count:,} runs"


def hosts_share(statement: Statement) -> str:
    """Return for how much of the GPU time the energy of hosts is in it: empty if for all."""
    if statement.energy.host.value is None:
        return "hosts not measured"
    host = statement.quality.host.value or 0.0
    return f"hosts measured for {percent(host)} of the GPU-hours" if host < 100 else ""


def span(statement: Statement) -> str:
    """Return the requested time range."""
    since = statement.since_utc or "the start of the ledger"
    return f"From {since} to {statement.until_utc or 'now'}"


def sentences(statement: Statement) -> tuple[str, ...]:
    """Return the sentences of the paragraph, in order."""
    return tuple(
        text
        for part in (_warned, _what, _energy, stages, _roles, _carbon, _water, _cost, _how)
        for text in part(statement)
        if text
    )


def subject(statement: Statement) -> str:
    """Return what the statement is about, at the beginning of a sentence."""
    names, title = statement.inventory.experiments, statement.title
    if not names:
        return title[:1].upper() + title[1:]
    if len(names) == 1:
        return f"The experiment {title}"
    return f"The {'experiments' if title == ', '.join(names) else 'project'} {title}"


def _value(figure: Figure) -> str:
    if figure.value is None:
        return ""
    if figure.low is not None:
        return quantity(figure.low, figure.unit, figure.high)
    return quantity(figure.value, figure.unit)


def _money(value: float) -> str:
    return f"{value:,.2f}" if abs(value) >= 1 else number(value)


def _warned(statement: Statement) -> Iterator[str]:
    """Before any figure: what the source itself says against them."""
    for text in statement.warnings:
        yield sentence(f"Warning: {text}")


def _what(statement: Statement) -> Iterator[str]:
    counts, what = statement.counts, statement.inventory
    ends = [
        f"{count:,} {name}"
        for count, name in (
            (counts.completed, "completed"),
            (counts.failed, "failed"),
            (counts.cancelled, "cancelled"),
            (counts.preempted, "preempted"),
            (counts.running, "still running"),
            (counts.excluded, "excluded from the results"),
        )
        if count
    ]
    if counts.not_known and ends:
        ends.append(f"{counts.not_known:,} with an outcome that is not known")
    if counts.partial_runs:
        ends.append(f"{len(counts.partial_runs):,} of them only in part")
    said = f" ({', '.join(ends)}; all of them are counted)" if ends else ""
    gpus = " and ".join(
        f"{gpu.count or ''} {gpu.model} GPU{'' if gpu.count == 1 else 's'}".strip()
        for gpu in what.gpus
    )
    where = f" in {what.region}" if what.region else ""
    when = ""
    if what.started_utc:
        first, last = what.started_utc[:10], (what.ended_utc or "the time of writing")[:10]
        when = f" on {first}" if first == last else f" between {first} and {last}"
        if not what.ended_utc:
            when = f" since {first}"
    held = number(what.gpu_hours.value or 0)
    yield (
        f"{subject(statement)} took {run_count(counts.total)}{said}"
        + (f" on {gpus}" if gpus else "")
        + f"{where}{when}, using {held} GPU-hours."
    )


def _energy(statement: Statement) -> Iterator[str]:
    energy = statement.energy
    text = f"The GPUs consumed {_value(energy.gpu)}"
    if energy.host.value is not None:
        text += f", and the rest of their hosts {_value(energy.host)}"
        host = statement.quality.host.value or 0.0
        if host < 100:
            text += f" (a lower bound, measured for {percent(host)} of the GPU-hours)"
    else:
        text += " (the energy of their hosts was not measured)"
    if energy.idle.value and energy.it.value:
        share = percent(100 * energy.idle.value / energy.it.value)
        text += f"; {share} of this energy was drawn by GPUs that were allocated but idle"
    yield f"{text}."
    pue = [rate for rate in statement.rates if rate.quantity == "pue"]
    if energy.facility.value is not None and pue:
        named = "; ".join(f"{each.source}; in force in {each.years}" for each in pue)
        mean = energy.facility.value / energy.it.value if energy.it.value else 1.0
        mark = "default, " if any(each.default for each in pue) else ""
        yield (
            f"With a power usage effectiveness of {mean:.4g} ({mark}{named}), this is "
            f"{_value(energy.facility)} at the facility."
        )


def stages(statement: Statement) -> Iterator[str]:
    """Yield the sentence on final runs against development, if anybody stated which are final."""
    final, development = statement.stages.final, statement.stages.development
    if final is not None and development is not None and final.runs and development.runs:
        yield (
            f"Development accounted for {percent(development.percent)} of the energy and the final "
            f"runs for {percent(final.percent)}."
        )


def _water(statement: Statement) -> Iterator[str]:
    water = statement.carbon.water
    if water.value is not None:
        rates = [rate for rate in statement.rates if rate.quantity.startswith("water_")]
        named = {"water_site": "at the site", "water_grid": "for the electricity"}
        how = "; ".join(
            f"{number(each.mean)} L/kWh {named[each.quantity]}, {each.source}" for each in rates
        )
        yield f"Water consumption was {_value(water)} ({how})."


def _roles(statement: Statement) -> Iterator[str]:
    energy, counts = statement.energy, statement.counts
    if counts.total < 2 or energy.best.value is None:
        return
    of_sweep = energy.sweep.note.partition(";")[0]
    yield (
        f"Without PUE, the run that is reported took {_value(energy.best)}, the sweep that it was "
        f"chosen from {_value(energy.sweep)} ({of_sweep}), and the project as a whole "
        f"{_value(energy.project)}."
    )


def _carbon(statement: Statement) -> Iterator[str]:
    carbon = statement.carbon
    if carbon.location_based.value is not None:
        rates = [rate for rate in statement.rates if rate.quantity == "carbon"]
        named = "; ".join(
            f"{each.source}, {'default, ' if each.default else ''}used in {each.years}"
            for each in rates
        )
        mean = _value(carbon.intensity)
        yield (
            f"Location-based emissions were {_value(carbon.location_based)}"
            + (f" at a mean intensity of {mean}" if mean else "")
            + (f" ({named})." if named else ".")
        )
    if carbon.market_based.value is not None:
        yield (
            f"Market-based emissions were {_value(carbon.market_based)} "
            f"({carbon.market_based.note}; {carbon.market_based.source})."
        )
    if carbon.embodied.value is not None:
        mark = "default figures: " if carbon.embodied.default else ""
        yield (
            f"Embodied emissions of the hardware, by the share of its service life that was held, "
            f"add {_value(carbon.embodied)} ({mark}{carbon.embodied.source})."
        )


def _cost(statement: Statement) -> Iterator[str]:
    known = [
        f"{_money(each.cost.value)} {each.cost.unit} for {each.kind}"
        for each in statement.cost
        if each.cost.value is not None
    ]
    if known:
        yield f"The cost was {' and '.join(known)}."


def _how(statement: Statement) -> Iterator[str]:
    quality = statement.quality
    methods = {share.name: share.percent for share in quality.methods}
    modelled = methods.pop("modelled", 0.0)
    reported = {
        "counter": "the devices' own energy counters",
        "integrated": "integration of sampled power",
        "apportioned": "apportionment of a shared device's energy among its holders",
        "not known": "methods that are not on record at this source",
    }
    if methods:
        how = ", ".join(f"{percent(part)} by {reported.get(n, n)}" for n, part in methods.items())
        unchanged = "" if statement.named_in_code else " without changes to the code of the runs"
        was = "played from a recorded trace" if statement.recorded_trace else "measured"
        yield f"Energy was {was} by {statement.made_by}{unchanged}: {how}."
    if modelled:
        yield f"{percent(modelled)} of the energy was not measured, but comes from a model."
    covered = quality.coverage.value
    sensor = quality.sensor
    state = "uncalibrated sensors, default" if sensor.default else "calibrated sensors"
    text = (
        f"The uncertainty of the measured energy is \u00b1{quality.uncertainty.value or 0:.3g} % "
        f"({state}: {sensor.source})"
    )
    if covered is not None:
        text += f"; readings cover {percent(covered)} of the time for which GPUs were held"
    yield f"{text}."
    if "counter" in methods and quality.counters.value is not None:
        yield f"Counters against power: {_counters(quality.counters)}."


def _counters(found: Figure) -> str:
    if found.value is None:
        return found.unknown
    low, high = found.low or found.value, found.high or found.value
    shown = percent(low) if low == high else f"{percent(low)} to {percent(high)}"
    return f"they show {shown} of the energy integrated from power ({found.note})"
