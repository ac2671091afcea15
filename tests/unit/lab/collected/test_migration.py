"""A collected ledger and pages of the version before: nothing billed moves, ever."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from tests.unit.lab.collected.nodes import DECEMBER_S, NOVEMBER_S, OCTOBER_S, Node
from tests.unit.ledger.test_migration import FORMATS, old_page

from joulebook.core.evidence import Amount
from joulebook.core.ledger.export import VERSION, PostingsPage
from joulebook.core.money.amounts import Exact
from joulebook.core.report.dataset import Selection
from joulebook.core.report.rollup import net
from joulebook.errors import InputError, LedgerError, LedgerTooNew
from joulebook.lab.collected import bills, check, ingest, renames
from joulebook.lab.collected.database import MIGRATIONS, Database, connect, opened
from joulebook.lab.collected.report_query import CollectedSource
from joulebook.lab.collected.tables import METADATA

NOW_S = DECEMBER_S
_BOOKED = (
    "SELECT ledger, quarter_s, meter, workload, how, energy_uj, idle_uj, held_ns FROM postings"
    " ORDER BY 1, 2, 3, 4, 5"
)


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A fresh collected ledger."""
    url = f"sqlite://{tmp_path}/new.db"
    connect(url, create=True).close()
    return url


def collected_before(folder: Path) -> str:
    """Two nodes' ledgers as collected schema 4 held them: October closed, one job relabelled."""
    path = folder / "all.db"
    with closing(sqlite3.connect(path)) as conn:
        conn.executescript((FORMATS / "collected-4.sql").read_text())
    return f"sqlite://{path}"


STEP = "0007_identity.sql"


def made_by_schema_7(folder: Path) -> str:
    """The same, as it was before there were revisions."""
    url = collected_before(folder)
    with closing(sqlite3.connect(url.removeprefix("sqlite://"))) as conn:
        conn.executescript((MIGRATIONS / "versions" / STEP).read_text())
        conn.execute("UPDATE joulebook_schema SET version = 7")
        conn.commit()
    return url


def differences(database: Database) -> list[object]:
    """What the tables are not that `tables.py` says they are."""

    def is_ours(name: str | None, *_: object) -> bool:
        return not re.search(r"_\d{6}|_other|alembic", str(name))  # partitions of PostgreSQL

    context = MigrationContext.configure(database.connection, opts={"include_name": is_ours})
    return [
        each
        for each in compare_metadata(context, METADATA)
        # sqlite does not say that a key is not null, nor that a reference is deferred.
        if (each[0][0] if isinstance(each, list) else each[0])
        not in {"modify_nullable", "add_fk", "remove_fk"}
    ]


def every_bill(database: Database) -> list[bills.MonthBill]:
    return [bills.bill(database, period.month) for period in bills.periods(database)]


def newer(page: PostingsPage) -> PostingsPage:
    """What the node says after its own upgrade: the running pod has burnt more, job 500 is back."""
    *_, row = page.postings
    again = msgspec.structs.replace(
        next(each for each in page.workloads if each.workload == "500"),
        id=77, seq=page.last + 1, start=NOVEMBER_S + 9_000, user="carol", account="bio",
        experiment="fold",
    )  # fmt: skip
    more = msgspec.structs.replace(
        row, seq=page.last + 2, workload_id=77, remainder="", energy_uj=5, idle_uj=2, held_ns=9,
        idle_ns=4, calibration_uj=-1, quarter_s=NOVEMBER_S + 9_000,
    )  # fmt: skip
    meters = tuple(
        msgspec.structs.replace(each, booked_uj=each.booked_uj + 5 * (each.id == row.meter_id))
        for each in page.meters
    )
    return msgspec.structs.replace(
        page, v=VERSION, since=page.last, next=page.last + 2, last=page.last + 2, meters=meters,
        workloads=(again,), postings=(more,), charges=(), rates=(), gaps=(),
    )  # fmt: skip


@pytest.mark.parametrize("made", [collected_before, made_by_schema_7])
def test_a_collected_ledger_of_before_keeps_every_bill(
    tmp_path: Path, made: Callable[[Path], str]
) -> None:
    url = made(tmp_path)
    with closing(sqlite3.connect(url.removeprefix("sqlite://"))) as conn:
        before = conn.execute(_BOOKED).fetchall()
    with pytest.raises(LedgerError, match="run `joulebook collect` of this version once"):
        connect(url)
    with opened(url, create=True) as database:
        assert database.rows(_BOOKED) == before
        assert differences(database) == []
        assert check.check(database).good
        months = every_bill(database)
        assert [month.month for month in months] == [202610, 202611]
        energy = sum(bills.total(month.lines)[0].energy_uj for month in months)
        pages = [old_page("n1"), old_page("n2")]
        assert energy == sum(meter.booked_uj for page in pages for meter in page.meters)
        october = months[0]
        # A node that is upgraded goes on where it was; one that is not is told as before.
        assert ingest.take(database, newer(pages[0]), "http://n1", NOW_S) is not None
        assert bills.bill(database, 202610) == october
        assert check.check(database).good
        moved = {str(line.owner): line.used for line in bills.bill(database, 202611).lines}
        assert moved["bio/carol/fold"] == {"gpu": Amount(5, 2, 9, 4)}
        assert (
            moved["nlp/alice/bert"]
            == {str(line.owner): line.used for line in months[1].lines}["nlp/alice/bert"]
        )


def test_a_report_of_it_shows_both_jobs_of_one_number(tmp_path: Path) -> None:
    url = collected_before(tmp_path)
    with opened(url, create=True) as database:
        ingest.take(database, newer(old_page("n1")), "http://n1", NOW_S)
    found = CollectedSource(url).account(0, NOW_S, Selection(workloads=frozenset({"500"})))
    jobs = {each.labels.experiment: each.id for each in found.workloads.values()}
    assert jobs.keys() == {"bert", "fold"}
    assert sum(p.amount.energy_uj for p in found.postings if p.subject == jobs["fold"]) == 5


def test_pages_of_both_versions_are_taken(url: str) -> None:
    with opened(url) as database:
        assert ingest.take(database, old_page("n1"), "http://n1", NOW_S) is not None
        assert ingest.take(database, newer(old_page("n1")), "http://n1", NOW_S) is not None
        assert ingest.take(database, old_page("n2"), "http://n2", NOW_S) is not None
        assert check.check(database).good


def test_nothing_is_downgraded(url: str) -> None:
    with opened(url) as database:
        assert differences(database) == []
        config = Config(attributes={"connection": database.connection})
        config.set_main_option("script_location", str(MIGRATIONS))
        for revision in ("-1", "0007", "base"):
            with pytest.raises(LedgerError, match="cannot be downgraded: use this version"):
                command.downgrade(config, revision)
        assert check.check(database).good
        # Versions without Alembic read this, and say that the ledger is newer than they are.
        assert database.rows("SELECT version > 7 FROM joulebook_schema") == [(1,)]


def test_a_newer_schema_is_refused_in_words(url: str) -> None:
    with opened(url) as database:
        database.rows("UPDATE alembic_version SET version_num = '0099'")
    with pytest.raises(LedgerTooNew, match="install the newer version"):
        connect(url)


def job_500(node: Node, start_s: int, user: str, *, energy_uj: int, **more: object) -> None:
    """A job 500 on a node, which takes `energy_uj` in the hour after its begin."""
    key = f"500@{start_s}"
    node.label(
        key, "lab", user, user, display="500", start=start_s, started_utc_ns=start_s * 10**9,
        ended_utc_ns=(start_s + 3600) * 10**9, **more,
    )  # fmt: skip
    node.workloads[key] = msgspec.structs.replace(node.workloads[key], workload="500")
    node.burn(start_s, energy_uj, key, Exact(1), held_ns=9)


def runs(url: str) -> dict[str, list[int]]:
    """What a report says each owner's runs took."""
    found = CollectedSource(url).account(0, 1 << 40, Selection())
    energy: dict[object, int] = {}
    for row in found.postings:
        energy[row.subject] = energy.get(row.subject, 0) + row.amount.energy_uj
    users: dict[str, list[int]] = {}
    for id_, workload in found.workloads.items():
        users.setdefault(workload.labels.user, []).append(energy[id_])
    return {user: sorted(each) for user, each in users.items()}


def take(url: str, *nodes: Node) -> None:
    with opened(url) as database:
        for node in nodes:
            ingest.take(database, node.page(0), node.name, NOW_S)


def test_a_number_that_comes_again_stays_two_on_one_node_and_over_a_closed_month(url: str) -> None:
    node = Node()
    job_500(node, OCTOBER_S, "alice", energy_uj=1_600)
    take(url, node)
    with opened(url) as database:
        bills.close(database, 202610, "grace", NOW_S)
        october = bills.bill(database, 202610)
        position, node_last = node.last, node
        job_500(node_last, NOVEMBER_S, "bob", energy_uj=2_400)
        ingest.take(database, node.page(position), "n1", NOW_S)
        assert bills.bill(database, 202610) == october
        assert check.check(database).good
    assert runs(url) == {"alice": [1_600], "bob": [2_400]}


def test_parts_on_two_nodes_are_one_run_by_the_schedulers_start_or_by_time(url: str) -> None:
    one, other = Node("n1", "a" * 32), Node("n2", "b" * 32)
    job_500(one, OCTOBER_S, "alice", energy_uj=1_000)
    job_500(other, OCTOBER_S + 30, "alice", energy_uj=1_000)  # its Prolog ran later
    job_500(one, NOVEMBER_S, "alice", energy_uj=500, scheduler_start_s=NOVEMBER_S)
    job_500(other, NOVEMBER_S + 7_200, "alice", energy_uj=70, scheduler_start_s=NOVEMBER_S)
    job_500(other, NOVEMBER_S + 86_400, "alice", energy_uj=3)  # the number came again
    take(url, one, other)
    assert runs(url) == {"alice": [3, 570, 2_000]}


def test_one_number_in_two_clusters_is_two_runs(url: str) -> None:
    nodes = [Node("n1", "a" * 32, "alpha"), Node("n1", "b" * 32, "beta")]
    for node, energy_uj in zip(nodes, (2_000, 3_004), strict=True):
        job_500(node, OCTOBER_S, "alice", energy_uj=energy_uj)
    take(url, *nodes)
    assert runs(url) == {"alice": [2_000, 3_004]}


def test_a_node_says_whose_its_own_rows_are_and_nobody_elses(url: str) -> None:
    honest, liar = Node("n1", "a" * 32), Node("n2", "b" * 32)
    for node, user in ((honest, "alice"), (liar, "mallory")):
        job_500(node, OCTOBER_S, user, energy_uj=5_000, scheduler_start_s=OCTOBER_S)
    take(url, honest, liar)
    with opened(url) as database:
        lines = {line.owner.person: line for line in bills.bill(database, 202610).lines}
        assert lines["alice"].used["gpu"].energy_uj == 5_000
        assert lines["mallory"].used["gpu"].energy_uj == 5_000
    assert runs(url) == {"alice": [5_000], "mallory": [5_000]}


def test_a_clock_that_was_wrong_for_a_moment_holds_up_nothing(url: str) -> None:
    node = Node()
    node.burn(NOVEMBER_S, 1_000, "1", Exact(1))
    for wrong_s in (0, NOVEMBER_S - 8 * 365 * 86_400, NOW_S + 3 * 86_400):
        node.burn(wrong_s, 30, "1", Exact(2))
    node.burn(NOVEMBER_S + 900, 2_000, "1", Exact(1))
    with opened(url) as database:
        page = node.page(0)
        taken = ingest.take(database, page, "n1", NOW_S)
        assert taken is not None
        assert len(taken.undated) == 3
        assert check.check(database).good
        assert [month.month for month in every_bill(database)] == [202611]
        assert bills.total(every_bill(database)[0].lines)[0].energy_uj == 3_000
        # The node dates them anew: the old rows come to nothing, others have what they had.
        for quarter_s in sorted(taken.undated):
            node.move(quarter_s, NOVEMBER_S + 1800)
        again = ingest.take(database, node.page(page.next), "n1", NOW_S + 4 * 86_400)
        assert again is not None
        assert check.check(database).good
        amount, paid = bills.total(every_bill(database)[0].lines)
        assert amount.energy_uj == node.energy_uj == 3_090
        assert [each.whole for each in paid.values()] == [8]
    found = CollectedSource(url).account(0, 1 << 40, Selection())
    assert sum(row.amount.energy_uj for row in found.postings) == 3_090


def page_of(node: Node, name: str, cluster: str = "", since: int = 0) -> PostingsPage:
    return msgspec.structs.replace(node.page(since), node=name, cluster=cluster)


def test_a_renamed_node_goes_on_and_a_person_can_say_that_it_is_another(url: str) -> None:
    node, old, new = Node(), "http://n1", "http://n7"
    node.burn(NOVEMBER_S, 1_000, "1", Exact(1))
    with opened(url) as database:
        ingest.take(database, page_of(node, "n1"), old, NOW_S, {old})
        since = node.last
        node.burn(NOVEMBER_S + 900, 2_000, "1", Exact(1))
        later = page_of(node, "n7", "alpha", since)
        with pytest.raises(InputError, match="still among the targets") as refused:
            ingest.take(database, later, new, NOW_S, {old, new})
        assert refused.value.reason == "wrong_ledger"
        # The old name is gone from the targets, or the node answers where it always did.
        assert ingest.take(database, later, new, NOW_S, {new}) is not None
        (rename,) = renames.known(database)
        assert (rename.node, rename.new_cluster, rename.new_node) == ("n1", "alpha", "n7")
        assert check.check(database).good
        amount, _ = bills.total(bills.bill(database, 202611).lines)
        assert amount.energy_uj == 3_000
        assert len(bills.bill(database, 202611).lines) == 1, "the workload went on"
        renames.undo(database, rename.number)
        assert renames.known(database) == []
        with pytest.raises(InputError, match="undone by an administrator"):
            ingest.take(database, page_of(node, "n7", "alpha", node.last), new, NOW_S, {new})
        with pytest.raises(InputError, match="no rename 1"):
            renames.undo(database, rename.number)


def test_a_cluster_that_is_named_later_is_a_rename_too(url: str) -> None:
    node = Node()
    node.burn(NOVEMBER_S, 1_000, "1")
    with opened(url) as database:
        ingest.take(database, page_of(node, "n1"), "http://n1", NOW_S, {"http://n1"})
        page = page_of(node, "n1", "alpha", node.last)
        assert ingest.take(database, page, "http://n1", NOW_S, {"http://n1"}) is not None


def test_the_idle_part_of_a_charge_is_billed_once(url: str) -> None:
    node = Node()
    node.burn(NOVEMBER_S, 1_000, "1", Exact(5), held_ns=9)
    (row,) = node.charges.values()
    page = node.page(0)
    part = msgspec.structs.replace(row, item="idle_electricity", whole=3, seq=page.last + 1)
    charged = msgspec.structs.replace(page.charged[0], item=part.item, booked=Exact(3))
    page = msgspec.structs.replace(
        page, charges=(*page.charges, part), charged=(*page.charged, charged), next=part.seq,
        last=part.seq,
    )  # fmt: skip
    with opened(url) as database:
        ingest.take(database, page, "n1", NOW_S)
        _, paid = bills.total(bills.bill(database, 202611).lines)
        assert {item.value: amount.whole for (item, _), amount in paid.items()} == {
            "electricity": 5, "idle_electricity": 3,
        }  # fmt: skip
        assert {currency: amount.whole for currency, amount in net(paid).items()} == {"EUR": 5}
        assert check.check(database).good
