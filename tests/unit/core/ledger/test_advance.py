"""The laws, on simulated worlds: conservation, order, replay, cuts, clocks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from random import Random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.core.audit import Auditor, books_by_subject, laws
from tests.unit.core.world import (
    MS,
    Device,
    Job,
    Reset,
    Run,
    S,
    World,
    at,
    gpu,
    job_id,
    play,
    powered,
)
from tests.unit.core.worlds import MJ, exact_shares, exact_worlds, near, worlds

from joulebook.core.attribution.claims import Claim, Evidence
from joulebook.core.energy.readings import ProcessUse, Reading
from joulebook.core.evidence import Remainder
from joulebook.core.ledger import series
from joulebook.core.ledger.advance import BookingPolicy, Tick, advance
from joulebook.core.ledger.state import Books
from joulebook.core.workloads import WorkloadId

POLICY = BookingPolicy()
UNALLOCATED = Remainder.UNALLOCATED


def world_of(
    *jobs: Job, mw: int = 300_000, seconds: float = 20, bursts: bool = True, **device: object
) -> World:
    curve = powered(tuple((job.t0_ns, job.t1_ns, mw) for job in jobs))
    meter = Device(gpu(), curve, **device)  # type: ignore[arg-type]
    return World((meter,), jobs, ((at(0), at(seconds)),), bursts=bursts)


def merged(first: Tick, second: Tick) -> Tick:
    """One tick with the inputs of two: what a daemon presents after a commit that failed."""
    return msgspec.structs.replace(
        second,
        readings=first.readings + second.readings,
        failures=first.failures + second.failures,
        claims=first.claims + second.claims,
        complete=first.complete | second.complete,
        facts=first.facts + second.facts,
        resumed=first.resumed or second.resumed,
    )


# --- conservation, and that nothing falls ------------------------------------------------------


@laws(150)
@given(worlds())
def test_all_laws_hold_after_every_tick_of_any_world(world: World) -> None:
    auditor = Auditor()
    run = play(world, each=auditor)
    assert auditor.ticks == len(list(world.ticks()))
    assert run.booked_uj() == sum(state.booked_uj for state in run.books.meters.values())
    books_by_subject(run)


@laws(25)
@given(worlds(faults=False))
def test_what_is_booked_is_what_the_counter_counted(world: World) -> None:
    run = play(world)
    first_ns = world.alive[0][0]
    for device in world.devices:
        state = run.books.meters[device.meter]
        begun_uj = device.counter_uj(first_ns)
        assert state.base.energy_uj is not None
        assert state.last.energy_uj is not None
        assert state.booked_uj == state.base.energy_uj - begun_uj
        assert state.read_uj == state.last.energy_uj - begun_uj
        assert run.booked_uj(device.meter) == state.booked_uj


def test_the_first_reading_of_a_new_ledger_books_nothing() -> None:
    run = play(World((Device(gpu(), powered(())),), (), ((at(0), at(1)),)))
    assert run.booked_uj() == 0
    assert run.books.meters[gpu()].read_uj == 0


# --- order, repetition, cuts -------------------------------------------------------------------


@laws(20)
@given(worlds(), st.randoms(use_true_random=False))
def test_the_order_of_inputs_within_a_tick_does_not_matter(world: World, random: Random) -> None:
    def shuffled() -> Iterator[Tick]:
        for tick in world.ticks():
            parts = {}
            for name in ("readings", "failures", "claims", "facts"):
                values = list(getattr(tick, name))
                random.shuffle(values)
                parts[name] = tuple(values)
            yield msgspec.structs.replace(tick, **parts)

    straight, mixed = play(world), play(shuffled())
    assert mixed.books == straight.books
    assert mixed.entries == straight.entries


@laws(15)
@given(worlds())
def test_replaying_a_tick_changes_nothing(world: World) -> None:
    books = Books()
    for tick in world.ticks():
        books, _ = advance(books, tick, POLICY)
        again, entry = advance(books, tick, POLICY)
        assert again is books
        assert not entry.postings and not entry.gaps and not entry.facts


@laws(25)
@given(exact_worlds(), st.data())
def test_inputs_of_a_tick_whose_commit_failed_count_once(world: World, data: st.DataObject) -> None:
    ticks = list(world.ticks())
    k = data.draw(st.integers(1, len(ticks) - 2))
    straight = play(ticks)
    lost = play([*ticks[:k], merged(ticks[k], ticks[k + 1]), *ticks[k + 2 :]])
    assert lost.postings == straight.postings
    durable = play([*ticks[: k + 1], merged(ticks[k], ticks[k + 1]), *ticks[k + 2 :]])
    assert durable.postings == straight.postings
    assert durable.books == straight.books


@laws(15)
@given(worlds(kills=False), st.data())
def test_inputs_presented_again_never_count_twice(world: World, data: st.DataObject) -> None:
    ticks = list(world.ticks())
    k = data.draw(st.integers(1, len(ticks) - 2))
    straight = play(ticks)
    durable = play([*ticks[: k + 1], merged(ticks[k], ticks[k + 1]), *ticks[k + 2 :]])
    for meter, state in straight.books.meters.items():
        assert durable.books.meters[meter].read_uj == state.read_uj
    assert durable.booked_uj() == straight.booked_uj()


@laws(25)
@given(exact_worlds(), st.lists(st.integers(20, 9980), max_size=30, unique_by=lambda t: t // 40))
def test_more_glances_change_no_total(world: World, instants: list[int]) -> None:
    clear = [t for t in instants if 20 < t % 1000 < 980]
    glanced = replace(world, extra=tuple(at(1) + t * MS for t in clear))
    run, more = play(world), play(glanced)
    assert near(run, world)
    assert near(more, world)
    assert more.books.meters[gpu()].read_uj == run.books.meters[gpu()].read_uj
    assert more.booked_uj() == run.booked_uj()


@laws(20)
@given(worlds(faults=False, kills=False), st.sampled_from([200, 500, 1500, 2000]))
def test_another_cadence_gives_the_same_sum_and_nearly_the_same_shares(
    world: World, cadence_ms: int
) -> None:
    end_ns = at(6 * ((world.alive[0][1] - at(0)) // (6 * S) + 3))
    calm = replace(
        world, jobs=tuple(replace(j, late_ns=0, parts=1, of=1, vanishes=False) for j in world.jobs)
    )
    calm = replace(calm, alive=((at(0), end_ns + 1),), utc_steps=())
    usual, other = play(calm), play(replace(calm, cadence_ns=cadence_ms * MS))
    for meter, state in usual.books.meters.items():
        assert other.books.meters[meter].last.t_ns == state.last.t_ns == end_ns
        assert other.books.meters[meter].read_uj == state.read_uj
    a, b = usual.by_subject(), other.by_subject()
    for job in calm.jobs:
        # Half a watt-second for each of the few edges: 25 ms of a step at 560 W and less.
        assert abs(a.get(job.id, 0) - b.get(job.id, 0)) <= 60_000_000, job


# --- who gets it -------------------------------------------------------------------------------


@laws(25)
@given(exact_worlds())
def test_each_job_gets_what_was_burnt_in_its_tenure(world: World) -> None:
    run = play(world)
    assert near(run, world)
    known = sum(exact_shares(world).values())
    assert abs(run.by_subject().get(UNALLOCATED, 0) - (run.booked_uj() - known)) <= 2 * MJ


@pytest.mark.parametrize(("heard_s", "counted_s"), [(6, 2), (9, 2), (10, 1), (11, 0)])
def test_a_claim_that_comes_while_the_interval_is_held_still_counts(
    heard_s: int, counted_s: int
) -> None:
    job = Job("late", gpu(), at(5), at(7))
    world = world_of(job, period_ns=0, jitter_ns=0, bursts=False)
    claim = Claim(job.id, gpu(), job.t0_ns, job.t1_ns, Evidence.PROLOG)
    run = play(
        msgspec.structs.replace(tick, claims=(claim,) if tick.now_ns == at(heard_s) else ())
        for tick in world.ticks()
    )
    assert abs(run.by_subject().get(job.id, 0) - counted_s * 360_000_000) <= 2 * MJ


def test_shards_split_the_floor_over_all_parts_and_the_rest_by_held_parts() -> None:
    jobs = (Job("one", gpu(), at(2), at(6), 1, 4), Job("two", gpu(), at(2), at(6), 2, 4))
    world = world_of(*jobs, mw=100_000, period_ns=0, jitter_ns=0, bursts=False)
    run = play(world)
    got = run.by_subject()
    # 60 W of floor over four parts; 200 W above it by 1:2.
    assert abs(got[job_id("one")] - 4 * (15 + 200 / 3) * 1e6) <= 3 * MJ
    assert abs(got[job_id("two")] - 4 * (30 + 400 / 3) * 1e6) <= 3 * MJ


def test_two_gpus_of_a_job_add_up_under_one_name() -> None:
    jobs = tuple(Job("wide", gpu(f"GPU-{n}"), at(2), at(6)) for n in range(2))
    curve = powered(((at(2), at(6), 200_000),))
    devices = tuple(Device(job.meter, curve, period_ns=0, jitter_ns=0) for job in jobs)
    run = play(World(devices, jobs, ((at(0), at(20)),), bursts=False))
    assert abs(run.by_subject()[job_id("wide")] - 2 * 4 * 260_000_000) <= 4 * MJ
    (state,) = run.books.workloads.values()
    assert [amount.held_ns for amount in state.balance.values()] == [8 * S]


def test_foreign_processes_on_a_held_device_show_but_do_not_pay() -> None:
    stranger = ProcessUse(9, 0, None, None, job_id("stranger"))
    own = ProcessUse(8, 0, None, None, job_id("own"))
    job = Job("own", gpu(), at(2), at(8))
    world = world_of(job, period_ns=0, jitter_ns=0, bursts=False)

    def seen(reading: Reading) -> Reading:
        late, there = reading.t_ns > at(8), at(4) < reading.t_ns <= at(6)
        uses = () if late or reading.t_ns <= at(2) else (own, stranger) if there else (own,)
        return msgspec.structs.replace(reading, processes=uses)

    run = play(
        msgspec.structs.replace(tick, readings=tuple(seen(r) for r in tick.readings))
        for tick in world.ticks()
    )
    assert run.books.foreign_ns == {(gpu(), job_id("stranger")): 2 * S}
    assert job_id("stranger") not in run.by_subject()
    assert near(run, world)


def test_foreign_use_by_those_who_left_goes_with_their_series() -> None:
    uses = {f"stranger-{n}": (at(3 + 2 * n), at(5 + 2 * n)) for n in range(3)}
    job = Job("own", gpu(), at(2), at(300))

    def seen(reading: Reading) -> Reading:
        there = [name for name, (a, b) in uses.items() if a < reading.t_ns <= b]
        processes = tuple(ProcessUse(1, 0, None, None, job_id(name)) for name in there)
        return msgspec.structs.replace(reading, processes=processes)

    policy = BookingPolicy(series=series.SeriesPolicy(zero_hold_ns=2 * S, linger_ns=20 * S))
    run = play(
        (
            msgspec.structs.replace(tick, readings=tuple(seen(r) for r in tick.readings))
            for tick in world_of(job, period_ns=0, jitter_ns=0, bursts=False, seconds=60).ticks()
        ),
        policy,
        Auditor(),
    )
    while_there = run.history[12].foreign_ns
    assert {user.workload for _, user in while_there} == {"stranger-0", "stranger-1", "stranger-2"}
    # Under another name it would count a second time in sums over time.
    assert run.books.foreign_ns == {}
    assert list(run.books.workloads) == [job_id("own")]


# --- counters that begin again, jump, lie ------------------------------------------------------


def test_garbage_changes_no_total() -> None:
    job = Job("a", gpu(), at(3), at(9))
    clean = world_of(job, period_ns=0, jitter_ns=0, bursts=False)
    garbage = ((5, 0), (7, 11 * 10**15), (12, 0))
    dirty = replace(clean, devices=(replace(clean.devices[0], garbage=garbage),))
    run = play(dirty)
    assert run.booked_uj() == play(clean).booked_uj()
    assert near(run, dirty)
    assert run.books.gaps_ns == {(gpu(), "implausible"): 3 * 2 * S}


@pytest.mark.parametrize("uptime", [True, False])
def test_a_driver_reload_loses_only_what_nobody_counted(uptime: bool) -> None:
    job = Job("a", gpu(), at(1), at(15))
    world = world_of(
        job, resets=(Reset(at(7.5)),), uptime=uptime, period_ns=0, jitter_ns=0, bursts=False
    )
    run, (device,) = play(world), world.devices
    since_uj = device.true_uj(at(7.5), at(8))
    expected = device.true_uj(at(0), at(7)) + device.true_uj(at(7.5), at(20) - 4 * S)
    assert abs(run.booked_uj() - expected) <= 5 * MJ
    got = run.by_subject()
    if uptime:
        assert Remainder.COUNTER_RESET not in got
        # The driver tells whole seconds, so the gap may be up to one second off; here it is 1 ns.
        assert run.books.gaps_ns[(gpu(), "counter_reset")] > 0
    else:
        assert abs(got[Remainder.COUNTER_RESET] - since_uj) <= 2 * MJ
    assert got[job.id] <= device.true_uj(job.t0_ns, job.t1_ns) + 2 * MJ


def test_a_reload_that_overtakes_within_an_outage_is_seen_by_uptime() -> None:
    job = Job("a", gpu(), at(1), at(90))
    world = world_of(
        job,
        mw=400_000,
        lifetime_uj=10_000_000_000,
        resets=(Reset(at(12)),),
        uptime=True,
        seconds=90,
    )
    world = replace(world, alive=((at(0), at(10)), (at(60), at(90))))
    run, (device,) = play(world), world.devices
    overtook = device.counter_uj(at(60))
    assert overtook > device.counter_uj(at(9))
    assert run.books.meters[gpu()].read_uj == (
        device.counter_uj(at(9)) - device.counter_uj(at(0)) + device.counter_uj(at(89))
    )
    auditor = Auditor()
    play(world, each=auditor)


def test_a_reboot_books_what_the_new_counter_says() -> None:
    job = Job("a", gpu(), at(1), at(30))
    world = world_of(job, resets=(Reset(at(12), "boot-1"),), seconds=40)
    world = replace(world, alive=((at(0), at(10)), (at(20), at(40))))
    run, (device,) = play(world, each=Auditor()), world.devices
    assert run.books.meters[gpu()].read_uj == (
        device.counter_uj(at(9)) - device.counter_uj(at(0)) + device.counter_uj(at(39))
    )
    assert run.by_subject()[Remainder.DAEMON_DOWN] == device.counter_uj(at(20))


def test_a_counter_that_wraps_often_loses_nothing() -> None:
    job = Job("a", gpu(), at(1), at(30))
    world = world_of(
        job, mw=400_000, wrap_uj=2_620_000_000, lifetime_uj=2_600_000_000, seconds=40,
        period_ns=0, jitter_ns=0, bursts=False,
    )  # fmt: skip
    run = play(world)
    assert near(run, world, 10 * MJ)
    assert not run.books.gaps_ns


def test_an_outage_longer_than_a_wrap_is_a_gap() -> None:
    world = world_of(wrap_uj=65_000_000_000, seconds=200)
    world = replace(world, alive=((at(0), at(10)), (at(100), at(120))))
    run, (device,) = play(world, each=Auditor()), world.devices
    assert run.books.meters[gpu()].read_uj == (
        device.counter_uj(at(9)) - device.counter_uj(at(0))
        + device.counter_uj(at(119)) - device.counter_uj(at(100))
    )  # fmt: skip
    assert run.books.gaps_ns == {(gpu(), "daemon_down"): 91 * S}


def test_a_device_with_neither_counter_nor_power_is_a_gap_never_zero() -> None:
    world = world_of(Job("a", gpu(), at(1), at(5)), counter=False, bursts=False)
    run = play(world)
    assert run.booked_uj() == 0
    assert run.books.gaps_ns == {(gpu(), "power_unknown"): 19 * S}


def test_power_alone_is_integrated_to_the_holder() -> None:
    job = Job("a", gpu(), at(2), at(8))
    world = world_of(job, counter=False, power=True, bursts=False)
    run = play(world)
    # Trapezoids smear each edge over the second before it.
    assert abs(run.by_subject()[job.id] - 6 * 360_000_000) <= 150_000_001
    assert set(run.books.method_uj) == {"integrated"}
    assert run.booked_uj() == run.books.meters[gpu()].booked_uj


# --- time --------------------------------------------------------------------------------------


@laws(15)
@given(worlds(kills=False), st.sampled_from([3600, -3600, 7]), st.integers(1, 12))
def test_a_stepped_wall_clock_changes_no_total(world: World, step_s: int, second: int) -> None:
    steady = replace(world, utc_steps=())
    stepped = replace(world, utc_steps=((at(second), step_s * S),))
    a, b = play(steady), play(stepped)
    assert a.by_subject() == b.by_subject()
    assert {k._replace(quarter_s=0) for k in a.postings} == {
        k._replace(quarter_s=0) for k in b.postings
    }


@pytest.mark.parametrize("held", [True, False])
def test_a_suspend_is_one_long_interval(held: bool) -> None:
    job = Job("a", gpu(), at(2), at(4000)) if held else Job("a", gpu(), at(2), at(5))
    world = replace(world_of(job, seconds=4000), alive=((at(0), at(10)), (at(3600), at(3620))))
    awake = [msgspec.structs.replace(tick, resumed=False) for tick in world.ticks()]
    run, (device,) = play(awake, each=Auditor()), world.devices
    assert run.books.meters[gpu()].read_uj == (
        device.counter_uj(at(3619)) - device.counter_uj(at(0))
    )
    assert Remainder.DAEMON_DOWN not in run.by_subject()
    assert (run.by_subject()[job.id] > 10**12) is held


def test_postings_split_at_quarter_hours() -> None:
    quarter_ns = (at(0) // (900 * S) + 1) * 900 * S
    job = Job("a", gpu(), at(1), quarter_ns + 20 * S)
    device = Device(gpu(), powered(((job.t0_ns, job.t1_ns, 340_000),)), period_ns=0, jitter_ns=0)
    alive = ((at(0), at(3)), (quarter_ns - 5 * S + 300 * MS, quarter_ns + 12 * S))
    world = World((device,), (job,), alive, bursts=False)
    ticks = [msgspec.structs.replace(tick, resumed=False) for tick in world.ticks()]
    run = play(ticks, each=Auditor())
    by_quarter = {
        key.quarter_s: amount.energy_uj
        for key, amount in run.postings.items()
        if key.subject == job.id
    }
    first_s = quarter_ns // S - 900
    assert set(by_quarter) == {first_s, first_s + 900}
    assert abs(by_quarter[first_s] - device.true_uj(job.t0_ns, quarter_ns)) <= 2 * MJ
    edge_ns = run.books.meters[gpu()].base.t_ns
    assert abs(by_quarter[first_s + 900] - device.true_uj(quarter_ns, edge_ns)) <= 2 * MJ


def test_an_interval_over_several_quarters_is_in_each() -> None:
    world = replace(world_of(seconds=3000), alive=((at(0), at(5)), (at(2900), at(2910))))
    run = play(world, each=Auditor())
    down = {k.quarter_s for k in run.postings if k.subject is Remainder.DAEMON_DOWN}
    assert len(down) == 4
    assert max(down) - min(down) == 3 * 900


def test_series_hold_at_zero_for_as_long_as_they_could_be_scraped() -> None:
    job = Job("a", gpu(), at(1), at(90))
    world = world_of(job, seconds=90, bursts=False)
    alive = ((at(0), at(11)), (at(500), at(540)))
    shown = {
        books.last_ns
        for books in play(replace(world, alive=alive)).history
        if (state := books.workloads.get(job.id)) is not None and not state.hold_left_ns
    }
    # On the air from the first second; 9 s served before the kill, 28.5 s still to come.
    assert min(shown) == at(529)


# --- claims kept as long as they matter --------------------------------------------------------


def test_claims_are_forgotten_once_booked() -> None:
    jobs = tuple(Job(f"{n}", gpu(), at(n), at(n + 0.5)) for n in range(1, 12))
    run = play(world_of(*jobs, seconds=30))
    assert run.books.claims == ()
    assert all(len(books.claims) <= 6 for books in run.history)


def test_a_claim_on_a_meter_not_yet_read_waits_while_it_is_open() -> None:
    claim = Claim(WorkloadId("slurm", "1"), gpu("later"), at(0), None, Evidence.PROLOG)
    run = Run()
    for second in range(1, 5):
        run.take(Tick(at(second), claims=(claim,) if second == 1 else ()), POLICY)
    assert list(run.books.claims) == [claim]
    closed = msgspec.structs.replace(claim, t1_ns=at(4))
    run.take(Tick(at(6), claims=(closed,)), POLICY)
    assert not run.books.claims
