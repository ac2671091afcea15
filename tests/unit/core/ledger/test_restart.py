"""A crash loses nothing that the hardware remembers: kill anywhere, start again anywhere."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.core.audit import Auditor, laws
from tests.unit.core.world import (
    MS,
    Device,
    Job,
    Run,
    S,
    Span,
    World,
    at,
    gpu,
    job_id,
    play,
    powered,
)
from tests.unit.core.worlds import exact_shares, exact_worlds

from joulebook.core.attribution.claims import Claim, Evidence
from joulebook.core.attribution.outages import PROOF_WAIT_NS
from joulebook.core.evidence import Remainder
from joulebook.core.ledger.advance import BookingPolicy, Tick
from joulebook.core.workloads import WorkloadId

DOWN = Remainder.DAEMON_DOWN
A, B = job_id("a"), job_id("b")


def expected(world: World, outages: list[Span]) -> dict[WorkloadId | Remainder, int]:
    """Of an exact world: an outage goes to who held throughout, else it is declared."""
    (device,) = world.devices
    sums: dict[WorkloadId | Remainder, int] = {}
    sums.update(exact_shares(world).items())
    for a_ns, b_ns in outages:
        if any(job.t0_ns <= a_ns and job.t1_ns >= b_ns for job in world.jobs):
            continue
        sums[DOWN] = sums.get(DOWN, 0) + device.true_uj(a_ns, b_ns)
        for job in world.jobs:
            t0_ns, t1_ns = max(job.t0_ns, a_ns), min(job.t1_ns, b_ns)
            if t0_ns < t1_ns:
                sums[job.id] -= device.true_uj(t0_ns, t1_ns)
    return {subject: uj for subject, uj in sums.items() if uj}


@laws(120)
@given(exact_worlds(), st.lists(st.integers(0, 22), max_size=6, unique=True))
def test_killed_anywhere_it_equals_the_uninterrupted_run_plus_what_is_declared(
    world: World, seconds: list[int]
) -> None:
    ((_, end_ns),) = world.alive
    # Ten seconds between kills: the evidence of each outage is in before the next.
    times = sorted(t for t in seconds if at(t) < end_ns - 8 * S)
    outages = [(at(a), at(b)) for a, b in zip(times[::2], times[1::2], strict=False)]
    alive, start_ns = [], at(0)
    for a_ns, b_ns in outages:
        alive.append((start_ns, a_ns + S // 2))
        start_ns = b_ns
    straight = play(world)
    run = play(replace(world, alive=(*alive, (start_ns, end_ns))), each=Auditor())
    assert run.books.meters[gpu()].read_uj == straight.books.meters[gpu()].read_uj
    assert run.booked_uj() == straight.booked_uj()
    got = {s: uj for s, uj in run.by_subject().items() if uj}
    got.pop(Remainder.UNALLOCATED, None)
    want = expected(world, outages)
    assert set(got) == set(want)
    splits = 2 * len(outages) + 2 * len(world.jobs)
    assert all(abs(got[subject] - want[subject]) <= splits for subject in want), (got, want)
    lost_ns = sum(b - a for a, b in outages)
    assert sum(run.books.gaps_ns.values()) == lost_ns


def handover(kill_ns: int, back_ns: int, bursts: bool = True) -> World:
    """`a` hands over to `b` at 10.37 s; the daemon is away from `kill_ns` to `back_ns`."""
    jobs = (Job("a", gpu(), at(2), at(10.37)), Job("b", gpu(), at(10.37), at(60)))
    spans = ((at(2), at(10.37), 400_000), (at(10.37), at(60), 200_000))
    device = Device(gpu(), powered(spans), seed=5)
    return World((device,), jobs, ((at(0), kill_ns), (back_ns, at(50))), bursts=bursts)


@pytest.mark.parametrize("kill_ms", [*range(9000, 15_000, 250), 10_371, 10_999, 11_001])
@pytest.mark.parametrize("away_ms", [1, 700, 20_000])
def test_a_handover_pending_when_killed_is_neither_lost_nor_doubled(
    kill_ms: int, away_ms: int
) -> None:
    kill_ns = at(0) + kill_ms * MS
    world = handover(kill_ns, kill_ns + away_ms * MS)
    run, (device,) = play(world, each=Auditor()), world.devices
    state = run.books.meters[gpu()]
    assert state.last.energy_uj is not None
    assert state.read_uj == state.last.energy_uj - device.counter_uj(at(0))
    got = run.by_subject()
    a_uj = device.true_uj(at(2), at(10.37))
    b_uj = device.true_uj(at(10.37), state.base.t_ns)
    down_uj = got.get(DOWN, 0)
    # Unproven if the handover lies between the last committed reading and the first one after.
    unproven = (kill_ms - 1) // 1000 * 1000 < 10_370 < kill_ms + away_ms
    assert bool(down_uj) is unproven
    step_uj = 46_000_000  # a step of 100 ms at 460 W
    assert a_uj + step_uj >= got[A] >= a_uj - (down_uj if unproven else 0) - step_uj
    assert b_uj + step_uj >= got[B] >= b_uj - (down_uj if unproven else 0) - step_uj
    assert abs(got[A] + got[B] + down_uj - a_uj - b_uj) <= step_uj


def outage_world(*jobs: Job, silent: tuple[Span, ...] = (), end_s: int = 140) -> World:
    device = Device(gpu(), powered(((at(1), at(100), 240_000),)), period_ns=0, jitter_ns=0)
    alive = ((at(0), at(10) + 1), (at(30), at(end_s)))
    return World((device,), jobs, alive, bursts=False, silent=silent)


OUTAGE_UJ = 20 * 300_000_000


def test_the_holder_throughout_gets_the_outage() -> None:
    run = play(outage_world(Job("a", gpu(), at(2), at(40))), each=Auditor())
    assert run.by_subject()[A] == 38 * 300_000_000
    assert DOWN not in run.by_subject()


def test_an_outage_of_a_shared_card_is_split_by_what_was_held_and_says_so() -> None:
    jobs = [Job(name, gpu(), at(2), at(40), parts, 4) for name, parts in (("a", 1), ("b", 3))]
    run = play(outage_world(*jobs), each=Auditor())
    assert run.by_subject()[A] == 38 * 300_000_000 // 4
    assert run.by_subject()[B] == 38 * 300_000_000 // 4 * 3
    assert run.books.evidence_uj["held-share"] == OUTAGE_UJ


def test_a_job_that_lived_inside_the_outage_is_known_but_has_no_energy() -> None:
    run = play(outage_world(Job("a", gpu(), at(15), at(20))), each=Auditor())
    assert run.by_subject()[DOWN] == OUTAGE_UJ
    assert A not in run.by_subject()
    assert any(fact.id == A for entry in run.entries for fact in entry.facts)


@pytest.mark.parametrize("vanishes", [False, True])
def test_a_job_that_ended_in_the_outage_keeps_what_was_seen(vanishes: bool) -> None:
    run = play(outage_world(Job("a", gpu(), at(2), at(20), vanishes=vanishes)), each=Auditor())
    assert run.by_subject()[A] == 8 * 300_000_000
    assert run.by_subject()[DOWN] == OUTAGE_UJ


def test_a_job_that_began_in_the_outage_gets_what_was_seen() -> None:
    run = play(outage_world(Job("a", gpu(), at(20), at(40))), each=Auditor())
    assert run.by_subject()[A] == 10 * 300_000_000
    assert run.by_subject()[DOWN] == OUTAGE_UJ


@pytest.mark.parametrize(("t1_s", "outage_uj"), [(90, OUTAGE_UJ), (45, 0), (25, 0)])
def test_evidence_that_is_whole_late_still_proves(t1_s: int, outage_uj: int) -> None:
    """The kubelet says nothing for 30 s after the start; pods that are gone by then have no end."""
    pod = Job("a", gpu(), at(2), at(t1_s), evidence=Evidence.POD_RESOURCES)
    run = play(outage_world(pod, silent=((at(30), at(60)),)), each=Auditor())
    got = run.by_subject()
    seen_uj = (8 + (60 if outage_uj else 0)) * 300_000_000
    assert got[A] == seen_uj + outage_uj
    assert got.get(DOWN, 0) == OUTAGE_UJ - outage_uj


def test_nothing_of_the_meter_is_booked_while_the_proof_is_awaited() -> None:
    pod = Job("a", gpu(), at(2), at(90), evidence=Evidence.POD_RESOURCES)
    world = outage_world(pod, silent=((at(30), at(999)),))
    run = play(world, each=Auditor())
    for books in run.history:
        if at(30) <= books.last_ns <= at(30) + PROOF_WAIT_NS:
            assert books.meters[gpu()].base.t_ns <= at(10)
    assert run.books.meters[gpu()].base.t_ns > at(130)


def test_evidence_that_is_never_whole_proves_nothing() -> None:
    pod = Job("a", gpu(), at(2), at(90), evidence=Evidence.POD_RESOURCES)
    run = play(outage_world(pod, silent=((at(30), at(999)),)), each=Auditor())
    got = run.by_subject()
    assert got[DOWN] == OUTAGE_UJ
    # Its claim is still open: what is seen goes on being its (60 W from the 100th second on).
    booked_s = (run.books.meters[gpu()].base.t_ns - at(100)) // S
    assert got[A] == (8 + 70) * 300_000_000 + booked_s * 60_000_000


def test_an_outage_is_not_the_next_best_claims_while_the_best_is_unproven() -> None:
    """A job by its Prolog, a process beside it; after the outage only processes are reported."""
    world = outage_world()
    job = Claim(A, gpu(), at(2), None, Evidence.PROLOG)
    process = Claim(B, gpu(), at(1), None, Evidence.PROCESSES)

    def reported(tick: Tick) -> Tick:
        before = tick.now_ns <= at(10)
        return msgspec.structs.replace(
            tick,
            claims=(job, process) if before else (process,),
            complete=frozenset(Evidence) if before else frozenset({Evidence.PROCESSES}),
        )

    run = play((reported(tick) for tick in world.ticks()), each=Auditor())
    assert run.by_subject()[DOWN] == OUTAGE_UJ


def test_killed_right_after_a_boundary_the_outage_is_the_new_holders() -> None:
    """The reading that saw the old value again is the last before the outage."""
    world = handover(at(10.45), at(30))
    device = replace(world.devices[0], period_ns=400 * MS, jitter_ns=0, phase_ns=200 * MS)
    world = replace(world, devices=(device,), cadence_ns=S // 10)
    run = play(world, each=Auditor())
    assert run.books.meters[gpu()].read_uj == device.counter_uj(at(49.9)) - device.counter_uj(at(0))
    assert DOWN not in run.by_subject()


def test_two_outages_before_the_first_is_proven() -> None:
    pod = Job("a", gpu(), at(2), at(90), evidence=Evidence.POD_RESOURCES)
    world = outage_world(pod, silent=((at(30), at(50)),))
    alive = ((at(0), at(10) + 1), (at(30), at(35) + 1), (at(45), at(130)))
    run = play(replace(world, alive=alive), each=Auditor())
    assert DOWN not in run.by_subject()
    assert run.by_subject()[A] == 88 * 300_000_000


def test_a_start_that_finds_garbage_still_knows_of_the_outage() -> None:
    world = outage_world(Job("a", gpu(), at(2), at(25)))
    device = replace(world.devices[0], garbage=((30, 0),))
    run = play(replace(world, devices=(device,)), each=Auditor())
    assert run.by_subject()[A] == 8 * 300_000_000
    assert run.by_subject()[DOWN] == 21 * 300_000_000


def test_killed_before_the_second_tick() -> None:
    run = Run()
    world = outage_world(Job("a", gpu(), at(0), at(90)))
    for tick in replace(world, alive=((at(0), at(0) + 1), (at(30), at(50)))).ticks():
        run.take(tick, BookingPolicy())
    assert run.by_subject()[A] == 46 * 300_000_000 - 240_000_000
