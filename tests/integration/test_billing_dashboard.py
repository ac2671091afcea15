"""Every panel of the billing dashboard, run against a real PostgreSQL whose truth is known."""

from __future__ import annotations

import re
from typing import Any

import psycopg
import pytest
from tests.integration.postgresql import PostgreSql
from tests.lab.grafana import asks_of_ledger, dashboards, panels
from tests.unit.lab.collected.nodes import DAY_S, DECEMBER_S, NOVEMBER_S, OCTOBER_S, Node

from joulebook.core.evidence import Amount
from joulebook.core.ledger.export import ChargeRow
from joulebook.core.money.amounts import Exact
from joulebook.lab.collected import bills, corrections, ingest
from joulebook.lab.collected.corrections import Reason, Transfer
from joulebook.lab.collected.database import opened
from joulebook.lab.collected.schema import BilledOwner
from joulebook.units import NS_PER_HOUR, UJ_PER_KWH

(BOARD,) = dashboards("grafana-postgresql-datasource").values()
PANELS = {panel["title"]: panel for panel in panels(BOARD)}
EVIL = "'; DROP TABLE used; --"
NOW_S = NOVEMBER_S + 10 * DAY_S


@pytest.fixture(scope="module")
def url(postgresql: PostgreSql) -> str:
    """October closed; in November 4 kWh of nlp's, one hostile name, and 1 kWh late of October."""
    url = postgresql.new()
    node = Node("n1", cluster="lab")
    node.label("101", "nlp", "ada", "bert")
    node.label("102", EVIL, "grace", EVIL)
    node.burn(OCTOBER_S + 900, 2 * UJ_PER_KWH, "101", Exact(0, 400_000_000), NS_PER_HOUR)
    with opened(url, create=True) as database:
        ingest.take(database, node.page(0), "http://n1:9816", NOW_S)
        bills.close(database, 202610, "grace", NOW_S)
        since = node.last
        node.burn(OCTOBER_S + 900, UJ_PER_KWH, "101", Exact(0, 200_000_000), NS_PER_HOUR)
        node.burn(NOVEMBER_S + 900, 4 * UJ_PER_KWH, "101", Exact(0, 800_000_000), 2 * NS_PER_HOUR)
        node.burn(NOVEMBER_S + DAY_S, 3 * UJ_PER_KWH, "102", Exact(0, 600_000_000))
        node.burn(NOVEMBER_S + DAY_S, 2 * UJ_PER_KWH, "", Exact(0, 400_000_000))
        page = node.page(since)
        carbon = ChargeRow(page.last, NOVEMBER_S + 900, 1, "", "co2e", "", 1, 500_000_000, 0)
        charges = (*page.charges, carbon)
        page = type(page)(**{f: getattr(page, f) for f in page.__struct_fields__ if f != "charges"},
                          charges=charges)  # fmt: skip
        ingest.take(database, page, "http://n1:9816", NOW_S)
        corrections.correct(
            database,
            BilledOwner("", "nlp", "ada", "bert"),
            BilledOwner("unallocated"),
            [
                Transfer(item="electricity", currency="EUR", billed=Exact(0, 100_000_000)),
                Transfer("gpu", Amount(UJ_PER_KWH // 2, 0, 0)),
            ],
            Reason("correction", "grace", "GPU fell off the bus", NOW_S),
        )
    return url


def asked(url: str, title: str, month: str = "202611", accounts: tuple[str, ...] = ()) -> Any:
    chosen = accounts or ("nlp", EVIL)
    (sql,) = (
        sql
        for panel, sql in asks_of_ledger(BOARD, month, chosen, NOVEMBER_S, DECEMBER_S)
        if panel["title"] == title
    )
    assert "$" not in sql
    with psycopg.connect(url) as conn:
        conn.read_only = True
        cursor = conn.execute(sql.encode())
        assert cursor.description
        names = [column.name for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def test_figures(url: str) -> None:
    assert asked(url, "Energy") == [{"energy": pytest.approx(10)}]
    assert asked(url, "Cost") == [{"currency": "EUR", "cost": pytest.approx(2.0)}]
    assert asked(url, "CO2e") == [{"CO2e": pytest.approx(1500)}]
    assert asked(url, "Unattributed") == [{"unattributed": pytest.approx(0.25)}]


def test_by_account(url: str) -> None:
    assert {row["account"]: row["cost"] for row in asked(url, "Cost by account")} == {
        "nlp EUR": pytest.approx(0.9),
        f"{EVIL} EUR": pytest.approx(0.6),
        "(unallocated) EUR": pytest.approx(0.5),
    }
    days = asked(url, "Energy by account and day")
    assert {row["metric"]: row["kWh"] for row in days} == {
        "nlp": pytest.approx(4),
        "(unallocated)": pytest.approx(2),
        EVIL: pytest.approx(3),
    }
    assert [int(row["time"].timestamp()) for row in days] == [
        NOVEMBER_S + DAY_S,
        NOVEMBER_S + 2 * DAY_S,
        NOVEMBER_S + 2 * DAY_S,
    ]


def test_the_bill_is_that_of_the_command(url: str) -> None:
    rows = asked(url, "Bill")
    found = {
        (row["account"], row["entry"]): (row["energy"], row["GPU-hours"], row["cost"], row["CO2e"])
        for row in rows
    }
    near = pytest.approx
    assert found == {
        ("nlp", "usage"): (near(4), near(2), near(0.8), near(1500)),
        ("nlp", "late, of 202610"): (near(1), near(1), near(0.2), None),
        ("nlp", "correction 1"): (near(-0.5), near(0), near(-0.1), None),
        (EVIL, "usage"): (near(3), near(0), near(0.6), None),
        ("(unallocated)", "usage"): (near(2), near(0), near(0.4), None),
        ("(unallocated)", "correction 1"): (near(0.5), near(0), near(0.1), None),
    }
    with opened(url) as database:
        amount, _ = bills.total(bills.bill(database, 202611).lines)
    assert sum(row["energy"] for row in rows) == near(amount.energy_uj / UJ_PER_KWH)


def test_corrections_months_and_nodes(url: str) -> None:
    (correction,) = asked(url, "Corrections")
    assert (correction["who"], correction["why"]) == ("grace", "GPU fell off the bus")
    assert (correction["from"], correction["to"]) == ("nlp/bert", "unallocated/")
    assert (correction["energy"], correction["cost"]) == (pytest.approx(0.5), "0.1000 EUR")
    months = {row["month"]: (row["state"], row["by"]) for row in asked(url, "Months")}
    assert months == {202611: ("open", ""), 202610: ("closed 2026-11-11", "grace")}
    (node,) = asked(url, "Nodes")
    assert (node["cluster"], node["node"], node["behind"]) == ("lab", "n1", 0)


def test_two_currencies_are_two_rows_of_one_energy_and_are_never_added_up(
    postgresql: PostgreSql,
) -> None:
    url = postgresql.new()
    paid = [
        Transfer(item="electricity", currency="EUR", billed=Exact(3)),
        Transfer(item="hardware", currency="EUR", billed=Exact(1)),
        Transfer(item="hardware", currency="USD", billed=Exact(7)),
        Transfer(item="co2e", billed=Exact(2)),
        Transfer("gpu", Amount(UJ_PER_KWH, 0, NS_PER_HOUR)),
    ]
    with opened(url, create=True) as database:
        reason = Reason("correction", "grace", "billed twice", NOW_S)
        corrections.correct(
            database, BilledOwner("", "nlp"), BilledOwner("unallocated"), paid, reason
        )
    mine = [row for row in asked(url, "Bill") if row["account"] == "nlp"]
    assert {row["currency"]: row["cost"] for row in mine} == {"EUR": -4, "USD": -7}
    for figure, whole in (("energy", -1), ("GPU-hours", -1), ("CO2e", -2000)):
        assert [row[figure] for row in mine if row[figure] is not None] == [whole]
    (correction,) = asked(url, "Corrections")
    assert correction["cost"] == "4.0000 EUR, 7.0000 USD"


@pytest.mark.parametrize("title", [t for t, panel in PANELS.items() if panel["type"] == "table"])
def test_columns_stand_as_they_are_asked_for_and_figures_have_units(url: str, title: str) -> None:
    panel = PANELS[title]
    assert not panel.get("transformations")
    shown = {
        override["matcher"]["options"]: {p["id"]: p["value"] for p in override["properties"]}
        for override in panel["fieldConfig"]["overrides"]
    }
    row = asked(url, title)[0]
    assert shown.keys() <= row.keys()
    for name, value in row.items():
        if not isinstance(value, str) and name not in ("number", "month"):
            assert shown[name]["unit"], name


def test_money_is_shown_with_its_currency(url: str) -> None:
    assert PANELS["Cost"]["options"]["textMode"] == "value_and_name"
    assert all("EUR" in row["account"] for row in asked(url, "Cost by account"))


@pytest.mark.parametrize("title", PANELS)
def test_no_choice_can_inject(url: str, title: str) -> None:
    """Whatever is chosen or typed is a value: nothing is found, and nothing happens."""
    before = asked(url, title)
    for evil in (EVIL, "x') OR ('1'='1", "\\'; DELETE FROM ledgers; --", "''", "%"):
        asked(url, title, accounts=(evil,))
    assert asked(url, title) == before
    assert before


def test_variables_are_quoted_wherever_they_stand() -> None:
    for panel in PANELS.values():
        for target in panel["targets"]:
            used = re.findall(r"\$\{?(\w+)(:\w+)?", target["rawSql"])
            assert {(n, f) for n, f in used if not n.startswith("__")} <= {
                ("month", ":sqlstring"),
                ("account", ":sqlstring"),
            }
    for variable in BOARD["templating"]["list"]:
        if variable["type"] == "query":
            assert variable["query"].startswith("SELECT DISTINCT ")
            assert "$" not in variable["query"]


def test_the_choices(url: str) -> None:
    queries = {v["name"]: v["query"] for v in BOARD["templating"]["list"]}
    with psycopg.connect(url) as conn:
        assert conn.execute(queries["month"].encode()).fetchall() == [("202611",), ("202610",)]
        assert {row[0] for row in conn.execute(queries["account"].encode())} == {"nlp", EVIL}
