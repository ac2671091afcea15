"""Software Carbon Intensity (ISO/IEC 21031:2024) and SCI for AI: (E x I + M) / R, for each known R.

SCI for AI counts per training token, parameter or FLOP. A unit that nobody stated is `null`.
"""

from __future__ import annotations

import json
from typing import Any

from joulebook.core.sanitize import one_line
from joulebook.lab.report.model import Carbon, Figure, Statement
from joulebook.lab.report.wording import hosts_share, significant


def render(statement: Statement) -> str:
    """Return the scores in JSON."""
    return json.dumps(scores(statement), indent=2, allow_nan=False) + "\n"


def scores(statement: Statement) -> dict[str, Any]:
    """Return them as they are encoded."""
    carbon, energy, result = statement.carbon, statement.energy, statement.result
    units = {
        "run": statement.counts.total or None,
        "training token": result.tokens,
        "parameter": result.params,
        "FLOP": result.flops,
    }
    hosts = f" ({share})" if (share := hosts_share(statement)) else ""
    return {
        "specification": "ISO/IEC 21031:2024 (SCI v1.1); SCI for AI",
        "title": one_line(statement.title, 200),
        "made_by": statement.made_by,
        "made_utc": statement.made_utc,
        "boundary": f"accelerators and hosts as metered{hosts}, with PUE; failed runs are in it",
        "measured": not statement.recorded_trace,
        "E_kwh": _known(energy.facility),
        "I_g_per_kwh": _known(carbon.intensity),
        "I_is_default": carbon.intensity.default,
        "M_g": _grams(carbon.embodied),
        "M_is_default": carbon.embodied.default,
        "scores": [
            {"R": count, "per": unit, "g_co2e": _score(carbon, count)}
            for unit, count in units.items()
        ]
        + [served for served in [_served(statement)] if served],
        "unknown": {
            name: figure.unknown
            for name, figure in (
                ("E", energy.facility), ("I", carbon.intensity), ("M", carbon.embodied),
            )
            if figure.value is None
        },
    }  # fmt: skip


def _served(statement: Statement) -> dict[str, Any] | None:
    """Return the score per token that was served (prompt and output), idle servers with them.

    Their part of the embodied emissions is that of the energy.
    """
    rows = [row for row in statement.served if row.co2e_kg is not None]
    tokens = sum((row.prompt_tokens or 0) + (row.output_tokens or 0) for row in rows)
    if not tokens:
        return None
    energy = sum(row.energy_kwh + row.idle_energy_kwh for row in rows)
    grams = sum((row.co2e_kg or 0.0) + (row.idle_co2e_kg or 0.0) for row in rows) * 1_000
    mass, whole = _grams(statement.carbon.embodied), statement.energy.it.value
    return {
        "R": tokens,
        "per": "token served",
        "g_co2e": None
        if mass is None or not whole
        else {end: significant((grams + m * energy / whole) / tokens) for end, m in mass.items()},
    }


def _known(figure: Figure) -> float | None:
    return None if figure.value is None else significant(figure.value)


def _grams(figure: Figure) -> dict[str, float] | None:
    if figure.low is None or figure.high is None:
        return None
    return {"low": significant(figure.low * 1_000), "high": significant(figure.high * 1_000)}


def _score(carbon: Carbon, count: float | None) -> dict[str, float] | None:
    operational, grams = carbon.location_based.value, _grams(carbon.embodied)
    if operational is None or grams is None or not count:
        return None
    return {end: significant((operational * 1_000 + mass) / count) for end, mass in grams.items()}
