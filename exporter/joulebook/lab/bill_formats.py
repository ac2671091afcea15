"""A bill as CSV and as JSON, the same from the command line and the lab server."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any

from joulebook.core.money.amounts import IDLE_PARTS, INCLUDED, NOTHING, Charge, Charges, Exact, Item
from joulebook.core.money.rates import NANO
from joulebook.core.report.rollup import net
from joulebook.core.units_text import decimal
from joulebook.lab.advice.advise import MonthAdviceOut
from joulebook.lab.collected import bills, months
from joulebook.lab.collected.bills import BillLine, MonthBill
from joulebook.lab.collected.schema import BilledOwner
from joulebook.lab.figures import CO2E
from joulebook.lab.report.formats.runs_csv import cell
from joulebook.units import NS_PER_HOUR, UJ_PER_KWH

COLUMNS = (
    "month", "account", "user", "experiment", "remainder", "entry", "late_for", "correction",
    "energy_kwh", "idle_kwh", "gpu_hours", "currency", "electricity", "credit", "hardware", "cost",
    "co2e_kg", "idle_gpu_hours", "idle_electricity", "idle_hardware",
)  # fmt: skip


def entry(line: BillLine) -> str:
    """Describe why a line is there: empty, late for a month, or a correction."""
    if line.correction:
        return f"correction {line.correction}"
    return f"late, of {months.shown(line.late_for)}" if line.late_for else ""


def as_csv(bill: MonthBill) -> str:
    """Return the bill as CSV: a line per owner, entry and currency; decimals exact to 1e-9."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for line in bill.lines:
        amount, _ = bills.total([line])
        currencies = sorted({charge.currency for charge in line.billed} - {""}) or [""]
        for currency in currencies:
            row = {
                key: cell(value) if isinstance(value, str) else value
                for key, value in _fields(bill, line).items()
            }
            # Each row has the money of its currency; only the first has the rest.
            first = currency == currencies[0]
            row |= {
                "energy_kwh": decimal(amount.energy_uj, UJ_PER_KWH) if first else "",
                "idle_kwh": decimal(amount.idle_uj, UJ_PER_KWH) if first else "",
                "gpu_hours": decimal(amount.held_ns, NS_PER_HOUR) if first else "",
                "currency": currency,
                **{
                    item.value: _money(line.billed.get(Charge(item, currency)))
                    for item in (Item.ELECTRICITY, Item.CREDIT, Item.HARDWARE)
                },
                "cost": _money(net(line.billed).get(currency)),
                "co2e_kg": _money(line.billed.get(CO2E)) if first else "",
                "idle_gpu_hours": decimal(amount.idle_ns, NS_PER_HOUR) if first else "",
                **{
                    item: "" if value is None else _money(value)
                    for item, value in _idle_parts(line.billed, currency).items()
                },
            }
            writer.writerow(row)
    return out.getvalue().rstrip("\n")


def as_json(bill: MonthBill, measured: Mapping[BilledOwner, float], advice: MonthAdviceOut) -> str:
    """Return the bill as a JSON object, with the ledger's integers next to the decimals."""
    return json.dumps(
        {
            "version": 1,
            "month": months.shown(bill.month),
            "account": bill.account or None,
            "closed_utc_s": bill.closed_s,
            "closed_by": bill.closed_by or None,
            "lines": [{**_fields(bill, line), **_figures([line])} for line in bill.lines],
            "measured": [
                {"account": who.account, "user": who.person, "experiment": who.experiment,
                 "coverage": share}
                for who, share in sorted(measured.items())
            ],
            "accounts": {
                account: _figures(list(lines))
                for account, lines in groupby(bill.lines, key=lambda line: line.owner.account)
                if account
            },
            "total": _figures(bill.lines),
            "corrections": [
                {"correction": c.number, "made_utc_s": c.made_s, "kind": c.kind, "who": c.who,
                 "why": c.why}
                for c in bill.corrections
            ],
            "advice": [asdict(line) for line in advice.advice],
        },
        indent=2,
    )  # fmt: skip


def _fields(bill: MonthBill, line: BillLine) -> dict[str, Any]:
    return {
        "month": months.shown(bill.month),
        "account": line.owner.account,
        "user": line.owner.person,
        "experiment": line.owner.experiment,
        "remainder": line.owner.remainder,
        "entry": "correction" if line.correction else "late" if line.late_for else "usage",
        "late_for": months.shown(line.late_for) if line.late_for else "",
        "correction": line.correction or "",
    }


def _figures(lines: Sequence[BillLine]) -> dict[str, Any]:
    amount, paid = bills.total(lines)
    components: dict[str, int] = {}
    for line in lines:
        for component, more in line.used.items():
            components[component] = components.get(component, 0) + more.energy_uj
    return {
        "energy_uj": amount.energy_uj,
        "energy_uj_by_component": components,
        "idle_uj": amount.idle_uj,
        "idle_ns": amount.idle_ns,
        "held_ns": amount.held_ns,
        "energy_kwh": decimal(amount.energy_uj, UJ_PER_KWH),
        "cost": {currency: _money(sum_) for currency, sum_ in sorted(net(paid).items())},
        "billed": [
            {
                "item": item.value,
                "currency": currency,
                "amount": _money(value),
                "atoms": value.atoms,
            }
            for (item, currency), value in sorted(paid.items())
            if item not in INCLUDED
        ],
        "idle_cost": {
            f"{item}_{currency}": None if value is None else _money(value)
            for currency in sorted({currency for _, currency in paid} - {""})
            for item, value in _idle_parts(paid, currency).items()
        },
        "co2e_kg": _money(paid.get(CO2E)) or None,
    }


def _idle_parts(paid: Charges, currency: str) -> dict[str, Exact | None]:
    """Return the part for idle time of each item in a currency; `None`: not known."""
    known = Charge(Item.IDLE_UNKNOWN, currency) not in paid
    return {
        part: paid.get(Charge(part, currency), NOTHING) if known else None
        for item, part in IDLE_PARTS.items()
        if Charge(item, currency) in paid
    }


def _money(amount: Exact | None) -> str:
    return "" if amount is None else decimal(amount.floor, NANO)
