"""Marks cut intervals: nothing is lost, and each process consumes for the innermost mark in
force.
"""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from joulebook.core.attribution.claims import Tenure
from joulebook.core.attribution.gpu import share_out
from joulebook.core.attribution.spans import edges, pieces
from joulebook.core.energy.intervals import Interval
from joulebook.core.energy.readings import Component, Meter, ProcessSpan, ProcessUse, Reading
from joulebook.core.evidence import Method, Remainder
from joulebook.core.workloads import WorkloadId

GPU = Meter(Component.GPU, "GPU-a")
HOME, OUTER, INNER = (WorkloadId("process", name) for name in ("home", "outer", "inner"))


def interval(*processes: ProcessUse, t0_ns: int = 0, t1_ns: int = 100, uj: int = 1000) -> Interval:
    return Interval(GPU, t0_ns, t1_ns, uj, Method.COUNTER, processes=processes)


def booked(whole: Interval) -> dict[object, int]:
    sums: dict[object, int] = {}
    for piece in pieces(whole):
        tenure = Tenure(piece.t0_ns, piece.t1_ns, ())
        for share in share_out(piece, tenure, None):
            sums[share.subject] = sums.get(share.subject, 0) + share.amount.energy_uj
    return sums


def test_an_interval_without_marks_is_left_as_it_is() -> None:
    whole = interval(ProcessUse(7, -1, workload=HOME))
    assert list(pieces(whole)) == [whole]


def test_a_nested_mark_takes_its_time_and_gives_it_back() -> None:
    marks = (ProcessSpan(30, 50, INNER), ProcessSpan(10, None, OUTER))
    assert booked(interval(ProcessUse(7, -(10**9), workload=HOME, marks=marks))) == {
        HOME: 100,
        OUTER: 700,
        INNER: 200,
    }


def test_the_nearest_process_wins_over_the_later_mark() -> None:
    marks = (
        ProcessSpan(10, None, INNER),
        ProcessSpan(40, None, OUTER),
    )  # its own first, then its parent's
    assert booked(interval(ProcessUse(7, -(10**9), marks=marks, workload=HOME)))[INNER] == 900


def test_a_process_that_is_gone_counts_until_its_mark_was_left() -> None:
    gone = ProcessUse(7, -(10**9), ended=True, marks=(ProcessSpan(-50, 60, OUTER),))
    assert booked(interval(gone)) == {OUTER: 600, Remainder.UNALLOCATED: 400}


def test_a_process_born_under_its_mark_burns_nothing_before_it() -> None:
    # Its start is reported floored to 10 ms, and so seems to lie before the mark.
    ms = 10**6
    born = ProcessUse(7, 40 * ms, workload=HOME, marks=(ProcessSpan(45 * ms, None, OUTER),))
    whole = interval(born, t1_ns=100 * ms, uj=100)
    assert booked(whole) == {Remainder.UNALLOCATED: 45, OUTER: 55}


def test_what_was_started_under_a_mark_leaves_nothing_behind_it() -> None:
    """A driver lists a process for a moment after its end; `joulebook mark` ends with it."""
    s, ms = 10**9, 10**6

    def after(seen_ms: int, started_ns: int) -> dict[object, int]:
        listed = ProcessUse(7, started_ns, workload=HOME, marks=(ProcessSpan(-s, 60 * ms, OUTER),))
        return booked(interval(listed, t1_ns=seen_ms * ms, uj=seen_ms))

    assert after(80, -s) == {OUTER: 80}
    assert after(200, -s) == {OUTER: 60, HOME: 140}, "it goes on after the mark"
    assert after(80, -2 * s) == {OUTER: 60, HOME: 20}, "it was there before the mark"


def test_of_two_on_a_card_only_the_marked_one_changes_its_owner() -> None:
    marked = ProcessUse(7, -(10**9), 30, workload=HOME, marks=(ProcessSpan(0, None, OUTER),))
    other = ProcessUse(8, -(10**9), 10, workload=INNER)
    assert booked(interval(marked, other)) == {OUTER: 750, INNER: 250}


def test_edges_are_those_of_all_processes() -> None:
    process = ProcessUse(7, 1, marks=(ProcessSpan(3, 5, INNER), ProcessSpan(2, None, OUTER)))
    assert edges([Reading(GPU, 9, processes=(process,)), Reading(GPU, 10)]) == [3, 5, 2]


spans = st.lists(
    st.builds(
        lambda t0, lasts, who: ProcessSpan(t0, None if lasts is None else t0 + lasts, who),
        st.integers(-50, 150),
        st.none() | st.integers(0, 80),
        st.sampled_from([OUTER, INNER]),
    ),
    max_size=4,
).map(tuple)
processes = st.lists(
    st.builds(
        ProcessUse,
        st.integers(1, 9),
        st.integers(-(10**9), 90),
        st.none() | st.integers(0, 9),
        workload=st.sampled_from([None, HOME]),
        ended=st.booleans(),
        marks=spans,
    ),
    max_size=4,
)


@given(processes, st.integers(0, 10**9))
def test_whatever_the_marks_the_energy_is_that_of_the_interval(
    some: list[ProcessUse], uj: int
) -> None:
    whole = interval(*some, uj=uj)
    cut = list(pieces(whole))
    assert sum(piece.energy_uj for piece in cut) == uj
    assert cut[0].t0_ns == 0 and cut[-1].t1_ns == 100
    assert all(a.t1_ns == b.t0_ns for a, b in pairwise(cut))
    assert sum(booked(whole).values()) == uj


def test_what_is_born_under_a_mark_leaves_nothing_to_the_run_around_it() -> None:
    marks = (ProcessSpan(5_000_000, None, INNER), ProcessSpan(0, None, HOME))
    born = ProcessUse(7, 0, workload=HOME, marks=marks)
    whole = interval(born, t0_ns=0, t1_ns=100_000_000, uj=100)
    assert booked(whole) == {INNER: 95, Remainder.UNALLOCATED: 5}
    older = ProcessUse(
        7, -(10**9), workload=HOME, marks=(marks[0], ProcessSpan(-(10**9), None, HOME))
    )
    assert booked(interval(older, t1_ns=100_000_000, uj=100)) == {HOME: 5, INNER: 95}
