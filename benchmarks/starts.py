"""What a start chosen by what was known then saves, as a share of what perfect foresight would."""

from __future__ import annotations

import argparse

from tests.unit.lab.advice.curves import curve

from benchmarks.table import Table
from joulebook.lab.advice.start import (
    HISTORY_H,
    StartPlanner,
    day_ahead,
    nothing_ahead,
    share_of_foresight,
)

ZONES = {
    "BE": ("day-ahead price, Belgium 2023", day_ahead),
    "DE": ("carbon intensity, Germany 2020", nothing_ahead),
    "GB": ("carbon intensity, Great Britain 2020", nothing_ahead),
}
JOBS = ((1, 24), (4, 24), (8, 24), (2, 12), (4, 48), (12, 48), (24, 72))
"""Hours of a job, and of the window that it must end in."""


def run(args: argparse.Namespace) -> list[Table]:
    """Every hour of the year as an arrival (`--quick`: every seventh)."""
    titles = [f"{length} h in {window} h (%)" for length, window in JOBS]
    table = Table("Saved, of what perfect foresight saves", ["curve", *titles])
    for zone, (name, known) in ZONES.items():
        values = curve(zone)
        planner, shares = StartPlanner(values, known), []
        for length, window in JOBS:
            arrivals = range(min(values) + HISTORY_H, max(values) - window, 7 if args.quick else 1)
            found = [planner.choice(arrival, length, window) for arrival in arrivals]
            shares.append(100 * share_of_foresight([each for each in found if each is not None]))
        table.add(name, *(round(share, 1) for share in shares))
    return [table]
