"""Real curves of price and intensity, by hour."""

from __future__ import annotations

import csv
from datetime import datetime
from pathlib import Path

DATA = Path(__file__).parents[3] / "data" / "curves"


def curve(zone: str) -> dict[int, float]:
    """Return the intensity of `DE` or `GB`, or the price of `BE`, by hours since 1970."""
    name, column = (
        ("price_be_2023", "eur_per_mwh") if zone == "BE" else ("carbon_hourly_2020", zone)
    )
    with (DATA / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return {
            int(datetime.fromisoformat(row["start_utc"]).timestamp()) // 3600: float(row[column])
            for row in csv.DictReader(file)
        }
