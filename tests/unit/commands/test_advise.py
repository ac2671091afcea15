"""`joulebook advise`, and the same lines below a bill."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from tests.unit.lab.advice.ledger import NOW_S, filled

from joulebook import cli


@pytest.fixture
def say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command on the collected ledger; its output, its messages and its status."""
    monkeypatch.setattr(time, "time", lambda: float(NOW_S))
    for name in [name for name in os.environ if name.startswith("JOULEBOOK_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("JOULEBOOK_COLLECT_URL", filled(tmp_path))
    monkeypatch.setenv("JOULEBOOK_RATES_CACHE_DIR", str(tmp_path / "rates"))
    monkeypatch.setenv("COLUMNS", "200")

    def run(*words: str) -> tuple[str, str, int]:
        status = cli.main(list(words))
        done = capsys.readouterr()
        return done.out, done.err, status

    return run


def test_a_ranked_table_with_evidence_and_next_steps(say: Any) -> None:
    out, _, status = say("advise")
    assert status == 0
    lines = out.splitlines()
    assert lines[0] == "Where to save in 2026-11"
    assert [word for word in ("energy (kWh)", "cost (EUR)", "CO2e (kg)") if word in lines[2]] == [
        "energy (kWh)", "cost (EUR)", "CO2e (kg)",
    ]  # fmt: skip
    first = next(line for line in lines if line.lstrip().startswith("1 "))
    assert "GPUs that were not used" in first
    assert "nlp/ada/bert (lab)" in first
    assert "13.14" in first
    assert "  1. 1 job used 1 of 2 GPUs" in out
    assert "Jobs: 101 (13.14 EUR)." in out


def test_json_sorted_and_of_one_account(say: Any) -> None:
    found = json.loads(say("advise", "2026-11", "--json", "--sort", "kwh")[0])
    kwh = [float(line["saving"]["kwh"]) for line in found["advice"] if line["saving"]]
    assert kwh == sorted(kwh, reverse=True)
    found = json.loads(say("advise", "--json", "--account", "vision")[0])
    assert {line["account"] for line in found["advice"]} == {"vision"}


def test_a_month_without_anything_and_what_cannot_be_asked(say: Any) -> None:
    out, err, status = say("advise", "--last")
    assert (out.splitlines()[0], status) == ("Where to save in 2026-10", 0)
    assert "nothing to save was found in 2026-10" in err
    for words in (["2026-10", "--last"], ["--window", "90h"], ["2026-13"]):
        _, err, status = say("advise", *words)
        assert (status, words[0] in err) == (2, True)


def test_a_bill_has_the_same_lines(say: Any) -> None:
    out = say("bill", "show")[0]
    assert "Where to save" in out
    assert "and 3 more: joulebook advise 2026-11" in out
    advice = json.loads(say("advise", "--json")[0])["advice"]
    bill = json.loads(say("bill", "show", "--format", "json")[0])
    assert bill["advice"] == advice
    only = json.loads(say("bill", "show", "--format", "json", "--account", "nlp")[0])
    assert only["advice"] == [line for line in advice if line["account"] == "nlp"]
