"""Charges as text and as JSON, the same in every view of a job or an experiment."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from joulebook.commands.shared.text import gpu_hours, is_partial, moment, percent
from joulebook.core import units_text
from joulebook.core.evidence import Amount
from joulebook.core.money.amounts import INCLUDED, Charges, Item
from joulebook.core.money.rates import NANO, UG_PER_G
from joulebook.core.report.rollup import net
from joulebook.core.sanitize import one_line
from joulebook.core.units_text import ENERGY, in_column
from joulebook.lab.bill_formats import entry
from joulebook.lab.collected import bills, months
from joulebook.lab.collected.bills import MonthBill, PeriodSum
from joulebook.lab.collected.schema import BilledOwner
from joulebook.lab.figures import CO2E, FigureColumn, added, charges, idle_text
from joulebook.terminal import Column, Screen, wrap
from joulebook.units import NS_PER_HOUR

NO_RATES = "not known: no rates are set"


def came_to(bill: Charges) -> str:
    """Format money and CO2e: `9.27 EUR, 14.9 kg CO2e`; empty if neither was charged."""
    said = [
        units_text.money(amount.floor, currency) for currency, amount in sorted(net(bill).items())
    ]
    if CO2E in bill:
        said.append(f"{units_text.co2e(bill[CO2E].floor)} CO2e")
    return ", ".join(said).replace("\u202f", " ")


def figures(
    rows: Sequence[tuple[Amount, Charges]], held_ns: Sequence[int] | None = None
) -> list[FigureColumn]:
    """Return energy, GPU-hours, cost and CO2e of some rows, one column each.

    GPU-hours are `held_ns` where that is given, with the share of them for which energy is known
    if that is not all in every row.
    """
    unit, energies = in_column([amount.energy_uj for amount, _ in rows], ENERGY)
    booked = [amount.held_ns for amount, _ in rows]
    held = booked if held_ns is None else list(held_ns)
    _, hours = in_column([ns or None for ns in held], ((NS_PER_HOUR, ""),), decimals=2)
    known = []
    if any(map(is_partial, booked, held)):
        known = [FigureColumn("measured", list(map(percent, booked, held)))]
    return [
        FigureColumn(f"energy ({unit})", energies),
        FigureColumn("GPU-hours", hours),
        *known,
        *charges([bill for _, bill in rows]),
    ]


def as_object(bill: Charges) -> dict[str, Any]:
    """Return cost by currency and kind, its idle part, and CO2e in g (`null`: none charged)."""

    def money(items: Callable[[Item], bool]) -> dict[str, float]:
        return {
            f"{item}_{currency}": amount.floor / NANO
            for (item, currency), amount in sorted(bill.items())
            if currency and items(item)
        }

    return {
        "cost": {currency: amount.floor / NANO for currency, amount in net(bill).items()},
        "by_kind": money(lambda item: item not in INCLUDED),
        "idle_by_kind": money(lambda item: item in INCLUDED),
        "co2e_grams": bill[CO2E].floor / UG_PER_G if CO2E in bill else None,
    }


def show_bill(bill: MonthBill, screen: Screen, measured: Mapping[BilledOwner, float]) -> None:
    """Print the bill as a table, with late entries and corrections below it.

    `measured` has the owners for whose GPU time energy is not known throughout.
    """
    state = (
        f"closed on {moment(bill.closed_s)} by {one_line(bill.closed_by)}"
        if bill.closed_s
        else "open"
    )
    whose = f", account {one_line(bill.account)}" if bill.account else ""
    screen.say(f"Bill of {months.shown(bill.month)}{whose}: {state}")
    screen.say()
    if not bill.lines:
        screen.say(f"Nothing was billed{whose and ' to it'} in this month.")
        return
    rows: list[tuple[str, str, tuple[Amount, Charges]]] = []
    for account, of_account in groupby(bill.lines, key=lambda line: line.owner.account):
        lines = list(of_account)
        rows += [
            (one_line(str(line.owner), 80), entry(line), bills.total([line])) for line in lines
        ]
        if account and 1 < len(lines) < len(bill.lines):
            rows.append((f"{one_line(account, 60)}, total", "", bills.total(lines)))
    rows.append(("total", "", bills.total(bill.lines)))
    for text in _table(("account / user / experiment", "entry"), rows, screen):
        screen.say(text)
    held, paid = bills.total([line for line in bill.lines if not line.owner.remainder])
    if held.held_ns:
        screen.say()
        said = f"Allocated but idle: {gpu_hours(held.idle_ns)}, {idle_text(held.idle_uj, paid)}"
        screen.say(said.replace("\u202f", " "))
    if measured or bill.corrections:
        screen.say()
    for who, share in sorted(measured.items()):
        shown = units_text.percent(share).replace("\u202f", " ")
        said = (
            f"{one_line(str(who), 80)}: measured for {shown} of the GPU time held: "
            "energy, cost and CO2e are lower bounds"
        )
        for text in wrap(said, screen.width):
            screen.say(text)
    for each in bill.corrections:
        said = (
            f"Correction {each.number} ({each.kind}), {moment(each.made_s)}, "
            f"{one_line(each.who)}: {one_line(each.why, 200)}"
        )
        for text in wrap(said, screen.width):
            screen.say(text)


def _table(
    titles: tuple[str, str], rows: Sequence[tuple[str, str, tuple[Amount, Charges]]], screen: Screen
) -> list[str]:
    """Return the columns: names, kind of entry (if any), and figures."""
    columns = figures([total for _, _, total in rows])
    names = [Column(titles[0], name=True)]
    cells = [[name for name, _, _ in rows]]
    if any(what for _, what, _ in rows):
        names.append(Column(titles[1], name=True))
        cells.append([what for _, what, _ in rows])
    return screen.table(
        [*names, *(Column(each.title, right=True) for each in columns)],
        list(zip(*cells, *(each.cells for each in columns), strict=True)),
    )


def show_periods(periods: Iterable[PeriodSum], screen: Screen) -> None:
    """Print all months with their totals so far."""
    rows = [
        (
            months.shown(period.month),
            "open" if period.closed_s is None else f"closed {moment(period.closed_s)}",
            (added(total.used), total.billed),
        )
        for period, total in periods
    ]
    if not rows:
        screen.say("Nothing was billed yet.")
        return
    for text in _table(("month", "state"), rows, screen):
        screen.say(text)
