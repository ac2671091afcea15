"""Cards cut up by MIG, and devices that several share: exact examples, then the laws."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from fractions import Fraction
from random import Random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.core.audit import Auditor, laws
from tests.unit.core.world import Device, Job, S, World, at, gpu, job_id, play, powered
from tests.unit.core.worlds import MJ

from joulebook.core.attribution.claims import Claim, Evidence, Holder, Tenure, settle
from joulebook.core.attribution.gpu import Share, share_out
from joulebook.core.energy.intervals import Interval
from joulebook.core.energy.readings import InstanceUse, ProcessUse, Reading
from joulebook.core.evidence import Amount, Method, Remainder
from joulebook.core.ledger.advance import Tick
from joulebook.core.workloads import WorkloadId

A, B, C = job_id("a"), job_id("b"), job_id("c")
J = 1_000_000
SLICES = 7
UNALLOCATED = Remainder.UNALLOCATED


def instance(name: str, slices: int, active_ppm: int | None = None) -> InstanceUse:
    return InstanceUse(f"MIG-{name}", slices, SLICES, active_ppm)


def on(workload: WorkloadId | None, name: str, slices: int, of: int = SLICES) -> Holder:
    return Holder(workload, Evidence.PROLOG, slices, of, f"MIG-{name}")


def uses(workload: WorkloadId | None, name: str, pid: int = 1) -> ProcessUse:
    return ProcessUse(pid, 0, None, None, workload, instance=f"MIG-{name}")


def energies(
    holders: Iterable[Holder],
    instances: Iterable[InstanceUse],
    *processes: ProcessUse,
    energy_uj: int = 280 * J,
    idle: bool = False,
    outage: bool = False,
) -> dict[WorkloadId | Remainder, int]:
    """What each gets of 10 s at a floor of 7 W, a watt for each slice."""
    piece = Interval(
        gpu(), 0, 10 * S, energy_uj, Method.COUNTER, idle, outage,
        processes=processes, instances=tuple(instances),
    )  # fmt: skip
    shares = share_out(piece, Tenure(0, 10 * S, tuple(holders)), idle_mw=7_000)
    assert {share.method for share in shares} <= {Method.APPORTIONED} or len(shares) == 1
    sums: Counter[WorkloadId | Remainder] = Counter()
    for share in shares:
        sums[share.subject] += share.amount.energy_uj
    assert sum(sums.values()) == energy_uj
    return dict(sums)


# --- MIG by example: 70 J of floor, 210 J above it -----------------------------------------------


def test_floor_over_all_slices_and_the_rest_by_busy_slices() -> None:
    got = energies(
        [on(A, "x", 2), on(B, "y", 1)], [instance("x", 2, 500_000), instance("y", 1, 500_000)]
    )
    assert got == {A: (20 + 140) * J, B: (10 + 70) * J, UNALLOCATED: 40 * J}


def test_what_an_instance_burns_that_nobody_holds_is_nobodys() -> None:
    got = energies([on(A, "x", 2)], [instance("x", 2, 250_000), instance("z", 1, 1_000_000)])
    assert got == {A: (20 + 70) * J, UNALLOCATED: (50 + 140) * J}


def test_without_activity_the_rest_goes_by_slices_held() -> None:
    got = energies([on(A, "x", 2), on(B, "y", 1)], [instance("x", 2), instance("y", 1)])
    assert got == {A: (20 + 140) * J, B: (10 + 70) * J, UNALLOCATED: 40 * J}


def test_the_activity_of_one_holder_alone_is_no_comparison() -> None:
    got = energies([on(A, "x", 2), on(B, "y", 1)], [instance("x", 2, 9), instance("y", 1)])
    assert got == {A: (20 + 140) * J, B: (10 + 70) * J, UNALLOCATED: 40 * J}


def test_the_process_on_an_instance_that_nobody_holds_pays_for_it() -> None:
    instances = [instance("x", 2, 500_000), instance("z", 1, 1_000_000), instance("v", 4, 0)]
    got = energies([on(A, "x", 2)], instances, uses(B, "z"), uses(None, "v", 2))
    assert got == {
        A: (20 + 105) * J,
        B: (10 + 105) * J,
        Remainder.UNKNOWN_HOLDER: 40 * J,
    }


def test_users_of_one_instance_share_it_evenly() -> None:
    got = energies([], [instance("x", 2, 1)], uses(A, "x"), uses(B, "x", 2), uses(B, "x", 3))
    assert got == {A: (10 + 105) * J, B: (10 + 105) * J, UNALLOCATED: 50 * J}


def test_a_process_on_an_instance_that_is_held_does_not_pay() -> None:
    got = energies([on(A, "x", 7)], [instance("x", 7, 1)], uses(B, "x"))
    assert got == {A: 280 * J}


def test_two_instances_of_one_workload_add_up() -> None:
    got = energies(
        [on(A, "x", 2), on(A, "y", 1), on(B, "z", 4)],
        [instance("x", 2, 500_000), instance("y", 1, 1_000_000), instance("z", 4, 250_000)],
    )
    assert got == {A: (30 + 140) * J, B: (40 + 70) * J}


def test_replicas_of_one_instance_share_its_activity() -> None:
    got = energies(
        [on(A, "x", 1, 14), on(B, "x", 1, 14), on(C, "y", 6)],
        [instance("x", 1, 600_000), instance("y", 6, 100_000)],
    )
    assert got == {A: (5 + 52.5) * J, B: (5 + 52.5) * J, C: (60 + 105) * J}


def test_an_idle_card_is_floor_alone() -> None:
    got = energies([on(A, "x", 2)], [instance("x", 2, 0)], energy_uj=70 * J, idle=True)
    assert got == {A: 20 * J, UNALLOCATED: 50 * J}


def test_through_an_outage_the_proven_holder_pays_for_his_slices_only() -> None:
    got = energies([on(A, "x", 2)], [instance("x", 2), instance("y", 5)], uses(B, "y"), outage=True)
    assert got == {A: (20 + 210) * J, UNALLOCATED: 50 * J}


# --- several on a whole device -------------------------------------------------------------------


def test_work_of_one_holder_that_is_not_known_leaves_the_parts() -> None:
    """A refused sample is no proof of idleness."""
    holders = (Holder(A, Evidence.POD_RESOURCES, 1, 2), Holder(B, Evidence.POD_RESOURCES, 1, 2))
    said, silent = ProcessUse(1, 0, 4 * S, None, A), ProcessUse(2, 0, None, None, B)
    for processes, expected in (
        ((said, silent), {A: 140 * J, B: 140 * J}),
        ((said, msgspec.structs.replace(silent, ended=True)), {A: 245 * J, B: 35 * J}),
        ((said, msgspec.structs.replace(silent, workload=C)), {A: 245 * J, B: 35 * J}),
    ):
        piece = Interval(gpu(), 0, 10 * S, 280 * J, Method.COUNTER, processes=processes)
        shares = share_out(piece, Tenure(0, 10 * S, holders), idle_mw=7_000)
        assert {share.subject: share.amount.energy_uj for share in shares} == expected


# --- laws ----------------------------------------------------------------------------------------

WHO = st.sampled_from([A, B, C, None])


@st.composite
def cards(draw: st.DrawFn) -> tuple[Interval, list[Claim]]:
    """A card, cut up or not, with claims on it that may contradict each other."""
    slices = draw(st.lists(st.integers(1, 4), max_size=4).filter(lambda s: sum(s) <= SLICES))
    activity = st.none() | st.integers(0, 1_000_000)
    instances = tuple(instance(str(n), each, draw(activity)) for n, each in enumerate(slices))
    some = st.lists(st.sampled_from(instances), max_size=6) if instances else st.just([])
    claims = [
        Claim(
            draw(WHO), gpu(), draw(st.integers(-5, 8)) * S, draw(st.none() | st.just(9 * S)),
            draw(st.sampled_from(Evidence)), each.slices, SLICES * draw(st.sampled_from([1, 1, 3])),
            each.uuid,
        )
        for each in draw(some)
    ]  # fmt: skip
    claims += [
        Claim(draw(WHO), gpu(), 0, None, draw(st.sampled_from(Evidence)), part, of)
        for part, of in draw(
            st.lists(st.sampled_from([(1, 4), (2, 4), (1, 1), (1, 3)]), max_size=3)
        )
    ]
    processes = tuple(
        ProcessUse(
            pid, 0, draw(st.none() | st.integers(0, 10 * S)), None, draw(WHO),
            ended=draw(st.booleans()),
            instance=draw(st.sampled_from(["", *(each.uuid for each in instances)])),
        )
        for pid in range(draw(st.integers(0, 4)))
    )  # fmt: skip
    piece = Interval(
        gpu(), 0, 10 * S, draw(st.integers(0, 10**18)), Method.COUNTER,
        idle=draw(st.booleans()), outage=draw(st.booleans()), processes=processes,
        instances=instances,
    )  # fmt: skip
    return piece, claims


def shared(piece: Interval, claims: list[Claim], idle_mw: int | None) -> list[Share]:
    rooms = {each.uuid: Fraction(each.slices, each.of) for each in piece.instances or ()}
    return [
        share
        for tenure in settle(claims, piece.t0_ns, piece.t1_ns, rooms)
        for share in share_out(piece.cut(tenure.t0_ns, tenure.t1_ns), tenure, idle_mw)
    ]


def by_subject(shares: list[Share]) -> Counter[WorkloadId | Remainder]:
    sums: Counter[WorkloadId | Remainder] = Counter()
    for share in shares:
        sums[share.subject] += share.amount.energy_uj
    return sums


@laws(400)
@given(cards(), st.none() | st.integers(0, 10**6), st.randoms(use_true_random=False))
def test_shares_sum_to_the_interval_and_know_no_order_of_claims(
    card: tuple[Interval, list[Claim]], idle_mw: int | None, random: Random
) -> None:
    piece, claims = card
    shares = shared(piece, claims, idle_mw)
    assert sum(share.amount.energy_uj for share in shares) == piece.energy_uj
    assert sum(share.amount.held_ns for share in shares) <= piece.t1_ns - piece.t0_ns
    for share in shares:
        assert 0 <= share.amount.idle_uj <= share.amount.energy_uj
        assert share.amount.held_ns >= 0
    shuffled = list(claims)
    random.shuffle(shuffled)
    assert shared(piece, shuffled, idle_mw) == shares


@laws(200)
@given(cards(), st.none() | st.integers(0, 10**6), st.integers(1, 10 * S - 1))
def test_cutting_an_interval_moves_no_more_than_rounding(
    card: tuple[Interval, list[Claim]], idle_mw: int | None, cut_ns: int
) -> None:
    piece, claims = card
    whole = by_subject(shared(piece, claims, idle_mw))
    parts = by_subject(shared(piece.cut(0, cut_ns), claims, idle_mw))
    parts += by_subject(shared(piece.cut(cut_ns, 10 * S), claims, idle_mw))
    assert sum(whole.values()) == sum(parts.values())
    # A floor that is capped by the energy of an interval is so in each part of it, but for the
    # rounding of its mean power; each share is rounded twice, and once more for each piece.
    for subject in whole.keys() | parts.keys():
        assert abs(whole[subject] - parts[subject]) <= 16


@pytest.mark.parametrize("instances", [(), (instance("x", 3, 400_000), instance("y", 3, 400_000))])
def test_no_equal_is_favoured_over_time(instances: tuple[InstanceUse, ...]) -> None:
    """A month of odd microjoules: a tie-break by position would show."""
    names = [each.uuid for each in instances] or ["", ""]
    part = (3, SLICES) if instances else (1, 2)
    holders = tuple(
        Holder(who, Evidence.PROLOG, *part, name) for who, name in zip((A, B), names, strict=True)
    )
    sums: Counter[WorkloadId | Remainder] = Counter()
    count = 20_000
    for n in range(count):
        piece = Interval(gpu(), n * S, (n + 1) * S, 10 * J + 1, Method.COUNTER, instances=instances)
        sums += by_subject(share_out(piece, Tenure(n * S, (n + 1) * S, holders), 0))
    assert sum(sums.values()) == count * (10 * J + 1)
    assert abs(sums[A] - sums[B]) < 6 * count**0.5


# --- through the ledger --------------------------------------------------------------------------


def test_a_card_that_is_cut_anew_while_the_ledger_runs() -> None:
    """Two instances, then one is destroyed and two are made of it; every joule has its owner."""
    first = (instance("x", 3, 1_000_000), instance("y", 4, 250_000))
    then = (instance("x", 3, 500_000), instance("u", 2, 500_000), instance("v", 2, 0))
    curve = powered(((at(10), at(50), 400_000),), idle_mw=70_000)
    card = Device(
        gpu(), curve, period_ns=0, jitter_ns=0, instances=((at(-1), first), (at(30), then))
    )
    jobs = (
        Job("left", gpu(), at(10), at(50), 3, SLICES, instance="MIG-x"),
        Job("right", gpu(), at(10), at(29), 4, SLICES, instance="MIG-y"),
        Job("next", gpu(), at(31), at(50), 2, SLICES, instance="MIG-u"),
        Job("stale", gpu(), at(31), at(50), 4, SLICES, instance="MIG-y"),
    )
    auditor = Auditor()
    run = play(World((card,), jobs, ((at(0), at(60)),), bursts=False), each=auditor)
    got = run.by_subject()
    assert sum(got.values()) == run.books.meters[gpu()].booked_uj
    assert job_id("stale") not in got, "its instance is gone"
    # 30 of 70 W of the floor for 40 s, of 400 W first 3/4, then 3/5 (`u` is busy from 30 on).
    left = 30 * 40 + 0.75 * 400 * 19 + 0.6 * 400 * 21
    assert got[job_id("left")] == pytest.approx(left * J, abs=20 * MJ)
    right = 40 * 19 + 0.25 * 400 * 19
    assert got[job_id("right")] == pytest.approx(right * J, abs=20 * MJ)
    assert got[job_id("next")] == pytest.approx((20 * 19 + 0.4 * 400 * 19) * J, abs=20 * MJ)
    methods = {key.method for key in run.postings if isinstance(key.subject, WorkloadId)}
    assert methods == {Method.APPORTIONED}
    evidence = {key.evidence for key in run.postings if key.subject == job_id("left")}
    assert evidence == {"prolog"}


def test_held_time_is_by_slices() -> None:
    card = Device(gpu(), powered(()), instances=((at(-1), (instance("x", 2),)),))
    job = Job("a", gpu(), at(5), at(26), 2, SLICES, instance="MIG-x")
    run = play(World((card,), (job,), ((at(0), at(40)),), bursts=False))
    (state,) = run.books.workloads.values()
    (amount,) = state.balance.values()
    assert abs(amount.held_ns - 21 * S * 2 // SLICES) <= 40


def test_use_of_a_replica_beside_its_holders_is_foreign() -> None:
    """A privileged pod on a time-sliced GPU: the holders pay, and it is seen."""
    jobs = [Job(name, gpu(), at(2), at(12), 1, 4) for name in ("one", "two")]
    card = Device(gpu(), powered(((at(3), at(11), 200_000),)))
    world = World((card,), tuple(jobs), ((at(0), at(30)),), bursts=False)
    on_it = tuple(
        ProcessUse(n, 0, (n + 1) * S // 8, None, job_id(name))
        for n, name in enumerate(("one", "two", "guest"))
    )

    def seen(reading: Reading) -> Reading:
        there = on_it if at(3) < reading.t_ns <= at(11) else ()
        return msgspec.structs.replace(reading, processes=there)

    run = play(
        (
            msgspec.structs.replace(tick, readings=tuple(seen(r) for r in tick.readings))
            for tick in world.ticks()
        ),
        each=Auditor(),
    )
    assert run.books.foreign_ns == {(gpu(), job_id("guest")): 8 * S}
    got = run.by_subject()
    assert set(got) == {job_id("one"), job_id("two"), UNALLOCATED}
    assert got[job_id("two")] > got[job_id("one")]


def test_what_a_strangers_process_has_is_held_by_an_unknown_holder() -> None:
    piece = Interval(
        gpu(), 0, 10 * S, 10 * J, Method.COUNTER, processes=(ProcessUse(1, 0, None, None, None),)
    )
    (share,) = share_out(piece, Tenure(0, 10 * S, ()), None)
    assert share == Share(
        Remainder.UNKNOWN_HOLDER,
        Amount(10 * J, 0, 10 * S),
        Method.COUNTER,
        Evidence.PROCESSES.label,
    )


# --- A card that is cut again
# ----------------------------------------------------------------------


def test_old_and_new_instances_may_come_to_more_than_the_card() -> None:
    got = energies([on(A, "old", 3)], [instance("new", 7), instance("old", 3)], uses(B, "new"))
    assert got == {A: 120 * J, B: 160 * J}


@laws(150)
@given(
    st.lists(st.integers(1, SLICES), min_size=1, max_size=8),
    st.lists(st.integers(1, SLICES), min_size=1, max_size=8),
    st.integers(0, 10**12),
    st.booleans(),
)
def test_nothing_that_was_cut_stops_the_books(
    old: list[int], new: list[int], energy_uj: int, idle: bool
) -> None:
    held = [on(job_id(f"old-{i}"), f"old-{i}", n) for i, n in enumerate(old)]
    while sum(holder.parts for holder in held) > SLICES:
        held.pop()
    there = [instance(f"{kind}-{i}", n) for kind, cut in (("old", old), ("new", new))
             for i, n in enumerate(cut)]  # fmt: skip
    users = [uses(job_id(f"user-{i}"), f"new-{i}") for i in range(len(new))]
    energies(held, there, *users, energy_uj=energy_uj, idle=idle)


def test_a_claim_on_an_instance_that_was_cut_away_while_another_works_on_the_new() -> None:
    claim = Claim(A, gpu(), at(0), None, Evidence.PROLOG, 1, SLICES, "MIG-old")
    process = uses(B, "new")
    readings = [
        Reading(gpu(), at(i), i * 300 * J, busy=True, processes=() if i < 4 else (process,),
                instances=(instance("old", 1),) if i < 4 else (instance("new", 7),))
        for i in range(12)
    ]  # fmt: skip
    audit = Auditor()
    run = play(
        [Tick(r.t_ns, readings=(r,), claims=(claim,), complete=frozenset(Evidence))
         for r in readings],
        each=audit,
    )  # fmt: skip
    assert not any(entry.faults for entry in run.entries)
    assert run.booked_uj() == run.books.meters[gpu()].booked_uj > 2_000 * J
    # From the second look after the cut on all of it is B's.
    assert run.by_subject()[B] > 4 * 300 * J


def test_what_cannot_be_shared_out_is_nobodys_and_said() -> None:
    garbage, process = InstanceUse("MIG-x", 1, 0), uses(A, "x")
    of_no_part = Claim(C, gpu(), at(0), None, Evidence.PROLOG, 1, 0)
    ticks = [
        Tick(
            at(i),
            readings=(
                Reading(gpu(), at(i), i * 300 * J, processes=(process,), instances=(garbage,)),
                Reading(gpu("GPU-1"), at(i), i * 100 * J),
            ),
            claims=(of_no_part, Claim(B, gpu("GPU-1"), at(0), None, Evidence.PROLOG)),
            complete=frozenset(Evidence),
        )
        for i in range(9)
    ]
    run = play(ticks, each=Auditor())
    assert run.by_subject() == {Remainder.UNKNOWN_HOLDER: 1500 * J, B: 500 * J}
    assert any("GPU-0" in fault for entry in run.entries for fault in entry.faults)
