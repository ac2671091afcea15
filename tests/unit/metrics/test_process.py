from __future__ import annotations

import time
from pathlib import Path

import pytest

from joulebook.metrics.derived import process_stats


def test_own_process() -> None:
    stats = process_stats()
    assert stats is not None
    assert 0 < stats.resident_bytes < stats.virtual_bytes
    assert stats.open_fds > 0
    assert stats.cpu_s == pytest.approx(time.process_time(), abs=1)
    assert 0 < time.time() - stats.start_s < 86_400


def test_command_with_a_hostile_name(tmp_path: Path) -> None:
    fields = ["S"] + ["0"] * 10 + ["100", "50"] + ["0"] * 6 + ["1000", "4096000", "10"]
    (tmp_path / "self/fd").mkdir(parents=True)
    (tmp_path / "self/fd/0").touch()
    (tmp_path / "self/stat").write_text(f"7 (a) b) 9 ) {' '.join(fields)}\n")
    (tmp_path / "stat").write_text("cpu 1 2\nbtime 1764000000\n")
    stats = process_stats(tmp_path)
    assert stats is not None
    assert (stats.virtual_bytes, stats.open_fds) == (4_096_000, 1)
    assert stats.start_s > 1_764_000_000


@pytest.mark.parametrize("broken", ["", "7 (x) S", "7 (x) " + "y " * 30])
def test_no_figures_rather_than_wrong_ones(tmp_path: Path, broken: str) -> None:
    (tmp_path / "self").mkdir()
    (tmp_path / "self/stat").write_text(broken)
    (tmp_path / "stat").write_text("btime 1\n")
    assert process_stats(tmp_path) is None
    assert process_stats(tmp_path / "nowhere") is None
