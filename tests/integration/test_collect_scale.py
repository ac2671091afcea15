"""The collected ledger at the size of a lab: bytes of a node's day, and what questions cost.

Bytes are the same on every machine. Times are in `make nightly` alone, in CPU seconds.
"""

from __future__ import annotations

import pytest
from benchmarks.collect import tables
from benchmarks.table import Cell, Table


def row(table: Table, engine: str) -> dict[str, Cell]:
    """One engine's line."""
    (found,) = (each for each in table.rows if each[0] == engine)
    return dict(zip(table.columns, found, strict=True))


def figure(table: Table, engine: str, column: str) -> float:
    found = row(table, engine)[column]
    assert isinstance(found, int | float), (engine, column, found)
    return found


def test_a_small_lab() -> None:
    intake, growth, asked = tables(nodes=6, days=1, jobs=2_000, runs=50)
    for engine in ("sqlite", "postgresql"):
        assert figure(intake, engine, "rows") == 6 * 2_228
        by_quarter, by_day = (
            figure(growth, engine, name) for name in ("quarter hours", "compacted")
        )
        # Each table of so few rows has pages that are empty.
        assert by_day < by_quarter / 3, engine
        assert figure(asked, engine, "statement, CPU s") > 0


@pytest.mark.nightly
def test_a_lab_of_a_thousand_nodes() -> None:
    intake, growth, asked = tables(nodes=60, days=2, jobs=600_000, runs=10_000)
    for engine, bill_ms in (("sqlite", 2_000), ("postgresql", 1_000)):
        assert figure(growth, engine, "a year compacted") < 25
        assert figure(asked, engine, "bill, ms") < bill_ms
        assert figure(asked, engine, "its MiB") < 200
        # 10,000 nodes every 5 minutes on two cores.
        assert figure(intake, engine, "% of a core at 33 pages/s") < 100
