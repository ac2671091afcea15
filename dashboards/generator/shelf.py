"""All files of `dashboards/` that are generated."""

from __future__ import annotations

from dashboards.generator import (
    alerts,
    books,
    compute,
    experiment,
    lab,
    node,
    recording,
    waste,
    workload,
)

BOARDS = (
    lab.DASHBOARD,
    experiment.DASHBOARD,
    workload.DASHBOARD,
    node.DASHBOARD,
    waste.DASHBOARD,
    compute.DASHBOARD,
    books.DASHBOARD,
)
"""All dashboards. A new one is a module with a `DASHBOARD`, and its name here."""


def files() -> dict[str, str]:
    """Path in the repository, and text."""
    return {
        "dashboards/rules/recording.rules.yaml": recording.text(),
        "dashboards/rules/alerts.rules.yaml": alerts.text(),
        **{f"dashboards/{board.uid}.json": board.json() for board in BOARDS},
    }
