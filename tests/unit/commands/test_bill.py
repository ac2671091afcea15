"""`joulebook bill` and `joulebook relabel` on a collected ledger, by the command line."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.unit.lab.collected.nodes import NOVEMBER_S, OCTOBER_S, Node

from joulebook import cli
from joulebook.core.money.amounts import Exact
from joulebook.lab.collected import bills, ingest, months
from joulebook.lab.collected.database import opened
from joulebook.units import NS_PER_HOUR, NS_PER_S, UJ_PER_KWH

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
    head, *rows, _, idle = text.splitlines()[2:]
    assert idle == "Allocated but idle: 0.0000 GPU-hours (0.0 GPU-seconds), 0 J"
    assert head.split("  ")[0] == "account / user / experiment"
    assert "energy (kWh)" in head and "cost (EUR)" in head
    assert rows[0].split() == ["nlp/ada/bert", "3.00", "6.00", "0.60", "-"]
    assert "(unallocated)" in text
    assert rows[-1].split() == ["total", "6.00", "10.00", "1.20", "-"]


def test_no_figure_of_a_bill_is_cut_at_80_columns(
    october: Node, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    october.label("103", "nlp", "a-user-with-a-long-name", "resnet50-imagenet-sweep-lr-0.0003")
    october.burn(OCTOBER_S + 900, KWH, "103", Exact(12_345, 600_000_000), 4 * NS_PER_HOUR)
    october.emit(OCTOBER_S + 900, Exact(33, 319_224_000), "103")
    collect(october)
    monkeypatch.setenv("COLUMNS", "80")
    assert run("bill", "show", "2026-10") == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert "CO2e (kg)" in lines[2]
    assert "resnet50-imagenet-sweep-lr-0.0003" in "".join(line.split()[0] for line in lines if line)
    (row,) = [line for line in lines if "12,345.60" in line and "a-user" in line]
    assert row.split()[-4:] == ["1.00", "4.00", "12,345.60", "33.3"]
    # The account has more than one line, so it has a sum.
    assert any(line.startswith("nlp, total") for line in lines)


def test_the_month_before(october: Node, capsys: pytest.CaptureFixture[str]) -> None:
    assert bill(capsys, "--last")["month"] == "2026-10"
    assert bill(capsys)["month"] == "2026-11"
    assert run("bill", "show", "--last", "2026-10") == 2
    assert run("bill", "show", "--account", "nlp") == 0
    assert "Nothing was billed to it in this month." in capsys.readouterr().out


def test_words_may_stand_behind_options(
    october: Node, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "joulebook.toml"
    config.write_text("")
    assert run("bill", "show", "--account", "nlp", "2026-10") == 0
    assert "nlp/ada/bert" in capsys.readouterr().out
    assert run("bill", "--format", "csv", "show", "2026-10") == 0
    assert "nlp" in capsys.readouterr().out
    assert run("bill", "close", "--config", str(config), "2026-10", "--by", "grace") == 0
    assert run("bill", "close", "--config", str(config), "2026-10", "twice") == 2
    assert "unexpected extra argument (twice)" in capsys.readouterr().err


def test_subtotals_of_accounts_for_programs(
    october: Node, capsys: pytest.CaptureFixture[str]
) -> None:
    accounts = bill(capsys, "2026-10")["accounts"]
    assert isinstance(accounts, dict)
    assert {name: each["cost"] for name, each in accounts.items()} == {
        "nlp": {"EUR": "0.600000000"}, "vision": {"EUR": "0.400000000"},
    }  # fmt: skip


NLP_VISION = ("bill", "correct", "--from", "nlp", "--to", "vision")
MOVE = ("--from", "nlp", "--to", "vision", "--cost", "0.25", "--why", "x")


def test_a_correction_counts_in_the_month_that_is_named(
    october: Node, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("bill", "correct", "2026-10", *MOVE) == 0
    assert "correction 1 in the bill of 2026-10" in capsys.readouterr().out
    assert bill(capsys, "2026-10")["corrections"]
    assert not bill(capsys, "2026-11")["corrections"]
    assert run("bill", "close", "2026-10") == 0
    assert run("bill", "correct", "2026-10", *MOVE) == 2
    said = capsys.readouterr().err
    assert "2026-10 is closed permanently" in said and "2026-11" in said
    assert run("bill", "correct", "2026-12", *MOVE) == 2
    assert "2026-12 has not begun" in capsys.readouterr().err
    assert run("bill", "correct", *MOVE) == 0
    assert "in the bill of 2026-11" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--from", "nlpp", "--from nlpp: nothing was ever booked to it; known: nlp"),
        ("--to", "nlp//bert", "nothing was ever booked to it; known: nlp/ada/bert"),
        ("--to", "nlp/ada/bret", "nothing was ever booked to it; known: nlp/ada/bert"),
        ("--currency", "XXX", "--currency XXX: EUR is billed"),
        ("--cost", "1e400", "expected an amount like 12.50"),
        ("--kwh", "1e400", "expected an amount like 12.50"),
        ("--gpu-hours", "999999999999999", "too large for one correction"),
    ],
)
def test_what_nobody_ever_booked_to_is_asked_for(
    october: Node, capsys: pytest.CaptureFixture[str], option: str, value: str, said: str
) -> None:
    assert run("bill", "correct", *MOVE, option, value) == 2
    assert said in capsys.readouterr().err


def test_a_new_owner_is_taken_where_that_is_said(
    october: Node, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("bill", "correct", *MOVE, "--to", "new", "--currency", "USD", "--anyway") == 0
    assert run("bill", "show", "--account", "new") == 0
    assert "cost (USD)" in capsys.readouterr().out


def test_a_bill_of_nobody_is_refused(october: Node, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("bill", "show", "2026-10", "--account", "nope") == 2
    assert "--account nope: nothing was ever booked to it; known: nlp" in (capsys.readouterr().err)
    assert run("relabel", "101", "--account", "nope", "--why", "x") == 2
    assert "--account nope" in capsys.readouterr().err
    assert run("relabel", "101", "--account", "nope", "--why", "x", "--anyway") == 0


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
    assert "2026-10 is already closed" in capsys.readouterr().err
    for action in ("list", "open"):
        assert run("bill", action) == 0
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
    assert "already belongs to nlp/grace/bert" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (
            (*NLP_VISION, "--why", "x"),
            "nothing to correct",
        ),
        (
            (*NLP_VISION, "--cost", "1"),
            "needs an author",
        ),
        (
            ("bill", "correct", "--from=nlp", "--to=nlp", "--cost", "1", "--why", "x"),
            "two different owners",
        ),
        (
            (*NLP_VISION, "--cost", "-1", "--why", "x"),
            "12.50",
        ),
        (
            ("bill", "correct", "--from", "", "--to", "nlp", "--cost", "1", "--why", "x"),
            "ACCOUNT",
        ),
        (
            (*NLP_VISION, "--cost", "1", "--why", "x", "--from", "(nobody)"),
            "'(nobody)': expected one of (unallocated), (system), (daemon_down)",
        ),
        (("bill", "correct", "2025-01", *MOVE), "2025-01: nothing was billed in it; --anyway"),
        (("bill", "list", "2026-10"), "2026-10: not of `joulebook bill list`"),
        (("bill", "open", "--last"), "--last: not of"),
        (("bill", "list", "--account", "nlp"), "--account: not of"),
        (("bill", "close", "2026-10", "--account", "nlp"), "--account: not of"),
        (("bill", "show", "--kwh", "5"), "--kwh: not of `joulebook bill show`"),
        (("bill", "close", "2026-10", *MOVE), "--from: not of `joulebook bill close`"),
        (("bill", "correct", *MOVE, "--cost", "0"), "an amount above zero"),
        (("bill", "show", "2026-13"), "expected a month like 2026-11"),
        (("bill", "show", "9999-12"), "expected a month like 2026-11"),
        (("bill", "close"), "give the month"),
        (("relabel", "999", "--experiment", "x", "--why", "y"), "no workload '999'"),
        (("relabel", "101", "--why", "y"), "give --experiment, --account or both"),
        (("relabel", "101", "--experiment", "", "--why", "y"), "give --experiment, --account"),
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
    assert months.shown(months.after(202612)) == "2027-01"


def test_a_recorded_trace_is_named(october: Node, capsys: pytest.CaptureFixture[str]) -> None:
    """In the bill, and in every report from the collected ledger."""
    assert run("bill", "show", "2026-10") == 0
    assert "recorded trace" not in capsys.readouterr().err
    since = october.last
    october.burn(OCTOBER_S + 900, KWH, "101")
    page = october.page(since)
    meters = tuple(msgspec.structs.replace(each, replayed=True) for each in page.meters)
    with opened(_url(), create=True) as database:
        played = msgspec.structs.replace(page, meters=meters)
        assert ingest.take(database, played, "t", int(time.time()))
    for form in ("text", "csv", "json"):
        assert run("bill", "show", "2026-10", "--format", form) == 0
        assert "Warning: n1: data from a recorded trace" in capsys.readouterr().err
    assert run("report", "--collected") == 0
    assert "Warning: collected ledger has data from a recorded trace" in capsys.readouterr().out
    assert run("report", "--collected", "--experiment", "bert", "--format", "json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["recorded_trace"] is True
    assert run("job", "101", "--collected") == 0
    assert "from a recorded trace" in " ".join(capsys.readouterr().out.split())


NOT_NULL = (
    "BilledCost", "BillingAccountId", "BillingCurrency", "BillingPeriodEnd", "BillingPeriodStart",
    "ChargeCategory", "ChargeDescription", "ChargePeriodEnd", "ChargePeriodStart", "ContractedCost",
    "EffectiveCost", "InvoiceIssuerName", "ListCost", "ProviderName", "PublisherName",
    "ServiceCategory", "ServiceName",
)  # fmt: skip
"""Columns that FOCUS 1.0 wants a value in (https://focus.finops.org, chapter 2)."""


def test_rows_by_focus(october: Node, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("bill", "show", "2026-10", "--format", "focus") == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(rows[0]) == 43
    for row in rows:
        assert all(row[name] for name in NOT_NULL), row
        assert not any(value.startswith(("=", "+", "@")) for value in row.values())
        assert row["BillingPeriodStart"] == "2026-10-01T00:00:00Z"
        assert row["BillingPeriodEnd"] == "2026-11-01T00:00:00Z"
        assert row["ChargeCategory"] in {"Usage", "Credit"}
    assert sum(float(row["BilledCost"]) for row in rows) == pytest.approx(1.2)
    nlp = next(row for row in rows if row["SubAccountId"] == "nlp")
    assert nlp["BilledCost"] == "0.600000000"
    assert (nlp["ConsumedQuantity"], nlp["ConsumedUnit"]) == ("3.000000000", "kWh")
    assert json.loads(nlp["Tags"]) == {"user": "ada", "experiment": "bert"}


def test_models_that_were_served_have_rows_of_their_own_by_focus(
    october: Node, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are taken out of their owner's row: the bill stays the same."""
    with opened(os.environ["JOULEBOOK_COLLECT_URL"]) as database:
        (number,) = database.rows("SELECT id FROM workloads WHERE workload = '101'")[0]
        quarter_s = OCTOBER_S + 900
        rows = [("llama", "gpu", "", 0, KWH, 0, 0), ("llama", "gpu", "", 1, KWH // 2, 0, 0),
                ("llama", "electricity", "EUR", 0, 0, 200_000_000, 0),
                ("llama", "electricity", "EUR", 1, 0, 50_000_000, 7),
                ("other", "electricity", "EUR", 0, 9_000, 0, 0)]  # fmt: skip
        database.upsert("served", [(number, quarter_s, *row) for row in rows])
        owner = (quarter_s, "nlp", "bert", "llama")
        database.upsert("tokens", [(*owner, "output", number, 5000)])
    assert run("bill", "show", "2026-10", "--format", "focus") == 0
    found = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert sum(float(row["BilledCost"]) for row in found) == pytest.approx(1.2)
    model, rest = (row for row in found if row["SubAccountId"] == "nlp")
    assert (model["ResourceType"], model["ResourceName"]) == ("model", "llama")
    assert (model["BilledCost"], rest["BilledCost"]) == ("0.250000000", "0.350000000")
    assert (model["ConsumedQuantity"], rest["ConsumedQuantity"]) == ("1.500000000", "1.500000000")
    assert json.loads(model["Tags"]) == {
        "user": "ada", "experiment": "bert", "model": "llama", "output": "5000",
    }  # fmt: skip
    # What is more than its owner was billed has no row: a correction has moved it.
    assert not any(row["ResourceName"] == "other" for row in found)


WRONG_RULES = {
    "InvoiceIssuer_Required",
    "Provider_Required",
    "Publisher_Required",
    "ResourceID_Required",
    "BillingCurrency_IsCurrencyCode",
}
"""What version 1.0.0 refuses in any file: names of columns from before FOCUS 1.0, and currencies,
whose list is not in the package."""


@pytest.mark.nightly
def test_the_validator_of_focus_passes_a_bill(
    october: Node, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("bill", "show", "2026-10", "--format", "focus") == 0
    (tmp_path / "bill.csv").write_text(capsys.readouterr().out)
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    binaries = tmp_path / "venv/bin"
    packages = ["focus-validator==1.0.0", "multimethod<2"]
    subprocess.run([binaries / "pip", "install", "--quiet", *packages], check=True)
    done = subprocess.run(
        [binaries / "focus-validator", "--data-file", "bill.csv", "--validate-version", "1.0"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    said = done.stdout + done.stderr
    assert "Errors encountered:" in said
    assert set(re.findall(r"(\w+) failed:", said)) == WRONG_RULES, said


def test_a_late_entry_is_a_correction_by_focus(
    october: Node, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("bill", "close", "2026-10", "--by", "test") == 0
    october.burn(OCTOBER_S + 900, KWH, "101", Exact(0, 200_000_000), NS_PER_HOUR)
    collect(october)
    capsys.readouterr()
    assert run("bill", "show", "2026-11", "--format", "focus") == 0
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert row["ChargeClass"] == "Correction"
    assert row["ChargePeriodStart"] == "2026-10-01T00:00:00Z"
    assert row["BillingPeriodStart"] == "2026-11-01T00:00:00Z"


def test_what_is_not_measured_for_all_of_its_time_says_so(
    october: Node, capsys: pytest.CaptureFixture[str]
) -> None:
    t0_ns = (OCTOBER_S + 900) * NS_PER_S
    held = (("101", ("nlp", "ada", "bert"), 8), ("102", ("vision", "grace", "v"), 4))
    for number, who, hours in held:
        october.label(number, *who, started_utc_ns=t0_ns, ended_utc_ns=t0_ns + hours * NS_PER_HOUR)
    collect(october)
    with opened(os.environ["JOULEBOOK_COLLECT_URL"]) as database:
        assert bills.short(database, 202610) == ["slurm/101"], "no other's quarter hours are read"
        assert bills.short(database, 202610, "vision") == []
    (partial,) = bill(capsys, "2026-10")["measured"]
    assert partial == {"account": "nlp", "user": "ada", "experiment": "bert", "coverage": 0.75}
    assert run("bill", "show", "2026-10") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "nlp/ada/bert: measured for 75 % of the GPU time held: energy, cost and CO2e are" in said
    assert "vision/grace/v: measured" not in said
    assert bill(capsys, "2026-10", "--account", "vision")["measured"] == []
