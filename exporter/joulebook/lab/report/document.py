"""A statement as a document: what every format that people read is rendered from.

Here stand the words. Nothing here is escaped: a renderer escapes all that it prints, in one place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec import Struct

from joulebook.core.sanitize import one_line
from joulebook.lab.report import wording
from joulebook.lab.report.model import Figure, Rate, RunRow, SharePercent, Statement
from joulebook.lab.report.short import abstract, short
from joulebook.lab.report.tables import (
    RUNS,
    DataTable,
    beside,
    by_stage,
    has_stages,
    key_figures,
)


class StatementRow(Struct, frozen=True):
    """One line of a statement: what it is, its value, and what must be known to read it."""

    label: str
    value: str
    note: str = ""

    @property
    def is_part(self) -> bool:
        """Return whether it is a part of the row above."""
        return self.label.startswith(" ")


class StatementSection(Struct, frozen=True):
    """Rows that belong together."""

    title: str
    rows: tuple[StatementRow, ...]


class Bar(Struct, frozen=True):
    """One bar of the chart: a run's energy in kWh, and the part of it consumed idle."""

    label: str
    kwh: float
    idle_kwh: float
    state: str


class Document(Struct, frozen=True):
    """A statement in words and figures.

    `abstract` is one sentence, `short` a paragraph with the table `key_table`; `paragraph`,
    `tables` and what comes then are the full length.
    """

    title: str
    subtitle: str
    statement: Statement
    paragraph: tuple[str, ...]
    tables: tuple[DataTable, ...]
    sections: tuple[StatementSection, ...]
    runs: DataTable
    bars: tuple[Bar, ...]
    notes: tuple[str, ...]

    @property
    def abstract(self) -> str:
        """Return one sentence, for an abstract."""
        return abstract(self.statement)

    @property
    def short(self) -> tuple[str, ...]:
        """Return the sentences of a paragraph for an appendix."""
        return short(self.statement)

    @property
    def key_table(self) -> DataTable:
        """Return the table beside it."""
        if has_stages(self.statement):
            return by_stage(self.statement).without(lambda n: n == RUNS)
        return key_figures(self.statement)


MOST_RUNS = 25
"""Runs that a document lists, those with the most energy; all of them are in JSON and CSV."""

RUN_COLUMNS = (
    "run",
    "stage",
    "outcome",
    "role",
    "GPUs",
    "GPU-h",
    "energy (kWh)",
    "idle (kWh)",
    "CO2e (kg)",
)
_WORDS, _STAGE = 4, 1
"""The first four are words, the others figures; that of stages is left out where none is known."""

_LEAST_NEEDED = ("idle (kWh)", "GPUs", "role", "GPU-h", "CO2e (kg)", "stage")
_NAME_CHARS = 60


def document(statement: Statement) -> Document:
    """Return the statement as people read it."""
    by_energy = sorted(statement.runs, key=lambda run: -run.energy_uj)[:MOST_RUNS]
    staged = has_stages(statement)
    return Document(
        f"Energy statement: {statement.title}",
        f"{wording.span(statement)}, from {statement.source}, made by {statement.made_by}"
        f" at {statement.made_utc}",
        statement,
        wording.sentences(statement),
        beside(statement),
        tuple(section for section in _sections(statement) if section.rows),
        _runs(statement, by_energy, staged=staged),
        tuple(Bar(run.id, run.energy_kwh, run.idle_energy_kwh, run.state) for run in by_energy),
        tuple(_notes(statement, len(by_energy))),
    )


def _runs(statement: Statement, listed: Sequence[RunRow], *, staged: bool) -> DataTable:
    """Return the listed runs, in the order in which they began."""
    rows = tuple(_run(run) for run in statement.runs if run in listed)
    figures = frozenset(range(_WORDS, len(RUN_COLUMNS)))
    least = tuple(map(RUN_COLUMNS.index, _LEAST_NEEDED))
    table = DataTable("Runs", RUN_COLUMNS, rows, figures, least)
    return table if staged else table.without(lambda n: n == _STAGE)


def _run(run: RunRow) -> tuple[str, ...]:
    return (
        one_line(run.id, _NAME_CHARS),
        one_line(run.stage, _NAME_CHARS),
        run.state,
        run.role,
        str(run.gpus),
        wording.number(run.gpu_hours),
        wording.number(run.energy_kwh),
        wording.number(run.idle_energy_kwh),
        wording.NOT_KNOWN if run.co2e_kg is None else wording.number(run.co2e_kg),
    )


def _notes(statement: Statement, listed: int) -> Iterator[str]:
    for text in statement.warnings:
        yield wording.sentence(f"Warning: {text}")
    if listed < len(statement.runs):
        yield (
            f"The {listed} runs with the most energy of {len(statement.runs):,}; "
            "all are in the JSON and CSV formats."
        )
    for matter, why in statement.unknown.items():
        yield f"{matter[:1].upper()}{matter[1:]}: not known from {statement.source} ({why})."
    yield "Figures marked (default) rest on a figure of Joulebook's own, not of this site."
    yield from statement.limits


def _sections(statement: Statement) -> Iterator[StatementSection]:
    yield StatementSection("What ran", tuple(_inventory(statement)))
    energy = statement.energy
    yield StatementSection(
        "Energy",
        tuple(
            _row(label, figure)
            for label, figure in (
                ("E_gpu", energy.gpu),
                ("E_host", energy.host),
                ("  CPU", energy.cpu),
                ("  memory", energy.dram),
                ("  other", energy.other),
                ("E_idle", energy.idle),
                ("E_it = E_gpu + E_host", energy.it),
                ("E_fac = E_it x PUE", energy.facility),
                ("E_best", energy.best),
                ("E_sweep", energy.sweep),
                ("E_project", energy.project),
            )
        ),
    )
    boundary = statement.boundary
    modelled = (
        ("hosts, modelled", boundary.modelled_hosts),
        ("network, modelled", boundary.modelled_network),
        ("facility, modelled in part", boundary.modelled_facility),
    )
    yield StatementSection(
        "Boundary",
        (
            _row("accelerators", boundary.accelerators),
            _row("node", boundary.node),
            _row("facility", boundary.facility),
            *(_row(label, figure) for label, figure in modelled if figure.value),
        ),
    )
    yield StatementSection("How well it is known", tuple(_quality(statement)))
    yield StatementSection("Rates", tuple(map(_rate, statement.rates)) or (_no_rates(statement),))
    carbon = statement.carbon
    yield StatementSection(
        "CO2e and water",
        (
            _row("carbon intensity", carbon.intensity),
            StatementRow("zone", carbon.zone or wording.NOT_KNOWN),
            _row("location-based", carbon.location_based),
            _row("market-based", carbon.market_based),
            _row("embodied (beside it)", carbon.embodied),
            _row("SCI", carbon.sci),
            _row("water", carbon.water),
        ),
    )
    yield StatementSection("Cost", tuple(_row(each.kind, each.cost) for each in statement.cost))
    yield StatementSection("Compute", tuple(_compute(statement)))
    yield StatementSection("Charged again", tuple(_restated(statement)))


def _row(label: str, figure: Figure) -> StatementRow:
    notes = [figure.note, figure.source]
    return StatementRow(label, wording.figure(figure), "; ".join(filter(None, notes)))


def _inventory(statement: Statement) -> Iterator[StatementRow]:
    what, counts = statement.inventory, statement.counts
    yield StatementRow("experiment", wording.listed(what.experiments))
    yield StatementRow("user", wording.listed(what.users))
    yield StatementRow("account", wording.listed(what.accounts))
    yield StatementRow("started", what.started_utc or wording.NOT_KNOWN)
    yield StatementRow("ended", what.ended_utc or wording.NOT_KNOWN)
    ends = (
        (counts.completed, "completed"),
        (counts.failed, "failed"),
        (counts.cancelled, "cancelled"),
        (counts.preempted, "preempted"),
        (counts.running, "running"),
        (counts.not_known, "with an outcome that is not known"),
        (counts.excluded, "excluded"),
    )
    said = ", ".join(f"{count:,} {name}" for count, name in ends if count)
    yield StatementRow(
        "runs", f"{counts.total:,} in all" + (f": {said}" if said else ""), counts.states_from
    )
    for outcome, names in (
        ("failed", counts.failed_runs),
        ("cancelled", counts.cancelled_runs),
        ("preempted", counts.preempted_runs),
    ):
        if names:
            yield StatementRow(outcome, wording.listed(names))
    if counts.partial_runs:
        yield StatementRow("in part", wording.listed(counts.partial_runs), "not whole in this time")
    if counts.excluded_runs:
        named = [f"{name} ({why})" for name, why in counts.excluded_runs.items()]
        yield StatementRow("excluded", wording.listed(named), "counted in E_project")
    yield StatementRow("nodes", wording.listed(what.nodes))
    yield StatementRow("region", what.region or wording.NOT_KNOWN)
    for gpu in what.gpus:
        count = f"{gpu.count} x " if gpu.count else ""
        held = f"{wording.number(gpu.gpu_hours)} GPU-hours"
        yield StatementRow("GPU model", f"{count}{gpu.model}", held)
    yield _row("GPUs", what.gpu_count)
    yield _row("GPU-hours", what.gpu_hours)


def _quality(statement: Statement) -> Iterator[StatementRow]:
    quality = statement.quality
    yield _row("coverage", quality.coverage)
    yield _row("hosts measured", quality.host)
    yield StatementRow("methods", _shares(quality.methods))
    yield StatementRow("evidence of holding", _shares(quality.evidence))
    yield _row("sensor, \u00b1", quality.sensor)
    yield _row("counter against power", quality.counters)
    yield _row("reading, \u00b1", quality.reading)
    combined = wording.figure(quality.uncertainty)
    yield StatementRow("uncertainty, \u00b1", combined, quality.how_combined)
    yield _row("shared out or modelled", quality.attribution)


def _shares(shares: Sequence[SharePercent]) -> str:
    if all(each.name == wording.NOT_KNOWN for each in shares):
        return wording.NOT_KNOWN
    return ", ".join(f"{each.name} {wording.percent(each.percent)}" for each in shares)


def _rate(rate: Rate) -> StatementRow:
    value = wording.number(rate.mean)
    if rate.low != rate.high:
        value += f" ({wording.number(rate.low)} to {wording.number(rate.high)})"
    mark = " (default)" if rate.default else ""
    note = f"{rate.source}; {rate.quality}; used in {rate.years}"
    if rate.percent < 99.95:
        note += f"; for {wording.percent(rate.percent)} of what was charged"
    return StatementRow(
        _NAMES.get(rate.quantity, rate.quantity), f"{value} {rate.unit}".rstrip() + mark, note
    )


_NAMES = {
    "pue": "PUE",
    "carbon": "carbon intensity",
    "price": "price of electricity",
    "water_site": "WUE of the site",
    "water_grid": "WUE of the grid",
}


def _no_rates(statement: Statement) -> StatementRow:
    return StatementRow(
        "rates", wording.NOT_KNOWN, f"none was used for what {statement.source} booked ([rates])"
    )


def _compute(statement: Statement) -> Iterator[StatementRow]:
    compute, result = statement.compute, statement.result
    yield _row("compute", compute.pflops_days)
    yield _row("utilization", compute.utilization)
    if compute.peak_source:
        yield StatementRow("peak", f"{compute.precision}, dense", compute.peak_source)
    said = "said by the researcher"
    if result.params is not None:
        yield StatementRow("parameters", wording.number(result.params), said)
    if result.flops is not None:
        yield StatementRow("FLOPs", f"{result.flops:.3g}", said)
    if result.metric and result.value is not None:
        on = f" ({result.split})" if result.split else ""
        yield StatementRow(f"{result.metric}{on}", f"{result.value:g}", said)


def _restated(statement: Statement) -> Iterator[StatementRow]:
    restated = statement.restated
    if restated is None:
        return
    note = f"the figures above are at the rates of {restated.rates_file}"
    for kind, booked in restated.booked_cost.items():
        difference = restated.difference_cost.get(kind)
        change = "" if difference is None else f" (difference {difference:+,.4f})"
        yield StatementRow(f"booked: {kind}", f"{booked:,.4f}{change}", note)
    if restated.booked_co2e_kg is not None:
        difference = restated.difference_co2e_kg
        change = "" if difference is None else f" (difference {difference:+,.4f})"
        yield StatementRow("booked: CO2e", f"{restated.booked_co2e_kg:,.4f} kg{change}", note)
    if not restated.booked_cost and restated.booked_co2e_kg is None:
        yield StatementRow("booked", "nothing was charged", note)
    for item, kwh in restated.unpriced_kwh.items():
        yield StatementRow(f"no rate for {item}", f"{wording.number(kwh)} kWh", "not charged")
