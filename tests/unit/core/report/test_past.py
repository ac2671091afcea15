"""Samples of another exporter become energy: resets, gaps, targets that overlap, holders."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.scale import scaled

from joulebook.core.energy.readings import Component
from joulebook.core.report.past import (
    KINDS,
    Allocation,
    Device,
    ForeignMetric,
    Jobs,
    Piece,
    Sampled,
    Track,
    chosen,
    spread,
)

COUNTER = KINDS["kepler_node_gpu_joules_total"]
GAUGE = KINDS["DCGM_FI_DEV_POWER_USAGE"]
A, B = (("instance", "a"),), (("instance", "b"),)


def at(t_s: float, value: float, target: tuple[tuple[str, str], ...] = A, pod: str = "") -> Sampled:
    return Sampled(t_s, value, target, pod)


def pieces(
    kind: ForeignMetric, samples: Sequence[Sampled], better: tuple[tuple[str, str], ...] = B
) -> tuple[Track, list[Piece]]:
    track = Track(kind)
    return track, list(track.feed(samples, frozenset({better})))


def joules(found: Sequence[Piece]) -> float:
    return sum(piece.energy_uj for piece in found) / 1e6


def test_what_was_counted_before_the_first_sample_is_nobodys() -> None:
    assert joules(pieces(COUNTER, [at(0, 1e9), at(60, 1e9 + 600)])[1]) == 600


def test_a_counter_that_fell_gives_what_it_counted_since() -> None:
    track, found = pieces(COUNTER, [at(0, 1000), at(60, 1600), at(120, 50), at(180, 650)])
    assert joules(found) == 600 + 50 + 600
    assert track.resets == 1


def test_targets_that_overlap_count_once_and_an_older_copy_is_no_reset() -> None:
    """One goes on when the other is silent, with what it last saw of the same counter."""
    first = [at(t, 10.0 * t) for t in range(0, 301, 30)]
    second = [at(t + 5, 10.0 * t - 20, B) for t in range(0, 601, 30)]
    for better in (A, B):
        track, found = pieces(COUNTER, [*first, *second], better)
        assert track.resets == 0 and len(track.targets) == 2
        assert joules(found) == pytest.approx(10 * 600 - 20, abs=1)


def test_a_gauge_is_integrated_and_leaves_a_gap() -> None:
    track, found = pieces(GAUGE, [at(0, 100), at(60, 200), at(2060, 200), at(2120, 200)])
    assert joules(found) == 150 * 60 + 200 * 60
    assert track.gap_s == 2000


def test_a_counter_bridges_a_time_without_samples_for_nobody() -> None:
    _, found = pieces(COUNTER, [at(0, 0, pod="ns/p"), at(2000, 4000, pod="ns/p")])
    assert joules(found) == 4000
    assert {(piece.holder, piece.bridged) for piece in found} == {("", True)}


def test_a_rise_that_no_device_can_consume_is_left_out() -> None:
    track, found = pieces(COUNTER, [at(0, 0), at(60, 1e12), at(120, 1e12 + 60)])
    assert joules(found) == 60
    assert (track.rejected, track.gap_s) == (1, 60)


def test_a_pod_has_what_both_ends_name_it_for() -> None:
    named = [at(0, 0), at(30, 30, pod="ns/p"), at(60, 60, pod="ns/p"), at(90, 90, pod="ns/q")]
    assert [piece.holder for piece in pieces(COUNTER, named)[1]] == ["", "ns/p", ""]


def test_a_scrape_that_names_two_pods_names_nobody() -> None:
    both = [at(t, t, pod=pod) for t in (0, 30) for pod in ("ns/p", "ns/q", "")]
    (piece,) = pieces(COUNTER, both)[1]
    assert (piece.holder, piece.energy_uj) == ("", 30_000_000)


def test_of_several_exporters_of_a_node_one_counts() -> None:
    card = Device("n1", Component.GPU, "GPU-1")
    counter, smi = (
        KINDS["DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION"],
        KINDS["nvidia_smi_power_draw_watts"],
    )
    pod = KINDS["kepler_pod_gpu_joules_total"]
    counts = chosen({card: [smi, counter, COUNTER, pod]})
    assert [counts(card, kind) for kind in (counter, smi, COUNTER, pod)] == [True] + [False] * 3
    assert chosen({card: [COUNTER, pod]})(card, pod)


def test_energy_is_a_jobs_while_it_is_alone_on_the_node() -> None:
    jobs = Jobs(
        [
            Allocation("1", frozenset({"n"}), 8, 100, 400),
            Allocation("2", frozenset({"n"}), 1, 300, 500),
        ]
    )
    cut = list(jobs.cut("n", Piece(0, 600, 600, "", bridged=False)))
    assert [(part.t0_s, part.energy_uj, job and job.job) for part, job in cut] == [
        (0, 100, None), (100, 200, "1"), (300, 100, None), (400, 100, "2"), (500, 100, None),
    ]  # fmt: skip
    assert [job for _, job in jobs.cut("other", Piece(0, 600, 600, "", bridged=False))] == [None]


@settings(max_examples=scaled(200), deadline=None)
@given(
    st.integers(0, 10_000), st.integers(1, 20_000), st.integers(0, 10**12),
    st.lists(st.tuples(st.integers(0, 30_000), st.integers(1, 5_000)), max_size=4),
)  # fmt: skip
def test_no_microjoule_is_lost(
    t0_s: int, seconds: int, energy_uj: int, jobs: list[tuple[int, int]]
) -> None:
    held = Jobs(
        Allocation(str(n), frozenset({"n"}), 1, start, start + length)
        for n, (start, length) in enumerate(jobs)
    )
    found = list(spread(t0_s, t0_s + seconds, energy_uj, "", bridged=False))
    assert sum(piece.energy_uj for piece in found) == energy_uj
    assert all(piece.t0_s // 900 == (piece.t1_s - 1e-6) // 900 for piece in found)
    for piece in found:
        parts = [part for part, _ in held.cut("n", piece)]
        assert sum(part.energy_uj for part in parts) == piece.energy_uj
        assert all(part.energy_uj >= 0 for part in parts)
