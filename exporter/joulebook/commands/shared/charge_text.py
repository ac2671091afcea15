"""What was charged, in words and for programs: the same in every view of a job or an experiment."""

from __future__ import annotations

from typing import Any

from joulebook.core import units_text
from joulebook.core.money.amounts import Charge, Charges, Item
from joulebook.core.money.rates import NANO, UG_PER_G
from joulebook.core.report.rollup import net

CO2E = Charge(Item.CO2E)

NO_RATES = "not known: no rates are set"


def came_to(bill: Charges) -> str:
    """Money and CO2e: `9.27 EUR, 14.9 kg CO2e`; empty if neither was charged."""
    said = [
        units_text.money(amount.floor, currency) for currency, amount in sorted(net(bill).items())
    ]
    if CO2E in bill:
        said.append(f"{units_text.co2e(bill[CO2E].floor)} CO2e")
    return ", ".join(said).replace("\u202f", " ")


def as_object(bill: Charges) -> dict[str, Any]:
    """Cost by currency, also by kind, and CO2e in g (`null`: none was charged)."""
    return {
        "cost": {currency: amount.floor / NANO for currency, amount in net(bill).items()},
        "by_kind": {
            f"{item}_{currency}": amount.floor / NANO
            for (item, currency), amount in sorted(bill.items())
            if currency
        },
        "co2e_grams": bill[CO2E].floor / UG_PER_G if CO2E in bill else None,
    }
