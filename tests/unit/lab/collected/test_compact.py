"""Closed months by day: every statement and bill to the unit, and what then cannot be asked."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from tests.scale import scaled
from tests.unit.lab.collected.nodes import DAY_S, DECEMBER_S, NOVEMBER_S, OCTOBER_S, Node
from tests.unit.lab.collected.test_migration import every_bill

from joulebook.core.ledger.export import ChargedRow, ChargeRow, PostingsPage, RateRow
from joulebook.core.money.amounts import ATOMS_PER_HELD, Exact
from joulebook.core.report.dataset import ReportData, Selection
from joulebook.core.report.rollup import lines
from joulebook.core.report.run_roles import RoleChoice
from joulebook.errors import InputError, LedgerUnavailable
from joulebook.lab.collected import bills, check, compact, ingest
from joulebook.lab.collected.database import Database, opened
from joulebook.lab.collected.report_query import CollectedSource
from joulebook.lab.report import statement
from joulebook.lab.report.about import About

HOUR_S = 3_600
FOREVER_S = 1 << 40
WANTED = [
    Selection(),
    Selection(experiments=frozenset({"bert"})),
    Selection(users=frozenset({"ada", "grace"})),
    Selection(workloads=frozenset({"n1-4"})),
    Selection(accounts=frozenset({"bio"}), experiments=frozenset({"fold", "bert"})),
]


def priced(node: Node, lot: random.Random) -> None:
    """Rates of all that the node booked: hourly, a PUE that changes on a day, some unknown."""
    energy: dict[int, int] = {}
    for (quarter_s, _, _), row in node.postings.items():
        energy[quarter_s] = energy.get(quarter_s, 0) + row.energy_uj
    node.rates = {}
    for quarter_s, energy_uj in sorted(energy.items()):
        hour = quarter_s // HOUR_S
        pue = 1_200_000 if hour % 24 < 9 else 1_300_000
        found = [("price", hour * 37 % 300 - 20, "nEUR/kWh"), ("carbon", hour * 91 % 500, "ugCO2e"),
                 ("pue", pue, "ppm")]  # fmt: skip
        for n, (quantity, value, unit) in enumerate(found):
            if quantity == "carbon" and hour % 50 == 7:
                continue  # the feed was down
            parts = [energy_uj]
            if quantity == "pue" and lot.random() < 0.02:
                parts = [energy_uj // 3, energy_uj - energy_uj // 3]
            for m, part_uj in enumerate(parts):
                node.rates[quarter_s * 10 + 2 * n + m] = RateRow(
                    node._next(), quarter_s, quantity, value + m, unit, "feed", "measured",
                    part_uj, 0,
                )  # fmt: skip


HOURLY = 2_100_000_001


def held(node: Node) -> None:
    """What the time held costs, at an hourly rate that goes up on the last day."""
    at: dict[tuple[int, int], int] = {}
    for (quarter_s, who, remainder), row in list(node.postings.items()):
        value = HOURLY + (7 if quarter_s >= NOVEMBER_S - DAY_S else 0)
        at[quarter_s, value] = at.get((quarter_s, value), 0) + row.held_ns
        node.charges[quarter_s, who, remainder, "hardware"] = ChargeRow(
            node._next(), quarter_s, who, remainder, "hardware", "EUR",
            *Exact.of(value * row.held_ns * ATOMS_PER_HELD),
        )  # fmt: skip
    for n, ((quarter_s, value), held_ns) in enumerate(at.items()):
        node.rates[-n - 1] = RateRow(
            node._next(), quarter_s, "hardware", value, "nEUR/h", "contract", "measured", 0, held_ns
        )


def page_of(node: Node, since: int = 0) -> PostingsPage:
    """A page with the totals of each kind of charge."""
    page = node.page(since, 10**6)
    sums: dict[tuple[str, str], int] = {}
    for row in node.charges.values():
        key = (row.item, row.currency)
        sums[key] = sums.get(key, 0) + Exact(row.whole, row.nano, row.rest).atoms
    charged = tuple(ChargedRow(*key, Exact.of(n), Exact()) for key, n in sums.items())
    return msgspec.structs.replace(page, charged=charged)


def lab(seed: int) -> list[Node]:
    """Two nodes around the end of October: jobs of all lengths, with and without begin and end."""
    lot = random.Random(seed)
    nodes = [Node("n1", "a" * 32), Node("n2", "b" * 32)]
    for node in nodes:
        for job in range(8):
            start_s = NOVEMBER_S - lot.randrange(4 * DAY_S)
            end_s = start_s + lot.randrange(1, 2 * DAY_S)
            name = f"{node.name}-{job}" if job % 3 else f"{job}"
            node.label(
                name, lot.choice(["bio", "nlp"]), lot.choice(["ada", "grace", "alan"]),
                lot.choice(["bert", "fold", ""]),
                started_utc_ns=lot.choice([start_s * 10**9, start_s * 10**9, None]),
                ended_utc_ns=lot.choice([end_s * 10**9, end_s * 10**9, None]),
            )  # fmt: skip
            for when_s in range(start_s, end_s, 900):
                paid = Exact(lot.randrange(3), lot.randrange(10**9), lot.randrange(10**18))
                node.burn(when_s, lot.randrange(10**12), name, paid, lot.randrange(900 * 10**9))
        for when_s in range(NOVEMBER_S - 3 * DAY_S, NOVEMBER_S + DAY_S, 1_800):
            node.burn(when_s, lot.randrange(10**10))
        priced(node, lot)
        held(node)
        node.booked_to_s = DECEMBER_S
    return nodes


def collected(url: str, nodes: list[Node]) -> None:
    with opened(url, create=True) as database:
        for node in nodes:
            assert ingest.take(database, page_of(node), node.name, DECEMBER_S) is not None
        bills.close(database, 202610, "grace", DECEMBER_S)


def accounts(url: str, since_s: int = 0) -> Iterator[ReportData]:
    for wanted in WANTED:
        yield CollectedSource(url).account(since_s, FOREVER_S, wanted)


def statements(url: str) -> list[object]:
    context = statement.StatementContext(0.0)
    return [
        (statement.make(account, About(), RoleChoice(), context), lines(account))
        for since_s in (0, NOVEMBER_S - 2 * DAY_S)
        for account in accounts(url, since_s)
    ]


def compacted(url: str) -> list[compact.Compacted]:
    with opened(url) as database:
        return [*compact.compact(database, DECEMBER_S)]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite://{tmp_path}/c.db"


@pytest.mark.parametrize("seed", range(scaled(3)))
def test_statements_and_bills_stay_to_the_unit(url: str, seed: int) -> None:
    unchanged(url, lab(seed))


def unchanged(url: str, nodes: list[Node]) -> None:
    """Compact October, and compare all that can be asked."""
    collected(url, nodes)
    with opened(url) as database:
        bills_before, rows = every_bill(database), sizes(database)
    before = statements(url)
    assert compacted(url) == [compact.Compacted(202610, 2, [])]
    assert statements(url) == before
    with opened(url) as database:
        assert every_bill(database) == bills_before
        assert check.check(database).good
        assert sizes(database) < rows / 2
        after = database.rows("SELECT * FROM postings ORDER BY 1, 2, 3, 4, 5")
    # Again, nothing happens.
    assert compacted(url) == [compact.Compacted(202610, 2, [])]
    with opened(url) as database:
        assert database.rows("SELECT * FROM postings ORDER BY 1, 2, 3, 4, 5") == after


def sizes(database: Database) -> float:
    return sum(
        int(database.rows(f"SELECT count(1) FROM {table} WHERE quarter_s < ?", [NOVEMBER_S])[0][0])
        for table in ("postings", "charges", "rates_used", "day_rates")
    )


def test_a_kill_at_any_moment_changes_nothing(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    collected(url, lab(9))
    before, real, left = statements(url), Database.rows, 0

    def dies(self: Database, sql: str, values: object = ()) -> object:
        nonlocal left
        if sql.startswith(("DELETE", "COMMIT", "INSERT", "VACUUM", "UPDATE")):
            left -= 1
            if left == 0:
                raise LedgerUnavailable("killed")
        return real(self, sql, values)  # type: ignore[arg-type]

    for moment in range(1, 40):
        left = moment
        monkeypatch.setattr(Database, "rows", dies)
        try:
            compacted(url)
        except LedgerUnavailable:
            monkeypatch.setattr(Database, "rows", real)
            assert statements(url) == before
        else:
            monkeypatch.setattr(Database, "rows", real)
            break
    else:
        raise AssertionError("never done")
    with opened(url) as database:
        assert database.rows("SELECT sum(packed) FROM compacted") == [(2,)]
        assert check.check(database).good


def test_only_closed_months_of_nodes_that_reported_all_of_them(url: str) -> None:
    nodes = lab(1)
    nodes[1].booked_to_s = NOVEMBER_S - 1
    with opened(url, create=True) as database:
        for node in nodes:
            ingest.take(database, page_of(node), node.name, DECEMBER_S)
    assert compacted(url) == []
    with opened(url) as database:
        bills.close(database, 202610, "grace", DECEMBER_S)
    before = statements(url)
    assert compacted(url) == [compact.Compacted(202610, 1, ["n2"])]
    assert statements(url) == before
    since = nodes[1].last
    nodes[1].burn(NOVEMBER_S - 1, 7, "0")
    nodes[1].booked_to_s = DECEMBER_S
    with opened(url) as database:
        ingest.take(database, page_of(nodes[1], since), "n2", DECEMBER_S)
    before = statements(url)
    assert compacted(url) == [compact.Compacted(202610, 2, [])]
    assert statements(url) == before


def test_rows_that_come_late_for_a_compacted_month_add_to_it(url: str) -> None:
    nodes = lab(2)
    collected(url, nodes)
    compacted(url)
    with opened(url) as database:
        october = bills.bill(database, 202610)
        energy_uj = sum(row.energy_uj for node in nodes for row in node.postings.values())
        # A clock that was wrong is right, and rows are dated anew: never seen, and added.
        page = late(nodes[0], 500)
        assert ingest.take(database, page, "n1", DECEMBER_S) is not None
        assert bills.bill(database, 202610) == october
        (line,) = [b for b in bills.bill(database, 202611).lines if b.late_for == 202610]
        assert line.used["gpu"].energy_uj == 500
        assert check.check(database).good
    whole = CollectedSource(url).account(0, FOREVER_S, Selection())
    assert sum(row.amount.energy_uj for row in whole.postings) == energy_uj + 500
    assert compacted(url) == [compact.Compacted(202610, 2, [])]


@pytest.mark.parametrize("wrong_s", [0, 900 * 10**12, -900 * 10**12])
def test_a_clock_that_was_wrong_after_a_month_was_compacted(url: str, wrong_s: int) -> None:
    nodes = lab(2)
    collected(url, nodes)
    compacted(url)
    since = nodes[0].last
    nodes[0].burn(wrong_s, 30, "0", Exact(1))
    with opened(url) as database:
        taken = ingest.take(database, page_of(nodes[0], since), "n1", DECEMBER_S)
        assert taken is not None
        assert taken.undated == {wrong_s}
        assert database.rows("SELECT max(late) FROM compacted") == [(0,)]
        assert check.check(database).good


def late(node: Node, energy_uj: int) -> PostingsPage:
    """A page with a row of October that the collector has not seen, and nothing else."""
    since, key = node.last, (OCTOBER_S + 20 * DAY_S, node.workloads["0"].id, "")
    assert key not in node.postings
    node.burn(key[0], energy_uj, "0", Exact(1))
    return page_of(node, since)


@pytest.mark.parametrize("edge", ["since", "until"])
def test_an_hour_of_such_a_month_is_refused_in_words(url: str, edge: str) -> None:
    collected(url, lab(3))
    compacted(url)
    noon_s = NOVEMBER_S - DAY_S + 12 * HOUR_S
    span = (noon_s, FOREVER_S) if edge == "since" else (0, noon_s)
    said = f"--{edge} 2026-10-31T12:00Z is not the begin of a day: 2026-10 is compacted to days"
    with pytest.raises(InputError, match=f"{said}, and its quarter hours were not exported first"):
        CollectedSource(url).account(*span, Selection())
    # Days of it, and hours of other months, are there.
    CollectedSource(url).account(NOVEMBER_S - DAY_S, NOVEMBER_S + HOUR_S, Selection())
    CollectedSource(url).account(NOVEMBER_S + HOUR_S, FOREVER_S, Selection())


def test_other_rates_and_a_picture_are_refused_in_words(url: str) -> None:
    collected(url, lab(4))
    compacted(url)
    with pytest.raises(InputError, match="--rates: 2026-10 is compacted to days"):
        CollectedSource(url, "--rates").account(0, FOREVER_S, Selection())
    CollectedSource(url, "--rates").account(NOVEMBER_S, FOREVER_S, Selection())


def test_a_mean_of_few_rates_is_that_of_many() -> None:
    lot = random.Random(5)
    for _ in range(500):
        at = {
            lot.randrange(-50, 400): (lot.randrange(10**14), 0) for _ in range(lot.randrange(1, 30))
        }
        kept = compact.few(at)
        assert len(kept) <= 4
        assert (min(kept), max(kept)) == (min(at), max(at))
        assert sum(e for e, _ in kept.values()) == sum(e for e, _ in at.values())
        assert sum(v * e for v, (e, _) in kept.items()) == sum(v * e for v, (e, _) in at.items())
