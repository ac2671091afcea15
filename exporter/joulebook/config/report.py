"""`[report]`: what the site knows that a statement needs and no meter measures."""

from __future__ import annotations

from typing import Annotated

from joulebook.config.sections import Section, doc
from joulebook.core import footprint


class Embodied(Section, frozen=True):
    """Embodied CO2e of one GPU of a model, as a range."""

    low_kg: Annotated[float, doc("Kilograms of CO2e, the least.", ge=0)]
    high_kg: Annotated[float, doc("Kilograms of CO2e, the most.", ge=0)]
    source: Annotated[str, doc("Who says so.")]


class Report(Section, frozen=True):
    """What reports need beyond the ledger. What is not set is not known, or a marked default."""

    region: Annotated[
        str, doc('Where the machines are, as a paper names it: "Frankfurt, Germany".')
    ] = ""
    prometheus: Annotated[
        str,
        doc("Address of Prometheus, VictoriaMetrics, Thanos or Mimir, for reports from there."),
    ] = ""
    sacct: Annotated[
        str,
        doc('SLURM\'s sacct, asked how runs ended: "auto" looks in PATH, empty: not asked.'),
    ] = "auto"
    sensor_percent: (
        Annotated[
            float,
            doc(
                "Error of the meters in percent, from a calibration. Not set: "
                f"{footprint.SENSOR_PERCENT:g}, and marked as a default.",
                ge=0,
                le=100,
            ),
        ]
        | None
    ) = None
    sensor_source: Annotated[str, doc("Which calibration that is; shown beside it.")] = ""
    market_grams_per_kwh: (
        Annotated[
            float,
            doc(
                "Grams of CO2e per kWh by your contract or certificates, for the market-based "
                "figure beside the location-based one. Not set: it is not known.",
                ge=0,
            ),
        ]
        | None
    ) = None
    market_source: Annotated[
        str, doc("Which contract, certificate or residual mix that is, and its year; needed.")
    ] = ""
    server_kg: (
        Annotated[
            float,
            doc(
                "Embodied CO2e of a server without its GPUs, in kilograms. Not set: "
                f"{footprint.SERVER_KG:g} ({footprint.SERVER_SOURCE}), and marked as a default.",
                ge=0,
            ),
        ]
        | None
    ) = None
    server_gpus: (
        Annotated[
            int,
            doc(
                f"GPUs in a server. Not set: {footprint.SERVER_GPUS}, and marked as a default.",
                ge=1,
            ),
        ]
        | None
    ) = None
    server_life_years: (
        Annotated[
            float,
            doc(
                "Years that a server serves. Not set: "
                f"{footprint.LIFE_YEARS:g}, and marked as a default.",
                gt=0,
            ),
        ]
        | None
    ) = None
    embodied: Annotated[
        dict[str, Embodied],
        doc(
            "Embodied CO2e by GPU model, over what is published (`*` stands for anything): "
            '"NVIDIA H200*" = { low_kg = 170, high_kg = 600, source = "our LCA" }'
        ),
    ] = {}
