"""Charges as text and as JSON, the same in every view of a job or an experiment."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from joulebook.core import units_text
from joulebook.core.evidence import Amount
from joulebook.core.money.amounts import IDLE_PARTS, Charge, Charges, Exact, Item
from joulebook.core.money.rates import NANO, UG_PER_G
from joulebook.core.report.rollup import net
from joulebook.core.units_text import ENERGY, in_column
from joulebook.units import NS_PER_HOUR

CO2E = Charge(Item.CO2E)

NO_RATES = "not known: no rates are set"


def came_to(bill: Charges) -> str:
    """Format money and CO2e: `9.27 EUR, 14.9 kg CO2e`; empty if neither was charged."""
    said = [
        units_text.money(amount.floor, currency) for currency, amount in sorted(net(bill).items())
    ]
    if CO2E in bill:
        said.append(f"{units_text.co2e(bill[CO2E].floor)} CO2e")
    return ", ".join(said).replace("\u202f", " ")


class Figures(NamedTuple):
    """A column of figures: its title, with the unit of all, and a cell for each row."""

    title: str
    cells: list[str]


def figures(rows: Sequence[tuple[Amount, Charges]]) -> list[Figures]:
    """Return energy, GPU-hours, cost and CO2e of some rows, one column each."""
    unit, energies = in_column([amount.energy_uj for amount, _ in rows], ENERGY)
    held = [amount.held_ns or None for amount, _ in rows]
    _, hours = in_column(held, ((NS_PER_HOUR, ""),), decimals=2)
    return [
        Figures(f"energy ({unit})", energies),
        Figures("GPU-hours", hours),
        *charges([bill for _, bill in rows]),
    ]


def charges(rows: Sequence[Charges], suffix: str = "") -> list[Figures]:
    """Return cost by currency and CO2e, one column each; `suffix` goes into their titles."""
    costs = [net(bill) for bill in rows]
    emitted = [bill[CO2E].floor if CO2E in bill else None for bill in rows]
    return [*money_columns(f"cost{suffix}", costs), co2e_column(f"CO2e{suffix}", emitted)]


def money_columns(title: str, rows: Sequence[Mapping[str, Exact]], sign: str = "") -> list[Figures]:
    """Return money, one column per currency."""
    currencies = sorted({currency for row in rows for currency in row})
    if not currencies:
        return [Figures(title, ["-"] * len(rows))]
    return [
        Figures(f"{title} ({currency})", in_column(
            [row[currency].floor if currency in row else None for row in rows],
            ((NANO, currency),), decimals=2, sign=sign,
        )[1])
        for currency in currencies
    ]  # fmt: skip


def co2e_column(title: str, ug: Sequence[int | None], sign: str = "") -> Figures:
    """Return CO2e, all in one unit."""
    unit, cells = in_column(ug, units_text.CO2E, sign=sign)
    known = any(value is not None for value in ug)
    return Figures(f"{title} ({unit})" if known else title, cells)


def as_object(bill: Charges) -> dict[str, Any]:
    """Return cost by currency and kind, its idle part, and CO2e in g (`null`: none charged)."""
    idle = set(IDLE_PARTS.values())

    def money(items: Callable[[Item], bool]) -> dict[str, float]:
        return {
            f"{item}_{currency}": amount.floor / NANO
            for (item, currency), amount in sorted(bill.items())
            if currency and items(item)
        }

    return {
        "cost": {currency: amount.floor / NANO for currency, amount in net(bill).items()},
        "by_kind": money(lambda item: item not in idle),
        "idle_by_kind": money(lambda item: item in idle),
        "co2e_grams": bill[CO2E].floor / UG_PER_G if CO2E in bill else None,
    }
