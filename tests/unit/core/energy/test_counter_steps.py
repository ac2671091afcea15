"""When a counter moved, and how well the step that holds a boundary is split."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from statistics import median

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.core.audit import laws
from tests.unit.core.world import MS, Device, Job, S, World, at, gpu, mix, play, powered

from joulebook.core.energy.counter_steps import Knot, bent, knots, learnt
from joulebook.core.energy.readings import Break, Reading

T0 = at(0)
J = 1_000_000


def seen(*values: tuple[float, float], **more: object) -> list[Reading]:
    """Readings at so many milliseconds, saying so many joules."""
    return [
        Reading(gpu(), T0 + round(ms * MS), round(j * J), **more)  # type: ignore[arg-type]
        for ms, j in values
    ]


def times(points: list[Knot]) -> list[float]:
    return [(p.reading.t_ns - T0) / MS for p in points]


BASE, *BURST = seen((0, 0), (372, 30), (375, 30), (408, 30), (411, 40), (508, 40), (511, 55))


def test_a_step_that_was_seen_is_in_the_middle_and_the_one_before_it_a_period_earlier() -> None:
    points = knots(BASE, BURST, 0)
    assert [p.sharp for p in points] == [False, True, True]
    assert times(points) == [309.5, 409.5, 509.5]
    assert [p.reading.energy_uj for p in points] == [30 * J, 40 * J, 55 * J]
    assert learnt(points, 0) == 100 * MS


def test_steps_that_nobody_saw_stay_where_they_were_read() -> None:
    slow = seen((1000, 10), (2000, 20), (2500, 20), (3000, 30))
    points = knots(BASE, slow, 100 * MS)
    assert times(points) == [1000, 2000, 3000]
    assert learnt(points, 77 * MS) == 77 * MS


def test_other_steps_nearby_lie_whole_periods_from_a_seen_one() -> None:
    near = seen((180, 5), (372, 30), (408, 30), (411, 40), (508, 40), (511, 55), (760, 80))
    points = knots(BASE, near, 100 * MS)
    assert times(points) == [109.5, 309.5, 409.5, 509.5, 709.5]


def test_a_counter_at_rest_gives_points_of_no_energy() -> None:
    rest = seen((400, 0), (800, 0), (1200, 0), (1600, 5))
    points = knots(BASE, rest, 0)
    assert times(points) == [800, 1600]


@pytest.mark.parametrize("more", [{"after_outage": True}, {"breaks": Break.IMPLAUSIBLE}])
def test_the_last_look_before_an_outage_or_a_break_is_a_point(more: dict[str, object]) -> None:
    pending = [*seen((100, 10), (140, 10)), *seen((9000, 900), **more)]
    points = knots(BASE, pending, 100 * MS)
    assert times(points) == [100, 140, 9000]


def test_the_period_is_learnt_across_a_few_periods_never_across_many() -> None:
    def two_steps(ms: float) -> list[Knot]:
        return knots(BASE, seen((1, 1), (2, 2), (ms - 1, 2), (ms, 3)), 0)

    assert learnt(two_steps(302), 90 * MS) == 90 * MS + 30 * MS // 11
    assert learnt(two_steps(4002), 90 * MS) == 90 * MS


def test_power_that_steps_at_the_edge_bends_the_curve_there() -> None:
    # 100 W until 360 ms, 300 W from there; steps at 100, 200, ... ms.
    base, *pending = seen(
        (0, 0), (250, 20), (362, 30), (398, 30), (400, 48), (498, 48), (500, 78), (600, 108)
    )
    points = knots(base, pending, 100 * MS)
    edge_ns = T0 + 360 * MS
    curve = bent(base, points, [edge_ns])
    (bend,) = [p for p in curve if p.reading.t_ns == edge_ns]
    assert bend.reading.energy_uj is not None
    # 36 J have been consumed by then; a straight step would say 39.6 J.
    assert abs(bend.reading.energy_uj - 36 * J) < 0.5 * J
    assert [p for p in curve if p is not bend] == points


def test_power_that_steps_elsewhere_leaves_the_step_straight() -> None:
    # 100 W until 400 ms, 300 W from there: a job that takes 80 ms to begin.
    base, *pending = seen(
        (0, 0), (250, 20), (322, 30), (398, 30), (400, 40), (498, 40), (500, 70), (600, 100)
    )
    points = knots(base, pending, 100 * MS)
    assert bent(base, points, [T0 + 320 * MS]) == points


@pytest.mark.parametrize("tick_ms", [0, 100])
def test_the_curve_reaches_the_last_reading_before_an_outage(tick_ms: int) -> None:
    """The gap begins there, so time between the step and its reading would be nobody's."""
    base, *pending = seen((0, 0), (398, 0), (400, 10), (498, 10), (500, 20))
    later = msgspec.structs.replace(pending[-1], t_ns=T0 + 5_000 * MS, after_outage=True)
    points = knots(base, [*pending, later], tick_ms * MS)
    assert [p.reading.t_ns - T0 for p in points[-3:]] == [499 * MS, 500 * MS, 5_000 * MS]
    assert {p.reading.energy_uj for p in points[-3:]} == {20 * J}


@laws(150)
@given(
    st.lists(
        st.tuples(st.integers(1, 700), st.sampled_from([0, 0, 0, 1, 20, 400])),
        min_size=1,
        max_size=60,
    ),
    st.lists(st.integers(0, 5000), max_size=5),
    st.sampled_from([0, 5, 20, 100, 333]),
    st.sets(st.integers(0, 59), max_size=2),
)
def test_points_keep_their_order_their_energy_and_their_bounds(
    steps: list[tuple[int, int]], edges: list[int], tick_ms: int, outages: set[int]
) -> None:
    base = Reading(gpu(), T0, 0)
    pending, t_ns, energy_uj = [], T0, 0
    for i, (ms, j) in enumerate(steps):
        t_ns, energy_uj = t_ns + (ms * MS if ms > 20 else ms), energy_uj + j * J
        pending.append(Reading(gpu(), t_ns, energy_uj, after_outage=i in outages))
    points = knots(base, pending, tick_ms * MS)
    curve = bent(base, points, [T0 + edge * MS for edge in edges])
    for one, other in pairwise(points):
        is_end = other.reading.t_ns == pending[other.index].t_ns
        assert one.index < other.index or (one.index == other.index and is_end)
    values = [base, *(p.reading for p in curve)]
    for a, b in pairwise(values):
        assert a.t_ns < b.t_ns
        assert a.energy_uj is not None and b.energy_uj is not None
        assert a.energy_uj <= b.energy_uj
    for point in points:
        raw = pending[point.index]
        assert point.reading.t_ns <= raw.t_ns
        assert point.reading == msgspec.structs.replace(raw, t_ns=point.reading.t_ns)
        if raw.after_outage:
            assert point.reading.t_ns == raw.t_ns


# --- how accurate it is ------------------------------------------------------------------------

AIMS = {5.0: (0.1, 0.8), 0.3: (1.0, 8.0)}
"""Median and 95th percentile of the error per job, in per cent, by length in seconds."""


def busy_world(seed: int, length_s: float, *, slow: bool, pause: bool, constant: bool) -> World:
    """Jobs one after another on a counter with jitter.

    Their power steps where they begin and end, or, if they are slow, 80 ms after and 60 ms before.
    """
    jobs, spans, t_ns = [], [], at(8)
    for n in range(24 if length_s > 1 else 60):
        t_ns += (300 + mix(seed * 7919 + n) % 2700) * MS * pause + mix(seed * 31 + n) % MS
        end_ns = t_ns + int(length_s * S * (900 + mix(seed * 17 + n) % 200) / 1000)
        jobs.append(Job(f"{n}", gpu(), t_ns, end_ns))
        mw = 100_000 + mix(seed * 13 + n) % 400_000
        spans.append((t_ns + 80 * MS * slow, end_ns - 60 * MS * slow, mw))
        t_ns = end_ns
    curve = powered(()) if constant else powered(tuple(spans))
    device = Device(gpu(), curve, phase_ns=mix(seed) % (100 * MS), seed=seed)
    return World((device,), tuple(jobs), ((at(0), t_ns + 8 * S),))


def errors(world: World) -> list[float]:
    got, (device,) = play(world).by_subject(), world.devices
    return [
        100 * abs(got.get(job.id, 0) / device.true_uj(job.t0_ns, job.t1_ns) - 1)
        for job in world.jobs
    ]


@pytest.mark.parametrize("length_s", AIMS)
@pytest.mark.parametrize(
    "kind",
    [
        {"slow": False, "pause": True, "constant": False},
        {"slow": True, "pause": True, "constant": False},
        {"slow": False, "pause": False, "constant": False},
        {"slow": False, "pause": True, "constant": True},
    ],
    ids=["steps at the edges", "slow to begin", "back to back", "constant"],
)
def test_the_error_of_each_job_is_within_the_aims(length_s: float, kind: dict[str, bool]) -> None:
    found = sorted(e for seed in (1, 2, 3) for e in errors(busy_world(seed, length_s, **kind)))
    middle, high = median(found), found[int(len(found) * 0.95)]
    report = f"{length_s} s: median {middle:.3f} %, p95 {high:.3f} %, worst {found[-1]:.2f} %"
    aim, high_aim = AIMS[length_s]
    assert found[-1] < 30, report
    assert middle < 3 * aim, report
    assert high < 3 * high_aim, report
    # What is reached today, with room: a change that loses it should be noticed.
    assert middle < aim, report
    assert high < high_aim, report


def test_without_bursts_the_split_is_by_time_alone() -> None:
    world = busy_world(1, 5.0, slow=False, pause=True, constant=False)
    found = sorted(errors(replace(world, bursts=False)))
    assert 0.5 < median(found) < 10
