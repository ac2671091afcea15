"""A BoAmps report (Boavizta, report_schema.json): https://github.com/Boavizta/BoAmps.

BoAmps wants to know things that no meter does. What the researcher did not say (`--about`) is
"not known" where text is asked for, and the vaguest value where one of a list is.
"""

from __future__ import annotations

import json
import uuid
from datetime import datetime
from typing import Any

from joulebook import __version__
from joulebook.core.sanitize import one_line
from joulebook.lab.report.model import Statement
from joulebook.lab.report.wording import NOT_KNOWN, run_count, sentence

_SPACE = uuid.UUID("6f1f5b0a-6a55-4c5e-9d3b-3a1c6f3d7e21")
_TIME = "%Y-%m-%d %H:%M:%S"
_HIGH, _MEDIUM = 10.0, 25.0
"""The errors in percent for which BoAmps calls a report `high` and `medium`."""

DATA_TYPES = (
    "tabular", "audio", "boolean", "image", "video", "object", "text", "token", "word", "other",
)  # fmt: skip


def render(statement: Statement) -> str:
    """Return the report in JSON."""
    return json.dumps(report(statement), indent=2, allow_nan=False) + "\n"


def report(statement: Statement) -> dict[str, Any]:
    """Return the report as it is encoded."""
    made = _time(statement.made_utc)
    card = statement.card
    found: dict[str, Any] = {
        "header": {
            "formatVersion": "1.1.0",
            "formatVersionSpecificationUri": "https://github.com/Boavizta/BoAmps",
            # The same statement made again is the same report.
            "reportId": str(uuid.uuid5(_SPACE, f"{statement.title}\0{statement.made_utc}")),
            "reportDatetime": made,
            "reportStatus": "draft",
        },
        "task": {
            "taskStage": card.stage or NOT_KNOWN,
            "taskFamily": card.family or NOT_KNOWN,
            "algorithms": [_algorithm(statement)],
            "dataset": [
                {
                    "dataUsage": "input",
                    "dataType": card.data if card.data in DATA_TYPES else "other",
                }
            ],
            "taskDescription": one_line(
                f"{statement.title}: {run_count(statement.counts.total)}, failed and excluded ones "
                "too" + "".join(f"; {sentence(text)}" for text in statement.warnings),
                500,
            ),
        },
        "measures": [_measure(statement)],
        "system": {"os": "linux"},
        "infrastructure": {"infraType": "other", "components": _components(statement)},
        "quality": _quality(statement),
    }
    result = statement.result
    if result.value is not None and result.metric == "accuracy" and 0 <= result.value <= 1:
        found["task"]["measuredAccuracy"] = result.value
    if environment := _environment(statement):
        found["environment"] = environment
    return found


def _algorithm(statement: Statement) -> dict[str, Any]:
    found: dict[str, Any] = {"algorithmName": statement.card.algorithm or NOT_KNOWN}
    if statement.result.params is not None:
        found["parametersNumber"] = statement.result.params / 1e9
    return found


def _measure(statement: Statement) -> dict[str, Any]:
    """Energy of the machines, in kWh: BoAmps has no PUE."""
    energy, what = statement.energy, statement.inventory
    methods = ", ".join(share.name for share in statement.quality.methods)
    found: dict[str, Any] = {
        "measurementMethod": "recorded trace" if statement.recorded_trace else "joulebook",
        "version": __version__,
        "gpuTrackingMode": methods,
        "powerConsumption": _rounded(energy.it.value or 0.0),
    }
    if energy.cpu.value is not None:
        # Of both together: "modelled" among them must not read as measured.
        found["cpuTrackingMode"] = methods
    if what.started_utc:
        found["measurementDateTime"] = _time(what.started_utc)
        if what.ended_utc:
            start, end = (datetime.fromisoformat(t) for t in (what.started_utc, what.ended_utc))
            found["measurementDuration"] = (end - start).total_seconds()
    return found


def _components(statement: Statement) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {
            "componentName": one_line(gpu.model, 200),
            "componentType": "gpu",
            "nbComponent": gpu.count or int(statement.inventory.gpu_count.value or 1),
            "share": 1,
        }
        for gpu in statement.inventory.gpus
    ]
    return found or [{"componentType": "gpu", "nbComponent": 0}]


def _environment(statement: Statement) -> dict[str, Any]:
    country = statement.card.country or (statement.carbon.zone or "")
    if not country:
        return {}
    found: dict[str, Any] = {"country": one_line(country, 100)}
    if statement.inventory.region:
        found["location"] = one_line(statement.inventory.region, 200)
    if statement.carbon.intensity.value is not None:
        found["powerSourceCarbonIntensity"] = _rounded(statement.carbon.intensity.value)
    return found


def _quality(statement: Statement) -> str:
    if statement.recorded_trace:
        return "low"
    error = statement.quality.uncertainty.value or 0.0
    return "high" if error <= _HIGH else "medium" if error <= _MEDIUM else "low"


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")


def _time(iso: str) -> str:
    return datetime.fromisoformat(iso).strftime(_TIME)
