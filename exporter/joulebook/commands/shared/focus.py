"""Rows of a bill by FOCUS 1.0, the FinOps Open Cost and Usage Specification.

https://focus.finops.org/focus-specification/v1-0/: a row for each owner, kind of cost and currency.
What the specification allows to be null and no lab has (discounts, SKUs, lists of prices) is empty.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime

from joulebook.core.money.amounts import IDLE_PARTS, Charge, Exact, Item
from joulebook.core.money.rates import NANO
from joulebook.core.units_text import decimal
from joulebook.lab.collected import bills
from joulebook.lab.collected.bills import BillLine, MonthBill
from joulebook.lab.collected.months import after, begin_s
from joulebook.lab.report.formats.runs_csv import cell
from joulebook.units import NS_PER_HOUR, UJ_PER_KWH

COLUMNS = (
    "AvailabilityZone", "BilledCost", "BillingAccountId", "BillingAccountName", "BillingCurrency",
    "BillingPeriodEnd", "BillingPeriodStart", "ChargeCategory", "ChargeClass", "ChargeDescription",
    "ChargeFrequency", "ChargePeriodEnd", "ChargePeriodStart", "CommitmentDiscountCategory",
    "CommitmentDiscountId", "CommitmentDiscountName", "CommitmentDiscountStatus",
    "CommitmentDiscountType", "ConsumedQuantity", "ConsumedUnit", "ContractedCost",
    "ContractedUnitPrice", "EffectiveCost", "InvoiceIssuerName", "ListCost", "ListUnitPrice",
    "PricingCategory", "PricingQuantity", "PricingUnit", "ProviderName", "PublisherName",
    "RegionId", "RegionName", "ResourceId", "ResourceName", "ResourceType", "ServiceCategory",
    "ServiceName", "SkuId", "SkuPriceId", "SubAccountId", "SubAccountName", "Tags",
)  # fmt: skip

_DESCRIPTIONS = {
    Item.ELECTRICITY: "Electricity of GPU jobs, with PUE",
    Item.CREDIT: "Credit for electricity at a price below zero",
    Item.HARDWARE: "GPUs held, by the hour",
}
_LAB = "lab"
_PROVIDER = "Joulebook"


def as_focus(bill: MonthBill) -> str:
    """Return the rows in CSV; decimals are exact to 1e-9."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for line in bill.lines:
        for charge, amount in sorted(line.billed.items()):
            if charge.currency and charge.item not in IDLE_PARTS.values():
                writer.writerow(dict(_row(bill, line, charge, amount)))
    return out.getvalue().rstrip("\n")


def _row(
    bill: MonthBill, line: BillLine, charge: Charge, amount: Exact
) -> Iterator[tuple[str, str]]:
    owner, used = line.owner, bills.total([line])[0]
    cost = decimal(-amount.floor if charge.item is Item.CREDIT else amount.floor, NANO)
    held = charge.item is Item.HARDWARE
    quantity = decimal(*((used.held_ns, NS_PER_HOUR) if held else (used.energy_uj, UJ_PER_KWH)))
    consumed = line.late_for or bill.month
    corrected = bool(line.correction or line.late_for)
    account = owner.account or f"({owner.remainder or 'none'})"
    yield "BilledCost", cost
    yield "BillingAccountId", _LAB
    yield "BillingAccountName", _LAB
    yield "BillingCurrency", charge.currency
    yield "BillingPeriodStart", _utc(begin_s(bill.month))
    yield "BillingPeriodEnd", _utc(begin_s(after(bill.month)))
    yield "ChargeCategory", "Credit" if charge.item is Item.CREDIT else "Usage"
    # FOCUS has no other class: an entry for a month that was already closed.
    yield "ChargeClass", "Correction" if corrected else ""
    yield "ChargeDescription", _DESCRIPTIONS[charge.item]
    yield "ChargeFrequency", "Usage-Based"
    yield "ChargePeriodStart", _utc(begin_s(consumed))
    yield "ChargePeriodEnd", _utc(begin_s(after(consumed)))
    if charge.item is not Item.CREDIT:
        yield "ConsumedQuantity", quantity
        yield "ConsumedUnit", "GPU-Hours" if held else "kWh"
        yield "PricingQuantity", quantity
        yield "PricingUnit", "GPU-Hours" if held else "kWh"
        yield "PricingCategory", "Standard" if held else "Dynamic"
    yield "ContractedCost", cost
    yield "EffectiveCost", cost
    yield "ListCost", cost
    yield "InvoiceIssuerName", _LAB
    yield "ProviderName", _PROVIDER
    yield "PublisherName", _PROVIDER
    yield "ServiceCategory", "AI and Machine Learning"
    yield "ServiceName", "GPU cluster"
    yield "ResourceId", cell("/".join(filter(None, (account, owner.person, owner.experiment))))
    yield "ResourceName", cell(owner.experiment)
    yield "ResourceType", "experiment" if owner.experiment else "remainder"
    yield "SubAccountId", cell(account)
    yield "SubAccountName", cell(account)
    tags = {"user": owner.person, "experiment": owner.experiment, "remainder": owner.remainder}
    yield "Tags", json.dumps({name: text for name, text in tags.items() if text})


def _utc(utc_s: int) -> str:
    return datetime.fromtimestamp(utc_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
