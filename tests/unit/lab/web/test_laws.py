"""For every ledger and every viewer: what may not be seen is nowhere, and the totals are whole."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.scale import scaled
from tests.unit.lab.collected.nodes import DECEMBER_S, NOVEMBER_S, Node
from tests.unit.lab.web.served import NOW_S

from joulebook.core.money.amounts import Exact
from joulebook.core.report.dataset import Selection
from joulebook.lab.collected import ingest
from joulebook.lab.collected.database import connect
from joulebook.lab.collected.schema import MonthSum
from joulebook.lab.report.sources import FOREVER_S
from joulebook.lab.web.result_view import ResultView
from joulebook.lab.web.view import JobFilter, LabView
from joulebook.lab.web.viewer import Viewer

NAMES = ("", "ada", "Ada", "ada ", "a'; --", "%", "grace", "née", "root")
MONTH = 202611


class Job(NamedTuple):
    """A job of somebody's; what it consumed is in digits that nothing else has."""

    number: int
    user: str
    account: str

    @property
    def marker(self) -> str:
        """Its experiment."""
        return f"secret-{self.number}-marker"

    @property
    def energy_uj(self) -> int:
        """Its energy."""
        return 777_000_000_000 + self.number * 1_000_003

    @property
    def node(self) -> str:
        """Where it ran."""
        return f"n{self.number % 2}"


def jobs() -> st.SearchStrategy[list[Job]]:
    names = st.sampled_from(NAMES)
    return st.lists(st.tuples(names, names), min_size=1, max_size=6).map(
        lambda owners: [Job(n, *owner) for n, owner in enumerate(owners, start=1)]
    )


def viewers() -> st.SearchStrategy[Viewer]:
    return st.builds(
        Viewer,
        user=st.sampled_from(NAMES),
        admin=st.booleans(),
        coordinates=st.frozensets(st.sampled_from(NAMES), max_size=2),
        public=st.booleans(),
    )


def ledger(folder: str, listed: list[Job]) -> str:
    """The ledgers of two nodes, collected."""
    url = f"sqlite://{Path(folder) / 'c.db'}"
    nodes = {name: Node(name, name.ljust(32, "f"), "lab") for name in ("n0", "n1")}
    for job in listed:
        node, start_ns = nodes[job.node], (NOVEMBER_S + job.number * 900) * 10**9
        node.label(str(job.number), job.account, job.user, job.marker, name=f"name-{job.marker}",
                   started_utc_ns=start_ns, ended_utc_ns=start_ns + 10**9)  # fmt: skip
        node.burn(NOVEMBER_S, job.energy_uj, str(job.number), Exact(0, job.energy_uj, 0), 10**9)
    for node in nodes.values():
        node.burn(NOVEMBER_S, 5_000_000, "", held_ns=10**9)
    database = connect(url, create=True)
    for name, node in nodes.items():
        ingest.take(database, node.page(0), name, NOW_S, frozenset(nodes))
    database.close()
    return url


def mine(viewer: Viewer, job: Job) -> bool:
    """What the rules say, in other words than the code's."""
    if viewer.admin:
        return True
    if job.user and job.user == viewer.user:
        return True
    return job.account != "" and job.account in viewer.coordinates


@settings(max_examples=scaled(40))
@given(jobs(), viewers())
def test_nothing_of_others_is_seen_and_nothing_of_ones_own_is_lost(
    listed: list[Job], viewer: Viewer
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        database = connect(ledger(folder, listed))
        view = ResultView(database, viewer)
        everything = view.dataset(0, FOREVER_S, Selection())
        seen = [
            view.usage(MONTH),
            view.usage(MONTH, ("remainder", "account", "person")),
            view.jobs(JobFilter(NOVEMBER_S, DECEMBER_S)),
            view.runs(Selection(jobs=frozenset(str(job.number) for job in listed))),
            view.whole_bill(MONTH),
            view.bill(MONTH).lines,
            [view.trend(MONTH - 1, MONTH), view.periods(), view.months(), view.result_sets({})],
            repr(everything),
            *(repr(view.dataset(0, FOREVER_S, Selection(experiments=frozenset({job.marker}))))
              for job in listed),
        ]  # fmt: skip
        told = repr(seen[: -len(listed) - 1]) + "".join(map(str, seen[-len(listed) - 1 :]))
        for job in listed:
            assert (job.marker in told) == mine(viewer, job)
            if not mine(viewer, job):
                assert str(job.energy_uj) not in told
        own = sum(job.energy_uj for job in listed if mine(viewer, job))
        rest = 10_000_000 if viewer.admin else 0
        assert sum(line.amount.energy_uj for line in view.usage(MONTH)) == own + rest
        lines = view.bill(MONTH).lines
        assert sum(each.energy_uj for line in lines for each in line.used.values()) == own + rest
        month = view.trend(MONTH - 1, MONTH).get(MONTH, MonthSum({}, {}))
        assert sum(amount.energy_uj for amount in month.used.values()) == own + rest
        # Who asks for one user's gets the part that they may see.
        for name in NAMES[1:]:
            of_user = view.trend(MONTH, MONTH, user=name).get(MONTH, MonthSum({}, {}))
            theirs = [job for job in listed if job.user == name and mine(viewer, job)]
            assert sum(amount.energy_uj for amount in of_user.used.values()) == sum(
                job.energy_uj for job in theirs
            )
        assert (
            sum(line.amount.energy_uj for line in view.jobs(JobFilter(NOVEMBER_S, DECEMBER_S)))
            == own
        )
        assert sum(row.amount.energy_uj for row in everything.postings) == own + rest
        database.close()


@settings(max_examples=scaled(40))
@given(jobs(), viewers())
def test_totals_of_accounts_name_nobody(listed: list[Job], viewer: Viewer) -> None:
    with tempfile.TemporaryDirectory() as folder:
        database = connect(ledger(folder, listed))
        found = LabView(database, viewer).accounts(MONTH)
        database.close()
    belongs = {job.account for job in listed if mine(viewer, job)} - {""}
    if viewer.admin:
        belongs = {job.account for job in listed}
    assert {line.owner.account for line in found} == belongs
    for line in found:
        assert line.owner[0] == line.owner.person == line.owner.experiment == ""
        whole = sum(job.energy_uj for job in listed if job.account == line.owner.account)
        assert line.amount.energy_uj == whole
