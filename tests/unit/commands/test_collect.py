"""`joulebook collect --compact` and `--export`, as a person calls them."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.lab.collected.nodes import DECEMBER_S, NOVEMBER_S, Node
from tests.unit.lab.collected.test_compact import collected, lab

from joulebook.cli import main
from joulebook.lab.collected import bills, ingest
from joulebook.lab.collected.database import opened


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "c.toml"
    path.write_text(f'[collect]\nurl = "sqlite://{tmp_path}/c.db"\n')
    return path


def test_export_then_compact_in_one_command(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"sqlite://{tmp_path}/c.db"
    collected(url, lab(1))
    late = Node("n3\x1b[31m", "c" * 32)
    late.burn(NOVEMBER_S - 1, 5, "1")
    with opened(url) as database:
        ingest.take(database, late.page(0), "n3", DECEMBER_S)
    command = ["--config", str(config), "collect"]
    assert main([*command, "--export", str(tmp_path / "out"), "--compact"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("2026-10: ")
    assert said[0].endswith("rates")
    assert said[-2:] == [
        "2026-10: 2 ledgers are compacted to days",
        "1 wait until all of the month is collected: n3\ufffd[31m",
    ]
    assert (tmp_path / "out" / "postings-2026-10.parquet").exists()
    # What needs hours finds them in the export; a month that is open is never compacted.
    report = ["--config", str(config), "report", "--collected", "--by", "account"]
    hours = ["--since", "2026-10-31T12:00Z", "--until", "2026-11-01"]
    assert main([*report, *hours]) == 0
    capsys.readouterr()
    (tmp_path / "out" / "postings-2026-10.parquet").unlink()
    assert main([*report, *hours]) != 0
    assert "2026-10 is compacted to days, and " in capsys.readouterr().err
    rates = tmp_path / "rates.toml"
    rates.write_text('[rates.price]\nkind = "constant"\nper_kwh = 0.3\n')
    assert main([*report, "--rates", str(rates)]) != 0
    assert "--rates: 2026-10 is compacted to days" in capsys.readouterr().err
    with opened(url) as database:
        assert bills.periods(database)[-1].closed_s is None


@pytest.mark.parametrize(
    "both",
    [["--once", "--compact"], ["--check", "--export", "out"], ["--check", "--once"],
     ["--undo-rename", "1", "--check"]],
)  # fmt: skip
def test_one_thing_at_a_time(
    config: Path, both: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--config", str(config), "collect", *both]) == 2
    assert "use only one of them" in capsys.readouterr().err
