"""`joulebook bill` and `joulebook relabel` on a collected ledger, by the command line."""

from __future__ import annotations

import csv
import io
import json
import time
from pathlib import Path
from typing import Any

import pytest
from tests.unit.lab.collected.nodes import NOVEMBER_S, OCTOBER_S, Node

from joulebook import cli
from joulebook.core.money.amounts import Exact
from joulebook.lab.collected import ingest, rollup
from joulebook.lab.collected.database import opened
from joulebook.units import NS_PER_HOUR, UJ_PER_KWH

KWH = UJ_PER_KWH


@pytest.fixture
def october(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Node:
    """October of one node: 3 kWh of nlp's, 2 of vision's, 1 of nobody's; now is mid-November."""
    monkeypatch.setattr(time, "time", lambda: NOVEMBER_S + 15 * 86_400.0)
    monkeypatch.setenv("JOULEBOOK_COLLECT_URL", f"sqlite://{tmp_path}/collected.db")
    node = Node()
    node.label("101", "nlp", "ada", "bert")
    node.label("102", "vision", "grace", "=cmd|' /C calc'!A0")
    node.burn(OCTOBER_S + 900, 3 * KWH, "101", Exact(0, 600_000_000), 6 * NS_PER_HOUR)
    node.burn(OCTOBER_S + 900, 2 * KWH, "102", Exact(0, 400_000_000), 4 * NS_PER_HOUR)
    node.burn(OCTOBER_S + 900, 1 * KWH, "", Exact(0, 200_000_000))
    node.booked_to_s = NOVEMBER_S + 1
    collect(node)
    return node


def collect(node: Node) -> None:
    import os

    with opened(os.environ["JOULEBOOK_COLLECT_URL"], create=True) as database:
        found = ingest.places(database).get(("", "n1"), [])
        since = found[0].position if found else 0
        assert ingest.take(database, node.page(since), "t", int(time.time()))


def run(*arguments: str) -> int:
    return cli.main(list(arguments))


def bill(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    capsys.readouterr()
    assert run("bill", "show", *arguments, "--format", "json") == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_text(october: Node, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("bill", "show", "2026-10") == 0
    text = capsys.readouterr().out
    assert "Bill of 2026-10: open" in text
    assert "nlp/ada/bert" in text
    assert "0.6000 EUR" in text
    assert "(unallocated)" in text
    assert "1.2000 EUR" in text.splitlines()[-1]


def test_csv_is_exact_and_no_formula(october: Node, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("bill", "show", "2026-10", "--format", "csv") == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(row["account"], row["remainder"], row["energy_kwh"], row["cost"]) for row in rows] == [
        ("nlp", "", "3.000000000", "0.600000000"),
        ("vision", "", "2.000000000", "0.400000000"),
        ("", "unallocated", "1.000000000", "0.200000000"),
    ]
    assert rows[1]["experiment"] == "'=cmd|' /C calc'!A0"


def test_a_closed_month_and_what_comes_late(
    october: Node, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("bill", "close", "2026-10", "--by", "grace") == 0
    before = bill(capsys, "2026-10")
    october.burn(OCTOBER_S + 900, 5 * KWH, "101", Exact(1))
    collect(october)
    assert bill(capsys, "2026-10") == before
    november = bill(capsys, "2026-11")
    (line,) = november["lines"]
    assert (line["entry"], line["late_for"]) == ("late", "2026-10")
    assert line["energy_uj"] == 5 * KWH
    assert line["cost"] == {"EUR": "1.000000000"}
    assert run("bill", "show", "2026-11") == 0
    assert "late, of 2026-10" in capsys.readouterr().out
    assert run("bill", "close", "2026-10") == 2
    assert "2026-10 is closed already" in capsys.readouterr().err
    assert run("bill", "open") == 0
    assert "closed 2026-11-16" in capsys.readouterr().out


def test_a_month_is_not_closed_before_nodes_have_told_it(
    october: Node, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Node("n2", "b" * 32)
    other.burn(OCTOBER_S, KWH)
    with opened(f"{_url()}", create=True) as database:
        ingest.take(database, other.page(0), "t", int(time.time()))
    assert run("bill", "close", "2026-10") == 1
    said = capsys.readouterr().out
    assert "n2: collected up to 2026-10-01" in said
    assert "n1" not in said
    assert run("bill", "close", "2026-11", "--anyway") == 2
    assert "2026-11 is not over" in capsys.readouterr().err
    assert run("bill", "close", "2026-10", "--anyway") == 0


def _url() -> str:
    import os

    return os.environ["JOULEBOOK_COLLECT_URL"]


def test_a_correction_and_a_relabelling_are_balanced_entries(
    october: Node, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("bill", "close", "2026-10", "--by", "grace") == 0
    amounts = ("--cost", "0.25", "--kwh", "1", "--by", "grace", "--why", "GPU fell off the bus")
    owners = ("--from", "nlp/ada/bert", "--to", "(unallocated)")
    assert run("bill", "correct", *owners, *amounts) == 0
    labels = ("--experiment", "bert", "--account", "nlp")
    assert run("relabel", "102", *labels, "--by", "ada", "--why", "wrong wckey") == 0
    november = bill(capsys, "2026-11")
    total = november["total"]
    assert isinstance(total, dict)
    assert (total["energy_uj"], total["cost"], total["held_ns"]) == (0, {"EUR": "0.000000000"}, 0)
    assert [(c["kind"], c["who"], c["why"]) for c in november["corrections"]] == [
        ("correction", "grace", "GPU fell off the bus"),
        ("relabel", "ada", "wrong wckey"),
    ]
    lines = {
        (line["account"], line["user"], line["remainder"], line["correction"]): line["energy_uj"]
        for line in november["lines"]
    }
    assert lines == {
        ("nlp", "ada", "", 1): -KWH,
        ("", "", "unallocated", 1): KWH,
        ("vision", "grace", "", 2): -2 * KWH,
        ("nlp", "grace", "", 2): 2 * KWH,
    }
    # What the workload consumes from now on is booked where it was given to.
    october.burn(NOVEMBER_S + 900, 7 * KWH, "102")
    collect(october)
    nlp = bill(capsys, "2026-11", "--account", "nlp")
    assert ("bert", 7 * KWH) in [(line["experiment"], line["energy_uj"]) for line in nlp["lines"]]
    assert run("relabel", "102", "--experiment", "bert", "--why", "again") == 2
    assert "is of nlp/grace/bert already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("bill", "correct", "--from", "a", "--to", "b", "--why", "x"), "nothing to correct"),
        (("bill", "correct", "--from", "a", "--to", "b", "--cost", "1"), "says who makes it"),
        (("bill", "correct", "--from", "a", "--to", "a", "--cost", "1", "--why", "x"), "another"),
        (("bill", "correct", "--from", "a", "--to", "b", "--cost", "-1", "--why", "x"), "12.50"),
        (
            ("bill", "correct", "--from", "", "--to", "b", "--cost", "1", "--why", "x"),
            "ACCOUNT",
        ),
        (("bill", "show", "2026-13"), "expected a month like 2026-11"),
        (("bill", "close"), "which month?"),
        (("relabel", "999", "--experiment", "x", "--why", "y"), "no workload '999'"),
        (("relabel", "101", "--why", "y"), "give --experiment, --account or both"),
    ],
)
def test_what_is_refused(
    october: Node, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], why: str
) -> None:
    assert run(*arguments) == 2
    assert why in capsys.readouterr().err


def test_without_a_collected_ledger(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("JOULEBOOK_COLLECT_URL", raising=False)
    assert run("bill") == 2
    assert "collect.url is not set" in capsys.readouterr().err
    monkeypatch.setenv("JOULEBOOK_COLLECT_URL", f"sqlite://{tmp_path}/none.db")
    assert run("bill") == 2
    assert "no collected ledger at" in capsys.readouterr().err
    assert rollup.shown(rollup.after(202612)) == "2027-01"
