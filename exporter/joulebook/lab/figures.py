"""Figures of what was booked: of an answer of the API, and columns of them for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple

from joulebook.core import units_text
from joulebook.core.evidence import ZERO, Amount
from joulebook.core.money.amounts import IDLE_PARTS, Charge, Charges, Exact, Item
from joulebook.core.money.rates import NANO
from joulebook.core.report.rollup import net
from joulebook.core.units_text import decimal, in_column
from joulebook.lab.report.formats.runs_csv import cell
from joulebook.units import NS_PER_HOUR, UJ_PER_KWH

CO2E = Charge(Item.CO2E)


@dataclass(frozen=True)
class Figures:
    """Energy, GPU time, money and CO2e.

    Attributes:
        energy_uj: Energy as booked, in microjoules, all components together.
        energy_uj_by_component: The same by component: `gpu`, `cpu`, `dram`, `other`.
        idle_uj: The part of it consumed while the GPU was held and did no work.
        held_ns: GPU time held, in nanoseconds.
        idle_ns: The part of it in which the GPU did no work.
        energy_kwh: `energy_uj` in kWh, floored to nine digits.
        gpu_hours: `held_ns` in hours, floored to nine digits.
        cost: Electricity, less credits, and hardware, by currency.
        idle_cost: The part of it for idle time, by currency.
        co2e_kg: CO2e in kilograms; `null`: no intensity is known.

    """

    energy_uj: int
    energy_uj_by_component: dict[str, int]
    idle_uj: int
    held_ns: int
    idle_ns: int
    energy_kwh: str
    gpu_hours: str
    cost: dict[str, str]
    idle_cost: dict[str, str]
    co2e_kg: str | None

    def cells(self) -> dict[str, str]:
        """Return them as cells of a row; names of currencies go into those of columns."""
        row = {"energy_uj": str(self.energy_uj), "idle_uj": str(self.idle_uj)}
        row |= {"energy_kwh": self.energy_kwh, "gpu_hours": self.gpu_hours}
        row |= {f"cost_{cell(currency)}": value for currency, value in self.cost.items()}
        return row | {"co2e_kg": self.co2e_kg or ""}


def added(by_component: Mapping[str, Amount]) -> Amount:
    """Return the sum over all components."""
    return reduce(Amount.plus, by_component.values(), ZERO)


def figures(by_component: Mapping[str, Amount], charges: Charges) -> Figures:
    """Return the figures of what was booked and charged."""
    amount = added(by_component)
    return Figures(
        amount.energy_uj,
        {name: by_component[name].energy_uj for name in sorted(by_component)},
        amount.idle_uj,
        amount.held_ns,
        amount.idle_ns,
        decimal(amount.energy_uj, UJ_PER_KWH),
        decimal(amount.held_ns, NS_PER_HOUR),
        {currency: _money(value) for currency, value in sorted(net(charges).items())},
        {currency: _money(value) for currency, value in sorted(idle_cost(charges).items())},
        _money(charges[CO2E]) if CO2E in charges else None,
    )


def idle_cost(charges: Charges) -> dict[str, Exact]:
    """Return what idle time cost, electricity and hardware together, by currency."""
    found: dict[str, Exact] = {}
    for (item, currency), amount in charges.items():
        if item in IDLE_PARTS.values():
            found[currency] = found.get(currency, Exact()).plus(amount)
    return found


def _money(amount: Exact) -> str:
    return decimal(amount.floor, NANO)


class FigureColumn(NamedTuple):
    """A column of figures: its title, with the unit of all, and a cell for each row."""

    title: str
    cells: list[str]


def charges(rows: Sequence[Charges], suffix: str = "") -> list[FigureColumn]:
    """Return cost by currency and CO2e, one column each; `suffix` goes into their titles."""
    costs = [net(bill) for bill in rows]
    emitted = [bill[CO2E].floor if CO2E in bill else None for bill in rows]
    return [*money_columns(f"cost{suffix}", costs), co2e_column(f"CO2e{suffix}", emitted)]


def money_columns(
    title: str, rows: Sequence[Mapping[str, Exact]], sign: str = ""
) -> list[FigureColumn]:
    """Return money, one column per currency."""
    currencies = sorted({currency for row in rows for currency in row})
    if not currencies:
        return [FigureColumn(title, ["-"] * len(rows))]
    return [
        FigureColumn(f"{title} ({currency})", in_column(
            [row[currency].floor if currency in row else None for row in rows],
            ((NANO, currency),), decimals=2, sign=sign,
        )[1])
        for currency in currencies
    ]  # fmt: skip


def co2e_column(title: str, ug: Sequence[int | None], sign: str = "") -> FigureColumn:
    """Return CO2e, all in one unit."""
    unit, cells = in_column(ug, units_text.CO2E, sign=sign)
    known = any(value is not None for value in ug)
    return FigureColumn(f"{title} ({unit})" if known else title, cells)
