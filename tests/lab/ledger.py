"""The simulated lab as the collector has it: its days in a ledger in PostgreSQL, one month closed,
an entry that came late, and a correction.
"""

from __future__ import annotations

from hashlib import sha256

from tests.lab.truth import Key, truth
from tests.lab.world import DAY_S, END_S, NODES, START_S
from tests.unit.lab.collected.nodes import Node

from joulebook.core.evidence import Amount
from joulebook.core.money.amounts import Exact
from joulebook.core.money.rates import NANO
from joulebook.lab.collected import bills, corrections, ingest
from joulebook.lab.collected.corrections import Reason, Transfer
from joulebook.lab.collected.database import Database, opened
from joulebook.lab.collected.schema import BilledOwner
from joulebook.units import NS_PER_S, UJ_PER_J, UJ_PER_KWH

CLOSED, MONTH = 202501, 202502
CLOSED_S = (END_S // DAY_S - 28) * DAY_S
FIRST_S = (START_S // DAY_S + 1) * DAY_S


def collect(url: str) -> None:
    """Fill an empty database with what the nodes of the cluster `lab` booked, day by day."""
    with opened(url, create=True) as database:
        nodes = [name for name in NODES if name.startswith("lab/")]
        for number, name in enumerate(nodes):
            cluster, _, short = name.partition("/")
            node = Node(short, sha256(name.encode()).hexdigest()[:32], cluster)
            for day_s in range(FIRST_S, CLOSED_S, DAY_S):
                _book(node, name, day_s)
            read = _hand_over(database, node, 0, CLOSED_S)
            if number == len(nodes) - 1:
                bills.close(database, CLOSED, "grace", CLOSED_S)
                node.burn(CLOSED_S - 5 * DAY_S, 3 * UJ_PER_KWH, "bio/cryo-em/rosalind")
            for day_s in range(CLOSED_S, END_S - DAY_S, DAY_S):
                _book(node, name, day_s)
            _hand_over(database, node, read, END_S)
        corrections.correct(
            database,
            BilledOwner("", "vision", "grace", "vit-sweep"),
            BilledOwner("unallocated"),
            [
                Transfer("gpu", Amount(2 * UJ_PER_KWH, 0, 0)),
                Transfer(item="electricity", currency="EUR", billed=Exact(0, 640_000_000)),
            ],
            Reason("correction", "grace", "GPU fell off the bus", END_S - 4 * DAY_S),
        )


def _hand_over(database: Database, node: Node, since: int, now_s: int) -> int:
    while since < node.last:
        page = node.page(since)
        ingest.take(database, page, f"http://{node.name}:9816", now_s)
        since = page.next
    return since


def _whose(key: Key) -> str:
    """Account, experiment and user; nothing for what belongs to nobody."""
    user, account, experiment = key.labels[:3]
    return f"{account}/{experiment}/{user}"


def _book(node: Node, name: str, day_s: int) -> None:
    """What the node used in a day."""

    def sums(what: str) -> dict[str, float]:
        nobody = what.startswith("remainder")
        found: dict[str, float] = {}
        for key, curve in truth().curves.items():
            if (key.node, key.what) == (name, what) and "hardware" not in key.labels:
                whose = "" if nobody else _whose(key)
                found[whose] = found.get(whose, 0.0) + curve.between(day_s, day_s + DAY_S)
        return found

    for part in ("experiment", "remainder"):
        joules, cost = sums(f"{part}_energy_joules"), sums(f"{part}_cost")
        credit, grams = sums(f"{part}_credit"), sums(f"{part}_co2e_grams")
        held = sums("experiment_gpu_seconds") if part == "experiment" else {}
        for whose, used in joules.items():
            if round(used) == 0:
                continue
            account, experiment, user = whose.split("/") if whose else ("", "", "")
            if whose and whose not in node.workloads:
                node.label(whose, account, user, experiment)
            money = max(0.0, cost.get(whose, 0.0) - credit.get(whose, 0.0))
            held_ns = round(held.get(whose, 0.0) * NS_PER_S)
            node.burn(day_s + 900, round(used * UJ_PER_J), whose, _exact(money), held_ns)
            node.emit(day_s + 900, _exact(grams[whose] / 1000), whose)


def _exact(amount: float) -> Exact:
    return Exact(*divmod(round(amount * NANO), NANO))
