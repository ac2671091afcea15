"""Who gets the energy: exact shares, rule by rule."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.core.audit import laws
from tests.unit.core.world import S, gpu, job_id

from joulebook.core.attribution.claims import Evidence, Holder, Tenure
from joulebook.core.attribution.gpu import Share, apportion, share_among, share_out
from joulebook.core.energy.intervals import Interval
from joulebook.core.energy.readings import ProcessUse
from joulebook.core.evidence import Amount, Method, Remainder
from joulebook.core.workloads import WorkloadId

A, B, C = job_id("a"), job_id("b"), job_id("c")
J = 1_000_000

totals = st.integers(min_value=-(2**200), max_value=2**200)
weights = st.lists(st.integers(min_value=0, max_value=2**200), min_size=1, max_size=12).filter(any)


@laws(300)
@given(totals, weights, st.integers())
def test_parts_sum_exactly_and_lie_within_one_of_the_exact_share(
    total: int, weights: list[int], salt: int
) -> None:
    parts, whole = apportion(total, weights, salt), sum(weights)
    assert sum(parts) == total
    for part, weight in zip(parts, weights, strict=True):
        assert abs(part * whole - total * weight) < whole
        assert part * total >= 0
        assert weight or part == 0


@laws(200)
@given(totals, weights, st.randoms(use_true_random=False), st.integers())
def test_parts_do_not_depend_on_the_order_of_weights_up_to_ties(
    total: int, weights: list[int], random: Random, salt: int
) -> None:
    order = list(range(len(weights)))
    random.shuffle(order)
    straight = apportion(total, weights, salt)
    shuffled = apportion(total, [weights[i] for i in order], salt)
    assert sorted(zip(weights, straight, strict=True)) == sorted(
        zip([weights[i] for i in order], shuffled, strict=True)
    ) or _differ_in_ties_only(total, weights, straight, shuffled, order)


def _differ_in_ties_only(
    total: int, weights: list[int], straight: list[int], shuffled: list[int], order: list[int]
) -> bool:
    whole = sum(weights)
    moved = {
        total * weights[i] % whole
        for position, i in enumerate(order)
        if shuffled[position] != straight[i]
    }
    return len(moved) == 1


@pytest.mark.parametrize("count", [2, 3, 5, 8])
def test_no_position_is_favoured_by_ties(count: int) -> None:
    extra, rounds = [0] * count, 6000
    for salt in range(1_760_000_000 * S, 1_760_000_000 * S + rounds * S, S):
        parts = apportion(1, [1] * count, salt)
        extra[parts.index(1)] += 1
    fair = rounds / count
    assert all(abs(won - fair) < 5 * fair**0.5 for won in extra), extra


@pytest.mark.parametrize("bad", [[], [0, 0], [1, -1], [-1, 3]])
def test_impossible_weights_are_refused(bad: list[int]) -> None:
    with pytest.raises(ValueError, match="weights"):
        apportion(10, bad)


def interval(
    energy_uj: int = 100 * J,
    *processes: ProcessUse,
    idle: bool = False,
    outage: bool = False,
    remainder: Remainder | None = None,
) -> Interval:
    return Interval(gpu(), 0, 10 * S, energy_uj, Method.COUNTER, idle, outage, remainder, processes)


def tenure(*holders: Holder) -> Tenure:
    return Tenure(0, 10 * S, holders)


def holds(workload: WorkloadId | None, parts: int = 1, of: int = 1) -> Holder:
    return Holder(workload, Evidence.PROLOG, parts, of)


def uses(workload: WorkloadId | None, sm_time_ns: int | None = None, pid: int = 1) -> ProcessUse:
    return ProcessUse(pid, 0, sm_time_ns, None, workload)


def amounts(shares: list[Share]) -> dict[WorkloadId | Remainder, Amount]:
    assert len({share.subject for share in shares}) == len(shares)
    return {share.subject: share.amount for share in shares}


def test_one_holder_gets_everything() -> None:
    (share,) = share_out(interval(), tenure(holds(A)), idle_mw=5_000)
    assert share == Share(A, Amount(100 * J, 0, 10 * S), Method.COUNTER, "prolog")


def test_one_holder_gets_idle_energy_as_idle() -> None:
    (share,) = share_out(interval(idle=True), tenure(holds(A)), idle_mw=None)
    assert share.amount == Amount(100 * J, 100 * J, 10 * S, 10 * S)


def test_a_process_of_somebody_else_does_not_change_the_bill() -> None:
    (share,) = share_out(interval(100 * J, uses(B, 9 * S)), tenure(holds(A)), idle_mw=5_000)
    assert share.subject == A
    assert share.amount.energy_uj == 100 * J


def test_a_holder_whose_name_is_not_known() -> None:
    (share,) = share_out(interval(), tenure(holds(None)), idle_mw=None)
    assert share.subject is Remainder.UNKNOWN_HOLDER


def test_shared_floor_over_all_replicas_and_the_rest_by_busy_time() -> None:
    shares = share_out(
        interval(100 * J, uses(A, 6 * S), uses(B, 1 * S, 2), uses(B, 1 * S, 3), uses(C, 5 * S, 4)),
        tenure(holds(A, 1, 4), holds(B, 1, 4)),
        idle_mw=4_000,
    )
    # 40 J floor: 10 J a replica, two of them nobody's; 60 J by 6:2 (C holds nothing).
    assert amounts(shares) == {
        A: Amount(55 * J, 0, 10 * S // 4),
        B: Amount(25 * J, 0, 10 * S // 4),
        Remainder.UNALLOCATED: Amount(20 * J, 0, 5 * S),
    }
    assert {share.method for share in shares} == {Method.APPORTIONED}
    assert {share.evidence for share in shares} == {"prolog", "none"}


def test_what_is_split_by_held_parts_is_rounded_once() -> None:
    holders = [holds(who, 1, 3) for who in (A, B, C)]
    run = [
        Interval(gpu(), t * S, (t + 1) * S, 10, Method.COUNTER, idle=t % 2 == 0) for t in range(40)
    ]
    for share in share_among(run, holders, 1):
        assert abs(share.amount.energy_uj - 400 / 3) <= 2
        assert abs(share.amount.idle_uj - 200 / 3) < 1
        assert abs(share.amount.held_ns - 40 * S / 3) <= 2


def test_shared_without_usage_by_held_parts() -> None:
    shares = share_out(interval(), tenure(holds(A, 3, 4), holds(B, 1, 4)), idle_mw=None)
    assert amounts(shares) == {
        A: Amount(75 * J, 0, 3 * 10 * S // 4),
        B: Amount(25 * J, 0, 10 * S // 4),
    }


def test_shared_and_idle_is_idle_floor_only() -> None:
    shares = share_out(interval(idle=True), tenure(holds(A, 1, 4), holds(B, 2, 4)), idle_mw=1_000)
    assert amounts(shares) == {
        A: Amount(25 * J, 25 * J, 10 * S // 4, 10 * S // 4),
        B: Amount(50 * J, 50 * J, 10 * S // 2, 10 * S // 2),
        Remainder.UNALLOCATED: Amount(25 * J, 0, 10 * S // 4),
    }


def test_a_floor_above_the_energy_takes_it_all_and_no_more() -> None:
    shares = share_out(interval(), tenure(holds(A, 1, 2)), idle_mw=900_000)
    assert amounts(shares) == {
        A: Amount(50 * J, 0, 5 * S),
        Remainder.UNALLOCATED: Amount(50 * J, 0, 5 * S),
    }


def test_parts_of_different_denominators_are_shared_exactly() -> None:
    shares = share_out(interval(60 * J), tenure(holds(A, 1, 2), holds(B, 1, 3)), idle_mw=6_000)
    assert {subject: amount.energy_uj for subject, amount in amounts(shares).items()} == {
        A: 30 * J,
        B: 20 * J,
        Remainder.UNALLOCATED: 10 * J,
    }


def test_no_holder_but_processes_share_the_floor_evenly_and_the_rest_by_busy_time() -> None:
    shares = share_out(interval(100 * J, uses(A, 3 * S), uses(B, 1 * S, 2)), tenure(), 4_000)
    assert amounts(shares) == {A: Amount(65 * J, 0, 5 * S), B: Amount(35 * J, 0, 5 * S)}
    assert {(share.method, share.evidence) for share in shares} == {
        (Method.APPORTIONED, "processes")
    }


def test_a_single_user_is_not_an_apportioned_one() -> None:
    (share,) = share_out(interval(100 * J, uses(A)), tenure(), None)
    assert share == Share(A, Amount(100 * J, 0, 10 * S), Method.COUNTER, "processes")


def test_users_whose_use_is_not_known_share_evenly_and_strangers_are_unknown() -> None:
    shares = share_out(interval(100 * J, uses(A), uses(None, None, 2)), tenure(), None)
    assert amounts(shares) == {
        Remainder.UNKNOWN_HOLDER: Amount(50 * J, 0, 5 * S),
        A: Amount(50 * J, 0, 5 * S),
    }


def test_nobody() -> None:
    (share,) = share_out(interval(), tenure(), None)
    assert share == Share(Remainder.UNALLOCATED, Amount(100 * J, 0, 10 * S), Method.COUNTER, "none")


def test_an_outage_without_a_proven_holder_is_nobodys_even_with_processes() -> None:
    (share,) = share_out(interval(100 * J, uses(A, S), outage=True), tenure(), None)
    assert share.subject is Remainder.DAEMON_DOWN


def test_an_outage_goes_to_the_proven_holder() -> None:
    (share,) = share_out(interval(outage=True), tenure(holds(A)), None)
    assert share.subject == A


def test_energy_of_unknown_time_is_nobodys_though_held() -> None:
    reset = interval(remainder=Remainder.COUNTER_RESET)
    (share,) = share_out(reset, tenure(holds(A)), None)
    assert share.subject is Remainder.COUNTER_RESET


@st.composite
def shared_cases(draw: st.DrawFn) -> tuple[Interval, Tenure, int | None]:
    who = st.sampled_from([A, B, C, None])
    holders, room = [], 12
    for workload in draw(st.permutations([A, B, C, None]))[: draw(st.integers(0, 4))]:
        parts = draw(st.integers(1, max(room, 1)))
        if parts <= room:
            room -= parts
            holders.append(Holder(workload, draw(st.sampled_from(Evidence)), parts, 12))
    processes = draw(
        st.lists(
            st.builds(
                ProcessUse,
                st.integers(1, 99),
                st.just(0),
                st.none() | st.integers(0, 10 * S),
                st.none(),
                who,
            ),
            max_size=5,
        )
    )
    piece = interval(
        draw(st.integers(0, 10**12)),
        *processes,
        idle=draw(st.booleans()),
        outage=draw(st.booleans()),
    )
    return piece, tenure(*holders), draw(st.none() | st.integers(0, 10**6))


@laws(300)
@given(shared_cases())
def test_whatever_the_case_shares_sum_to_the_interval(
    case: tuple[Interval, Tenure, int | None],
) -> None:
    piece, held, idle_mw = case
    shares = share_out(piece, held, idle_mw)
    assert sum(share.amount.energy_uj for share in shares) == piece.energy_uj
    assert sum(share.amount.held_ns for share in shares) <= piece.t1_ns - piece.t0_ns
    for share in shares:
        assert 0 <= share.amount.idle_uj <= share.amount.energy_uj
