"""One meter, reading by reading: garbage, jumps, resets, gaps; what is ripe."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from tests.unit.core.audit import laws
from tests.unit.core.world import MS, S, gpu

from joulebook.core.energy.intervals import Interval
from joulebook.core.energy.meter import (
    FALLBACK_NS,
    MeterState,
    MeterUpdate,
    begin,
    lose,
    resume,
    take,
)
from joulebook.core.energy.readings import (
    Break,
    Failure,
    InstanceUse,
    PowerSample,
    ProcessUse,
    Reading,
)
from joulebook.core.energy.ripe import drawn_mw, ripe
from joulebook.core.evidence import Gap

J = 1_000_000
T0 = 1000 * S
GJ = 1000 * 1_000_000


def at(second: float) -> int:
    return T0 + round(second * S)


def reading(second: float, energy_j: float | None, **more: object) -> Reading:
    energy = None if energy_j is None else round(energy_j * J)
    return Reading(gpu(), at(second), energy, **more)  # type: ignore[arg-type]


def fed(*events: Reading | Failure) -> tuple[MeterState, list[Gap], dict[str, int]]:
    """A meter after these events, the gaps that ended, and time lost by reason."""
    first = events[0]
    assert isinstance(first, Reading)
    state = begin(first)
    gaps: list[Gap] = []
    lost: dict[str, int] = {}
    for event in events[1:]:
        taken: MeterUpdate = (
            take(state, event) if isinstance(event, Reading) else lose(state, event)
        )
        state = taken.state
        gaps += taken.gaps
        for reason, duration_ns in taken.lost_ns:
            lost[reason] = lost.get(reason, 0) + duration_ns
    return state, gaps, lost


def test_the_first_reading_books_nothing() -> None:
    state = begin(reading(0, 5 * GJ))
    assert (state.read_uj, state.booked_uj) == (0, 0)


def test_readings_that_are_not_newer_change_nothing() -> None:
    state, _, _ = fed(reading(0, 10), reading(1, 20))
    assert take(state, reading(1, 25)).state is state
    assert take(state, reading(0.5, 15)).state is state


def test_single_garbage_changes_no_total() -> None:
    for garbage in (0, 6 * GJ, 5 * GJ - 1):
        state, gaps, lost = fed(
            reading(0, 5 * GJ),
            reading(1, 5 * GJ + 100),
            reading(2, garbage),
            reading(3, 5 * GJ + 300),
        )
        assert state.read_uj == 300 * J
        assert state.suspect is None
        assert gaps == [Gap(gpu(), at(1), at(3), "implausible")]
        assert lost == {"implausible": 2 * S}


def test_several_garbage_readings_that_disagree_change_no_total() -> None:
    state, _, lost = fed(
        reading(0, 5 * GJ), reading(1, 0), reading(2, 9 * GJ), reading(3, 0), reading(4, 5 * GJ + 4)
    )
    assert state.read_uj == 4 * J
    assert lost == {"implausible": 4 * S}


def test_a_jump_that_stays_is_a_gap() -> None:
    state, gaps, _ = fed(reading(0, 5 * GJ), reading(1, 6 * GJ), reading(2, 6 * GJ + 200))
    assert state.read_uj == 200 * J
    assert state.pending[0].breaks is Break.IMPLAUSIBLE
    assert gaps == [Gap(gpu(), at(0), at(1), "implausible")]


def test_a_reset_without_proof_needs_a_second_reading() -> None:
    once, _, _ = fed(reading(0, 5 * GJ), reading(1, 20))
    assert (once.read_uj, once.pending) == (0, ())
    twice = take(once, reading(2, 120)).state
    assert twice.read_uj == 120 * J
    assert [r.breaks for r in twice.pending] == [Break.RESET, Break.NONE]


def test_a_reset_with_proof_is_a_gap_up_to_its_instant() -> None:
    state, gaps, lost = fed(reading(0, 5 * GJ), reading(100, 9_000, uptime_ns=30 * S))
    assert state.read_uj == 9_000 * J
    assert gaps == [Gap(gpu(), at(0), at(70), "counter_reset")]
    assert lost == {"counter_reset": 70 * S}


def test_a_glance_after_a_reset_waits_for_the_look_that_knows() -> None:
    state, _, _ = fed(
        reading(0, 5 * GJ, uptime_ns=90 * S),
        reading(9.9, 50),
        reading(10, 60, uptime_ns=1 * S),
    )
    assert state.read_uj == 60 * J
    (only,) = state.pending
    assert only.breaks is Break.RESET


def test_failures_are_one_gap_by_reason() -> None:
    state, gaps, lost = fed(
        reading(0, 10),
        Failure(gpu(), at(1), "gpu_lost"),
        Failure(gpu(), at(2), "gpu_lost"),
        Failure(gpu(), at(2), "gpu_lost"),
        Failure(gpu(), at(4), "timeout"),
        reading(5, 60),
    )
    assert gaps == [Gap(gpu(), at(0), at(2), "gpu_lost"), Gap(gpu(), at(2), at(5), "timeout")]
    assert lost == {"gpu_lost": 2 * S, "timeout": 3 * S}
    assert state.read_uj == 50 * J
    assert state.gap_reason == ""


def test_an_outage_is_a_gap_of_time_not_of_energy() -> None:
    state, _, _ = fed(reading(0, 10), reading(1, 20))
    back = take(resume(state), reading(31, 3_020))
    assert back.gaps == (Gap(gpu(), at(1), at(31), "daemon_down"),)
    assert back.lost_ns == (("daemon_down", 30 * S),)
    assert back.state.pending[-1].after_outage
    assert back.state.read_uj == 3_010 * J
    assert not take(back.state, reading(32, 3_030)).state.pending[-1].after_outage


def test_garbage_right_after_an_outage_leaves_the_outage_marked() -> None:
    state, _, _ = fed(reading(0, 5 * GJ))
    bad = take(resume(state), reading(30, 0)).state
    good = take(bad, reading(31, 5 * GJ + 31)).state
    (only,) = good.pending
    assert only.after_outage
    assert good.read_uj == 31 * J


def test_an_outage_after_a_jump_that_waits_for_proof_is_before_the_reading_after_it() -> None:
    state, _, _ = fed(reading(0, 5 * GJ), reading(1, 10))
    state = take(resume(state), reading(20, 1_000)).state
    marks = [(each.t_ns, each.breaks, each.after_outage) for each in state.pending]
    assert marks == [(at(1), Break.RESET, False), (at(20), Break.NONE, True)]
    assert state.read_uj == 1_000 * J
    assert not state.resumed


def test_a_value_that_a_counter_cannot_have_is_no_base_for_the_next() -> None:
    wrap = {"wrap_uj": 65_000 * J, "max_power_mw": 1_000_000}
    state, _, lost = fed(
        reading(0, 60_000, **wrap),
        reading(1_000, 1e8, **wrap),
        reading(1_001, 20, **wrap),
        reading(1_002, 120, **wrap),
    )
    assert state.read_uj == 100 * J
    assert lost == {"implausible": 1_001 * S}


def test_a_counter_that_is_not_told_once_is_made_up_for_by_the_next_look() -> None:
    state, gaps, _ = fed(
        reading(0, 10, power_mw=50_000),
        reading(1, None, power_mw=50_000),
        reading(2, 110, power_mw=50_000),
    )
    assert state.read_uj == 100 * J
    assert gaps == [Gap(gpu(), at(0), at(2), "energy_unread")]


def test_a_counter_that_is_never_told_again_gives_way_to_power() -> None:
    seconds = FALLBACK_NS // S
    readings = [reading(0, 10, power_mw=50_000)]
    readings += [reading(s, None, power_mw=50_000) for s in range(1, seconds + 4)]
    state, gaps, _ = fed(*readings)
    # All of it, the 60 s in which the counter was still waited for included.
    assert state.read_uj == (seconds + 3) * 50 * J
    assert gaps[0].reason == "energy_unread"
    done, _ = ripe(state, at(999))
    assert done.booked_uj == done.read_uj


def test_no_counter_and_no_power_is_a_gap() -> None:
    state, gaps, lost = fed(reading(0, None), reading(1, None), reading(2, None))
    assert (state.read_uj, lost) == (0, {"power_unknown": 2 * S})
    assert [gap.reason for gap in gaps] == ["power_unknown"] * 2


def test_nothing_is_ripe_before_the_horizon() -> None:
    state, _, _ = fed(reading(0, 10), reading(1, 20), reading(2, 30))
    assert ripe(state, at(0.5)) == (state, ())
    later, (interval,) = ripe(state, at(1.5))
    assert (interval.t0_ns, interval.t1_ns, interval.energy_uj) == (at(0), at(1), 10 * J)
    assert (later.booked_uj, later.read_uj) == (10 * J, 20 * J)
    assert [r.t_ns for r in later.pending] == [at(2)]


def test_a_burst_is_booked_as_a_whole() -> None:
    state = begin(reading(0, 0))
    for second, energy_j in ((1, 10), (1.372, 14), (1.408, 14), (1.410, 15), (1.508, 15)):
        state = take(state, reading(second, energy_j)).state
    state = take(state, reading(1.510, 16)).state
    state = take(state, reading(2, 21)).state
    for horizon in (1.0, 1.372, 1.410, 1.509):
        assert ripe(state, at(horizon))[0].base.energy_uj == 10 * J
    assert ripe(state, at(1.999))[0].base.energy_uj == 16 * J


def test_what_was_not_asked_is_what_the_next_look_says() -> None:
    process = ProcessUse(7, 1)
    state, _, _ = fed(
        reading(0, 0),
        reading(1, 10),
        reading(2, 20, busy=True, processes=(process,)),
        reading(3, 30),
        reading(4, 40, busy=False),
    )
    _, intervals = ripe(state, at(9))
    assert [i.processes for i in intervals] == [(process,), (process,), (), ()]
    assert [i.idle for i in intervals] == [False, False, False, True], "idle at both ends"


def test_a_mig_instance_is_there_until_a_look_does_not_find_it() -> None:
    old, new = InstanceUse("MIG-old", 3, 7, 900_000), InstanceUse("MIG-new", 4, 7, 200_000)
    gone = old._replace(active_ppm=None)
    state, _, _ = fed(
        reading(0, 0, instances=(old,)),
        reading(1, 10),
        reading(2, 20, instances=(new,)),
        reading(3, 30),
        reading(4, 40, instances=()),
        reading(5, 50),
    )
    _, intervals = ripe(state, at(9))
    assert [i.instances for i in intervals] == [
        (new, gone),  # how busy the old one was by then, nobody can say
        (new, gone),
        (new._replace(active_ppm=None),),
        (new._replace(active_ppm=None),),
        (),
    ]


def test_the_idle_floor_is_learnt_from_idle_intervals_of_some_length() -> None:
    state, _, _ = fed(
        reading(0, 0, busy=False),
        reading(1, 60, busy=False),
        reading(1.2, 61, busy=False),
        reading(2.2, 111, busy=True),
        reading(3.2, 150, busy=False),
        reading(4.2, 205, busy=False),
    )
    done, _ = ripe(state, at(9))
    assert done.idle_mw == 57_500, "young: the mean of 60 W and 55 W"


def test_an_idle_floor_that_is_known_moves_slowly() -> None:
    idle = (reading(second, 60 * second, busy=False) for second in range(7))
    state, _, _ = fed(*idle, reading(7, 415, busy=False))
    done, _ = ripe(state, at(12))
    assert done.idle_mw == 60_000 - 313, "a sixteenth of the way from 60 W to 55 W"


def test_a_first_interval_that_lacks_steps_of_the_counter_is_no_floor() -> None:
    idle = (reading(second + 0.5, 28 + 70 * second, busy=False) for second in range(6))
    state, _, _ = fed(reading(0, 14, busy=False), *idle)
    done, _ = ripe(state, at(12))
    assert done.idle_mw is not None and done.idle_mw > 65_000


def test_power_now_is_the_mean_of_what_is_not_booked_yet() -> None:
    state, _, _ = fed(reading(0, 0), reading(1, 60), reading(3, 240))
    assert drawn_mw(state) == 80_000
    assert drawn_mw(begin(reading(0, 0))) is None
    failed, _, _ = fed(reading(0, 0), reading(1, 60), Failure(gpu(), at(2), "hung"))
    assert drawn_mw(failed) is None, "what it draws now is not known"
    wrap = {"wrap_uj": 100 * J, "max_power_mw": 90_000}
    wrapped, _, _ = fed(reading(0, 90, **wrap), reading(1, 10, **wrap))
    assert drawn_mw(wrapped) == 20_000


def test_a_counter_that_moves_at_every_reading_is_booked_all_the_same() -> None:
    state = begin(reading(0, 0))
    for i in range(1, 400):
        state = take(state, reading(i / 100, i)).state
        state, _ = ripe(state, at(i / 100 - 1))
    assert state.booked_uj > 280 * J
    assert state.booked_uj <= state.read_uj == 399 * J


events_st = st.lists(
    st.tuples(
        st.integers(1, 400),  # hundredths of a second since the last
        st.sampled_from(["more"] * 8 + ["same", "zero", "huge", "none", "fail", "resume", "reset"]),
    ),
    min_size=1,
    max_size=40,
)


@laws(300)
@given(
    events_st,
    st.lists(st.integers(0, 10_000), max_size=6),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_whatever_a_meter_says_all_that_is_read_is_booked_once(
    events: list[tuple[int, str]], horizons: list[int], power: bool, wraps: bool, counts: bool
) -> None:
    now_ns, true_uj = T0, 5 * J if wraps else 5 * GJ * J
    wrap_uj = 8_000 * J if wraps else None
    first_uj = true_uj if counts else None
    state = begin(Reading(gpu(), now_ns, first_uj, 60_000, epoch="a", wrap_uj=wrap_uj))
    intervals_uj, lost, gap_ns = 0, 0, 0
    horizon = sorted(horizons)
    for steps, kind in events:
        now_ns += steps * 10 * MS
        before_ns = state.gap_to_ns
        if kind == "resume":
            state = resume(state)
            continue
        if kind in ("more", "fail"):
            true_uj += steps * 3 * J
        if kind == "reset":
            true_uj = 5
        says = {"zero": 0, "huge": true_uj + GJ * J, "none": None}.get(kind, true_uj)
        says = says if counts else None
        if wrap_uj is not None and says is not None:
            says %= wrap_uj
        if kind == "fail":
            taken = lose(state, Failure(gpu(), now_ns, "lost"))
        else:
            samples = (PowerSample(now_ns - 5 * MS, 80_000),) if power else ()
            seen = Reading(gpu(), now_ns, says, 70_000, samples, wrap_uj, "a")
            taken = take(state, seen)
        state = taken.state
        lost += sum(duration for _, duration in taken.lost_ns)
        assert all(duration >= 0 for _, duration in taken.lost_ns)
        gap_ns += sum(gap.t1_ns - gap.t0_ns for gap in taken.gaps)
        assert state.gap_to_ns >= before_ns
        while horizon and T0 + horizon[0] * 10 * MS <= now_ns:
            state, intervals = ripe(state, T0 + horizon.pop(0) * 10 * MS)
            intervals_uj += sum(i.energy_uj for i in intervals)
            assert state.booked_uj == intervals_uj
            assert state.booked_uj <= state.read_uj
    state, intervals = ripe(state, now_ns)
    intervals_uj += sum(i.energy_uj for i in intervals)
    assert all(isinstance(i, Interval) and i.t0_ns < i.t1_ns for i in intervals)
    assert state.booked_uj == intervals_uj == state.read_uj
    assert lost == gap_ns + (state.gap_to_ns - state.gap_from_ns if state.gap_reason else 0)


def test_lists_tell_of_the_time_between_them_whatever_the_counter_does() -> None:
    one, two = ProcessUse(7, 1), ProcessUse(8, 2)
    state = begin(reading(0, 10, processes=(one,)))
    state = replace(
        state,
        pending=(reading(1, 20), reading(2, 30, processes=(two,)), reading(3, 40)),
        held=(reading(4, 40, processes=(one,)),),
    )
    state, intervals = ripe(state, at(3))
    reported = [(i.before, i.processes) for i in intervals]
    # A reading that is held back, since its counter is doubted, tells who was there.
    assert reported == [((one,), (two,)), ((one,), (two,)), ((two,), (one,))]
    assert state.base.processes == (two,), "the last list, not the next"


def test_who_was_there_is_not_lost_with_a_reading_that_does_not_count() -> None:
    gone = ProcessUse(7, 5, sm_time_ns=600, ended=True)
    stays = ProcessUse(8, 5, sm_time_ns=100)
    power = {"power_mw": 200_000}
    state = begin(reading(0, 0, **power))
    for now in (
        reading(1, 200, processes=(ProcessUse(7, 5), stays), **power),
        reading(2, 200, processes=(gone, stays), **power),  # the counter stood still: held back
        reading(3, 600, processes=(stays,), **power),
        reading(4, 10**9, processes=(stays,), **power),  # implausible
        reading(5, 1000, **power),
    ):
        state = take(state, now).state
    assert [r.processes for r in state.pending if r.t_ns > at(1)] == [
        (ProcessUse(8, 5, sm_time_ns=200), gone),
        (stays,),
    ]


def test_busy_time_adds_up_once_when_a_counter_is_given_up() -> None:
    def busy(sm_time_ns: int) -> tuple[ProcessUse, ...]:
        return (ProcessUse(7, 5, sm_time_ns=sm_time_ns),)

    state = begin(reading(0, 1000, power_mw=100_000, processes=busy(0)))
    for now in (
        reading(1, None, processes=busy(1)),
        reading(2, 1000, power_mw=50_000, processes=busy(20)),
        reading(32, 1000, processes=busy(300)),
        reading(33, 1100, power_mw=100_000, processes=busy(4000)),
    ):
        state = take(state, now).state
    lists = [*(each.processes for each in (*state.pending, *state.held)), state.listed]
    assert sum(use.sm_time_ns or 0 for uses in lists for use in uses or ()) == 4321
