"""Random ledgers of a lab, random viewers, and what the rules say that these may see."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from tests.unit.lab.collected.nodes import NOVEMBER_S, OCTOBER_S, Node
from tests.unit.lab.web.served import NOW_S

from joulebook.core.evidence import Amount
from joulebook.core.money.amounts import Exact
from joulebook.lab.collected import ingest
from joulebook.lab.collected.audit import note
from joulebook.lab.collected.database import Database, opened
from joulebook.lab.collected.schema import BilledOwner
from joulebook.lab.leaderboard.ranked import Asked
from joulebook.lab.web.result_view import ResultView
from joulebook.lab.web.viewer import Viewer

_RESULTS = "experiment,run,metric,value\n" + "".join(
    f"{experiment},{run},accuracy,0.5\n" for experiment in ("bert", "vit") for run in range(1, 13)
)

OF_ONE_LEDGER = 250
"""Viewers of one ledger."""

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
    view: ResultView
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


def uj(parts: Iterable[Amount | Job]) -> int:
    """Their energy."""
    return sum(each.energy_uj for each in parts)


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
    for n, name in enumerate(NAMES[1:], start=1):
        row = (n, name, f"of {n}", _RESULTS, json.dumps(Asked()), NOW_S)
        database.upsert("lab_results", [row])
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
                yield World(listed, ResultView(database, viewer), lot)
