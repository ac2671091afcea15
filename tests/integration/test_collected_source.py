"""One node's ledger and the collected one give the same account, names of any kind included."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import msgspec
import pytest
from tests.integration.postgresql import PostgreSql
from tests.unit.commands.ledger_sample import HOSTILE, write_ledger
from tests.unit.lab.collected.nodes import OCTOBER_S, Node

from joulebook.core.report.dataset import ReportData, Selection
from joulebook.core.report.runs import runs
from joulebook.lab.collected import corrections, ingest
from joulebook.lab.collected.corrections import Reason
from joulebook.lab.collected.database import opened
from joulebook.lab.collected.report_query import CollectedSource
from joulebook.ledger import report_query
from joulebook.ledger.query import LedgerReader
from joulebook.units import NS_PER_S

FOREVER_S = 1 << 40


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ledger") / "ledger.db"
    write_ledger(path)
    return path


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path, ledger: Path) -> str:
    """A collected ledger that holds the sample's, in pages of fifty rows."""
    if request.param == "sqlite":
        url = f"sqlite://{tmp_path}/collected.db"
    else:
        server: PostgreSql = request.getfixturevalue("postgresql")
        url = server.new()
    with opened(url, create=True) as database, LedgerReader(ledger) as reader:
        since = 0
        while True:
            page = reader.page("n1", "", since, limit=50)
            # The daemon cleans names before it books; these come as they are.
            cleaned = [
                msgspec.structs.replace(
                    row, name=row.name.replace("\0", ""), user=row.user.replace("\0", "")
                )
                for row in page.workloads
            ]
            page = msgspec.structs.replace(page, workloads=tuple(cleaned))
            assert ingest.take(database, page, "t", int(time.time()))
            since = page.next
            if page.next == page.last:
                return url


def comparable(account: ReportData) -> tuple[object, ...]:
    return (
        Counter(account.postings),
        Counter(account.charges),
        {
            key: msgspec.structs.replace(
                each,
                name=each.name.replace("\0", ""),
                labels=each.labels._replace(user=each.labels.user.replace("\0", "")),
            )
            for key, each in account.workloads.items()
        },
        Counter(account.rates),
        Counter(account.gaps),
        account.models,
        account.known_until_s,
    )


@pytest.mark.parametrize(
    "wanted",
    [
        Selection(),
        Selection(experiments=frozenset({"bert-base"})),
        Selection(accounts=frozenset({"vision"}), users=frozenset({"grace"})),
        Selection(workloads=frozenset({"200_3", "300.r1", "slurm/101"})),
        Selection(users=frozenset({"'; DROP TABLE workloads; --", "%", "?"})),
        Selection(users=frozenset({HOSTILE.replace("\0", "")})),
    ],
)
def test_the_same_account(ledger: Path, url: str, wanted: Selection) -> None:
    with LedgerReader(ledger) as reader:
        own = report_query.account(reader, 0, FOREVER_S, wanted, "n1")
    found = CollectedSource(url).account(0, FOREVER_S, wanted)
    if wanted.users != {HOSTILE.replace("\0", "")}:
        assert comparable(found) == comparable(own)
    else:
        (workload,) = found.workloads.values()
        assert workload.id.workload == "500"
    assert found.warnings == ()
    assert not CollectedSource(url).account(FOREVER_S - 1, FOREVER_S, wanted).postings


def test_a_relabelled_workload_stands_where_it_was_given_to(ledger: Path, url: str) -> None:
    reason = Reason("relabel", "grace", 'wrong wckey; it\'s "mine"', int(time.time()))
    with opened(url) as database:
        corrections.relabel(database, "101", ("vision", "sweep"), reason)
    before = CollectedSource(url).account(0, FOREVER_S, Selection(experiments=frozenset({"sweep"})))
    assert "101" in {each.id.workload for each in before.workloads.values()}
    (said,) = before.warnings
    assert "101 is counted under vision/ada/sweep, was nlp/ada/bert-base" in said
    assert 'grace: wrong wckey; it\'s "mine"' in said
    old = CollectedSource(url).account(
        0, FOREVER_S, Selection(experiments=frozenset({"bert-base"}))
    )
    assert "101" not in {each.id.workload for each in old.workloads.values()}


def test_a_job_that_nobody_read_is_in_the_account(tmp_path: Path) -> None:
    url, node = f"sqlite://{tmp_path}/c.db", Node()
    node.burn(OCTOBER_S, 1_000, "1")
    began_ns = OCTOBER_S * NS_PER_S
    node.label("9", gpu_count=2, started_utc_ns=began_ns, ended_utc_ns=began_ns + 5 * NS_PER_S)
    with opened(url, create=True) as database:
        assert ingest.take(database, node.page(0), "t", OCTOBER_S) is not None
    (run,) = (r for r in runs(CollectedSource(url).account(0, FOREVER_S, Selection()))
              if r.shown == "9")  # fmt: skip
    assert (run.tally.wall_ns, run.tally.coverage) == (10 * NS_PER_S, 0)
