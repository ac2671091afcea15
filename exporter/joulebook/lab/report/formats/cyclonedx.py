"""CycloneDX 1.6 and 1.7: `environmentalConsiderations` of a machine learning model's card.

https://cyclonedx.org/docs/1.6/json/: one entry for each stage, in kWh and t CO2eq.
"""

from __future__ import annotations

import json
import uuid
from typing import Any

from joulebook import __version__
from joulebook.core.sanitize import one_line
from joulebook.lab.report.model import StageRow, Statement
from joulebook.lab.report.wording import NOT_KNOWN, hosts_share, significant

SPEC_VERSION = "1.6"
"""1.7 has the same objects."""

_SPACE = uuid.UUID("3b1b5e5e-0d0a-4f0e-9a55-6f2c6a3d1f10")
_KG_PER_T = 1_000

ACTIVITIES = {
    "data-collection": "data-collection",
    "data-preparation": "data-preparation",
    "training": "training",
    "pre-training": "training",
    "pretraining": "training",
    "mid-training": "training",
    "midtraining": "training",
    "not stated": "training",
    "sft": "fine-tuning",
    "rl": "fine-tuning",
    "rlhf": "fine-tuning",
    "dpo": "fine-tuning",
    "post-training": "fine-tuning",
    "fine-tuning": "fine-tuning",
    "finetuning": "fine-tuning",
    "evaluation": "validation",
    "validation": "validation",
    "inference": "inference",
}
"""The activity for the word of an author in lower case; for any other word it is `other`."""


def activity(stage: str) -> str:
    """Return the activity of a stage."""
    return ACTIVITIES.get(stage.lower(), "other")


def render(statement: Statement) -> str:
    """Return a bill of materials with one model."""
    return json.dumps(document(statement), indent=2, allow_nan=False) + "\n"


def document(statement: Statement) -> dict[str, Any]:
    """Return it as it is encoded."""
    number = uuid.uuid5(_SPACE, f"{statement.title}\0{statement.made_utc}")
    stages = [_consumed(statement, row) for row in statement.stages.rows]
    return {
        "$schema": f"http://cyclonedx.org/schema/bom-{SPEC_VERSION}.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": SPEC_VERSION,
        "serialNumber": f"urn:uuid:{number}",
        "version": 1,
        "metadata": {
            "timestamp": statement.made_utc,
            "tools": {
                "components": [{"type": "application", "name": "joulebook", "version": __version__}]
            },
        },
        "components": [
            {
                "type": "machine-learning-model",
                "bom-ref": "model",
                "name": one_line(statement.title, 200),
                "modelCard": {
                    "considerations": {
                        "environmentalConsiderations": {
                            "energyConsumptions": stages,
                            "properties": _properties(statement),
                        }
                    }
                },
            }
        ],
    }


def _consumed(statement: Statement, row: StageRow) -> dict[str, Any]:
    boundary = "machines, without PUE" if row.facility_kwh is None else "facility"
    hosts = hosts_share(statement)
    kwh = row.energy_kwh if row.facility_kwh is None else row.facility_kwh
    energy = {"value": significant(kwh), "unit": "kWh"}
    found: dict[str, Any] = {
        "activity": activity(row.stage),
        "energyProviders": [
            {
                "description": "the electricity grid",
                "organization": {"name": one_line(statement.carbon.zone or NOT_KNOWN, 200)},
                "energySource": "unknown",
                "energyProvided": energy,
            }
        ],
        "activityEnergyCost": energy,
        "properties": _named(
            stage=row.stage,
            runs=row.runs,
            gpu_hours=f"{row.gpu_hours:.6g}",
            boundary=boundary + (f", {hosts}" if hosts else ""),
            water_l=None if row.water_l is None else f"{row.water_l:.6g}",
        ),
    }
    if row.co2e_kg is not None:
        found["co2CostEquivalent"] = {
            "value": significant(row.co2e_kg / _KG_PER_T),
            "unit": "tCO2eq",
        }
    return found


def _properties(statement: Statement) -> list[dict[str, str]]:
    quality = statement.quality
    return _named(
        measured="no: a recorded trace" if statement.recorded_trace else "yes",
        uncertainty_percent=f"{quality.uncertainty.value or 0:.3g}",
        coverage_percent=None
        if quality.coverage.value is None
        else f"{quality.coverage.value:.4g}",
        hosts_measured_percent=f"{quality.host.value or 0:.4g}",
        intensity_is_default="yes" if statement.carbon.location_based.default else "no",
    )


def _named(**values: object) -> list[dict[str, str]]:
    return [
        {"name": f"joulebook:{name}", "value": one_line(str(value), 200)}
        for name, value in values.items()
        if value is not None
    ]
