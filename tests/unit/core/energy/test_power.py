"""Power beside a counter that stands still, runs slow or falls silent: once, and all of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.core.audit import laws
from tests.unit.core.world import S, gpu

from joulebook.core.energy.intervals import Interval
from joulebook.core.energy.meter import FALLBACK_NS, MeterState, begin, resume, take
from joulebook.core.energy.power import NODE_MAX_POWER_MW
from joulebook.core.energy.readings import Break, Component, Meter, PowerSample, Reading
from joulebook.core.energy.ripe import ripe
from joulebook.core.evidence import Method

J = 1_000_000
T0 = 1000 * S
SETTLE_NS = 3 * S
WAIT_S = FALLBACK_NS // S


class Card:
    """A card that draws `watts`; its counter shows `rate` of it, and is never reported if
    `silent`.
    """

    def __init__(self, watts: float = 300.0) -> None:
        self.watts, self.rate, self.silent = watts, 1.0, False
        self.second, self.true_j, self.shown_j = 0, 0.0, 65_628.0

    def read(self) -> Reading:
        return Reading(
            gpu(),
            T0 + self.second * S,
            None if self.silent else round(self.shown_j * J),
            round(self.watts * 1000),
            max_power_mw=800_000,
        )

    def burn(self, watts: float | None = None) -> Reading:
        """A second more."""
        self.watts = self.watts if watts is None else watts
        self.true_j += self.watts
        self.shown_j += self.rate * self.watts
        self.second += 1
        return self.read()


class Books:
    """A meter that is fed and booked at every look."""

    def __init__(self, card: Card) -> None:
        self.card, self.state = card, begin(card.read())
        self.booked: list[Interval] = []

    def watch(self, seconds: int, watts: float | None = None) -> MeterState:
        for _ in range(seconds):
            reading = self.card.burn(watts)
            self.state = take(self.state, reading).state
            self._book(reading.t_ns - SETTLE_NS)
        return self.state

    def _book(self, horizon_ns: int) -> None:
        self.state, intervals = ripe(self.state, horizon_ns)
        self.booked += intervals

    def total_j(self) -> float:
        """All that is read, once all of it is booked."""
        self._book(1 << 62)
        assert self.state.booked_uj == self.state.read_uj
        assert sum(i.energy_uj for i in self.booked) == self.state.read_uj
        return self.state.read_uj / J


def test_a_counter_frozen_from_the_start_is_told_by_power() -> None:
    books = Books(Card(290))
    books.card.rate = 0
    state = books.watch(WAIT_S - 1)
    assert (books.booked, state.read_uj, state.stalled) == ([], 0, False)  # nothing, not 0 J
    assert books.watch(1).stalled
    books.watch(40)
    assert books.total_j() == pytest.approx(books.card.true_j)
    assert {i.method for i in books.booked} == {Method.INTEGRATED}


def test_a_counter_that_stops_and_is_slow_to_start_again_is_never_booked_twice() -> None:
    books = Books(Card())
    books.watch(20)
    books.card.rate = 0
    books.watch(WAIT_S + 30)
    assert books.state.stalled
    books.card.shown_j = 65_628 + books.card.true_j  # all that it slept through, in one step
    books.card.rate = 1
    books.watch(20)
    assert not books.state.stalled
    assert books.total_j() == pytest.approx(books.card.true_j)
    methods = [i.method for i in books.booked]
    assert methods[0] is methods[-1] is Method.COUNTER
    assert Method.INTEGRATED in methods


def test_one_that_begins_again_without_the_time_it_slept_through() -> None:
    books = Books(Card())
    books.card.rate = 0
    books.watch(WAIT_S + 30)
    books.card.rate = 1
    books.watch(20)
    assert not books.state.stalled
    assert books.total_j() == pytest.approx(books.card.true_j)


def test_a_counter_that_catches_up_in_time_is_believed() -> None:
    books = Books(Card())
    books.watch(5)
    books.card.rate = 0
    books.watch(WAIT_S - 10)
    books.card.shown_j, books.card.rate = 65_628 + books.card.true_j, 1
    books.watch(10)
    assert books.total_j() == pytest.approx(books.card.true_j)
    assert {i.method for i in books.booked} == {Method.COUNTER}


def test_a_tenth_of_what_is_drawn_is_far_too_slow() -> None:
    books = Books(Card())
    books.card.rate = 0.1
    books.watch(150)
    assert books.state.stalled
    assert books.total_j() == pytest.approx(books.card.true_j)


def test_a_load_that_ends_is_no_stall_though_power_is_a_mean_of_a_second() -> None:
    books = Books(Card(700))
    books.watch(10)
    books.watch(100, 20)
    assert not books.state.held
    assert {i.method for i in books.booked} == {Method.COUNTER}
    assert books.total_j() == pytest.approx(books.card.true_j)


@pytest.mark.parametrize("watts", [1.0, 2.0, 6.0, 9.9])
def test_a_counter_that_stands_still_at_little_power_is_told_by_power(watts: float) -> None:
    books = Books(Card(watts))
    books.watch(20)
    books.card.rate = 0
    assert books.watch(WAIT_S).stalled
    books.watch(40)
    books.card.rate = 1
    assert not books.watch(20).stalled
    assert books.total_j() == pytest.approx(books.card.true_j, abs=watts)


def test_an_idle_card_whose_power_is_next_to_nothing_is_left_alone() -> None:
    books = Books(Card(0.9))
    books.card.rate = 0
    assert not books.watch(100).stalled


@pytest.mark.parametrize("rate", [0.1, 0.5, 3.0])
def test_the_rate_of_a_counter_at_little_power_is_left_alone(rate: float) -> None:
    books = Books(Card(8))
    books.card.rate = rate
    books.watch(100)
    assert (books.state.stalled, books.state.held) == (False, ())
    assert {i.method for i in books.booked} == {Method.COUNTER}


def test_a_counter_of_large_steps_at_little_power_is_believed() -> None:
    books = Books(Card(3))
    books.card.rate = 0
    for _ in range(10):
        books.watch(19)
        books.card.shown_j += 60
        books.watch(1)
    assert not books.state.stalled
    assert books.total_j() == pytest.approx(books.card.true_j)
    assert {i.method for i in books.booked} == {Method.COUNTER}


def test_a_counter_silent_for_more_than_a_minute_while_power_is_known() -> None:
    books = Books(Card(700))
    books.watch(5)
    books.card.silent = True
    books.watch(WAIT_S + 10)
    assert books.state.stalled
    books.card.silent = False
    books.watch(10)
    assert books.total_j() == pytest.approx(books.card.true_j)


def test_a_counter_that_is_silent_for_less_knows_it_all() -> None:
    books = Books(Card(700))
    books.watch(5)
    books.card.silent = True
    books.watch(WAIT_S - 5)
    books.card.silent = False
    books.watch(5)
    assert {i.method for i in books.booked} == {Method.COUNTER}
    assert books.total_j() == pytest.approx(books.card.true_j)


def test_the_daemon_was_down_while_the_counter_stood_still() -> None:
    books = Books(Card())
    books.card.rate = 0
    books.watch(WAIT_S + 5)
    before_j = books.card.true_j
    books.card.second += 600
    books.state = resume(books.state)
    books.watch(10)
    # What nobody measured is a gap; what was measured is there.
    assert books.total_j() == pytest.approx(before_j + 9 * 300)


def test_a_reboot_ends_a_stall() -> None:
    books = Books(Card())
    books.card.rate = 0
    books.watch(WAIT_S + 5)
    reading = Reading(gpu(), T0 + 200 * S, 3_000 * J, 300_000, epoch="next", uptime_ns=10 * S,
                      max_power_mw=800_000)  # fmt: skip
    state = take(books.state, reading).state
    assert not state.stalled
    assert state.pending[-1].breaks is Break.REBOOT


PHASE = st.tuples(
    st.integers(3, 90), st.sampled_from([25.0, 60.0, 300.0, 700.0]), st.sampled_from([0.0, 1.0]),
    st.booleans(), st.booleans(),
)  # fmt: skip


@laws(120)
@given(st.lists(PHASE, min_size=1, max_size=8))
def test_whatever_the_counter_does_the_truth_is_booked_once(
    phases: list[tuple[int, float, float, bool, bool]],
) -> None:
    books = Books(Card(60))
    changes_j = 0.0
    for seconds, watts, rate, silent, catches_up in phases:
        if catches_up and not silent:
            books.card.shown_j = 65_628 + books.card.true_j
        books.card.rate, books.card.silent = 1.0 if silent else rate, silent
        changes_j += abs(watts - books.card.watts)
        books.watch(seconds, watts)
    books.card.rate, books.card.silent = 1.0, False
    books.watch(WAIT_S + 5)
    # Each change of power is worth half a look of it by trapezoids; each step one look.
    slack_j = changes_j + 1500 * len(phases)
    assert books.total_j() == pytest.approx(books.card.true_j, abs=slack_j)


@pytest.mark.parametrize("garbage_mw", [2**32 - 1, 1_400_001, -5])
def test_a_power_only_card_never_books_more_than_it_can_draw(garbage_mw: int) -> None:
    def read(second: int, power_mw: int) -> Reading:
        return Reading(gpu(), T0 + second * S, None, power_mw, max_power_mw=1_400_000)

    state = begin(read(0, 700_000))
    lost: dict[str, int] = {}
    for second in range(1, 11):
        taken = take(state, read(second, garbage_mw if second == 5 else 700_000))
        state = taken.state
        lost.update(taken.lost_ns)
    assert state.read_uj == 7_000 * J
    assert lost["implausible"] > 0


def test_garbage_among_the_drivers_samples_is_left_out() -> None:
    before = Reading(gpu(), T0, None, 100_000, max_power_mw=800_000)
    samples = tuple(
        PowerSample(T0 + t * S // 4, 2**32 - 1 if t == 2 else 100_000) for t in (1, 2, 3)
    )
    now = Reading(gpu(), T0 + S, None, 100_000, samples, max_power_mw=800_000)
    assert take(begin(before), now).state.read_uj == 100 * J


def test_a_whole_node_may_draw_more_than_any_device() -> None:
    node = Meter(Component.OTHER, "ipmi")
    state = begin(Reading(node, T0, None, 6_000_000))
    state = take(state, Reading(node, T0 + S, None, 6_000_000)).state
    assert state.read_uj == 6_000 * J
    assert (
        take(state, Reading(node, T0 + 2 * S, None, NODE_MAX_POWER_MW + 1)).state.read_uj
        == 6_000 * J
    )


@pytest.mark.parametrize("energy_uj", [1 << 63, 1 << 72, -1])
def test_what_no_ledger_can_hold_is_a_gap(energy_uj: int) -> None:
    state = begin(Reading(gpu(), T0, 5 * J))
    taken = take(state, Reading(gpu(), T0 + S, energy_uj))
    assert taken.state.last.energy_uj == 5 * J
    assert taken.lost_ns == (("implausible", S),)
