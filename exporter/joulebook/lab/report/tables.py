"""The tables of a statement: by stage, by outcome, of its key figures, and of its runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import msgspec
from msgspec import Struct

from joulebook.core.report.run_roles import NOT_STATED
from joulebook.core.sanitize import one_line
from joulebook.lab.report import wording
from joulebook.lab.report.model import Figure, StageRow, Statement


class DataTable(Struct, frozen=True):
    """A table with one unit for each column.

    Attributes:
        right: The columns of figures, which stand right.
        spare: Columns that may be left out where there is no room, the least needed first.
        ruled: The rows that a rule stands over.
        notes: What stands below it.

    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    right: frozenset[int] = frozenset()
    spare: tuple[int, ...] = ()
    ruled: frozenset[int] = frozenset()
    notes: tuple[str, ...] = ()

    def without(self, unused: Callable[[int], bool]) -> DataTable:
        """Return the table without the columns that are unused."""
        kept = [n for n in range(len(self.columns)) if not unused(n)]
        at = {old: new for new, old in enumerate(kept)}
        return DataTable(
            self.caption,
            tuple(self.columns[n] for n in kept),
            tuple(tuple(row[n] for n in kept) for row in self.rows),
            frozenset(at[n] for n in self.right if n in at),
            tuple(at[n] for n in self.spare if n in at),
            self.ruled,
            self.notes,
        )


def column(values: Sequence[float | None], unit: str) -> tuple[str, list[str]]:
    """Return one unit for a column, that of its smallest value, and its figures in it.

    Figures have as many decimals as the smallest needs for two digits, and none beside thousands.
    """
    known = [abs(value) for value in values if value]
    factor, scaled = wording.scale(min(known, default=0.0), unit)
    least = min(known, default=1.0) * factor
    digits = min(max(1 - math.floor(math.log10(least)), 0), 6)
    if max(known, default=0.0) * factor >= 1_000 and least >= 1:
        digits = 0
    return scaled, ["-" if v is None else f"{v * factor:,.{digits}f}" for v in values]


def rounded(shown: Figure, error_percent: float) -> str:
    """Return a figure in no more digits than its uncertainty allows, two at the least.

    The last digit is that of the first digit of the uncertainty, of the second if that is a 1. At
    most four digits are shown where it is not known.
    """
    if shown.value is None:
        return wording.figure(shown)
    values = [shown.value] if shown.low is None or shown.high is None else [shown.low, shown.high]
    factor, unit = wording.scale(max(values), shown.unit)
    digits = [_rounded(value * factor, error_percent) for value in values]
    text = " to ".join(dict.fromkeys(digits))
    return f"{text} {unit}".rstrip()


def _rounded(value: float, error_percent: float) -> str:
    if not value:
        return "0"
    place = math.floor(math.log10(abs(value)))
    error = abs(value) * error_percent / 100
    last = place - 3
    if error:
        first = math.floor(math.log10(error))
        last = first - 1 if error / 10.0**first < 2 else first
    last = min(max(last, place - 3), place - 1)
    return f"{round(value, -last):,.{max(-last, 0)}f}"


def has_stages(statement: Statement) -> bool:
    """Return whether anybody stated a stage."""
    return any(row.stage != NOT_STATED for row in statement.stages.rows)


RUNS = 1
"""The column of how many runs there are, in the table by stage."""


def by_stage(statement: Statement) -> DataTable:
    """Return what was spent on each stage; last all of it, and final runs against development."""
    stages = statement.stages
    rows = [*stages.rows, stages.total]
    if stages.final is not None and stages.development is not None and stages.final.runs:
        rows += [stages.final, msgspec.structs.replace(stages.development, stage="all others")]
    if stages.lost.runs:
        rows.append(stages.lost)
    facility = all(row.facility_kwh is not None for row in rows)
    kinds = sorted({kind for row in rows for kind in row.cost})
    columns: list[tuple[str, list[str]]] = [("stage", [row.stage for row in rows])]
    columns.append(("runs", [f"{row.runs:,}" for row in rows]))
    columns.append(("GPU-h", column([row.gpu_hours for row in rows], "")[1]))
    for values, unit in (
        ([row.facility_kwh if facility else row.energy_kwh for row in rows], "kWh"),
        ([row.co2e_kg for row in rows], "kg CO2e"),
        ([row.water_l for row in rows], "L"),
    ):
        columns.append(column(values, unit))
    for currency in sorted({kind.rpartition("_")[2] for kind in kinds}):
        mine = [kind for kind in kinds if kind.rpartition("_")[2] == currency]
        cost = [sum(row.cost.get(kind, 0.0) for kind in mine) for row in rows]
        columns.append((currency, column(cost, "")[1]))
    columns.append(("%", [f"{row.percent:.1f}" for row in rows]))
    at = len(stages.rows)
    found = DataTable(
        f"{statement.title}: energy{'' if facility else ' of the machines'} by stage",
        tuple(name for name, _ in columns),
        tuple(zip(*(cells for _, cells in columns), strict=True)),
        frozenset(range(1, len(columns))),
        (RUNS, 2, *range(6, len(columns) - 1), 5),
        frozenset({at} | ({at + 1} if len(rows) > at + 1 else set())),
        (_of_stages(statement),),
    )
    return found.without(lambda n: n > 0 and all(row[n] == "-" for row in found.rows))


def _of_stages(statement: Statement) -> str:
    stages = statement.stages
    where = "the machines, without PUE"
    if stages.total.facility_kwh is not None:
        where = "the facility"
    said = f"Energy is that of {where}{_but(statement)}; runs of any outcome are in it."
    if stages.lost.runs:
        said += " Without a result: failed, cancelled and preempted runs."
    return said


def _but(statement: Statement) -> str:
    hosts = wording.hosts_share(statement)
    return f" ({hosts})" if hosts else ""


_OUTCOMES = ("completed", "failed", "cancelled", "preempted", "running", "not_known")


def by_outcome(statement: Statement) -> DataTable:
    """Return how the runs of each stage ended."""
    rows = [*statement.stages.rows, statement.stages.total]

    def cells(row: StageRow) -> tuple[str, ...]:
        return (row.stage, *(f"{getattr(row, name):,}" for name in _OUTCOMES))

    whole = DataTable(
        "Runs by stage and outcome",
        ("stage", *(name.replace("_", " ") for name in _OUTCOMES)),
        tuple(map(cells, rows)),
        frozenset(range(1, 1 + len(_OUTCOMES))),
        (5, 6, 4, 3),
        frozenset({len(rows) - 1}),
    )
    return whole.without(lambda n: n > 0 and whole.rows[-1][n] == "0")


def beside(statement: Statement) -> tuple[DataTable, ...]:
    """Return the tables that a statement has where it has something to put into them."""
    stages = (by_stage(statement), by_outcome(statement)) if has_stages(statement) else ()
    return (*stages, *((by_model(statement),) if statement.served else ()))


MOST_MODELS = 25
"""Models and months that a document lists, those with the most energy; JSON has all of them."""


def by_model(statement: Statement) -> DataTable:
    """Return what served models cost by month, idle time apart."""
    rows = sorted(statement.served, key=lambda row: -row.energy_kwh)[:MOST_MODELS]
    rows.sort(key=lambda row: (row.month, -row.energy_kwh))
    output = [row.per_1000_output_tokens for row in rows]
    columns: list[tuple[str, list[str]]] = [
        ("month", [row.month for row in rows]),
        ("model", [one_line(row.model, 60) or "(not stated)" for row in rows]),
        ("prompt tokens", [_count(row.prompt_tokens) for row in rows]),
        ("output tokens", [_count(row.output_tokens) for row in rows]),
        ("requests", [_count(row.requests) for row in rows]),
        ("kWh", column([row.energy_kwh for row in rows], "")[1]),
        ("idle kWh", column([row.idle_energy_kwh for row in rows], "")[1]),
        ("J per 1,000 output", column([each.joules if each else None for each in output], "")[1]),
        (
            "g CO2e per 1,000 output",
            column([each.co2e_g if each else None for each in output], "")[1],
        ),
    ]
    for currency in sorted({name for each in output if each for name in each.cost}):
        cost = [each.cost.get(currency) if each else None for each in output]
        columns.append((f"{currency} per 1,000 output", column(cost, "")[1]))
    found = DataTable(
        "Served models, in the quarter hours whose tokens and energy are known",
        tuple(name for name, _ in columns),
        tuple(zip(*(cells for _, cells in columns), strict=True)),
        frozenset(range(2, len(columns))),
        (4, 6, 2),
        notes=("Idle time is in no figure per 1,000 output tokens.",),
    )
    return found.without(lambda n: n > 1 and all(row[n] == "-" for row in found.rows))


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def key_figures(statement: Statement) -> DataTable:
    """Return the figures that papers are asked for, where no stages are known."""
    energy, carbon = statement.energy, statement.carbon
    but = _but(statement)
    nodes = [(f"Energy of nodes{but}", energy.it)] if energy.host.value is not None else []
    shown: list[tuple[str, Figure]] = [
        ("GPU-hours", statement.inventory.gpu_hours),
        ("Energy of accelerators", energy.gpu),
        *nodes,
        (f"Energy of the facility{but}", energy.facility),
        ("CO2e, location-based", carbon.location_based),
        ("CO2e, embodied", carbon.embodied),
        ("Water", carbon.water),
        *((f"Cost of {each.kind}", each.cost) for each in statement.cost),
    ]
    percent = statement.quality.uncertainty.value or 0.0
    rows = tuple(
        (label, rounded(figure, percent)) for label, figure in shown if figure.value is not None
    )
    return DataTable(
        f"{statement.title}: energy, CO2e and cost", ("", "value"), rows, frozenset({1})
    )
