"""A burst keeps what is around the steps of a counter, and ends after two of them or by time."""

from __future__ import annotations

from itertools import pairwise

from tests.unit.node.stand_ins import METER, OTHER

from joulebook.core.energy.counter_steps import LENGTH_NS, PAUSE_NS, SHARP_NS, Burst
from joulebook.core.energy.readings import Meter, Reading
from joulebook.units import NS_PER_MS

BEGAN_NS = 7 * NS_PER_MS


def of_burst(burst: Burst, tick_ns: dict[Meter, int]) -> tuple[list[Reading], int]:
    """Glance at counters that step every `tick_ns` until the burst is over: kept, and when."""
    kept: list[Reading] = []
    now_ns = BEGAN_NS
    while not burst.is_over(now_ns) or now_ns == BEGAN_NS:
        kept += burst.take(
            Reading(meter, now_ns, 1_000_000 * (now_ns // tick)) for meter, tick in tick_ns.items()
        )
        now_ns += PAUSE_NS
    return kept, now_ns


def test_each_step_stands_between_two_readings_close_to_one_another() -> None:
    kept, over_ns = of_burst(Burst(BEGAN_NS), {METER: 20 * NS_PER_MS, OTHER: 50 * NS_PER_MS})
    assert over_ns <= 100 * NS_PER_MS + 2 * PAUSE_NS, "when the slower one has stepped twice"
    for meter, tick_ns in ((METER, 20 * NS_PER_MS), (OTHER, 50 * NS_PER_MS)):
        seen = [reading for reading in kept if reading.meter == meter]
        steps = [(a, b) for a, b in pairwise(seen) if a.energy_uj != b.energy_uj]
        assert len(steps) >= 2
        for before, after in steps:
            step_ns = after.t_ns // tick_ns * tick_ns
            assert before.t_ns < step_ns <= after.t_ns
            assert after.t_ns - before.t_ns == PAUSE_NS < SHARP_NS
        assert seen[0].t_ns == BEGAN_NS
        assert len(seen) == len({reading.t_ns for reading in seen}), "none is kept twice"
        assert len(seen) <= 1 + 2 * len(steps), "nor one between steps"


def test_counters_that_stand_still_are_not_waited_for() -> None:
    kept, over_ns = of_burst(Burst(BEGAN_NS), {METER: 10**12, OTHER: 20 * NS_PER_MS})
    assert LENGTH_NS <= over_ns - BEGAN_NS < LENGTH_NS + PAUSE_NS + 1
    assert [reading.t_ns for reading in kept if reading.meter == METER] == [BEGAN_NS]


def test_a_counter_that_has_stepped_twice_is_read_no_more() -> None:
    burst, uj = Burst(BEGAN_NS), 0
    for now_ns in range(BEGAN_NS, BEGAN_NS + 3 * PAUSE_NS, PAUSE_NS):
        assert burst.awaited([METER, OTHER]) == [METER, OTHER]
        burst.take([Reading(METER, now_ns, uj), Reading(OTHER, now_ns, 0)])
        uj += 1_000_000
    assert burst.awaited([METER, OTHER]) == [OTHER]
