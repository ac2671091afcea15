"""What all tests share: hypothesis profiles, marks by folder, and a few places to work in.

A usual run tries the same examples each time; with `JOULEBOOK_TEST_SCALE=N` new ones, and N times
as many (`tests/scale.py`).
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings
from tests.scale import SCALE, scaled

if TYPE_CHECKING:
    from tests.integration.postgresql import PostgreSql

ROOT = Path(__file__).resolve().parent.parent

# What is printed is as wide as tests say. readline sets this for all processes that pytest starts.
os.environ.pop("COLUMNS", None)

# No deadlines, no health check of speed: two busy cores decide how long an example takes.
settings.register_profile(
    "scaled",
    deadline=None,
    derandomize=SCALE == 1,
    max_examples=scaled(100),
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("scaled")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by the folder they are in, so that nobody can forget to."""
    for item in items:
        for mark in ("integration", "e2e"):
            if item.path.is_relative_to(ROOT / "tests" / mark):
                item.add_marker(mark)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def build_dir() -> Path:
    """A folder that outlives the run and is not tracked: for what is slow to fetch or build."""
    path = ROOT / ".build"
    path.mkdir(exist_ok=True)
    return path


@pytest.fixture
def short_tmp_path() -> Iterator[Path]:
    """A temporary folder with a short name, for UNIX sockets (at most 107 bytes of path)."""
    path = Path(tempfile.mkdtemp(prefix="jb-", dir="/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSql]:
    """A real PostgreSQL for the whole run; each test takes a database of its own (`new`)."""
    from tests.integration.postgresql import running

    with running() as server:
        yield server
