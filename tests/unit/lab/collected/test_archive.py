"""Months in Parquet files, as DuckDB reads them, and reports on hours that are only there."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import duckdb
import pytest
from tests.unit.lab.collected.nodes import DAY_S, DECEMBER_S, NOVEMBER_S, Node
from tests.unit.lab.collected.test_compact import (
    FOREVER_S,
    HOUR_S,
    WANTED,
    collected,
    compacted,
    lab,
    late,
    page_of,
    statements,
)

from joulebook.core.money.amounts import Exact
from joulebook.core.report.dataset import ReportData, Selection
from joulebook.errors import ConfigError, InputError, LedgerError
from joulebook.lab.collected import archive, compact, ingest
from joulebook.lab.collected.database import opened
from joulebook.lab.collected.report_query import CollectedSource

NOON_S = NOVEMBER_S - DAY_S + 12 * HOUR_S


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite://{tmp_path}/c.db"


def exported(url: str, folder: Path) -> list[archive.Exported]:
    with opened(url) as database:
        return [*archive.export(database, folder, DECEMBER_S)]


def asked(sql: str) -> list[tuple[Any, ...]]:
    """What DuckDB finds."""
    return duckdb.connect().execute(sql).fetchall()


def test_duckdb_reads_every_unit_of_it(url: str, tmp_path: Path) -> None:
    read_back(url, lab(1), tmp_path / "out")


def read_back(url: str, nodes: list[Node], folder: Path) -> None:
    """Export all months, and add them up."""
    collected(url, nodes)
    made = exported(url, folder)
    assert [each.month for each in made] == [202610, 202611]
    postings = [row for node in nodes for row in node.postings.values()]
    charges = [row for node in nodes for row in node.charges.values()]
    assert sum(each.rows["postings"] for each in made) == len(postings)
    found = asked(
        "SELECT sum(energy_uj)::HUGEINT, sum(held_ns)::HUGEINT, count(*), min(quarter_s)"
        f" FROM '{folder}/postings-*.parquet'"
    )
    assert found == [
        (sum(row.energy_uj for row in postings), sum(row.held_ns for row in postings),
         len(postings), min(row.quarter_s for row in postings))
    ]  # fmt: skip
    (sums,) = asked(
        f"SELECT sum(whole), sum(nano), sum(rest), count(*) FROM '{folder}/charges-*.parquet'"
    )
    paid = sum(Exact(row.whole, row.nano, row.rest).atoms for row in charges)
    whole, nano, rest = (int(each) for each in sums[:3])
    assert (Exact(whole).atoms + Exact(0, nano).atoms + rest, sums[3]) == (paid, len(charges))
    by_account = dict(
        asked(
            f"SELECT account, sum(energy_uj)::HUGEINT FROM '{folder}/postings-2026-10.parquet'"
            " WHERE remainder = '' GROUP BY account"
        )
    )
    whose = {(n.name, w.id): w.account for n in nodes for w in n.workloads.values()}
    expected: dict[str, int] = {}
    for node in nodes:
        for row in node.postings.values():
            if row.quarter_s < NOVEMBER_S and row.workload_id:
                account = whose[node.name, row.workload_id]
                expected[account] = expected.get(account, 0) + row.energy_uj
    assert by_account == expected
    # Written again: the same files, and no draft is left.
    assert exported(url, folder) == made
    assert len([*folder.iterdir()]) == 6


def hourly(url: str) -> list[ReportData]:
    return [
        CollectedSource(url, why).account(*span, wanted)
        for why, span in (("", (NOON_S, FOREVER_S)), ("--rates", (0, FOREVER_S)))
        for wanted in WANTED
    ]


def comparable(account: ReportData) -> object:
    return (
        sorted(map(repr, account.postings)), sorted(map(repr, account.charges)),
        sorted(map(repr, account.rates)), account.workloads, account.models,
    )  # fmt: skip


def test_what_was_exported_first_has_its_hours(url: str, tmp_path: Path) -> None:
    collected(url, lab(6))
    exported(url, tmp_path / "out")
    days, hours = statements(url), [*map(comparable, hourly(url))]
    compacted(url)
    assert [*map(comparable, hourly(url))] == hours
    assert statements(url) == days
    # A month that is by day is not written again: its files stay.
    assert [each.month for each in exported(url, tmp_path / "out")] == [202611]
    assert [*map(comparable, hourly(url))] == hours
    (tmp_path / "out" / "postings-2026-10.parquet").unlink()
    with pytest.raises(LedgerError, match=r"postings-2026-10\.parquet cannot be read"):
        hourly(url)


def test_an_export_that_is_not_what_is_there_is_not_used(url: str, tmp_path: Path) -> None:
    nodes = lab(7)
    collected(url, nodes)
    exported(url, tmp_path / "out")
    with opened(url) as database:
        ingest.take(database, late(nodes[0], 9), "n1", DECEMBER_S)
        with pytest.raises(InputError, match=r"2026-10 has changed since its export to .*again"):
            [*compact.compact(database, DECEMBER_S)]
    exported(url, tmp_path / "out")
    compacted(url)
    hourly(url)
    with opened(url) as database:
        since = nodes[1].last
        nodes[1].burn(NOVEMBER_S - 20 * DAY_S, 9, "0")
        ingest.take(database, page_of(nodes[1], since), "n2", DECEMBER_S)
    with pytest.raises(InputError, match="2026-10 is compacted to days, and rows came after its"):
        hourly(url)
    CollectedSource(url).account(0, FOREVER_S, Selection())


def test_a_folder_that_cannot_be_written_and_no_pyarrow(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collected(url, lab(8))
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"--export .*/file: cannot be written: File exists"):
        exported(url, tmp_path / "file")
    exported(url, tmp_path / "out")
    compacted(url)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"pip install 'joulebook\[parquet\]'"):
        exported(url, tmp_path / "out")
    with pytest.raises(ConfigError, match=r"pip install 'joulebook\[parquet\]'"):
        hourly(url)
