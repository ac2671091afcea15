"""The metadata of a Hugging Face model card: `co2_eq_emissions`, in grams.

https://huggingface.co/docs/hub/model-cards-co2
"""

from __future__ import annotations

from typing import Any

import yaml

from joulebook.core.sanitize import one_line
from joulebook.errors import ConfigError
from joulebook.lab.report.cost_carbon import G_PER_KG
from joulebook.lab.report.model import Statement
from joulebook.lab.report.wording import hosts_share, number, run_count, significant


def render(statement: Statement) -> str:
    """Return the metadata between its dashes. Raises `ConfigError` if CO2e is not known."""
    kg = statement.carbon.location_based
    if kg.value is None:
        raise ConfigError(
            f"--format hf: CO2e is not known ({kg.unknown}); set rates.carbon and rates.pue in a "
            "file and name it with --rates"
        )
    emissions: dict[str, Any] = {
        "emissions": significant(kg.value * G_PER_KG),
        "source": _source(statement),
    }
    if statement.card.training_type:
        emissions["training_type"] = one_line(statement.card.training_type)
    if statement.inventory.region or statement.carbon.zone:
        region = statement.inventory.region or statement.carbon.zone or ""
        emissions["geographical_location"] = one_line(region, 200)
    hardware = ", ".join(
        f"{gpu.count} x {gpu.model}" if gpu.count else gpu.model for gpu in statement.inventory.gpus
    )
    if hardware:
        emissions["hardware_used"] = one_line(hardware, 200)
    text: str = yaml.safe_dump(
        {"co2_eq_emissions": emissions}, sort_keys=False, allow_unicode=True, width=2_000
    )
    return f"---\n{text}---\n"


def _source(statement: Statement) -> str:
    energy = statement.energy
    facility = energy.facility if energy.facility.value is not None else energy.it
    of = "facility" if energy.facility.value is not None else "machines"
    how = "recorded trace, not measured" if statement.recorded_trace else "measured"
    hosts = f", {share}" if (share := hosts_share(statement)) else ""
    mark = ", by a default carbon intensity" if statement.carbon.location_based.default else ""
    return (
        f"{statement.made_by}: {how}, {number(facility.value or 0)} kWh of the {of} over "
        f"{run_count(statement.counts.total)}{hosts}{mark}"
    )
