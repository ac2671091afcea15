"""`joulebook verify`: what a reviewer does with a statement, its rows and its signature."""

from __future__ import annotations

import csv
import json
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.unit.lab.report.family import write_family
from tests.unit.lab.report.worked import write_worked

from joulebook.cli import main
from joulebook.units import UJ_PER_KWH


class Published(NamedTuple):
    """What an author puts beside a paper."""

    statement: Path
    rows: Path
    key: Path


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Published:
    monkeypatch.chdir(tmp_path)
    write_worked(tmp_path / "ledger.db")
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    words = ["report", "--ledger", "ledger.db", "--experiment", "bert-base", "--format", "json"]
    words += ["--output", "statement.json", "--rows", "rows.csv", "--sign", str(key)]
    assert main(words) == 0
    return Published(Path("statement.json"), Path("rows.csv"), key.with_suffix(".pub"))


Out = pytest.CaptureFixture[str]


def test_an_untouched_statement_is_good(published: Published, capsys: Out) -> None:
    words = ["verify", "statement.json", "--rows", "rows.csv"]
    capsys.readouterr()
    assert main([*words, "--key", str(published.key)]) == 0
    said = capsys.readouterr().out
    assert "Signature  good, by ED25519 key SHA256:" in said
    assert "those of the statement, by its digest" in said
    assert "recomputed, all equal" in said
    assert main(words) == 0
    assert "compare this with the author's key" in capsys.readouterr().out
    assert main(["verify", "statement.json"]) == 0
    assert "not recomputed" in capsys.readouterr().out


def test_anybody_can_check_the_signature_with_openssh(published: Published) -> None:
    allowed = Path("allowed")
    allowed.write_text(f"ada@lab {published.key.read_text()}")
    words = ["ssh-keygen", "-Y", "verify", "-f", "allowed", "-I", "ada@lab", "-n", "joulebook"]
    with published.statement.open() as file:
        subprocess.run([*words, "-s", "statement.json.sig"], stdin=file, check=True)


def test_one_microjoule_more_in_the_rows_fails(published: Published, capsys: Out) -> None:
    lines = published.rows.read_text().splitlines(keepends=True)
    n, line = next((n, each) for n, each in enumerate(lines) if each.startswith("posting,"))
    cells = line.split(",")
    cells[10] = str(int(cells[10]) + 1)
    published.rows.write_text("".join([*lines[:n], ",".join(cells), *lines[n + 1 :]]))
    capsys.readouterr()
    assert main(["verify", "statement.json", "--rows", "rows.csv"]) == 1
    said = capsys.readouterr().err
    assert "rows.csv: not the rows of this statement: their digest differs" in said
    assert "runs[0].energy_uj: " in said and "from the rows" in said


def test_a_figure_changed_in_the_statement_fails(published: Published, capsys: Out) -> None:
    changed = json.loads(published.statement.read_text())
    changed["energy"]["gpu"]["value"] *= 0.9
    changed["runs"][1]["energy_uj"] -= 1
    published.statement.write_text(json.dumps(changed))
    capsys.readouterr()
    assert main(["verify", "statement.json", "--rows", "rows.csv"]) == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 3
    assert "statement.json.sig: no signature of this file" in said[0]
    assert "energy.gpu.value: 18.0 in the statement, 20.0 from the rows" in said[1]
    assert "runs[1].energy_uj: " in said[2]


def test_a_microjoule_in_kilowatt_hours_fails(published: Published, capsys: Out) -> None:
    changed = json.loads(published.statement.read_text())
    changed["energy"]["gpu"]["value"] += 1 / UJ_PER_KWH
    Path("changed.json").write_text(json.dumps(changed))
    capsys.readouterr()
    assert main(["verify", "changed.json", "--rows", "rows.csv"]) == 1
    assert "energy.gpu.value: 20.0000000000002" in capsys.readouterr().err


def test_another_key_is_not_the_authors(published: Published, capsys: Out) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "other"], check=True)
    capsys.readouterr()
    assert main(["verify", "statement.json", "--key", "other.pub"]) == 1
    assert "no signature of this file by other.pub" in capsys.readouterr().err
    Path("statement.json.sig").unlink()
    assert main(["verify", "statement.json", "--key", str(published.key)]) == 1
    assert main(["verify", "statement.json"]) == 0
    assert "Signature  none" in capsys.readouterr().out


def test_what_is_not_recomputed_is_named(published: Published, capsys: Out) -> None:
    text = published.statement.read_text()
    first = text.index('"energy_uj"')
    changed = text[:first] + '"energy_uj": 1, ' + text[first:]
    published.statement.write_text(changed.replace("{", '{"saved_kg": 12, ', 1))
    Path("statement.json.sig").unlink()
    capsys.readouterr()
    assert main(["verify", "statement.json", "--rows", "rows.csv"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "joulebook verify: energy_uj: more than once in the statement",
        "joulebook verify: saved_kg: 12 in the statement is no part of one",
    ]


@pytest.mark.parametrize(
    "value", ["9" * 5_000, "[" * 950 + "]" * 950, "[" * 9_500 + "]" * 9_500, "NaN", '{"a":' * 100]
)
def test_a_hostile_statement_is_named(published: Published, capsys: Out, value: str) -> None:
    """Where nothing reads it, too: a key that no statement has."""
    text = published.statement.read_text()
    Path("hostile.json").write_text(text.replace("{", '{"zzz": ' + value + ", ", 1))
    assert main(["verify", "hostile.json"]) == 2
    assert "joulebook verify: hostile.json: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("column", "value"), [(10, "9" * 4000), (12, "9" * 400), (22, "[" * 100_000)]
)
def test_hostile_rows_are_named(published: Published, capsys: Out, column: int, value: str) -> None:
    with published.rows.open(newline="") as file:
        lines = list(csv.reader(file))
    table = "workload" if column == 22 else "posting"
    row = next(each for each in lines if each[0] == table)
    row[column] = row[column].replace("{", '{"zzz":' + value, 1) if column == 22 else value
    with published.rows.open("w", newline="") as file:
        csv.writer(file).writerows(lines)
    assert main(["verify", "statement.json", "--rows", "rows.csv"]) == 2
    assert "joulebook verify: rows.csv" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["verify", "none.json"], "none.json: cannot be read"),
        (["verify", "rows.csv"], "expected a statement by `joulebook report --format json`"),
        (["verify", "statement.json", "--rows", "statement.json"], "not a file of rows"),
        (["report", "--ledger", "ledger.db", "--sign", "key"], "--sign: give --output FILE too"),
        (["report", "--ledger", "ledger.db", "--sign", "no", "--output", "x"], "--sign no: "),
        (
            ["report", "--ledger", "ledger.db", "--rows", "x", "--rates", "y"],
            "--rows: not with --rates",
        ),
    ],
)
def test_what_cannot_be_used_is_named(
    published: Published, capsys: Out, words: list[str], said: str
) -> None:
    assert main(words) == 2
    assert said in capsys.readouterr().err


def published_as(rows: str, ledger: str = "ledger.db", *more: str) -> None:
    words = ["report", "--ledger", f"n1={ledger}", "--format", "json", "--output", "other.json"]
    assert main([*words, "--rows", rows, *more]) == 0


def test_rows_as_parquet_prove_the_same(published: Published, capsys: Out) -> None:
    published_as("rows.parquet", "ledger.db", "--experiment", "bert-base")
    capsys.readouterr()
    assert main(["verify", "other.json", "--rows", "rows.parquet"]) == 0
    said = capsys.readouterr().out
    assert "those of the statement, by its digest" in said
    assert "recomputed, all equal" in said
    assert "Months" not in said


def test_one_microjoule_more_in_parquet_fails(published: Published, capsys: Out) -> None:
    from pyarrow import array, parquet

    published_as("rows.parquet", "ledger.db", "--experiment", "bert-base")
    table = parquet.read_table("rows.parquet")
    n = table.schema.get_field_index("energy_uj")
    energies = table.column(n).to_pylist()
    at = next(i for i, energy_uj in enumerate(energies) if energy_uj)
    energies[at] += 1
    changed = table.set_column(n, table.schema.field(n), array(energies, "int64"))
    parquet.write_table(changed, "rows.parquet")
    capsys.readouterr()
    assert main(["verify", "other.json", "--rows", "rows.parquet"]) == 1
    assert "rows.parquet: not the rows of this statement" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"PAR1", b"PAR1" + b"\0" * 100 + b"PAR1"])
def test_a_broken_parquet_file_is_named(published: Published, capsys: Out, content: bytes) -> None:
    Path("broken.parquet").write_bytes(content)
    capsys.readouterr()
    assert main(["verify", "statement.json", "--rows", "broken.parquet"]) == 2
    assert "broken.parquet: cannot be read as Parquet" in capsys.readouterr().err


def test_of_rows_by_day_it_says_what_is_not_verified(published: Published, capsys: Out) -> None:
    write_family(Path("family.db"))
    published_as("rows.csv", "family.db", "--experiment", "family")
    capsys.readouterr()
    assert main(["verify", "other.json", "--rows", "rows.csv"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "Months 2026-02, 2026-03: by day, since compacted. Sums and what was charged" in said
    assert "recomputed, all equal" in said
