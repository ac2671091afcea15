"""Installing where there is no network: what `make wheelhouse` gathers is all that pip needs.

Its small counterpart, tests/e2e/test_newcomer.py, runs without a network what is installed.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ALONE = ["unshare", "--net"]


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_a_wheelhouse_installs_without_a_network(repository: Path, tmp_path: Path) -> None:
    house, place = tmp_path / "wheelhouse", tmp_path / "venv"
    subprocess.run([repository / "packaging/wheelhouse", house], check=True, timeout=1200)
    subprocess.run([sys.executable, "-m", "venv", place], check=True, timeout=120)
    wanted = ["--no-index", "--find-links", str(house), "joulebook[node,lab]"]
    subprocess.run([*ALONE, place / "bin/pip", "install", "-q", *wanted], check=True, timeout=600)
    for command in (["--version"], ["config"], ["lab", "--help"], ["leaderboard", "--demo"]):
        done = subprocess.run(
            [*ALONE, place / "bin/joulebook", *command], cwd=tmp_path, check=False, timeout=120,
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
