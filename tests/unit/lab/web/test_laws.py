"""For every ledger and every viewer: what may not be seen is nowhere, and the totals are whole.

Each question to the view is asked of random ledgers by random viewers, and its answer compared with
the rules, said in other words: a million of them in `make nightly`.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from tests.scale import SCALE
from tests.unit.lab.collected.nodes import DECEMBER_S, OCTOBER_S
from tests.unit.lab.web.served import NOW_S
from tests.unit.lab.web.worlds import EXPERIMENTS, MONTHS, NAMES, REST_UJ, Job, World, uj, worlds

from joulebook.core.report.dataset import Selection
from joulebook.errors import InputError
from joulebook.lab.collected import bills
from joulebook.lab.collected.database import connect
from joulebook.lab.collected.schema import BilledOwner, MonthSum
from joulebook.lab.report.sources import FOREVER_S
from joulebook.lab.web.result_view import ResultView
from joulebook.lab.web.view import JobFilter, JobLine

ASKED = 1_500 if SCALE == 1 else 1_000_000


def some(lot: random.Random, names: Iterable[str]) -> frozenset[str]:
    """Nothing, or some of these."""
    every = [*names]
    return frozenset(lot.sample(every, min(lot.choice((0, 0, 1, 2)), len(every))))


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
    assert {each.month for each in world.view.months()} == seen
    assert {each.period.month for each in world.view.periods()} == seen
    mine = {job.account for job in world.seen()}
    if world.view.viewer.admin:
        mine.add("")
    assert {*filter(world.view.has_account, NAMES)} == mine


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
    found = world.view.jobs(wanted)
    check_jobs(found, mine)
    check_jobs(world.view.as_booked(found), mine)


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
    data, _ = world.view.drawn(wanted, world.view.dataset(0, FOREVER_S, wanted))
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
    for found in (
        world.view.bill(month, account),
        world.view.whole_bill(month, NOW_S, account).bill,
    ):
        amount, _ = bills.total(found.lines)
        assert amount.energy_uj == uj(mine) + (0 if account else world.rest([month]))
        assert {line.owner for line in found.lines if not line.owner.remainder} == {
            job.owner for job in mine
        }


def trend(world: World) -> None:
    user, account = ("" if world.lot.random() < 0.5 else world.lot.choice(NAMES) for _ in range(2))
    mine = world.seen(lambda job: user in {"", job.user} and account in {"", job.account})
    rest_uj = 0 if user or account else world.rest([0])
    check_trend(world.view.trend(202601, 202612, user, account), mine, rest_uj)


def trend_of_lab(world: World) -> None:
    if not (world.view.viewer.admin or world.view.viewer.public):
        refused(world.view.trend_of_lab, 202601, 202612)
        return
    check_trend(world.view.trend_of_lab(202601, 202612), world.jobs, 2 * REST_UJ)


def check_trend(found: dict[int, MonthSum], mine: list[Job], rest_uj: int = 0) -> None:
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


def advice(world: World) -> None:
    month, account = world.lot.choice([*MONTHS]), world.lot.choice(("", *NAMES))
    found = world.view.advice(month, NOW_S, account)
    mine = world.seen(lambda job: job.month == month and account in {"", job.account})
    owners = {
        BilledOwner("", line.labels.account, line.labels.user, line.labels.experiment)
        for line in found.lines
    }
    assert owners <= {job.owner for job in mine}


def results(world: World) -> None:
    viewer = world.view.viewer
    own = [(str(n), name) for n, name in enumerate(NAMES[1:], start=1)
           if viewer.admin or name == viewer.user]  # fmt: skip
    found = world.view.result_sets({})
    assert sorted((each.id, each.owner) for each in found) == sorted(own)
    number = str(world.lot.randrange(len(NAMES)))
    if number not in dict(own):
        refused(world.view.leaderboard, number, {}, reason="missing")
        return
    _, board = world.view.leaderboard(number, {})
    told = repr(board)
    for job in world.jobs:
        assert str(job.energy_uj) not in told or world.mine(job)


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
    trend, trend_of_lab, serving, advice,
    results, for_administrators,
)  # fmt: skip
OF_THE_LEDGER = {"collected_to_s", "replayed_nodes", "refuse_without_totals"}
"""What says nothing of people: for everybody who is known."""


def test_every_question_is_tried() -> None:
    tried = {word.strip("_") for each in QUESTIONS for word in each.__code__.co_names}
    asked = {name for name in dir(ResultView) if not name.startswith("_")}
    assert asked - OF_THE_LEDGER <= tried


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger with nothing in it."""
    path = tmp_path_factory.mktemp("laws") / "empty.db"
    connect(f"sqlite://{path}", create=True).close()
    return path


def test_nothing_of_others_is_seen_and_nothing_of_ones_own_is_lost(
    empty: Path, tmp_path: Path
) -> None:
    for world in worlds(empty, tmp_path, ASKED):
        world.lot.choice(QUESTIONS)(world)
