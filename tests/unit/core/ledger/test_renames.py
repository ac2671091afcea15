"""A workload that is given to another experiment while it runs: from then on, everywhere alike."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import pytest
from tests.unit.core.audit import Auditor

from joulebook.core.attribution.claims import Claim, Evidence
from joulebook.core.energy.readings import Component, Failure, Meter, ProcessUse, Reading
from joulebook.core.ledger.advance import BookingPolicy, Tick, advance
from joulebook.core.ledger.series import SeriesPolicy
from joulebook.core.ledger.state import Books, Entry
from joulebook.core.workloads import Labels, WorkloadFacts, WorkloadId
from joulebook.units import NS_PER_S

CARD = Meter(Component.GPU, "GPU-0")
POD = WorkloadId("kubernetes", "bert.0a1b2c3d")
OTHER = WorkloadId("kubernetes", "vit.99999999")
T0_S = 1_760_000_400
WATTS = 100
QUICK = BookingPolicy(series=SeriesPolicy(zero_hold_ns=0, linger_ns=20 * NS_PER_S))


def facts(experiment: str, at_s: int = 0, *, named: bool = True) -> WorkloadFacts:
    """What its owner says since `at_s`; below 0: what there is for want of his word."""
    return WorkloadFacts(
        POD, name="bert", labels=Labels("", "team-a", experiment), started_ns=T0_S * NS_PER_S,
        complete=True, named=named, named_ns=(T0_S + at_s) * NS_PER_S if at_s >= 0 else 0,
    )  # fmt: skip


class Node:
    """Ticks of a second; the card takes 100 W, and the pod holds it or half of it."""

    def __init__(self, *, shared: bool = False) -> None:
        self.books, self.shared = Books(), shared
        self.audit, self.entries = Auditor(), list[Entry]()
        self.t_s = T0_S

    def run(
        self, seconds: int, *told: WorkloadFacts, resumed: bool = False, hung: bool = False
    ) -> None:
        for n in range(seconds):
            t_ns = self.t_s * NS_PER_S
            who = (POD, OTHER) if self.shared else (POD,)
            claims = tuple(
                Claim(each, CARD, T0_S * NS_PER_S, None, Evidence.POD_RESOURCES, 1, len(who))
                for each in who
            )
            # Of two who share it, all work is the pod's.
            uses = (ProcessUse(7, 1, 10**9, None, POD),)
            energy_uj = (self.t_s - T0_S) * WATTS * 1_000_000
            read = Reading(CARD, t_ns, energy_uj, busy=True, processes=uses)
            reads, lost = ((), (Failure(CARD, t_ns, "hung"),)) if hung else ((read,), ())
            tick = Tick(t_ns, 0, reads, lost, claims, frozenset({Evidence.POD_RESOURCES}),
                        told if not n else (), resumed=resumed and not n)  # fmt: skip
            before = self.books
            self.books, entry = advance(before, tick, QUICK)
            self.audit(before, self.books, entry)
            self.entries.append(entry)
            self.t_s += 1

    def joules(self) -> dict[tuple[str, int], int]:
        """What each was booked, by name and when it began (s since T0; 0: as the source says)."""
        found: dict[tuple[str, int], int] = {}
        for entry in self.entries:
            for key, amount in entry.postings.items():
                if isinstance(key.subject, WorkloadId):
                    who = (key.subject.workload.partition(".")[0], max(0, key.subject.start - T0_S))
                    found[who] = found.get(who, 0) + amount.energy_uj // 1_000_000
        return found

    def experiments(self) -> dict[str, int]:
        """What Prometheus shows."""
        return {
            labels.experiment: sum(a.energy_uj for a in state.balance.values()) // 1_000_000
            for labels, state in self.books.experiments.items()
        }

    def record(self) -> dict[WorkloadId, WorkloadFacts]:
        """The facts as the ledger keeps them."""
        return {fact.id: fact for entry in self.entries for fact in entry.facts}


def test_what_was_booked_keeps_its_name_and_what_comes_has_the_new_one() -> None:
    node = Node()
    node.run(20, facts("bert"))
    node.run(30, facts("gpt", 20))
    node.run(10)
    booked = node.joules()
    assert booked == {("bert", 0): 2_000, ("bert", 20): 100 * (60 - 20 - 4)}
    assert node.experiments() == {"bert": booked["bert", 0], "gpt": booked["bert", 20]}
    first, later = (node.record()[POD._replace(start=start)] for start in (0, T0_S + 20))
    assert (first.labels.experiment, later.labels.experiment) == ("bert", "gpt")
    assert first.ended_ns == later.started_ns == (T0_S + 20) * NS_PER_S
    assert (first.started_ns, later.ended_ns) == (T0_S * NS_PER_S, None)


def test_it_counts_from_when_it_was_said_and_not_from_when_that_was_heard_of() -> None:
    node = Node()
    node.run(22, facts("bert"))
    node.run(30, facts("gpt", 20))
    assert node.joules()["bert", 0] == node.experiments()["bert"] == 2_000
    assert node.record()[POD].ended_ns == (T0_S + 20) * NS_PER_S
    # In the middle of a second, too.
    between = Node()
    between.run(22, facts("bert"))
    half = msgspec.structs.replace(facts("gpt"), named_ns=(T0_S + 20) * NS_PER_S + NS_PER_S // 4)
    between.run(30, half)
    assert between.joules()["bert", 0] == between.experiments()["bert"] == 2_025
    # What is booked is booked.
    node.run(30, facts("llama", 21))
    begun = {fact.labels.experiment: fact.started_ns for fact in node.record().values()}
    assert begun["llama"] == (T0_S + 21) * NS_PER_S
    assert sum(node.joules().values()) == sum(node.experiments().values())


def test_there_and_back_again() -> None:
    node = Node()
    for n, name in enumerate(("bert", "gpt", "bert", "")):
        node.run(15, facts(name, 15 * n))
    booked = node.joules()
    assert set(booked) == {("bert", 0), ("bert", 15), ("bert", 30)}
    assert node.experiments() == {
        "bert": booked["bert", 0] + booked["bert", 30], "gpt": booked["bert", 15],
    }  # fmt: skip


def test_each_name_gets_its_time_of_a_card_that_could_not_be_read() -> None:
    node = Node()
    node.run(15, facts("bert"))
    node.run(5, hung=True)
    node.run(12, facts("gpt", 20), hung=True)
    node.run(28, facts("vit", 32), hung=True)  # for longer than a series lingers
    node.run(10)
    booked = node.joules()
    assert booked == {("bert", 0): 2_000, ("bert", 20): 1_200, ("bert", 32): 100 * (70 - 32 - 4)}
    assert node.experiments() == {
        "bert": booked["bert", 0], "gpt": booked["bert", 20], "vit": booked["bert", 32]
    }  # fmt: skip
    assert node.record()[POD].labels.experiment == "bert"


def test_on_a_shared_card_nobody_else_gains() -> None:
    node = Node(shared=True)
    node.run(20, facts("bert"), msgspec.structs.replace(facts("vit"), id=OTHER))
    node.run(20, facts("gpt", 20))
    booked = node.joules()
    assert booked["bert", 0] == 2_000
    assert booked["bert", 20] == 1_600
    assert booked.get(("vit", 0), 0) == 0
    assert not any(node.books.foreign_ns.values())


@pytest.mark.parametrize(
    ("before", "after"),
    [
        # It was not known yet what its owner says: it is learnt, for all of it.
        (facts("bert", -1, named=False), facts("gpt", 20)),
        (facts("", -1, named=False), facts("gpt", 20)),
    ],
)
def test_what_is_learnt_late_is_no_change(before: WorkloadFacts, after: WorkloadFacts) -> None:
    node = Node()
    node.run(20, before)
    node.run(20, after)
    assert set(node.joules()) == {("bert", 0)}
    assert node.record()[POD].labels.experiment == "gpt"
    assert node.books.renamed == {}


@pytest.mark.parametrize(
    "told",
    [
        (facts("bert"), facts("bert", 20)),
        (facts("bert"), facts("gpt", -1)),
        (facts("bert"), facts("", 20)),
        (facts("bert"), msgspec.structs.replace(facts("gpt", 20), ended_ns=(T0_S + 30) * NS_PER_S)),
    ],
)
def test_nothing_else_is_a_change(told: Iterable[WorkloadFacts]) -> None:
    node = Node()
    for fact in told:
        node.run(20, fact)
    assert set(node.joules()) == {("bert", 0)}
    assert node.experiments().keys() == {"bert"}


def test_a_restart_goes_on_where_it_was() -> None:
    node = Node()
    node.run(20, facts("bert"))
    node.run(20, facts("gpt", 20))
    node.books = msgspec.structs.replace(node.books)
    node.run(20, facts("gpt", 40), resumed=True)  # the source speaks of it from its own begin again
    booked = node.joules()
    assert set(booked) == {("bert", 0), ("bert", 20)}
    assert node.record()[POD._replace(start=T0_S + 20)].started_ns == (T0_S + 20) * NS_PER_S
    node.run(
        15, facts("llama", 60), resumed=True
    )  # changed while nobody looked: from the restart on
    assert set(node.joules()) - set(booked) == {("bert", 60)}


def test_it_is_forgotten_with_the_workload() -> None:
    node = Node()
    node.run(20, facts("bert"))
    node.run(20, facts("gpt", 20))
    end_ns = node.t_s * NS_PER_S
    claim = Claim(POD, CARD, T0_S * NS_PER_S, end_ns, Evidence.POD_RESOURCES)
    for n in range(60):
        t_ns = (node.t_s + n) * NS_PER_S
        read = Reading(CARD, t_ns, (node.t_s + n - T0_S) * WATTS * 1_000_000, busy=False)
        tick = Tick(t_ns, 0, (read,), (), (claim,) if n < 5 else (),
                    frozenset({Evidence.POD_RESOURCES}))  # fmt: skip
        node.books, _ = advance(node.books, tick, QUICK)
    assert node.books.workloads == {}
    assert node.books.renamed == {}
