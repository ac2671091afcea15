"""The life of a series: labels, the hold at zero, budgets, lingering, expiry."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.core.audit import laws, shown_experiment, total
from tests.unit.core.world import S, at, gpu, job_id

from joulebook.core.attribution.claims import Claim, Evidence
from joulebook.core.energy.readings import Component
from joulebook.core.evidence import Amount
from joulebook.core.ledger import series
from joulebook.core.ledger.experiment_series import EXPIRED
from joulebook.core.ledger.series import OVERFLOW, SeriesPolicy
from joulebook.core.ledger.state import Books
from joulebook.core.workloads import Labels, WorkloadFacts, WorkloadId

POLICY = SeriesPolicy()
HOLD_S = 38
"""Seconds of the hold at zero, in whole ticks (37.5 s)."""


class Node:
    """Series that move along with the ticks of a daemon, one a second."""

    def __init__(self, policy: SeriesPolicy = POLICY) -> None:
        self.books, self.policy, self.news = Books(last_ns=at(0)), policy, 0

    def step(
        self,
        second: float,
        earned: Mapping[str, int] | None = None,
        claims: Iterable[Claim] = (),
        facts: Iterable[WorkloadFacts] = (),
        resumed: bool = False,
        component: Component = Component.GPU,
    ) -> Books:
        now_ns = at(second)
        balances = {job_id(name): {component: Amount(uj)} for name, uj in (earned or {}).items()}
        books, news = series.advance(
            self.books,
            series.Step(
                now_ns,
                served_ns=0 if resumed else now_ns - self.books.last_ns,
                resumed=resumed,
                earned=balances,
                claims=tuple(claims),
                facts=tuple(facts),
            ),
            self.policy,
        )
        self.news += len(news)
        self.books = Books(
            workloads=books.workloads,
            experiments=books.experiments,
            overflow=books.overflow,
            last_ns=now_ns,
        )
        return self.books

    def run(self, first: int, last: int, claims: Iterable[Claim] = ()) -> Books:
        for second in range(first, last + 1):
            self.step(second, claims=claims)
        return self.books

    def shown(self, name: str) -> int | None:
        """What the series of a workload says; `None` if there is none."""
        state = self.books.workloads.get(job_id(name))
        if state is None or state.labels is None or state.folded:
            return None
        return 0 if state.hold_left_ns else total(state.balance)

    def experiment(self, name: str, user: str = "ada") -> int | None:
        state = self.books.experiments.get(Labels(user, "nlp", name))
        return None if state is None else total(shown_experiment(state))


def holds(name: str, since: float = 0, until: float | None = None) -> Claim:
    t1_ns = None if until is None else at(until)
    return Claim(job_id(name), gpu(), at(since), t1_ns, Evidence.PROLOG)


def knows(
    name: str, experiment: str = "x", *, user: str = "ada", done: bool = True
) -> WorkloadFacts:
    return WorkloadFacts(job_id(name), labels=Labels(user, "nlp", experiment), complete=done)


def test_zero_is_held_for_so_long_then_the_truth_shows() -> None:
    node = Node()
    node.step(1, {"a": 5}, [holds("a")], [knows("a")])
    for second in range(2, HOLD_S + 1):
        node.step(second, {"a": 5}, [holds("a")])
        assert node.shown("a") == 0
        assert node.experiment("x") == 0
    node.step(HOLD_S + 1, {"a": 5}, [holds("a")])
    assert node.shown("a") == 5 * (HOLD_S + 1)
    assert node.experiment("x") == 5 * (HOLD_S + 1)


def test_time_in_which_nobody_could_scrape_does_not_count() -> None:
    node = Node()
    node.step(1, {"a": 5}, [holds("a")], [knows("a")])
    node.run(2, 11, [holds("a")])
    node.step(500, claims=[holds("a")], resumed=True)
    node.run(501, 526, [holds("a")])
    assert node.shown("a") == 0
    node.run(527, 528, [holds("a")])
    assert node.shown("a") == 5


@pytest.mark.parametrize("learnt_s", [2, 9])
def test_labels_wait_until_they_are_complete(learnt_s: int) -> None:
    node = Node()
    for second in range(1, learnt_s):
        node.step(second, {"a": 1}, [holds("a")], [knows("a", "", done=False)])
        assert node.shown("a") is None
        assert node.books.experiments == {}
    node.step(learnt_s, {"a": 1}, [holds("a")], [knows("a", "late")])
    assert node.shown("a") == 0
    assert total(node.books.experiments[Labels("ada", "nlp", "late")].balance) == learnt_s


def test_labels_settle_after_ten_seconds_and_are_frozen_then() -> None:
    node = Node()
    node.run(1, 10, [holds("a")])
    assert node.shown("a") is None
    node.run(11, 11, [holds("a")])
    assert node.shown("a") == 0
    before = node.books.workloads[job_id("a")]
    assert before.labels == Labels("", "", "a")
    news = node.news
    node.step(12, claims=[holds("a")], facts=[knows("a", "too-late")])
    after = node.books.workloads[job_id("a")]
    assert (after.labels, after.shown) == (before.labels, before.shown)
    assert after.facts.labels.experiment == "too-late"
    assert node.news == news + 1
    node.step(13, claims=[holds("a")], facts=[knows("a", "too-late")])
    assert node.news == news + 1


def test_a_series_lingers_after_its_end() -> None:
    node = Node()
    node.step(1, {"a": 5}, [holds("a")], [knows("a")])
    node.step(2, {"a": 5}, [holds("a", 0, 2)])
    node.run(3, 902)
    assert node.shown("a") == 10
    node.run(903, 945)
    assert node.shown("a") is None
    assert node.experiment("x") == 10


def test_a_short_linger_begins_when_the_truth_shows() -> None:
    node = Node(SeriesPolicy(linger_ns=20 * S))
    node.step(1, {"a": 5}, [holds("a", 0, 1)], [knows("a")])
    node.run(2, HOLD_S)
    assert node.shown("a") == 0
    for second in range(HOLD_S + 1, HOLD_S + 20):
        node.step(second)
        assert node.shown("a") == 5
    node.run(HOLD_S + 20, HOLD_S + 25)
    assert node.shown("a") is None


def test_what_is_booked_after_a_long_outage_is_shown_as_long() -> None:
    """Killed before its end was booked; nobody could look for longer than it lingers."""
    node = Node()
    node.step(1, {"a": 5}, [holds("a")], [knows("a")])
    node.run(2, 60, [holds("a")])
    node.step(5000, {"a": 7}, [holds("a", 0, 61)], resumed=True)
    node.step(5001)
    node.run(5002, 5899)
    assert node.shown("a") == 12
    node.run(5900, 5902)
    assert node.shown("a") is None


def test_an_outage_does_not_use_up_the_linger() -> None:
    node = Node()
    node.step(1, {"a": 5}, [holds("a")], [knows("a")])
    node.step(50, {}, [holds("a", 0, 50)])
    node.run(51, 100)
    node.step(9000, resumed=True)
    node.run(9001, 9840)
    assert node.shown("a") == 5
    node.run(9841, 9860)
    assert node.shown("a") is None


def test_nothing_is_removed_that_still_has_energy_to_come() -> None:
    node = Node()
    node.step(1, {"a": 5}, [holds("a")], [knows("a")])
    node.run(2, 3000, [holds("a", 0, 2)])  # ended, but its meter is lost: not booked to its end
    assert node.shown("a") == 5
    node.step(3001, {"a": 6})
    assert node.shown("a") == 11


def test_a_workload_that_goes_on_is_not_ended() -> None:
    node = Node()
    node.step(1, {"a": 5}, [holds("a")], [knows("a")])
    node.step(2, {}, [holds("a", 0, 2)])
    assert node.books.workloads[job_id("a")].ended_ns == at(2)
    node.step(3, {}, [holds("a", 0, 2), holds("a", 3)])
    assert node.books.workloads[job_id("a")].ended_ns is None


def test_one_that_once_held_a_part_of_a_device_is_known_to_have_shared() -> None:
    node = Node()
    part = msgspec.structs.replace(holds("a", 0, 2), parts=1, of=4)
    node.step(1, {}, [holds("a"), holds("b")])
    assert not node.books.workloads[job_id("a")].shared
    node.step(2, {}, [part, holds("b")])
    node.step(3, {"a": 5}, [holds("a", 3), holds("b")])
    assert node.books.workloads[job_id("a")].shared
    assert not node.books.workloads[job_id("b")].shared


def test_one_known_by_its_processes_ends_with_them() -> None:
    node = Node()
    node.step(1, {"a": 5}, facts=[knows("a")])
    node.step(2, {"a": 5})
    assert node.books.workloads[job_id("a")].ended_ns is None
    node.step(3)
    assert node.books.workloads[job_id("a")].ended_ns == at(3)


def test_the_51st_experiment_of_an_owner_overflows() -> None:
    node = Node()
    names = [f"e{n:02}" for n in range(53)]
    node.step(1, dict.fromkeys(names, 2), facts=[knows(name, name) for name in names])
    mine = [labels for labels in node.books.experiments if labels.user == "ada"]
    assert len(mine) == 51
    assert total(node.books.experiments[Labels("ada", "nlp", OVERFLOW)].balance) == 6
    assert node.books.overflow == {"experiments": 3}
    node.step(2, {"f": 2}, facts=[knows("f", "other", user="bob")])
    assert Labels("bob", "nlp", "other") in node.books.experiments
    # Its workloads keep their own series, under the label of the overflow.
    assert node.books.workloads[job_id("e52")].labels == Labels("ada", "nlp", OVERFLOW)
    assert not node.books.workloads[job_id("e52")].folded


def test_the_budget_of_the_node_for_experiments() -> None:
    node = Node(SeriesPolicy(max_experiments=3))
    for n in range(5):
        node.step(n + 1, {f"w{n}": 1}, facts=[knows(f"w{n}", f"e{n}", user=f"u{n}")])
    assert {labels.experiment for labels in node.books.experiments} == {"e0", "e1", "e2", OVERFLOW}
    assert sum(total(state.balance) for state in node.books.experiments.values()) == 5


def test_names_that_people_gave_are_not_pushed_out_by_derived_ones() -> None:
    node = Node(SeriesPolicy(max_experiments=200))
    for n in range(60):
        node.step(n + 1, {f"d{n}": 1}, facts=[knows(f"d{n}", f"nightly-{n}")])
    given = msgspec.structs.replace(knows("g", "bert-final"), named=True)
    node.step(61, {"g": 2}, facts=[given])
    shown = {labels.experiment for labels in node.books.experiments}
    assert "bert-final" in shown
    assert "nightly-49" in shown
    assert "nightly-50" not in shown
    for n in range(200):
        node.step(62 + n, {f"o{n}": 1}, facts=[knows(f"o{n}", f"x{n}", user=f"u{n}")])
    given = msgspec.structs.replace(knows("h", "vit-final", user="bob"), named=True)
    node.step(300, {"h": 2}, facts=[given])
    shown = {labels.experiment for labels in node.books.experiments}
    assert "vit-final" in shown, "the last tenth of the node's budget is kept for names given"
    assert "x199" not in shown


def test_a_job_without_a_meter_gets_no_series_and_takes_no_room() -> None:
    node = Node()
    names = [f"cpu{n}" for n in range(600)]
    node.step(1, {}, [], [knows(name) for name in names])
    assert not any(node.books.workloads[knows(name).id].labels for name in names)
    node.step(2, {"gpu": 5}, [holds("gpu")], [knows("gpu")])
    node.run(3, HOLD_S + 4, [holds("gpu")])
    assert node.shown("gpu") is not None
    node.run(HOLD_S + 5, POLICY.linger_ns // S + 9, [holds("gpu")])
    assert set(node.books.workloads) == {knows("gpu").id}, "they are forgotten after a while"


def test_the_501st_workload_is_folded_into_its_owners_overflow() -> None:
    node = Node()
    names = [f"w{n:03}" for n in range(502)]
    claims = [holds(name) for name in names]
    node.step(1, dict.fromkeys(names, 2), claims, [knows(name) for name in names])
    node.run(2, HOLD_S + 1, claims)
    shown = [name for name in names if node.shown(name) is not None]
    assert len(shown) == 500
    pooled = node.books.workloads[WorkloadId(OVERFLOW, "ada\x1fnlp")]
    assert (total(pooled.balance), pooled.shown, pooled.hold_left_ns) == (4, OVERFLOW, 0)
    assert node.books.overflow == {"workloads": 2}
    assert node.experiment("x") == 2 * 502
    node.step(HOLD_S + 2, {"w500": 3, "w501": 3}, claims)
    assert total(node.books.workloads[WorkloadId(OVERFLOW, "ada\x1fnlp")].balance) == 10
    assert total(node.books.workloads[job_id("w501")].balance) == 5


def test_an_experiment_holds_at_what_it_last_showed_after_a_restart() -> None:
    node = Node()
    node.step(1, {"a": 5}, [holds("a")], [knows("a")])
    node.run(2, 50, [holds("a")])
    node.step(100, {"a": 7}, [holds("a")], resumed=True)
    assert node.experiment("x") == 5
    node.run(101, 99 + HOLD_S, [holds("a")])
    assert node.experiment("x") == 5
    node.run(100 + HOLD_S, 100 + HOLD_S, [holds("a")])
    assert node.experiment("x") == 12


def test_an_experiment_never_yet_shown_is_still_at_zero_after_a_restart() -> None:
    node = Node()
    node.step(1, {"a": 5}, [holds("a")], [knows("a")])
    node.step(20, {"a": 7}, [holds("a")], resumed=True)
    assert node.experiment("x") == 0
    node.run(21, 20 + HOLD_S, [holds("a")])
    assert node.experiment("x") == 12


@pytest.mark.parametrize("joined", [False, True])
def test_what_an_experiment_had_not_of_a_kind_is_seen_at_zero_first(joined: bool) -> None:
    """Whether its workload joins it with that, or has joined it before."""
    node = Node()
    node.step(1, {"a": 5}, [holds("a")], [knows("a")])
    node.run(2, 49, [holds("a")])
    node.step(50, {}, [holds("a"), holds("b", 50)], [knows("b", done=joined)])
    node.step(51, {"b": 3}, [holds("a"), holds("b", 50)], component=Component.CPU)
    node.step(52, {}, [holds("a"), holds("b", 50)], [knows("b")])
    state = node.books.experiments[Labels("ada", "nlp", "x")]
    assert {part: amount.energy_uj for part, amount in state.balance.items()} == {
        Component.GPU: 5,
        Component.CPU: 3,
    }
    assert shown_experiment(state) == {Component.GPU: Amount(5)}
    node.run(53, 52 + HOLD_S, [holds("a")])
    assert node.experiment("x") == 8


def test_experiments_that_nobody_used_for_long_pass_into_expired() -> None:
    node = Node(SeriesPolicy(expire_ns=1000 * S))
    node.step(1, {"a": 5, "b": 7}, facts=[knows("a", "old"), knows("b", "older")])
    node.run(2, 1000)
    node.step(2100, {"c": 1}, facts=[knows("c", "new")])
    node.run(2101, 2101 + HOLD_S)
    assert {labels.experiment for labels in node.books.experiments} == {EXPIRED, "new"}
    assert node.experiment(EXPIRED) == 12
    node.run(3100, 4200)
    assert node.experiment(EXPIRED) == 13


def test_an_experiment_in_use_does_not_expire() -> None:
    node = Node(SeriesPolicy(expire_ns=100 * S))
    node.step(1, {"a": 5}, [holds("a")], [knows("a")])
    node.run(2, 300, [holds("a")])
    assert node.experiment("x") == 5


steps_st = st.lists(
    st.tuples(
        st.integers(1, 40),
        st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 9), max_size=4),
        st.sets(st.sampled_from("abcdef"), max_size=4),
        st.sets(st.tuples(st.sampled_from("abcdef"), st.sampled_from(["", "p", "q"])), max_size=3),
        st.booleans(),
    ),
    max_size=25,
)


@laws(150)
@given(steps_st)
def test_no_shown_value_falls_while_it_is_shown_and_nothing_is_lost(
    steps: list[tuple[int, dict[str, int], set[str], set[tuple[str, str]], bool]],
) -> None:
    node = Node(
        SeriesPolicy(
            linger_ns=50 * S,
            expire_ns=200 * S,
            max_workloads=3,
            max_experiments=4,
            max_experiments_per_owner=3,
        )
    )
    second, given_uj = 0, 0
    for gap, earned, held, reported, restart in steps:
        before, second = node.books, second + gap
        facts = {name: knows(name, experiment, user="ada") for name, experiment in sorted(reported)}
        resumed = restart and gap > 30
        node.step(second, earned, [holds(name) for name in sorted(held)], facts.values(), resumed)
        given_uj += sum(earned.values())
        for id_, old in before.workloads.items():
            new = node.books.workloads.get(id_)
            if new is None:
                assert old.labels is not None or not old.held, "what never had a meter may go"
                assert id_.workload not in held
                continue
            shown = [0 if s.hold_left_ns else total(s.balance) for s in (old, new)]
            assert old.labels is None or (new.labels == old.labels and shown[0] <= shown[1])
        for labels, experiment in before.experiments.items():
            kept = node.books.experiments.get(labels)
            if kept is not None:
                assert total(shown_experiment(experiment)) <= total(shown_experiment(kept))
        settled = sum(total(e.balance) for e in node.books.experiments.values())
        waiting = [w for w in node.books.workloads.values() if w.labels is None]
        assert settled + sum(total(w.balance) for w in waiting) == given_uj


def test_an_experiment_has_series_for_a_day_after_its_last_use_and_returns_where_it_was() -> None:
    node = Node(SeriesPolicy(expose_ns=100 * S))
    node.step(1, {"a": 5}, facts=[knows("a")])
    node.run(2, 1100)
    state = node.books.experiments[Labels("ada", "nlp", "x")]
    assert not state.exposed
    assert total(state.balance) == 5
    node.step(1101, {"b": 7}, [holds("b", 1100)], [knows("b")])
    assert node.books.experiments[Labels("ada", "nlp", "x")].exposed
    assert node.experiment("x") == 5, "seen where it was before its first new microjoule"
    node.run(1102, 1102 + HOLD_S, [holds("b", 1100)])
    assert node.experiment("x") == 12


def test_one_that_consumed_nothing_for_long_leaves_a_day_after_its_last_workload() -> None:
    """Of a job on a card that cannot be read, say: its series were there all the time."""
    policy = SeriesPolicy(linger_ns=5 * S, expire_ns=200 * S, expose_ns=100 * S)
    node = Node(policy)
    node.step(1, {"a": 5}, [holds("a")], [knows("a")])
    node.run(2, 1000, [holds("a")])
    assert node.experiment("x") == 5
    node.run(1001, 1090)
    assert node.experiment("x") == 5, "the job has left, and another one comes"
    node.step(1091, {"b": 7}, [holds("b", 1091)], [knows("b")])
    assert node.experiment("x") == 12


def test_series_stay_while_nobody_could_see_them_leave() -> None:
    lasting = SeriesPolicy(linger_ns=5 * S, expire_ns=10 * S, expose_ns=5 * S, retire=False)
    node = Node(lasting)
    node.step(1, {"a": 5}, facts=[knows("a")])
    node.run(2, 200)
    assert node.shown("a") == 5
    assert node.experiment("x") == 5
    assert node.books.experiments[Labels("ada", "nlp", "x")].exposed
    # What comes back goes on where it was.
    node.step(201, {"a": 3}, [holds("a", 200)])
    assert node.shown("a") == 8
    node.policy = msgspec.structs.replace(lasting, retire=True)
    node.run(202, 500)
    assert node.shown("a") is None


def numbered(start: int, name: str = "500") -> WorkloadId:
    return WorkloadId("slurm", name, start)


def test_two_jobs_of_one_number_are_one_series_that_does_not_fall_until_both_are_over() -> None:
    books, policy = Books(last_ns=at(0)), SeriesPolicy(zero_hold_ns=S, linger_ns=10 * S)
    told = [
        WorkloadFacts(numbered(n), "500", labels=Labels("ada", "nlp", "x"), complete=True)
        for n in (1, 2)
    ]
    sums = []
    for second in range(1, 60):
        who = numbered(1) if second < 5 else numbered(2) if 8 < second < 20 else None
        earned = {} if who is None else {who: {Component.GPU: Amount(5)}}
        step = series.Step(
            at(second), served_ns=S, earned=earned, facts=told if second in {1, 9} else ()
        )
        if second == 1:
            step = step._replace(facts=told[:1])
        books, _ = series.advance(books, step, policy)
        books = msgspec.structs.replace(books, last_ns=at(second))
        there = [w for w in books.workloads.values() if w.labels is not None]
        sums.append(sum(total(w.balance) for w in there))
    gone = sums.index(0, 20)
    assert sums[:gone] == sorted(sums[:gone])
    assert max(sums) == 5 * (4 + 11)
    assert not any(sums[gone:])


@pytest.mark.parametrize("name", ["(expired)", "(overflow)", "(unallocated)", " (any thing) "])
def test_a_name_of_ours_is_nobodys_whatever_way_it_came(name: str) -> None:
    node = Node()
    fact = WorkloadFacts(
        job_id("a"), display=name, labels=Labels("ada", name, name), complete=True, named=True
    )
    node.step(1, {"a": 5}, [holds("a")], [fact])
    ((labels, state),) = node.books.experiments.items()
    assert labels == Labels("ada", "", name.strip(" ()"))
    assert not state.named
