"""Figures of what was booked: of an answer of the API, and columns of them for people."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple

from joulebook.core import units_text
from joulebook.core.evidence import ZERO, Amount
from joulebook.core.money.amounts import INCLUDED, Charge, Charges, Exact, Item
from joulebook.core.money.rates import NANO
from joulebook.core.report.rollup import net
from joulebook.core.units_text import decimal, in_column
from joulebook.lab.report.formats.runs_csv import cell
from joulebook.units import NS_PER_HOUR, UJ_PER_KWH

CO2E = Charge(Item.CO2E)

NOT_KNOWN = "not known"
"""What people are told of such a figure."""


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
        idle_cost: The part of it for idle time, by currency; `null`: not known, since the month
            was closed before bills had it.
        idle_hardware: The hardware's part of `idle_cost`.
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
    idle_cost: dict[str, str | None]
    idle_hardware: dict[str, str | None]
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
        _idle(idle_cost(charges)),
        _idle(idle_hardware(charges)),
        _money(charges[CO2E]) if CO2E in charges else None,
    )


IdleCost = Mapping[str, Exact | None]
"""The part of a cost for idle time, by currency; `None`: not known (see `Item.IDLE_UNKNOWN`)."""


def idle_cost(charges: Charges, of: Collection[Item] = INCLUDED) -> IdleCost:
    """Return what idle time cost, electricity and hardware together, by currency."""
    found: dict[str, Exact] = {}
    for (item, currency), amount in charges.items():
        if item in of:
            found[currency] = found.get(currency, Exact()).plus(amount)
    unknown = {currency for item, currency in charges if item is Item.IDLE_UNKNOWN}
    return found | dict.fromkeys(unknown)


def idle_hardware(charges: Charges) -> IdleCost:
    """Return what hardware cost while it was allocated but idle, by currency."""
    return idle_cost(charges, {Item.IDLE_HARDWARE})


def _idle(costs: IdleCost) -> dict[str, str | None]:
    return {name: None if cost is None else _money(cost) for name, cost in sorted(costs.items())}


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
        FigureColumn(f"{title} ({currency})", _money_cells(rows, currency, sign=sign))
        for currency in currencies
    ]


def idle_text(idle_uj: int, charges: Charges) -> str:
    """Return the energy and cost of idle time: `2 kWh, 3.20 EUR (2.80 EUR of it hardware)`."""
    hardware = idle_hardware(charges)
    costs = [
        f"cost {NOT_KNOWN}" if cost is None else units_text.money(cost.floor, currency)
        + (f" ({units_text.money(of_it.floor, currency)} of it hardware)"
           if (of_it := hardware.get(currency)) else "")
        for currency, cost in sorted(idle_cost(charges).items())
    ]  # fmt: skip
    return ", ".join([units_text.energy(idle_uj), *costs])


def idle_columns(rows: Sequence[Charges]) -> list[FigureColumn]:
    """Return the cost of idle time and its hardware, one column per currency; none if there is
    none.
    """
    return [
        FigureColumn(f"{title} ({currency})", [
            NOT_KNOWN if currency in row and row[currency] is None else cell
            for row, cell in zip(costs, _money_cells(costs, currency), strict=True)
        ])
        for title, of in (("cost of idle time", idle_cost), ("hardware of it", idle_hardware))
        for costs in [[of(row) for row in rows]]
        for currency in sorted({currency for row in costs for currency in row})
    ]  # fmt: skip


def _money_cells(rows: Sequence[IdleCost], currency: str, sign: str = "") -> list[str]:
    amounts = [None if (cost := row.get(currency)) is None else cost.floor for row in rows]
    return in_column(amounts, ((NANO, currency),), decimals=2, sign=sign)[1]


def co2e_column(title: str, ug: Sequence[int | None], sign: str = "") -> FigureColumn:
    """Return CO2e, all in one unit."""
    unit, cells = in_column(ug, units_text.CO2E, sign=sign)
    known = any(value is not None for value in ug)
    return FigureColumn(f"{title} ({unit})" if known else title, cells)
