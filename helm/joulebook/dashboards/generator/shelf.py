"""All files of `dashboards/` that are generated."""

from __future__ import annotations

from dashboards.generator import (
    alerts,
    billing,
    books,
    compute,
    experiment,
    health,
    lab,
    node,
    recording,
    serving,
    waste,
    workload,
)

BOARDS = (
    lab.DASHBOARD,
    experiment.DASHBOARD,
    workload.DASHBOARD,
    node.DASHBOARD,
    health.DASHBOARD,
    waste.DASHBOARD,
    compute.DASHBOARD,
    serving.DASHBOARD,
    books.DASHBOARD,
)
"""The dashboards of Prometheus. A new one is a module with a `DASHBOARD`, and its name here."""

LEDGER_BOARDS = (billing.DASHBOARD,)
"""The dashboards of the collected ledger, in SQL."""


def files() -> dict[str, str]:
    """Path in the repository, and text."""
    return {
        "dashboards/rules/recording.rules.yaml": recording.text(),
        "dashboards/rules/alerts.rules.yaml": alerts.text(),
        **{f"dashboards/{board.uid}.json": board.json() for board in (*BOARDS, *LEDGER_BOARDS)},
    }
