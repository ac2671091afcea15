"""Labs for all tests of a module: a cluster takes seconds to start."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.lab import Lab


@pytest.fixture(scope="module")
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """One node with four cards in scrambled order, SLURM reported of them in another.

    A module's `LAB` holds arguments of `Lab` beyond that.
    """
    root = open_to_all(tmp_path_factory.mktemp("lab"))
    lab = Lab(root, **getattr(request.module, "LAB", {}))
    with lab.slurm:
        yield lab


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A directory that every user may read."""
    return open_to_all(tmp_path)


def open_to_all(directory: Path) -> Path:
    """Let every user reach a directory of pytest's: jobs and databases run as their own users."""
    top = Path(tempfile.gettempdir()).resolve()
    for each in (directory, *directory.parents):
        if each == top:
            break
        each.chmod(each.stat().st_mode | 0o055)
    return directory
