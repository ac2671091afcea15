from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

from joulebook.exposition import dcgm
from joulebook.exposition.catalogue import CATALOGUE
from joulebook.exposition.docs import markdown


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
    monkeypatch.delitem(sys.modules, "joulebook.exposition.docs")
    runpy.run_module("joulebook.exposition.docs", run_name="__main__")
    assert (tmp_path / "metrics.md").read_text("utf-8") == markdown()
