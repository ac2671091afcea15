"""Jobs as advice sees them."""

from __future__ import annotations

from typing import Any

import msgspec

from joulebook.core.evidence import Amount
from joulebook.core.money.amounts import Charge, Charges, Exact, Item
from joulebook.core.workloads import Labels
from joulebook.lab.advice.model import CardUse, JobUse
from joulebook.units import NS_PER_HOUR, UJ_PER_KWH

START_S = 1_800_000_000 // 86_400 * 86_400
ADA = Labels("ada", "nlp", "bert")


def charges(**euros: int) -> Charges:
    """Money by item, and CO2e in kg."""
    return {
        Charge(Item(name), "" if name == "co2e" else "EUR"): Exact(amount)
        for name, amount in euros.items()
    }


def job(shown: str = "101", **more: Any) -> JobUse:
    """A job of an hour on one GPU that was never idle."""
    usual = JobUse(
        shown=shown,
        labels=ADA,
        scheduler="slurm",
        gpu_count=1,
        started_s=START_S,
        ended_s=START_S + 3600,
        whole=True,
        gpu=Amount(UJ_PER_KWH, 0, NS_PER_HOUR, 0),
        energy_uj=UJ_PER_KWH,
    )
    return msgspec.structs.replace(usual, **more)


def card(held_h: float, idle_h: float, after_h: float = 0.0) -> CardUse:
    """A card that draws 1 kW at work and 0.1 kW when idle."""
    idle_uj, after_uj = (int(h * UJ_PER_KWH / 10) for h in (idle_h, after_h))
    times = [int(h * NS_PER_HOUR) for h in (held_h, idle_h, after_h)]
    energy_uj = int((held_h - idle_h) * UJ_PER_KWH) + idle_uj
    return CardUse(energy_uj, idle_uj, times[0], times[1], after_uj, times[2])
