"""Rows of a bill by FOCUS 1.0, the FinOps Open Cost and Usage Specification.

https://focus.finops.org/focus-specification/v1-0/: a row for each owner, kind of cost and currency,
and of what an owner's served models cost, a row for each model. All rows add up to the bill.
What the specification allows to be null and no lab has (discounts, SKUs, lists of prices) is empty.
"""

from __future__ import annotations

import csv
import io
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from joulebook.core.money.amounts import INCLUDED, NOTHING, Charge, Exact, Item
from joulebook.core.money.rates import NANO
from joulebook.core.report.serving import ServedModel
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


class _FocusPart(NamedTuple):
    """A part of an owner's charge: cost (nano-units), energy, GPU time, and of which model."""

    nano: int
    energy_uj: int
    held_ns: int
    model: ServedModel | None = None


def as_focus(bill: MonthBill, models: Iterable[ServedModel] = ()) -> str:
    """Return the rows in CSV; decimals are exact to 1e-9. `models` were served in that month."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    served: dict[tuple[str, ...], list[ServedModel]] = defaultdict(list)
    for each in models:
        served[each.account, each.person, each.experiment].append(each)
    for line in bill.lines:
        theirs = [] if line.correction or line.late_for else served.get(line.owner[1:], [])
        for charge, amount in sorted(line.billed.items()):
            if charge.currency and charge.item not in INCLUDED:
                for part in _parts(line, charge, amount, theirs):
                    writer.writerow(dict(_row(bill, line, charge, part)))
    return out.getvalue().rstrip("\n")


def _parts(
    line: BillLine, charge: Charge, amount: Exact, models: Sequence[ServedModel]
) -> Iterator[_FocusPart]:
    """Yield the part of each model, and the rest of the owner's charge."""
    used = bills.total([line])[0]
    left = _FocusPart(amount.floor, used.energy_uj, used.held_ns)
    for model in models:
        cost = model.charges.get(charge, NOTHING).plus(model.idle_charges.get(charge, NOTHING))
        energy_uj = model.active_uj + sum(model.idle_uj.values())
        held_ns = used.held_ns * cost.floor // amount.floor if amount.floor else 0
        # What was moved to another owner by a correction is not there to be divided.
        if not 0 < cost.floor <= left.nano or energy_uj > left.energy_uj:
            continue
        yield _FocusPart(cost.floor, energy_uj, held_ns, model)
        left = _FocusPart(
            left.nano - cost.floor, left.energy_uj - energy_uj, left.held_ns - held_ns
        )
    if left.nano or left.nano == amount.floor:
        yield left


def _row(
    bill: MonthBill, line: BillLine, charge: Charge, part: _FocusPart
) -> Iterator[tuple[str, str]]:
    owner, model = line.owner, part.model
    cost = decimal(-part.nano if charge.item is Item.CREDIT else part.nano, NANO)
    held = charge.item is Item.HARDWARE
    quantity = decimal(*((part.held_ns, NS_PER_HOUR) if held else (part.energy_uj, UJ_PER_KWH)))
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
    names = (account, owner.person, owner.experiment, model.name if model else "")
    yield "ResourceId", cell("/".join(filter(None, names)))
    yield "ResourceName", cell(model.name if model else owner.experiment)
    kind = "experiment" if owner.experiment else "remainder"
    yield "ResourceType", "model" if model else kind
    yield "SubAccountId", cell(account)
    yield "SubAccountName", cell(account)
    tags = {"user": owner.person, "experiment": owner.experiment, "remainder": owner.remainder}
    if model:
        tags |= {"model": model.name}
        tags |= {f"{kind}": f"{count}" for kind, count in model.counts.items()}
    yield "Tags", json.dumps({name: text for name, text in tags.items() if text})


def _utc(utc_s: int) -> str:
    return datetime.fromtimestamp(utc_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
