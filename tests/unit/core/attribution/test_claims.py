"""Claims in, tenures out: precedence, room on the device, ends that nobody saw."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.core.audit import laws
from tests.unit.core.world import gpu, job_id

from joulebook.core.attribution.claims import Claim, Evidence, Holder, Tenure, admit, merge, settle
from joulebook.core.workloads import WorkloadId

A, B, C = job_id("a"), job_id("b"), job_id("c")
PROLOG, PODS, GUESS = Evidence.PROLOG, Evidence.POD_RESOURCES, Evidence.PROCESSES


def claim(
    workload: WorkloadId | None,
    t0: int = 0,
    t1: int | None = None,
    evidence: Evidence = PROLOG,
    share: tuple[int, int] = (1, 1),
    instance: str = "",
) -> Claim:
    return Claim(workload, gpu(), t0, t1, evidence, *share, instance)


def who(holders: tuple[Holder, ...]) -> dict[WorkloadId | None, Fraction]:
    return {holder.workload: Fraction(holder.parts, holder.of) for holder in holders}


def test_better_evidence_goes_first() -> None:
    assert who(admit([claim(A, 5, evidence=GUESS), claim(B, 0)])) == {B: 1}
    assert who(admit([claim(A, 9, evidence=PODS), claim(B, 0)])) == {B: 1}


def test_within_a_rank_the_latest_goes_first() -> None:
    assert who(admit([claim(A, 1), claim(B, 2), claim(C, 0)])) == {B: 1}


def test_a_workload_counts_once_by_its_best_evidence() -> None:
    (holder,) = admit([claim(A, evidence=GUESS), claim(A, evidence=PODS), claim(A, 3)])
    assert holder == Holder(A, PROLOG, 1, 1)


def test_parts_of_one_workload_add_up() -> None:
    (holder,) = admit([claim(A, 0, share=(1, 4)), claim(A, 1, share=(2, 4))])
    assert holder == Holder(A, PROLOG, 3, 4)
    (mixed,) = admit([claim(A, 0, share=(1, 2)), claim(A, 1, share=(1, 3))])
    assert Fraction(mixed.parts, mixed.of) == Fraction(5, 6)


def test_what_does_not_fit_is_refused_whole() -> None:
    held = admit([claim(A, 3, share=(3, 4)), claim(B, 2, share=(2, 4)), claim(C, 1, share=(1, 4))])
    assert who(held) == {A: Fraction(3, 4), C: Fraction(1, 4)}


def test_an_unknown_holder_takes_its_room() -> None:
    assert who(admit([claim(None, 3), claim(A, 1)])) == {None: 1}


def test_instances_of_one_workload_stay_apart() -> None:
    held = admit([claim(A, share=(2, 7), instance="x"), claim(A, share=(1, 7), instance="y")])
    assert held == (Holder(A, PROLOG, 2, 7, "x"), Holder(A, PROLOG, 1, 7, "y"))


@pytest.mark.parametrize("rooms", [None, {"x": Fraction(2, 7), "y": Fraction(1, 7)}])
def test_an_instance_is_held_once(rooms: dict[str, Fraction] | None) -> None:
    inside = claim(A, share=(2, 7), instance="x")
    around = claim(B, evidence=PODS, share=(2, 7), instance="x")
    other = claim(C, evidence=PODS, share=(1, 7), instance="y")
    assert who(admit([around, other, inside], rooms)) == {A: Fraction(2, 7), C: Fraction(1, 7)}


def test_replicas_of_an_instance_share_its_room() -> None:
    claims = [claim(name, share=(1, 14), instance="x") for name in (A, B, C)]
    assert len(admit(claims, {"x": Fraction(1, 7)})) == 2
    assert len(admit([*claims[:2], claim(C, share=(1, 7), instance="y")], {
        "x": Fraction(1, 7), "y": Fraction(1, 7)})) == 3  # fmt: skip


def test_a_claim_on_an_instance_that_is_gone_is_void() -> None:
    gone = claim(A, share=(2, 7), instance="x")
    assert admit([gone, claim(B, 1, evidence=PODS)], {}) == (Holder(B, PODS, 1, 1),)
    (tenure,) = settle([gone], 0, 9, {"y": Fraction(1, 7)})
    assert tenure.holders == ()


def test_a_holder_of_the_card_leaves_no_room_on_its_instances() -> None:
    whole, part = claim(A), claim(B, evidence=PODS, share=(1, 7), instance="x")
    assert admit([part, whole], {"x": Fraction(1, 7)}) == (Holder(A, PROLOG, 1, 1),)


def test_tenures_are_cut_at_edges_and_joined_where_nothing_changed() -> None:
    claims = [claim(A, 10, 30), claim(B, 30, 50), claim(C, 20, 25, GUESS)]
    assert settle(claims, 0, 60) == (
        Tenure(0, 10, ()),
        Tenure(10, 30, (Holder(A, PROLOG, 1, 1),)),
        Tenure(30, 50, (Holder(B, PROLOG, 1, 1),)),
        Tenure(50, 60, ()),
    )


def test_claims_of_no_length_or_turned_round_hold_nothing() -> None:
    assert settle([claim(A, 10, 10), claim(B, 20, 5)], 0, 30) == (Tenure(0, 30, ()),)


claims_st = st.lists(
    st.builds(
        lambda w, t0, lasts, e, share: claim(
            w, t0, None if lasts is None else t0 + lasts, e, share
        ),
        st.sampled_from([A, B, C, None]),
        st.integers(-5, 30),
        st.none() | st.integers(0, 20),
        st.sampled_from([PROLOG, PODS, GUESS]),
        st.sampled_from([(1, 1), (1, 2), (1, 3), (2, 3), (1, 4), (3, 4), (1, 7)]),
    ),
    max_size=8,
)


@laws(200)
@given(claims_st, st.randoms(use_true_random=False))
def test_tenures_span_the_time_never_overbook_and_know_no_order(
    claims: list[Claim], random: Random
) -> None:
    tenures = settle(claims, 0, 40)
    assert tenures[0].t0_ns == 0
    assert tenures[-1].t1_ns == 40
    for a, b in pairwise(tenures):
        assert a.t1_ns == b.t0_ns
        assert a.holders != b.holders
    for tenure in tenures:
        shares = who(tenure.holders)
        assert sum(shares.values()) <= 1
        assert len(shares) == len(tenure.holders)
    for t in range(40):
        covered = any(c.t0_ns <= t and (c.t1_ns is None or c.t1_ns > t) for c in claims)
        assert any(x.t0_ns <= t < x.t1_ns and x.holders for x in tenures) is covered
    shuffled = list(claims)
    random.shuffle(shuffled)
    assert settle(shuffled, 0, 40) == tenures


@laws(100)
@given(claims_st, st.integers(1, 39))
def test_cutting_the_time_changes_no_holder(claims: list[Claim], cut: int) -> None:
    whole = settle(claims, 0, 40)
    pieces = settle(claims, 0, cut) + settle(claims, cut, 40)
    for t in range(40):
        (a,) = [x.holders for x in whole if x.t0_ns <= t < x.t1_ns]
        (b,) = [x.holders for x in pieces if x.t0_ns <= t < x.t1_ns]
        assert a == b


def test_an_end_nobody_saw_is_when_it_was_last_mentioned() -> None:
    known = [claim(A, 5), claim(B, 7, evidence=PODS), claim(C, 1, 9)]
    merged = merge(known, [], frozenset({PROLOG}), {PROLOG: 20, PODS: 30})
    assert set(merged) == {claim(A, 5, 20), claim(B, 7, evidence=PODS), claim(C, 1, 9)}


def test_a_claim_never_affirmed_ends_where_it_began() -> None:
    assert merge([claim(A, 5)], [], frozenset({PROLOG}), {PROLOG: 2}) == (claim(A, 5, 5),)


def test_a_report_that_is_not_whole_closes_nothing() -> None:
    assert merge([claim(A, 5)], [claim(B, 6)], frozenset(), {PROLOG: 9}) == (
        claim(A, 5),
        claim(B, 6),
    )


def test_a_claim_mentioned_again_is_open_again() -> None:
    assert merge([claim(A, 5, 20)], [claim(A, 5)], frozenset({PROLOG}), {}) == (claim(A, 5),)


@pytest.mark.parametrize("order", [1, -1])
def test_of_two_reports_of_one_claim_the_one_with_an_end_stands(order: int) -> None:
    reports = [claim(A, 5), claim(A, 5, 9), claim(A, 5, 8)][::order]
    assert merge([], reports, frozenset(), {}) == (claim(A, 5, 9),)


def test_labels_of_evidence() -> None:
    assert [e.label for e in Evidence] == [
        "prolog",
        "pod-resources",
        "job-mapping",
        "gpustat",
        "scontrol",
        "processes",
    ]


def test_a_claim_reported_with_another_beginning_is_the_one_on_record() -> None:
    """A mapping file is only found again after a restart, and a wall clock may have been set."""
    for t0 in (3, 9):
        merged = merge([claim(A, 5)], [claim(A, t0)], frozenset({PROLOG}), {PROLOG: 8})
        assert merged == (claim(A, 5),)
        ended = merge([claim(A, 5)], [claim(A, t0, 20)], frozenset({PROLOG}), {PROLOG: 8})
        assert ended == (claim(A, 5, 20),)


def test_claims_on_two_instances_are_two_claims() -> None:
    known = [claim(A, 5, instance="x"), claim(A, 6, instance="y")]
    now = [claim(A, 7, instance="x"), claim(A, 7, 9, instance="y")]
    assert merge(known, now, frozenset({PROLOG}), {}) == (
        claim(A, 5, instance="x"),
        claim(A, 6, 9, instance="y"),
    )


def test_a_second_claim_after_the_end_of_the_first_is_its_own() -> None:
    reports = [claim(A, 5, 7), claim(A, 9)]
    assert set(merge([claim(A, 5)], reports, frozenset({PROLOG}), {})) == set(reports)


def test_a_share_is_not_doubled_by_a_beginning_that_moved() -> None:
    known, again = claim(A, 1_000, share=(1, 4)), claim(A, 1_100, share=(1, 4))
    (holder,) = admit(merge([known], [again], frozenset({PROLOG}), {PROLOG: 2_000}))
    assert (holder.parts, holder.of) == (1, 4)
