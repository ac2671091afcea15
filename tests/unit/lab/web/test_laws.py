"""For every ledger and every viewer: what may not be seen is nowhere, and the totals are whole.

Each question to the view is asked of random ledgers by random viewers, and its answer compared with
the rules, said in other words: a million of them in `make nightly`.
"""

from __future__ import annotations

import functools
import random
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.scale import SCALE
from tests.unit.lab.collected.nodes import DECEMBER_S, NOVEMBER_S, OCTOBER_S, Node
from tests.unit.lab.web.served import NOW_S

from joulebook.core.evidence import Amount
from joulebook.core.money.amounts import Exact
from joulebook.core.report.dataset import Selection
from joulebook.errors import InputError
from joulebook.lab.collected import bills, ingest
from joulebook.lab.collected.audit import note
from joulebook.lab.collected.database import Database, connect, opened
from joulebook.lab.collected.schema import BilledOwner
from joulebook.lab.report.sources import FOREVER_S
from joulebook.lab.web.view import JobFilter, JobLine, LabView
from joulebook.lab.web.viewer import Viewer

ASKED = 1_500 if SCALE == 1 else 1_000_000
OF_ONE_LEDGER = 250

NAMES = ("", "ada", "Ada", "ada ", "a'; --", "%", "grace", "née", "root", "a_a", "\\")
EXPERIMENTS = ("bert", "vit", "' OR 1=1 --", "")
MONTHS = {202610: OCTOBER_S, 202611: NOVEMBER_S}
REST_UJ = 5_000_000


class Job(NamedTuple):
    """A job of somebody's."""

    number: int
    user: str
    account: str
    experiment: str
    month: int

    @property
    def energy_uj(self) -> int:
        """Its energy: a sum of these tells which they were."""
        return 777_000_000_000 + (1 << self.number)

    @property
    def node(self) -> str:
        """Where it ran."""
        return f"n{self.number % 2}"

    @property
    def owner(self) -> BilledOwner:
        """Whom it is billed to."""
        return BilledOwner("", self.account, self.user, self.experiment)


class World(NamedTuple):
    """A ledger, who asks, and what the rules say that they may see."""

    jobs: list[Job]
    view: LabView
    lot: random.Random

    def mine(self, job: Job) -> bool:
        """What the rules say, in other words than the code's."""
        viewer = self.view.viewer
        if viewer.admin:
            return True
        if job.user and job.user == viewer.user:
            return True
        return job.account != "" and job.account in viewer.coordinates

    def seen(self, only: Callable[[Job], bool] = lambda _: True) -> list[Job]:
        """The jobs that the viewer may see, of some."""
        return [job for job in self.jobs if only(job) and self.mine(job)]

    def rest(self, months: Iterable[int]) -> int:
        """What is nobody's and may be seen."""
        return 2 * REST_UJ * len([*months]) if self.view.viewer.admin else 0


def some(lot: random.Random, names: Iterable[str]) -> frozenset[str]:
    """Nothing, or some of these."""
    return frozenset(lot.sample([*names], lot.choice((0, 0, 1, 2))))


def uj(parts: Iterable[Amount | Job]) -> int:
    """Their energy."""
    return sum(each.energy_uj for each in parts)


def usage(world: World) -> None:
    month = world.lot.choice([*MONTHS])
    fields = world.lot.choice((BilledOwner._fields, ("account",), ("person",), ("remainder",)))
    found = world.view.usage(month, fields)
    mine = world.seen(lambda job: job.month == month)
    assert uj(line.amount for line in found) == uj(mine) + world.rest([month])
    kept = {BilledOwner(**{name: getattr(job.owner, name) for name in fields}) for job in mine}
    named = {line.owner for line in found if not line.owner.remainder}
    assert named - {BilledOwner()} == kept - {BilledOwner()}


def accounts(world: World) -> None:
    month = world.lot.choice([*MONTHS])
    mine = {job.account for job in world.seen()} - {""}
    if world.view.viewer.admin:
        mine.add("")
    found = {line.owner.account: line for line in world.view.accounts(month)}
    there = [job for job in world.jobs if job.month == month and job.account in mine]
    assert found.keys() == {job.account for job in there}
    for account, line in found.items():
        assert line.owner == BilledOwner(account=account), "names nobody"
        assert line.amount.energy_uj == uj(job for job in there if job.account == account)


def months_(world: World) -> None:
    seen = {*MONTHS} if world.view.viewer.admin else {job.month for job in world.seen()}
    for found in (world.view.months(), world.view.periods()):
        assert {each.month for each in found} == seen


def totals(world: World) -> None:
    month = world.lot.choice([*MONTHS])
    if not (world.view.viewer.admin or world.view.viewer.public):
        refused(world.view.totals, month)
        return
    found = world.view.totals(month)
    every = uj(job for job in world.jobs if job.month == month)
    assert uj(line.amount for line in found) == every + 2 * REST_UJ
    assert all(line.owner == BilledOwner(line.owner.remainder) for line in found)


def jobs(world: World) -> None:
    lot = world.lot
    user, account = ("" if lot.random() < 0.5 else lot.choice(NAMES) for _ in range(2))
    wanted = JobFilter(OCTOBER_S, DECEMBER_S, user, account, lot.choice(("", *EXPERIMENTS)))
    mine = world.seen(
        lambda job: (
            wanted.user in {"", job.user}
            and wanted.account in {"", job.account}
            and wanted.experiment in {"", job.experiment}
        )
    )
    check_jobs(world.view.jobs(wanted), mine)


def selection(world: World) -> tuple[Selection, list[Job]]:
    """A random selection, and what of it the viewer may see."""
    lot = world.lot
    numbers = some(lot, (str(job.number) for job in world.jobs))
    wanted = Selection(
        experiments=some(lot, EXPERIMENTS), users=some(lot, NAMES), accounts=some(lot, NAMES),
        jobs=numbers,
    )  # fmt: skip

    def takes(job: Job) -> bool:
        pairs = (
            (wanted.experiments, job.experiment), (wanted.users, job.user),
            (wanted.accounts, job.account), (wanted.jobs, str(job.number)),
        )  # fmt: skip
        return all(not names or value in names for names, value in pairs)

    return wanted, world.seen(takes)


def runs(world: World) -> None:
    wanted, mine = selection(world)
    check_jobs(world.view.runs(wanted), mine)


def check_jobs(lines: list[JobLine], mine: list[Job]) -> None:
    found = {line.job.id.workload: line.amount.energy_uj for line in lines}
    assert found == {str(job.number): job.energy_uj for job in mine}


def dataset(world: World) -> None:
    wanted, mine = selection(world)
    data = world.view.dataset(0, FOREVER_S, wanted)
    rest = world.rest(MONTHS) if wanted.everything else 0
    assert uj(row.amount for row in data.postings) == uj(mine) + rest
    assert {each.id.workload for each in data.workloads.values()} == {str(j.number) for j in mine}
    if not world.view.viewer.admin:
        assert {row.node for row in data.postings} == {job.node for job in mine}
        assert {node for node, _ in data.models} <= {job.node for job in mine}
        assert {*data.known_until_s} <= {job.node for job in mine}
        weights = {rate.energy_uj for rate in data.rates}
        assert sum(weights) <= uj(mine), "rates weigh what is left"


def drawn(world: World) -> None:
    wanted, mine = selection(world)
    data, _ = world.view.drawn(wanted)
    rest = world.rest(MONTHS) if wanted.everything else 0
    assert uj(row.amount for row in data.postings) == uj(mine) + rest


def of_experiment(world: World) -> None:
    name, account = world.lot.choice(EXPERIMENTS), world.lot.choice(("", *NAMES))
    mine = world.seen(lambda job: job.experiment == name and account in {"", job.account})
    if not mine:
        refused(world.view.of_experiment, name, account, reason="missing")
        return
    data = world.view.of_experiment(name, account)
    assert uj(row.amount for row in data.postings) == uj(mine)


def bill(world: World) -> None:
    month, account = world.lot.choice([*MONTHS]), world.lot.choice(("", *NAMES))
    mine = world.seen(lambda job: job.month == month and account in {"", job.account})
    for found in (world.view.bill(month, account), world.view.whole_bill(month, account).bill):
        amount, _ = bills.total(found.lines)
        assert amount.energy_uj == uj(mine) + (0 if account else world.rest([month]))
        assert {line.owner for line in found.lines if not line.owner.remainder} == {
            job.owner for job in mine
        }


def trend(world: World) -> None:
    check_trend(world.view.trend(202601, 202612), world.seen(), world.rest([0]))


def trend_of(world: World) -> None:
    user = world.lot.choice(NAMES[1:])
    mine = world.seen(lambda job: job.user == user)
    check_trend(world.view.trend_of(user, 202601, 202612), mine)


def trend_of_lab(world: World) -> None:
    if not (world.view.viewer.admin or world.view.viewer.public):
        refused(world.view.trend_of_lab, 202601, 202612)
        return
    check_trend(world.view.trend_of_lab(202601, 202612), world.jobs, 2 * REST_UJ)


def check_trend(found: dict[int, bills.MonthSum], mine: list[Job], rest_uj: int = 0) -> None:
    for month in MONTHS:
        energy_uj = uj(found[month].used.values()) if month in found else 0
        assert energy_uj == uj(job for job in mine if job.month == month) + rest_uj


def serving(world: World) -> None:
    month = world.lot.choice([*MONTHS])
    mine = world.seen(lambda job: job.month == month)
    found = world.view.serving(month)
    assert {each.name for each in found} == {f"model-{job.number}" for job in mine}
    assert sum(sum(each.energy_uj.values()) for each in found) == uj(mine)
    assert {BilledOwner("", e.account, e.person, e.experiment) for e in found} == {
        job.owner for job in mine
    }


def for_administrators(world: World) -> None:
    for asked in (world.view.nodes, functools.partial(world.view.audit, 9)):
        if world.view.viewer.admin:
            assert asked()
        else:
            refused(asked)
    assert bool(world.view.behind(202611)) == world.view.viewer.admin


def refused(asked: Callable[..., object], *given: object, reason: str = "forbidden") -> None:
    with pytest.raises(InputError) as told:
        asked(*given)
    assert told.value.reason == reason


QUESTIONS = (
    usage, accounts, months_, totals, jobs, runs, dataset, drawn, of_experiment, bill,
    trend, trend_of, trend_of_lab, serving, for_administrators,
)  # fmt: skip
OF_THE_LEDGER = {"collected_to_s", "replayed_nodes", "refuse_without_totals"}
"""What says nothing of people: for everybody who is known."""


def test_every_question_is_tried() -> None:
    tried = {word.strip("_") for each in QUESTIONS for word in each.__code__.co_names}
    asked = {name for name in dir(LabView) if not name.startswith("_")}
    assert asked - OF_THE_LEDGER <= tried


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger with nothing in it."""
    path = tmp_path_factory.mktemp("laws") / "empty.db"
    connect(f"sqlite://{path}", create=True).close()
    return path


def random_jobs(lot: random.Random) -> list[Job]:
    names, of = lot.sample(NAMES, lot.randint(2, 5)), lot.choice
    return [
        Job(n, of(names), of(names), of(EXPERIMENTS), of([*MONTHS]))
        for n in range(1, lot.randint(2, 13))
    ]


def fill(database: Database, listed: list[Job]) -> None:
    """The ledgers of two nodes, collected."""
    nodes = {name: Node(name, name.ljust(32, "f"), "lab") for name in ("n0", "n1")}
    for job in listed:
        node, begin_s = nodes[job.node], MONTHS[job.month] + job.number * 900
        node.label(str(job.number), job.account, job.user, job.experiment,
                   started_utc_ns=begin_s * 10**9, ended_utc_ns=(begin_s + 1) * 10**9)  # fmt: skip
        node.burn(begin_s, job.energy_uj, str(job.number), Exact(0, job.number, 0), 10**9)
    for name, node in nodes.items():
        for begin_s in MONTHS.values():
            node.burn(begin_s, REST_UJ, "", held_ns=10**9)
        ingest.take(database, node.page(0), name, NOW_S, frozenset(nodes))
    note(database, NOW_S, "root", "command", "something")
    found = database.rows("SELECT workload, id FROM workloads")
    numbers = {name: number for name, number in found}
    database.upsert(
        "served",
        [(numbers[str(job.number)], MONTHS[job.month], f"model-{job.number}", "gpu", "", 0,
          job.energy_uj, 0, 0) for job in listed],
    )  # fmt: skip


def worlds(empty: Path, folder: Path, count: int) -> Iterator[World]:
    """Random ledgers and viewers, one for each question."""
    for seed in range(-(-count // OF_ONE_LEDGER)):
        lot, path = random.Random(seed), folder / "c.db"
        shutil.copy(empty, path)
        listed = random_jobs(lot)
        with opened(f"sqlite://{path}") as database:
            fill(database, listed)
            for _ in range(min(OF_ONE_LEDGER, count)):
                viewer = Viewer(
                    user=lot.choice(NAMES),
                    admin=lot.random() < 0.1,
                    coordinates=frozenset(lot.sample(NAMES, lot.choice((0, 0, 1, 2)))),
                    public=lot.random() < 0.2,
                )
                yield World(listed, LabView(database, viewer), lot)


def test_nothing_of_others_is_seen_and_nothing_of_ones_own_is_lost(
    empty: Path, tmp_path: Path
) -> None:
    for world in worlds(empty, tmp_path, ASKED):
        world.lot.choice(QUESTIONS)(world)
