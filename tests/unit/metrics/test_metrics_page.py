from __future__ import annotations

from pathlib import Path

from tools.metrics_page import markdown

from joulebook.metrics import dcgm
from joulebook.metrics.catalogue import CATALOGUE


def test_committed_page_is_up_to_date(repository: Path) -> None:
    assert (repository / "docs/metrics.md").read_text("utf-8") == markdown()


def test_every_metric_is_documented() -> None:
    text = markdown()
    for metric in (*CATALOGUE, *dcgm.METRICS):
        assert text.count(f"| `{metric.name}` |") == 1
