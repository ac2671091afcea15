from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

from joulebook.metrics import dcgm
from joulebook.metrics.catalogue import CATALOGUE
from joulebook.metrics.docs import markdown


def test_committed_page_is_up_to_date(repository: Path) -> None:
    assert (repository / "docs/metrics.md").read_text("utf-8") == markdown()


def test_every_metric_is_documented() -> None:
    text = markdown()
    for metric in (*CATALOGUE, *dcgm.METRICS):
        assert text.count(f"| `{metric.name}` |") == 1


def test_page_is_written_where_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["docs", str(tmp_path / "metrics.md")])
    monkeypatch.delitem(sys.modules, "joulebook.metrics.docs")
    runpy.run_module("joulebook.metrics.docs", run_name="__main__")
    assert (tmp_path / "metrics.md").read_text("utf-8") == markdown()
