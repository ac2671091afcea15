"""What is idle: by what devices tell of their work, and by the energy above the floor."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.core.audit import laws
from tests.unit.core.world import S, gpu

from joulebook.core.energy import idle
from joulebook.core.energy.idle import SETTLED_NS, Floor, is_at_rest
from joulebook.core.energy.intervals import Interval
from joulebook.core.energy.meter import MeterState, begin, take
from joulebook.core.energy.readings import InstanceUse, ProcessUse, Reading
from joulebook.core.energy.ripe import ripe
from joulebook.core.evidence import Method

ASLEEP = ProcessUse(1, 5, sm_time_ns=0)
UNKNOWN = ProcessUse(1, 5)
AT_WORK = ProcessUse(1, 5, sm_time_ns=3)


def reading(busy: bool | None, *uses: ProcessUse, **more: object) -> Reading:
    return Reading(gpu(), S, 0, busy=busy, processes=uses, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("before", "now", "rests"),
    [
        (reading(False), reading(False), True),
        (reading(False, ASLEEP), reading(False, ASLEEP), True),  # a sleeping notebook
        (reading(False, UNKNOWN), reading(False, UNKNOWN), True),
        (reading(False), reading(False, AT_WORK), False),  # short work between two looks
        (reading(True), reading(False), False),
        (reading(False), reading(True), False),
        (reading(None), reading(None), True),  # it does not tell, but nobody is there
        (reading(None, UNKNOWN), reading(None), False),
        (reading(None), reading(None, UNKNOWN), False),
        (reading(None), Reading(gpu(), S, 0), False),  # nobody asked who is there
        (reading(None), reading(None, instances=(InstanceUse("MIG-x", 1, 7, 5),)), False),
    ],
)
def test_at_rest_is_what_facts_say(before: Reading, now: Reading, rests: bool) -> None:
    assert is_at_rest(before, now) is rests


def at_rest(mean_w: float, seconds: float = 1.0) -> Interval:
    uj = round(mean_w * seconds * 1e6)
    return Interval(gpu(), 0, round(seconds * S), uj, Method.COUNTER, idle=True)


@pytest.mark.parametrize(
    ("mean_w", "floor_w", "is_idle"),
    [(60, 60, True), (70, 60, True), (89, 60, False), (300, 60, False), (17, 8, True),
     (26, 8, False), (125, 100, True), (126, 100, False), (89, None, True)],
)  # fmt: skip
def test_far_above_the_floor_is_not_idle(mean_w: int, floor_w: int | None, is_idle: bool) -> None:
    floor = Floor(None if floor_w is None else floor_w * 1000)
    assert idle.is_idle(at_rest(mean_w), floor) is is_idle
    assert idle.is_idle(msgspec.structs.replace(at_rest(mean_w), idle=False), floor) is False


def test_a_short_stretch_has_two_steps_of_the_counter_more_and_no_work() -> None:
    floor = Floor(60_000)
    assert idle.is_idle(at_rest(60, 0.1), floor)
    assert idle.is_idle(at_rest(120, 0.1), floor), "a step more"
    assert not idle.is_idle(at_rest(170, 0.4), floor), "a job that began"
    assert not idle.is_idle(at_rest(300, 0.2), floor)


def test_the_last_moment_before_work_does_not_teach_a_young_floor() -> None:
    work = msgspec.structs.replace(at_rest(220), idle=False)
    floor = idle.learnt(Floor(), [at_rest(60), at_rest(61), at_rest(170), work])
    assert floor.idle_mw == 60_500
    floor = idle.learnt(floor, [work, at_rest(62), at_rest(60)])
    assert 60_000 < (floor.idle_mw or 0) < 61_500
    assert idle.learnt(Floor(), [at_rest(170), work]).idle_mw == 170_000, "better than none"


def test_short_work_never_raises_the_floor() -> None:
    floor = idle.learnt(Floor(), [at_rest(60)] * 50)
    for _ in range(100):
        floor = idle.learnt(floor, [at_rest(89), at_rest(75), at_rest(110)])
    assert 60_000 <= (floor.idle_mw or 0) <= 75_000


def test_a_process_that_keeps_the_card_awake_and_sleeps_is_a_new_floor() -> None:
    floor = idle.learnt(Floor(), [at_rest(70)] * 50)
    steady = [at_rest(115)] * (SETTLED_NS // S)
    assert idle.learnt(floor, steady[1:]).idle_mw == 70_000
    floor = idle.learnt(floor, steady)
    assert floor.idle_mw == 115_000
    assert idle.is_idle(at_rest(117), floor)
    assert (idle.learnt(floor, [at_rest(70)] * 100).idle_mw or 0) < 72_000  # and back


@laws(100)
@given(st.lists(st.tuples(st.integers(1, 800), st.booleans()), max_size=60))
def test_the_floor_is_never_above_what_was_drawn_at_rest(spans: list[tuple[int, bool]]) -> None:
    stretches = [msgspec.structs.replace(at_rest(w), idle=rests) for w, rests in spans]
    floor = idle.learnt(Floor(), stretches)
    drawn = [w * 1000 for w, rests in spans if rests]
    assert (floor.idle_mw is None) == (not drawn)
    assert floor.idle_mw is None or min(drawn) - 1 <= floor.idle_mw <= max(drawn)


def fed(state: MeterState, second: int, energy_j: int) -> MeterState:
    now = Reading(gpu(), second * S, energy_j * 1_000_000, busy=False, processes=(UNKNOWN,))
    return take(state, now).state


def test_a_meter_judges_its_intervals_by_the_floor_that_it_learnt() -> None:
    state = begin(Reading(gpu(), 0, 0, busy=False, processes=()))
    for second in range(1, 11):
        state = fed(state, second, 60 * second)
    for second in range(11, 21):
        state = fed(state, second, 600 + 89 * (second - 10))
    state, intervals = ripe(state, 99 * S)
    # What is booked at once is judged by the floor that was known before.
    assert all(each.idle for each in intervals) and state.idle_mw is not None
    for second in range(21, 31):
        state = fed(state, second, 1490 + 89 * (second - 20))
    state, intervals = ripe(state, 99 * S)
    assert not any(each.idle for each in intervals)
