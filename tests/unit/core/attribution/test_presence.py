"""Who was on a device while nobody looked: the one who was there before and after, alone."""

from __future__ import annotations

from msgspec.structs import replace

from joulebook.core.attribution.claims import Claim, Evidence, Tenure
from joulebook.core.attribution.gpu import share_out
from joulebook.core.attribution.spans import around
from joulebook.core.energy.intervals import Interval
from joulebook.core.energy.readings import (
    Component,
    InstanceUse,
    Meter,
    ProcessSpan,
    ProcessUse,
    Reading,
)
from joulebook.core.evidence import Method, Remainder
from joulebook.core.workloads import INFRASTRUCTURE, WorkloadId

GPU = Meter(Component.GPU, "GPU-a")
ADA, BOB, RUN = (WorkloadId("process", name) for name in ("ada", "bob", "span-1"))
S = 10**9
ONE = ProcessUse(7, 1, workload=ADA)
NEXT = ProcessUse(8, 12 * S, workload=ADA)
OTHER = ProcessUse(9, 1, workload=BOB)
XORG = ProcessUse(2, 1, workload=INFRASTRUCTURE)


def between(
    before: tuple[ProcessUse, ...], after: tuple[ProcessUse, ...], *, outage: bool = True
) -> Interval:
    return Interval(
        GPU,
        10 * S,
        20 * S,
        1_000_000,
        Method.COUNTER,
        outage=outage,
        before=before,
        processes=after,
    )


def booked(interval: Interval, *later: Reading, idle_mw: int | None = None) -> dict[object, int]:
    tenure = Tenure(interval.t0_ns, interval.t1_ns, ())
    shares = share_out(interval, tenure, idle_mw, around(interval, later, ()))
    return {share.subject: share.amount.energy_uj for share in shares}


def test_one_process_at_both_ends_of_an_outage_is_as_good_as_a_claim() -> None:
    assert booked(between((ONE,), (ONE,))) == {ADA: 1_000_000}
    assert booked(between((ONE, XORG), (XORG, ONE, NEXT))) == {ADA: 1_000_000}
    idle = replace(between((ONE,), (ONE,)), idle=True)
    (share,) = share_out(idle, Tenure(10 * S, 20 * S, ()), None, around(idle, (), ()))
    assert (share.amount.idle_uj, share.amount.held_ns) == (1_000_000, 10 * S)


def test_what_an_outage_hides_is_nobodys() -> None:
    gone = replace(ONE, ended=True)
    for before, after in (
        ((ONE,), ()), ((), (ONE,)), ((ONE,), (NEXT,)), ((ONE, OTHER), (ONE,)),
        ((ONE,), (ONE, OTHER)), ((ONE, OTHER), (ONE, OTHER)), ((gone,), (ONE,)),
        ((replace(ONE, workload=None),), (replace(ONE, workload=None),)),
    ):  # fmt: skip
        assert booked(between(before, after)) == {Remainder.DAEMON_DOWN: 1_000_000}, (before, after)
    later = Reading(GPU, 21 * S, processes=(ONE,))
    assert booked(between((ONE,), ()), later) == {Remainder.DAEMON_DOWN: 1_000_000}


def test_a_claim_in_the_outage_or_a_card_that_is_cut_up_goes_by_its_own_rules() -> None:
    whole = between((ONE,), (ONE,))
    for t0, t1, decides in ((0, None, True), (12, 13, True), (0, 10, False), (20, None, False)):
        end_ns = None if t1 is None else t1 * S
        claim = Claim(BOB, GPU, t0 * S, end_ns, Evidence.PROLOG)
        assert (around(whole, (), (claim,)) is None) is decides
    cut = replace(whole, instances=(InstanceUse("MIG-a", 1, 7),))
    assert around(cut, (), ()) is None


def test_a_span_that_lasts_through_it_has_it() -> None:
    under = replace(ONE, marks=(ProcessSpan(5 * S, None, RUN), ProcessSpan(1, None, ADA)))
    assert booked(between((under,), (under,))) == {RUN: 1_000_000}
    left = replace(ONE, marks=(ProcessSpan(5 * S, 15 * S, RUN), ProcessSpan(1, None, ADA)))
    assert booked(between((left,), (left,))) == {Remainder.DAEMON_DOWN: 1_000_000}


def test_short_programs_between_two_lists_are_of_the_run_before_and_after() -> None:
    gap = between((ONE,), (), outage=False)
    later = Reading(GPU, 22 * S, processes=(NEXT,))
    assert booked(gap, later, idle_mw=20) == {ADA: 1_000_000}
    other = Reading(GPU, 22 * S, processes=(OTHER,))
    for readings in ((), (other,), (Reading(GPU, 22 * S, processes=()),)):
        assert booked(gap, *readings, idle_mw=20) == {
            Remainder.UNALLOCATED: 200_000, Remainder.UNKNOWN_HOLDER: 800_000,
        }  # fmt: skip
    idle = replace(gap, idle=True)
    assert booked(idle, later, idle_mw=20) == {Remainder.UNALLOCATED: 1_000_000}, "it did nothing"


def test_a_device_at_work_above_its_floor_works_for_somebody() -> None:
    gap = between((), (), outage=False)
    assert booked(gap, idle_mw=20) == {
        Remainder.UNALLOCATED: 200_000, Remainder.UNKNOWN_HOLDER: 800_000,
    }  # fmt: skip
    assert booked(gap, idle_mw=200) == {Remainder.UNALLOCATED: 1_000_000}
    assert booked(gap) == {Remainder.UNALLOCATED: 1_000_000}, "no floor is known"
    assert booked(between((), (XORG,), outage=False), idle_mw=20) == {
        Remainder.UNALLOCATED: 1_000_000
    }
