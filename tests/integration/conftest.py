"""What several files of these tests share, and what takes minutes to make."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def package_tree(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the packages for Debian and for RPM install, laid out once."""
    tree = tmp_path_factory.mktemp("package") / "tree"
    subprocess.run(
        [repository / "packaging/tree", tree],
        env={**os.environ, "PYTHON": "/usr/bin/python3"}, check=True, timeout=600,
    )  # fmt: skip
    return tree
