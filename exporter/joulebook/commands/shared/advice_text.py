"""Advice as text: a ranked table, and below it the evidence and the next step of each line."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from joulebook.core import units_text
from joulebook.core.money.rates import NANO
from joulebook.core.sanitize import one_line
from joulebook.core.units_text import ENERGY, in_column
from joulebook.lab.advice.advise import AdviceOut, MonthAdviceOut, SavingOut
from joulebook.lab.collected.schema import BilledOwner
from joulebook.lab.figures import FigureColumn, co2e_column
from joulebook.terminal import Column, Screen, wrap
from joulebook.units import UJ_PER_KWH

_LONGEST = 400


def show_advice(advice: MonthAdviceOut, screen: Screen, most: int | None = None) -> None:
    """Print the lines of advice, at most so many, and what is not known."""
    lines = advice.advice[:most]
    titles = [
        Column("#", right=True),
        Column("what"),
        Column("account / user / experiment", name=True),
    ]
    columns = _figures([line.saving for line in lines])
    rows = [
        [f"{n}", line.title, _owner(line), *(column.cells[n - 1] for column in columns)]
        for n, line in enumerate(lines, 1)
    ]
    if lines:
        for text in screen.table([*titles, *(Column(c.title, right=True) for c in columns)], rows):
            screen.say(text)
        screen.say()
    for n, line in enumerate(lines, 1):
        jobs = ", ".join(f"{one_line(job.job, 60)}{_cost(job.saving)}" for job in line.jobs)
        said = f"{line.evidence}. {line.next_step}" + (f" Jobs: {jobs}." if jobs else "")
        for text in wrap(one_line(said, _LONGEST * 4), screen.width, f"{n:>3}. "):
            screen.say(text)
    if rest := len(advice.advice) - len(lines):
        screen.say(f"and {rest} more: joulebook advise {advice.month}")


def show_missing(advice: MonthAdviceOut, screen: Screen) -> None:
    """Print what cannot be advised on."""
    for each in advice.missing:
        for text in wrap(one_line(each, _LONGEST), screen.width, "Not known: "):
            screen.say(text)


def _owner(line: AdviceOut) -> str:
    owner = BilledOwner("", line.account, line.user, line.experiment)
    cluster = f" ({line.cluster})" if line.cluster else ""
    return one_line(f"{owner}{cluster}", 80)


def _cost(saving: SavingOut) -> str:
    """Return the money of one job in brackets; empty: none is claimed."""
    money = [units_text.money(_units(text, NANO), c) for c, text in saving.money.items()]
    return f" ({', '.join(money)})".replace("\u202f", " ") if money else ""


def _figures(savings: Sequence[SavingOut | None]) -> list[FigureColumn]:
    """Return energy, money by currency and CO2e, each in one unit; without a claim, `-`."""
    energies = [None if s is None else _units(s.kwh, UJ_PER_KWH) or None for s in savings]
    unit, cells = in_column(energies, ENERGY)
    columns = [FigureColumn(f"energy ({unit})", cells)] if any(energies) else []
    for currency in sorted({currency for s in savings if s is not None for currency in s.money}):
        money = [
            None if s is None or currency not in s.money else _units(s.money[currency], NANO)
            for s in savings
        ]
        cells = in_column(money, ((NANO, currency),), decimals=2)[1]
        columns.append(FigureColumn(f"cost ({currency})", cells))
    co2e = [None if s is None or s.co2e_kg is None else _units(s.co2e_kg, NANO) for s in savings]
    return columns + ([co2e_column("CO2e", co2e)] if any(co2e) else [])


def _units(text: str, per: int) -> int:
    return int(Decimal(text) * per)
