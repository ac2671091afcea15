"""A posting on its way from the commit to the list of owners that `joulebook report` prints."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest
from tests.unit.core.money.test_accrual import hourly, metered, rates_of
from tests.unit.ledger.test_charges import written
from tests.unit.walk import Walk

from joulebook.cli import main
from joulebook.core.money.rates import UG_PER_G
from joulebook.ledger.sqlite import SqliteStore
from joulebook.units import UJ_PER_KWH


def test_a_posting_passes_at_most_15_files_from_the_commit_to_a_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    power_mw, step_s = 7_654_321, 900
    run = metered([power_mw], step_s=step_s, rates=rates_of([], hourly(300 * UG_PER_G), 1_000_000))
    energy_uj = power_mw * step_s * 1000
    walk = Walk({energy_uj, energy_uj / UJ_PER_KWH}, {str(energy_uj / UJ_PER_KWH)})
    path = tmp_path / "ledger.db"
    config = tmp_path / "joulebook.toml"
    config.write_text(f'[ledger]\npath = "{path}"\n')
    with walk.followed():
        with closing(SqliteStore(path, allow_volatile=True)) as store:
            written(store, run)
        assert main(["--config", str(config), "report", "--json"]) == 0
    (line,) = json.loads(capsys.readouterr().out)["lines"]
    assert line["energy_kwh"] == energy_uj / UJ_PER_KWH
    # These two hand it to sqlite, and give nothing back.
    passed = {*walk.files, "ledger/sqlite.py", "ledger/write.py"}
    assert {"ledger/report_query.py", "lab/report/by_owner.py"} < passed
    assert len(passed) <= 15, walk.files
