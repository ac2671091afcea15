"""The laws of bills on sqlite; `tests/integration/test_archive_postgresql.py` has PostgreSQL."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from tests.scale import scaled
from tests.unit.lab.collected.laws import Laws

from joulebook.lab.collected.database import Database, connect

_numbers = itertools.count()


class OnSqlite(Laws):
    """On a file of its own."""

    folder = tempfile.TemporaryDirectory(prefix="jb-laws-")

    def open(self) -> Database:
        # A copy: making the tables anew takes longer than most of what is tried here.
        made, path = (Path(self.folder.name) / f"{name}.db" for name in ("new", next(_numbers)))
        if not made.exists():
            connect(f"sqlite://{made}", create=True).close()
        shutil.copy(made, path)
        return connect(f"sqlite://{path}", create=True)


TestLaws = OnSqlite.TestCase
TestLaws.settings = settings(
    max_examples=scaled(40), stateful_step_count=25, suppress_health_check=[HealthCheck.too_slow]
)
