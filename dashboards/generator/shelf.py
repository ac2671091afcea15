"""All files of `dashboards/` that are generated."""

from __future__ import annotations

from dashboards.generator import alerts, recording


def files() -> dict[str, str]:
    """Path in the repository, and text."""
    return {
        "dashboards/rules/recording.rules.yaml": recording.text(),
        "dashboards/rules/alerts.rules.yaml": alerts.text(),
    }
