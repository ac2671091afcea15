"""A board for display: a table of texts, and notes.

Text, Markdown and HTML use the same sheets, so that they have the same content. Names in a sheet
are untrusted; each format escapes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction

import msgspec

from joulebook.core import units_text
from joulebook.core.money.rates import NANO
from joulebook.core.report.leaderboard import (
    Board,
    ComparedMetric,
    Entrant,
    Expected,
    FrontStep,
    Join,
    RankBoundary,
    Unit,
)
from joulebook.lab.report.wording import percent
from joulebook.units import UJ_PER_KWH

NOTHING = "-"

MOST_BEHIND = 10
"""So many dominated results are shown, those of the least energy first."""

SAME_HARDWARE = (
    "kWh are only comparable on the same hardware, so each GPU model has its own leaderboard."
)


class Sheet(msgspec.Struct, frozen=True):
    """A titled table; `right` are the columns of numbers, `dim` the rows of lesser weight."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    right: frozenset[int] = frozenset()
    dim: frozenset[int] = frozenset()
    notes: tuple[str, ...] = ()


def sheets(board: Board, expected: Mapping[str, Sequence[Expected]]) -> list[Sheet]:
    """Return the board, and the expected results of its experiments by budget."""
    made = [_ranking(board)]
    if expected:
        made.append(_budget(board, expected))
    return made


def title_of(board: Board) -> str:
    """`bert: accuracy, higher is better, on NVIDIA H100`."""
    better = "higher" if board.metric.higher else "lower"
    head = f"{board.title}: " if board.title else ""
    return f"{head}{board.metric.name} ({better} is better) on {gpu_of(board)}"


def gpu_of(board: Board) -> str:
    """Return the hardware of a board."""
    return board.gpu or "unknown hardware"


def value_of(metric: ComparedMetric, value: Fraction) -> str:
    """Return a value with its unit: `92.5 %`, `0.925`."""
    number = f"{float(value):.6g}"
    return units_text.unit(number, "%") if metric.unit is Unit.PERCENT else number


def energy(uj: Fraction | int) -> str:
    """Energy to three digits."""
    return units_text.energy(round(uj))


def money(cost_nano: Mapping[str, int] | Mapping[str, Fraction]) -> str:
    """Money in each currency."""
    each = sorted((currency, Fraction(nano)) for currency, nano in cost_nano.items())
    said = [units_text.money(round(nano), currency) for currency, nano in each]
    return ", ".join(said) or NOTHING


def kwh(uj: Fraction | int) -> float:
    """Kilowatt-hours, for programs."""
    return float(Fraction(uj) / UJ_PER_KWH)


def units(cost_nano: Mapping[str, int] | Mapping[str, Fraction]) -> dict[str, float]:
    """Money in units of its currency, for programs."""
    each = sorted((currency, Fraction(nano)) for currency, nano in cost_nano.items())
    return {currency: float(nano / NANO) for currency, nano in each}


def _column(
    values: Sequence[Fraction | int | None], scales: Sequence[tuple[int, str]] = units_text.ENERGY
) -> tuple[str, list[str]]:
    """Values in one unit, and which."""
    return units_text.in_column([None if v is None else float(v) for v in values], scales)


def measured_of(entrant: Entrant) -> str:
    """Return what the energy of an entrant covers: `GPUs and hosts, 100 % of the time`."""
    if entrant.join is Join.GIVEN:
        return "stated by its author"
    host = entrant.host or 0.0
    text = "GPUs" if not host else "GPUs and hosts"
    if 0 < host < 1:
        text += f" (hosts for {percent(100 * host)})"
    known = entrant.coverage
    how_long = "not known for how long" if known is None else f"{percent(100 * known)} of the time"
    return f"{text}, {how_long}"


def _ranking(board: Board) -> Sheet:
    entrants = board.entrants
    unit, energies = _column([each.energy_uj for each in entrants])
    shown = {id(each): cell for each, cell in zip(entrants, energies, strict=True)}
    steps = [step.uj_per_point for step in board.front]
    per_unit, prices = _column(steps)
    price_of = {id(step): price for step, price in zip(board.front, prices, strict=True)}
    emitted_unit, emitted = _column([each.co2e_ug for each in entrants], units_text.CO2E)
    emitted_of = {id(each): cell for each, cell in zip(entrants, emitted, strict=True)}
    co2e_steps = [step.ug_per_point for step in board.front]
    co2e_unit, co2e_prices = _column(co2e_steps, units_text.CO2E)
    co2e_price_of = {id(s): cell for s, cell in zip(board.front, co2e_prices, strict=True)}
    has_cost = any(e.cost_nano for e in entrants)
    has_co2e = any(e.co2e_ug is not None for e in entrants)
    has_flops = any(e.flops is not None for e in entrants)
    joined = any(e.join is not Join.GIVEN for e in entrants)
    columns = ["Result", board.metric.name, f"Energy ({unit})"]
    columns.append(f"Per point ({per_unit})" if any(steps) else "Per point")
    columns += ["Cost", "Cost per point"] if has_cost else []
    if has_co2e:
        columns.append(f"CO2e ({emitted_unit})")
        per = any(each is not None for each in co2e_steps)
        columns.append(f"CO2e per point ({co2e_unit})" if per else "CO2e per point")
    columns += ["FLOPs"] if has_flops else []
    columns += ["Runs"]
    columns += ["Measured", "Joined by"] if joined else []
    placed = bool(board.dominated or board.aside)
    columns += ["Place"] if placed else []

    def row(entrant: Entrant, step: FrontStep | None, place: str) -> tuple[str, ...]:
        cells = [entrant.name, value_of(board.metric, entrant.value), shown[id(entrant)]]
        cells.append(NOTHING if step is None else price_of[id(step)])
        if has_cost:
            per_point = step.cost_per_point if step is not None else None
            cells += [money(entrant.cost_nano), money(per_point or {})]
        if has_co2e:
            cells.append(emitted_of[id(entrant)])
            cells.append(NOTHING if step is None else co2e_price_of[id(step)])
        if has_flops:
            cells.append(NOTHING if entrant.flops is None else f"{entrant.flops:.3g}")
        cells.append(f"{entrant.runs:,}")
        if joined:
            cells += [measured_of(entrant), entrant.join.value]
        if placed:
            cells.append(place)
        return tuple(cells)

    rows = [row(step.entrant, step, "front") for step in board.front]
    behind, aside = board.dominated[:MOST_BEHIND], board.aside[:MOST_BEHIND]
    dim = range(len(rows), len(rows) + len(behind) + len(aside))
    rows += [row(entrant, None, f"dominated by {by.name}") for entrant, by in behind]
    rows += [row(entrant, None, "not compared") for entrant, _ in aside]
    words_ = {"Result", "Measured", "Joined by", "Place"}
    numbers = [i for i, name in enumerate(columns) if name not in words_]
    return Sheet(
        title_of(board),
        tuple(columns),
        tuple(rows),
        frozenset(numbers),
        frozenset(dim),
        tuple(_notes(board)),
    )


def _notes(board: Board) -> list[str]:
    notes = [] if board.boundary is RankBoundary.GIVEN else [f"Energy covers {board.boundary}"]
    notes += [f"{each.name} is not compared: {why}" for each, why in board.aside[:MOST_BEHIND]]
    if len(board.aside) > MOST_BEHIND:
        notes.append(f"{len(board.aside) - MOST_BEHIND:,} more are not compared")
    more = len(board.dominated) - MOST_BEHIND
    if more > 0:
        notes.append(f"{more:,} more are dominated; --format csv has them all")
    notes += [f"{e.name}: {e.hedge}" for e in board.entrants if e.hedge]
    guessed = sum(e.inferred for e in board.entrants)
    if guessed:
        notes.append(
            f"{guessed:,} joined by time and host: that this energy belongs to these results is "
            "inferred"
        )
    return notes


def _budget(board: Board, expected: Mapping[str, Sequence[Expected]]) -> Sheet:
    every = [(name, each) for name, several in expected.items() for each in several]
    unit, energies = _column([each.energy_uj for _, each in every])
    rows = [
        (name, f"{each.trials:,}", value_of(board.metric, each.value), cell)
        for (name, each), cell in zip(every, energies, strict=True)
    ]
    return Sheet(
        "Best result expected from this many runs",
        ("Experiment", "Runs", f"Expected {board.metric.name}", f"Energy ({unit})"),
        tuple(rows),
        frozenset({1, 2, 3}),
        notes=("E[V*_n] of Dodge et al. 2019, from the runs made",),
    )
