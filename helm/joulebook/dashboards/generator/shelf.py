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
    mine,
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


USER_BOARDS = (mine.MINE, mine.ACCOUNT)
"""The dashboards of users, whose every selector a proxy can narrow."""


EVERY = (*BOARDS, *USER_BOARDS, *LEDGER_BOARDS)


def files() -> dict[str, str]:
    """Path in the repository, and text."""
    return {
        "dashboards/rules/recording.rules.yaml": recording.text(),
        "dashboards/rules/alerts.rules.yaml": alerts.text(),
        **{f"dashboards/{board.uid}.json": board.json() for board in EVERY},
    }
