"""What idle time cost is on the bill: exactly as charged, or said to be not known."""

from __future__ import annotations

import csv
import io
import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from tests.unit.lab.collected.nodes import DECEMBER_S, NOVEMBER_S, OCTOBER_S, Node
from tests.unit.lab.collected.test_migration import collected_before

from joulebook.core.ledger.export import ChargedRow, ChargeRow, PostingsPage
from joulebook.core.money.amounts import NOTHING, Charge, Exact, Item
from joulebook.core.report.rollup import net
from joulebook.lab.bill_formats import as_csv
from joulebook.lab.collected import bills, check, corrections, ingest
from joulebook.lab.collected.database import MIGRATIONS, Database, opened
from joulebook.lab.figures import figures, idle_text

NOW_S = DECEMBER_S
HARDWARE = Charge(Item.HARDWARE, "EUR")
IDLE = Charge(Item.IDLE_HARDWARE, "EUR")
UNKNOWN = Charge(Item.IDLE_UNKNOWN, "EUR")


def held(node: Node, when_s: int, job: str, cost: int, idle: int) -> None:
    """Book an hour of a card, half of it idle, with what its hardware cost, all and idle."""
    node.burn(when_s, 1_000, job, held_ns=3_600 * 10**9)
    who = node.workloads[job].id
    posting = node.postings[when_s, who, ""]
    node.postings[when_s, who, ""] = msgspec.structs.replace(
        posting, idle_uj=400, idle_ns=1_800 * 10**9
    )
    for item, whole in (("hardware", cost), ("idle_hardware", idle)):
        node.charges[when_s, who, "", item] = ChargeRow(
            node._next(), when_s, who, "", item, "EUR", whole, 0, 0
        )


def page_of(node: Node, since: int = 0) -> PostingsPage:
    sums: dict[str, int] = {}
    for row in node.charges.values():
        sums[row.item] = sums.get(row.item, 0) + row.whole
    charged = tuple(ChargedRow(item, "EUR", Exact(sum_), NOTHING) for item, sum_ in sums.items())
    return msgspec.structs.replace(node.page(since), charged=charged)


def take(database: Database, page: PostingsPage) -> None:
    assert ingest.take(database, page, page.node, NOW_S) is not None


def paid(database: Database, month: int) -> dict[Charge, int]:
    return {
        item: sum_.whole for item, sum_ in bills.total(bills.bill(database, month).lines)[1].items()
    }


def test_a_bill_has_what_idle_time_cost_and_never_adds_it_to_the_whole(tmp_path: Path) -> None:
    node = Node()
    node.label("1", "nlp", "ada", "bert")
    held(node, OCTOBER_S, "1", 100, 45)
    held(node, NOVEMBER_S, "1", 100, 30)
    with opened(f"sqlite://{tmp_path}/a.db", create=True) as database:
        take(database, page_of(node))
        assert paid(database, 202610) == {HARDWARE: 100, IDLE: 45}
        bill = bills.bill(database, 202610)
        used, charges = bills.total(bill.lines)
        assert {currency: sum_.whole for currency, sum_ in net(charges).items()} == {"EUR": 100}
        told = figures({"gpu": used}, charges)
        assert (told.idle_cost, told.idle_hardware) == (
            {"EUR": "45.000000000"},
            {"EUR": "45.000000000"},
        )
        assert "45.00 EUR (45.00 EUR of it hardware)" in idle_text(used.idle_uj, charges).replace(
            "\u202f", " "
        )
        (row,) = csv.DictReader(io.StringIO(as_csv(bill)))
        assert [row[name] for name in ("hardware", "cost", "idle_gpu_hours", "idle_hardware")] == [
            "100.000000000", "100.000000000", "0.500000000", "45.000000000",
        ]  # fmt: skip
        # The whole year, as the overview adds it up.
        year = bills.by_month(database, 202601, 202612)
        assert {month: sums.billed[IDLE].whole for month, sums in year.items()} == {
            202610: 45, 202611: 30,
        }  # fmt: skip
        assert check.check(database).good


def test_a_correction_takes_the_idle_part_along(tmp_path: Path) -> None:
    node = Node()
    node.label("1", "nlp", "ada", "bert")
    held(node, OCTOBER_S, "1", 100, 45)
    with opened(f"sqlite://{tmp_path}/a.db", create=True) as database:
        take(database, page_of(node))
        bills.close(database, 202610, "grace", NOW_S)
        reason = corrections.Reason("relabel", "grace", "wrong account", NOW_S)
        corrections.relabel(database, "1", ("bio", None), reason)
        of = {
            (str(line.owner), line.correction): line.billed[IDLE].whole
            for month in (202610, 202612)
            for line in bills.bill(database, month).lines
        }
        assert of == {("nlp/ada/bert", 0): 45, ("nlp/ada/bert", 1): -45, ("bio/ada/bert", 1): 45}
        assert check.check(database).good


def test_a_node_of_the_version_before_does_not_tell_it(tmp_path: Path) -> None:
    node = Node()
    node.label("1", "nlp", "ada", "bert")
    node.burn(OCTOBER_S, 1_000, "1", Exact(5), 9)
    node.burn(OCTOBER_S, 1_000, "", Exact(2))
    page = msgspec.structs.replace(node.page(0), v=1)
    with opened(f"sqlite://{tmp_path}/a.db", create=True) as database:
        take(database, page)
        of_job, of_nobody = sorted(
            bills.bill(database, 202610).lines, key=lambda b: b.owner.remainder
        )
        assert UNKNOWN in of_job.billed and UNKNOWN not in of_nobody.billed
        used, charges = bills.total([of_job])
        assert figures({"gpu": used}, charges).idle_cost == {"EUR": None}
        assert "cost not known" in idle_text(used.idle_uj, charges)
        assert paid(database, 202610)[Charge(Item.ELECTRICITY, "EUR")] == 7


def test_a_ledger_of_before_learns_it_for_open_months_and_says_so_of_closed_ones(
    tmp_path: Path,
) -> None:
    url = collected_before(tmp_path)
    with closing(sqlite3.connect(url.removeprefix("sqlite://"))) as conn:
        _upgrade(url, "0016")
        conn.execute(
            "INSERT INTO kinds (id, remainder, item, currency)"
            " VALUES (99, '', 'idle_hardware', 'EUR')"
        )
        ((workload,),) = conn.execute(
            "SELECT min(workload) FROM used WHERE month = 202611 AND workload > 0"
        ).fetchall()
        conn.executemany(
            "INSERT INTO charges (ledger, quarter_s, workload, kind, whole, nano, rest, undated)"
            " VALUES (1, ?, ?, 99, ?, 0, 0, 0)",
            [(OCTOBER_S, workload, 40), (NOVEMBER_S, workload, 7), (NOVEMBER_S + 900, workload, 2)],
        )
        conn.commit()
    with opened(url, create=True) as database:
        assert paid(database, 202611)[IDLE] == 9
        october = paid(database, 202610)
        assert IDLE not in october and any(item is Item.IDLE_UNKNOWN for item, _ in october)
        assert check.check(database).good


def _upgrade(url: str, revision: str) -> None:
    engine = sa.create_engine(url.replace("sqlite://", "sqlite:///"))
    with engine.begin() as connection:
        config = Config(attributes={"connection": connection})
        config.set_main_option("script_location", str(MIGRATIONS))
        command.stamp(config, "0004")
        command.upgrade(config, revision)
    engine.dispose()
