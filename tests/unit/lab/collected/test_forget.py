"""A person is forgotten: the name is nowhere and does not come back, and every sum stays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.unit.lab.collected.nodes import DECEMBER_S, NOVEMBER_S, OCTOBER_S, Node
from tests.unit.lab.collected.test_migration import every_bill

from joulebook.core.money.amounts import Exact
from joulebook.core.report.dataset import ReportData, Selection
from joulebook.errors import InputError, LedgerError
from joulebook.lab.collected import audit, bills, compact, corrections, forget, ingest
from joulebook.lab.collected.check import check
from joulebook.lab.collected.database import Database, opened
from joulebook.lab.collected.report_query import CollectedSource
from joulebook.lab.collected.schema import BilledOwner
from joulebook.lab.collected.tables import METADATA
from joulebook.lab.report.sources import FOREVER_S
from joulebook.lab.web.grants import GrantKind, Grants

NAME = "zelda"


def burnt() -> Node:
    """A node that knows a person in every text of a workload, and as an account."""
    node = Node("n1", "a" * 32, "lab")
    node.label("nlp/zelda-1", "nlp", NAME, "zelda.bert", name="train-zelda", stage="", named=True,
               extra={"folder": f"/home/{NAME}/run", "queue": "gpu"})  # fmt: skip
    node.label("2", NAME, NAME, "own")
    node.label("3", "nlp", "grace", "bert")
    for when_s in (OCTOBER_S + 3_600, NOVEMBER_S + 3_600):
        for n, job in enumerate(("nlp/zelda-1", "2", "3", "")):
            node.burn(when_s, 10**9 << n, job, Exact(1 << n, 5, 0), 900 * 10**9)
    return node


def filled(database: Database, node: Node) -> None:
    """A closed and compacted month, a correction, grants, and what was said of the person."""
    take(database, node, 0)
    bills.close(database, 202610, NAME, NOVEMBER_S + 10)
    [*compact.compact(database, DECEMBER_S)]
    corrections.correct(
        database,
        BilledOwner("", "nlp", NAME, "zelda.bert"),
        BilledOwner("", "nlp", "grace", "bert"),
        [corrections.Transfer(item="electricity", currency="EUR", billed=Exact(0, 7, 0))],
        corrections.Reason("correction", NAME, f"{NAME} asked for it", NOVEMBER_S + 20),
    )
    grants = Grants(database, lambda: NOVEMBER_S)
    grants.make(GrantKind.TOKEN, NAME, "token", 10**9, f"{NAME}'s")
    grants.make(GrantKind.SESSION, "grace", "munge", 10**9)
    grants.note("root", "command", f"token {NAME}'s for {NAME}")
    # Whatever table else names people: a row of this one's.
    for name, texts in database.texts().items():
        if "person" in texts and not database.rows(f"SELECT 1 FROM {name} LIMIT 1"):
            columns = METADATA.tables[name].columns.keys()
            said = {each: f"of {NAME}" for each in texts} | {"person": NAME, "account": NAME}
            database.upsert(name, [[said.get(each, 0) for each in columns]])


def take(database: Database, node: Node, since: int) -> None:
    taken = ingest.take(database, node.page(since), "n1", DECEMBER_S, frozenset({"n1"}))
    assert taken is not None


def dump(database: Database) -> dict[str, list[str]]:
    """All text of all tables."""
    return {
        f"{table}.{column}": [
            str(text) for (text,) in database.rows(f"SELECT {column} FROM {table}")
        ]
        for table, columns in database.texts().items()
        for column in columns
    }


def forgotten(url: str) -> str:
    """Forget a person in a ledger that has all kinds of rows; the pseudonym."""
    node = burnt()
    with opened(url, create=True) as database:
        filled(database, node)
        assert any(NAME in text for texts in dump(database).values() for text in texts)
        before, data = every_bill(database), CollectedSource(url)
        whole = amounts(data.account(0, FOREVER_S, Selection()))
        found = forget.forget(database, NAME, "root", DECEMBER_S)
        assert (found.nodes, found.elsewhere) == (("n1",), ())
        stands = found.pseudonym
        renamed = [text.replace(NAME, stands) for text in lines(before)]
        assert sorted(lines(every_bill(database))) == sorted(renamed)
        assert amounts(data.account(0, FOREVER_S, Selection())) == whole
        assert check(database).good

        # What the node sends next, of a job that is known and of a new one.
        since = node.last
        node.label("nlp/zelda-1", "nlp", NAME, "zelda.bert", name="train-zelda", named=True)
        node.label("9", NAME, NAME, "own", name=NAME)
        for job in ("nlp/zelda-1", "9"):
            node.burn(NOVEMBER_S + 7_200, 10**10, job, Exact(3, 0, 0))
        take(database, node, since)
        assert check(database).good
        assert not [key for key, texts in dump(database).items() if NAME in " ".join(texts)]
        owners = {owner for owner in bills.owners(database) if stands in owner}
        assert owners == {("nlp", stands, f"{stands}.bert"), (stands, stands, "own")}

        again = forget.forget(database, NAME, "root", DECEMBER_S)
        assert (again.pseudonym, again.rows, again.nodes) == (stands, 0, ("n1",))
        said = [each.what for each in audit.entries(database, 99)]
        assert f"{stands} was forgotten" in said
        assert f"token {stands}'s for {stands}" in said
        people = database.rows("SELECT person FROM lab_grants")
        assert people == [("grace",)]
        for sql in ("UPDATE periods SET closed_by = 'x'", "UPDATE corrections SET why = 'x'"):
            with pytest.raises(LedgerError):
                database.rows(sql)
    return stands


def lines(every: list[bills.MonthBill]) -> list[str]:
    """What bills say, in texts of one line or correction each."""
    return [
        f"{bill.month} {bill.closed_s} {bill.closed_by} {each}"
        for bill in every
        for each in (*bill.lines, *bill.corrections)
    ]


def amounts(data: ReportData) -> Sequence[object]:
    """The rows of a report, without the names of workloads."""
    return sorted((row.amount, row.method, row.meter) for row in data.postings)


def test_the_name_is_nowhere_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "c.db"
    stands = forgotten(f"sqlite://{path}")
    kept = b"".join(each.read_bytes() for each in tmp_path.iterdir())
    assert stands.encode() in kept
    assert NAME.encode() not in kept


def test_words_of_others_stay_and_are_told(tmp_path: Path) -> None:
    node = burnt()
    node.label("4", "nlp", "bob", "zelda-baseline", name="zeldas")
    node.label("5", NAME, "bob", "x")
    for job in ("4", "5"):
        node.burn(OCTOBER_S, 10**9, job)
    with opened(f"sqlite://{tmp_path / 'c.db'}", create=True) as database:
        take(database, node, 0)
        found = forget.forget(database, NAME, "root", DECEMBER_S)
        assert {key[:2]: key[2] for key in found.elsewhere} == {
            ("facts", "account"): 2, ("facts", "experiment"): 1,
            ("owners", "account"): 2, ("owners", "experiment"): 1,
        }  # fmt: skip
        accounts = {account for account, *_ in bills.owners(database)}
        assert accounts == {"nlp", NAME}, "an account of two people keeps its name"


@pytest.mark.parametrize("name", ["", " ", "nobody", "zel", "%", "zelda' OR 1=1", "z\x00"])
def test_whoever_is_not_there_cannot_be_forgotten(tmp_path: Path, name: str) -> None:
    with opened(f"sqlite://{tmp_path / 'c.db'}", create=True) as database:
        filled(database, burnt())
        before = dump(database)
        with pytest.raises(InputError, match="user"):
            forget.forget(database, name, "root", DECEMBER_S)
        assert dump(database) == before


NAMES = ("a.b", "née", "a'; --", "%", "_", "\\", "x\\1", "ada@example.org", "a b", "(nobody)", "A")


def test_names_of_every_kind(tmp_path: Path) -> None:
    """Of each its own words only, in texts that names of others are in as well."""
    node = Node("n1", "a" * 32, "lab")
    for n, name in enumerate(NAMES):
        node.label(str(n), "nlp", name, f"of {name}", name=f"{name}.{name}", extra={"who": name})
        node.burn(NOVEMBER_S, 10**9 << n, str(n), Exact(1 << n, 0, 0))
    with opened(f"sqlite://{tmp_path / 'c.db'}", create=True) as database:
        take(database, node, 0)
        sums = [uj_of(database, person) for person in NAMES]
        for n, name in enumerate(NAMES):
            found = forget.forget(database, name, "root", DECEMBER_S)
            assert uj_of(database, found.pseudonym) == sums[n]
            assert [uj_of(database, each) for each in NAMES[n + 1 :]] == sums[n + 1 :]
        since = node.last
        node.label("99", "nlp", "A", "of A", name="A.A")
        node.burn(NOVEMBER_S, 1, "99")
        take(database, node, since)
        people = {person for _, person, _ in bills.owners(database)}
        assert len(people) == len(NAMES)
        assert all(person.startswith("forgotten-") for person in people)


def uj_of(database: Database, person: str) -> int:
    """The energy that a person is billed."""
    ((energy_uj,),) = database.rows(
        "SELECT coalesce(sum(energy_uj), 0) FROM month_used JOIN owners ON owners.id = owner"
        " WHERE person = ?",
        [person],
    )
    return int(energy_uj)


def test_who_was_forgotten_cannot_be_read_off_the_hash(tmp_path: Path) -> None:
    found = []
    for name in ("a.db", "b.db"):
        with opened(f"sqlite://{tmp_path / name}", create=True) as database:
            filled(database, burnt())
            forget.forget(database, NAME, "root", DECEMBER_S)
            found.append(
                database.rows("SELECT digest, alias FROM lab_forgotten WHERE kind <> 'key'")
            )
    assert not {value for row in found[0] for value in row} & {v for row in found[1] for v in row}
