"""Tables for notebooks, and Parquet for what reads it: the same figures, in types of their own."""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path

import pyarrow.parquet
import pytest
from tests.unit.commands.ledger_sample import write_ledger
from tests.unit.node_stub import node

import joulebook
from joulebook.cli import main
from joulebook.errors import ConfigError
from joulebook.run_figures import NodeRuns, RunFigures

KWH_UJ = 3_600_000_000_000


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ledger") / "n1.db"
    write_ledger(path)
    return path


def test_runs_of_the_daemon_are_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    one = RunFigures("7", "nlp", KWH_UJ, methods={"counter": KWH_UJ}, nodes=("n1",), node_count=1)
    two = RunFigures("8", "nlp", 2 * KWH_UJ, cost_nano={"EUR": 10**9}, nodes=("n1",), node_count=1)
    with node(NodeRuns("n1", 1, (one, two))) as server:
        monkeypatch.setenv("JOULEBOOK_URL", server.listen)
        table = joulebook.frame(experiment="bert")
    lines = table.to_pylist()
    assert [(line["run"], line["energy_kwh"], line["cost_eur"]) for line in lines] == [
        ("7", 1.0, None), ("8", 2.0, 1.0),
    ]  # fmt: skip
    assert lines[0]["nodes"] == ["n1"] and "energy counter" in lines[0]["known"]


def test_postings_are_whole_numbers_that_add_up(ledger: Path) -> None:
    table = joulebook.frame(postings=True, ledger=f"node-1={ledger}", job="101")
    assert sum(table["energy_uj"].to_pylist()) == 180_000_000_000
    assert set(table["node"].to_pylist()) == {"node-1"}
    assert set(table["experiment"].to_pylist()) == {"bert-base"}
    assert set(table["method"].to_pylist()) == {"counter"}
    every = joulebook.frame(postings=True, ledger=[ledger])
    assert every.num_rows > table.num_rows
    assert set(every["remainder"].to_pylist()) > {""}
    runs = joulebook.frame(ledger=ledger, job="101")
    assert runs["energy_kwh"].to_pylist() == pytest.approx([0.05])


def test_nothing_is_a_table_without_lines(ledger: Path) -> None:
    assert joulebook.frame(ledger=ledger, job="nope").num_rows == 0


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="give ledger="):
        joulebook.frame(postings=True)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"pip install 'joulebook\[parquet\]'"):
        joulebook.frame(job="1")


def test_a_report_as_parquet_has_the_lines_of_its_csv(
    ledger: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["report", "--ledger", str(ledger), "--experiment", "bert-base", "--format"]
    out = tmp_path / "runs.parquet"
    rows = tmp_path / "rows.parquet"
    assert main([*words, "parquet", "--output", str(out), "--rows", str(rows)]) == 0
    capsys.readouterr()
    assert main([*words, "csv"]) == 0
    expected = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    table = pyarrow.parquet.read_table(out)
    assert table.column_names == list(expected[0])
    found = table.to_pylist()
    assert [line["id"] for line in found] == [line["id"] for line in expected]
    assert [line["energy_uj"] for line in found] == [int(line["energy_uj"]) for line in expected]
    assert pyarrow.parquet.read_table(rows).num_rows > 0


@pytest.mark.parametrize("further", [(), ("--output", "x", "--sign", "key")])
def test_parquet_is_for_a_file(
    ledger: Path, further: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("report", "--ledger", str(ledger), "--experiment", "bert-base", "--format", "parquet")
    assert main([*words, *further]) == 2
    assert "--format parquet: give --output FILE, without --sign" in capsys.readouterr().err
