"""SPDX 3.0.1, AI profile: `ai_energyConsumption` of a model, as JSON-LD.

https://spdx.github.io/spdx-spec/v3.0.1/model/AI/: energy of training, fine-tuning and inference.
"""

from __future__ import annotations

import json
import uuid
from typing import Any

from joulebook import __version__
from joulebook.core.sanitize import one_line
from joulebook.lab.report.formats.cyclonedx import activity
from joulebook.lab.report.model import StageRow, Statement
from joulebook.lab.report.wording import hosts_share

CONTEXT = "https://spdx.org/rdf/3.0.1/spdx-context.jsonld"
_SPACE = uuid.UUID("0c6f6a7e-44f5-4f5d-8d7e-d7b0f4f0a9a1")

_PROPERTIES = {
    "fine-tuning": "ai_finetuningEnergyConsumption",
    "inference": "ai_inferenceEnergyConsumption",
}
"""By activity; every other one, development among them, is training."""


def render(statement: Statement) -> str:
    """Return a document with one model."""
    return json.dumps(document(statement), indent=2, allow_nan=False) + "\n"


def document(statement: Statement) -> dict[str, Any]:
    """Return it as it is encoded."""
    base = f"urn:uuid:{uuid.uuid5(_SPACE, f'{statement.title}{chr(0)}{statement.made_utc}')}"
    energy: dict[str, Any] = {"type": "ai_EnergyConsumption"}
    for row in statement.stages.rows:
        name = _PROPERTIES.get(activity(row.stage), "ai_trainingEnergyConsumption")
        energy.setdefault(name, []).append(_described(row))
    model: dict[str, Any] = {
        "type": "ai_AIPackage",
        "spdxId": f"{base}#model",
        "creationInfo": "_:made",
        "name": one_line(statement.title, 200),
        "software_primaryPurpose": "model",
        "comment": one_line(_comment(statement), 1_000),
    }
    if len(energy) > 1:
        model["ai_energyConsumption"] = energy
    if statement.card.algorithm:
        model["ai_typeOfModel"] = [one_line(statement.card.algorithm, 200)]
    result = statement.result
    if result.metric and result.value is not None:
        model["ai_metric"] = [
            {
                "type": "DictionaryEntry",
                "key": one_line(result.metric, 200),
                "value": f"{result.value:g}",
            }
        ]
    return {
        "@context": CONTEXT,
        "@graph": [
            {
                "type": "CreationInfo",
                "@id": "_:made",
                "specVersion": "3.0.1",
                "created": statement.made_utc,
                "createdBy": [f"{base}#joulebook"],
            },
            {
                "type": "SoftwareAgent",
                "spdxId": f"{base}#joulebook",
                "creationInfo": "_:made",
                "name": f"joulebook {__version__}",
            },
            {
                "type": "SpdxDocument",
                "spdxId": f"{base}#document",
                "creationInfo": "_:made",
                "profileConformance": ["core", "software", "ai"],
                "rootElement": [f"{base}#model"],
                "element": [f"{base}#model"],
            },
            model,
        ],
    }


def _described(row: StageRow) -> dict[str, Any]:
    kwh = row.energy_kwh if row.facility_kwh is None else row.facility_kwh
    return {
        "type": "ai_EnergyConsumptionDescription",
        "ai_energyQuantity": f"{kwh:.6f}",
        "ai_energyUnit": "kilowattHour",
    }


def _comment(statement: Statement) -> str:
    total = statement.stages.total
    where = "the facility" if total.facility_kwh is not None else "the machines, without PUE"
    how = "Played from a recorded trace" if statement.recorded_trace else "Measured"
    hosts = f" ({share})" if (share := hosts_share(statement)) else ""
    stages = ", ".join(f"{row.stage} ({row.percent:.1f} %)" for row in statement.stages.rows)
    return (
        f"{how} by joulebook {__version__}; energy of {where}{hosts}, failed runs among it; "
        f"by stage: {stages}"
    )
