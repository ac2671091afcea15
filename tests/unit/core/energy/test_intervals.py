"""Two readings in, energy out; or a gap, and why."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.core.audit import laws
from tests.unit.core.world import MS, S, gpu

from joulebook.core.energy.intervals import Interval, between, confirm, energy_uj, judge
from joulebook.core.energy.readings import Break, PowerSample, Reading
from joulebook.core.evidence import Gap, Method, Remainder

J = 1_000_000
T0 = 1000 * S


def reading(at_s: float, energy_j: float | None = None, **more: object) -> Reading:
    energy = None if energy_j is None else round(energy_j * J)
    return Reading(gpu(), T0 + round(at_s * S), energy, **more)  # type: ignore[arg-type]


def power(at_s: float, mw: int | None, *samples: tuple[float, int]) -> Reading:
    inside = tuple(PowerSample(T0 + round(t * S), p) for t, p in samples)
    return Reading(gpu(), T0 + round(at_s * S), power_mw=mw, samples=inside)


def broken(now: Reading, why: Break) -> Reading:
    return msgspec.structs.replace(now, breaks=why)


@pytest.mark.parametrize(
    ("before", "now", "verdict"),
    [
        (reading(0, 100), reading(1, 400), Break.NONE),
        (reading(0, 100), reading(1, 100), Break.NONE),
        (reading(0), reading(1, 5), Break.NONE),
        # 3 kW x (1 s + 0.5 s of lag) = 4.5 kJ, if the sensor knows no better
        (reading(0, 0), reading(1, 4500), Break.NONE),
        (reading(0, 0), reading(1, 4500.000001), None),
        (reading(0, 0), reading(1, 1501, max_power_mw=1_000_000), None),
        (reading(0, 100), reading(1, 99), None),
        (reading(0, 100), reading(1, 0), None),
        # proof by uptime
        (reading(0, 9e5), reading(60, 7e3, uptime_ns=30 * S), Break.RESET),
        (reading(0, 100, uptime_ns=90 * S), reading(60, 7e3, uptime_ns=30 * S), Break.RESET),
        (reading(0, 100), reading(60, 9e9, uptime_ns=30 * S), None),
        (reading(0, 100, uptime_ns=90 * S), reading(1, 400, uptime_ns=91 * S), Break.NONE),
        # began again within two seconds of the last look, and has overtaken since
        (reading(8, 486, uptime_ns=5 * S), reading(20, 1045, uptime_ns=11 * S), Break.RESET),
        # a suspend that the driver does not count is no new beginning
        (reading(8, 486, uptime_ns=60 * S), reading(50, 600, uptime_ns=62 * S), Break.NONE),
        # proof by the boot id
        (reading(0, 100, epoch="a"), reading(60, 7e3, epoch="b"), Break.REBOOT),
        (reading(0, 100, epoch="a"), reading(60, 9e9, epoch="b"), None),
        # with a clock that was behind at boot, node time has hardly gone on
        (reading(0, 9e5, epoch="a"), reading(0.1, 9e4, uptime_ns=60 * S, epoch="b"), Break.REBOOT),
        # wraps
        (reading(0, 250), reading(1, 10, wrap_uj=9000 * J), None),
        (reading(0, 8900), reading(1, 10, wrap_uj=9000 * J), Break.NONE),
        (reading(0, 8900), reading(3, 10, wrap_uj=9000 * J), Break.WRAPPED),
        (reading(0, 10), reading(3, 50, wrap_uj=9000 * J), Break.WRAPPED),
        (reading(0, 10), reading(3, 50, wrap_uj=9000 * J, max_power_mw=500_000), Break.NONE),
    ],
)
def test_what_happened_to_a_counter(before: Reading, now: Reading, verdict: Break | None) -> None:
    assert judge(before, now) == verdict


def test_overtaking_after_a_reload_is_seen_by_uptime_alone() -> None:
    before = reading(0, 100, uptime_ns=50_000 * S)
    overtook = reading(600, 150_000, uptime_ns=590 * S)
    assert judge(before, overtook) is Break.RESET
    assert between(before, broken(overtook, Break.RESET)) == (
        Gap(gpu(), T0, T0 + 10 * S, "counter_reset"),
        Interval(gpu(), T0 + 10 * S, T0 + 600 * S, 150_000 * J, Method.COUNTER),
    )


@pytest.mark.parametrize(
    ("before", "suspect", "verdict"),
    [
        (reading(0, 5e9), reading(1, 20), Break.RESET),
        (reading(0, 5e9, epoch="a"), reading(1, 20, epoch="b"), Break.REBOOT),
        (reading(0, 5e9), reading(1, 6e9), Break.IMPLAUSIBLE),
        (reading(0, 5e9), reading(1, 4e9), Break.IMPLAUSIBLE),
        (reading(0, 5e9, epoch="a"), reading(1, 6e9, epoch="b"), Break.IMPLAUSIBLE),
    ],
)
def test_what_a_jump_was_once_confirmed(before: Reading, suspect: Reading, verdict: Break) -> None:
    assert confirm(before, suspect) is verdict


def test_a_plain_difference_with_a_wrap() -> None:
    (interval,) = between(reading(0, 8900), reading(1, 10, wrap_uj=9000 * J))
    assert isinstance(interval, Interval)
    assert interval.energy_uj == 110 * J


@pytest.mark.parametrize("why", [Break.IMPLAUSIBLE, Break.WRAPPED])
def test_what_cannot_be_known_is_a_gap(why: Break) -> None:
    assert between(reading(0, 1), broken(reading(3, 9), why)) == (
        Gap(gpu(), T0, T0 + 3 * S, why.value),
    )


@pytest.mark.parametrize(
    ("outage", "remainder"), [(False, Remainder.COUNTER_RESET), (True, Remainder.DAEMON_DOWN)]
)
def test_a_reset_of_unknown_time_is_a_gap_and_nobodys_energy(
    outage: bool, remainder: Remainder
) -> None:
    now = broken(reading(3, 9, after_outage=outage), Break.RESET)
    gap, since = between(reading(0, 100), now)
    assert gap == Gap(gpu(), T0, T0 + 3 * S, "counter_reset")
    assert isinstance(since, Interval)
    assert (since.energy_uj, since.remainder) == (9 * J, remainder)


@pytest.mark.parametrize("uptime_ns", [0, 1, S, 10 * S, 10**15])
@pytest.mark.parametrize("span_ns", [1, 2, 3, S])
def test_a_reset_never_gives_a_span_turned_round(uptime_ns: int, span_ns: int) -> None:
    before = Reading(gpu(), T0, 5 * J)
    now = Reading(gpu(), T0 + span_ns, 1, uptime_ns=uptime_ns, breaks=Break.RESET)
    gap, since = between(before, now)
    assert isinstance(since, Interval)
    assert T0 == gap.t0_ns <= gap.t1_ns == since.t0_ns < since.t1_ns == T0 + span_ns


def test_trapezoids_over_power_alone() -> None:
    (interval,) = between(power(0, 100_000), power(2, 300_000))
    assert isinstance(interval, Interval)
    assert (interval.energy_uj, interval.method) == (400 * J, Method.INTEGRATED)


def test_trapezoids_over_the_drivers_samples() -> None:
    before = power(0, 777, (-0.5, 50_000), (-0.1, 100_000))
    now = power(1, 777, (0.25, 200_000), (0.75, 0), (2.5, 999_999))
    (interval,) = between(before, now)
    # (100+200)/2 x 0.25 + (200+0)/2 x 0.5 + 0 x 0.25
    assert energy_uj((interval,)) == 37.5 * J + 50 * J


def test_neighbours_agree_on_the_power_between_them() -> None:
    a, b, c = power(0, 0), power(1, 500_000, (0.5, 100_000)), power(2, 500_000, (1.5, 100_000))
    total = energy_uj(between(a, b)) + energy_uj(between(b, c))
    assert total == (25 + 50 + 50 + 50) * J


def test_a_hole_in_power_is_a_gap_and_what_is_around_it_counts() -> None:
    before = power(0, 100_000)
    now = power(10, 100_000, (1, 100_000), (2, 200_000), (7.5, 100_000), (9, 100_000))
    first, gap, second = between(before, now)
    assert isinstance(first, Interval)
    assert (first.t1_ns, first.energy_uj) == (T0 + 2 * S, 250 * J)
    assert gap == Gap(gpu(), T0 + 2 * S, T0 + 7500 * MS, "power_unknown")
    assert isinstance(second, Interval)
    assert (second.t0_ns, second.energy_uj) == (T0 + 7500 * MS, 250 * J)


def test_a_hole_without_samples_is_a_gap_alone() -> None:
    assert between(power(0, 100_000), power(5.1, 100_000)) == (
        Gap(gpu(), T0, T0 + 5100 * MS, "power_unknown"),
    )
    assert energy_uj(between(power(0, 100_000), power(5, 100_000))) == 500 * J


@pytest.mark.parametrize(("first", "last"), [(None, None), (100, None), (None, 100)])
def test_power_that_is_not_known_is_never_zero(first: int | None, last: int | None) -> None:
    assert between(power(0, first), power(1, last)) == (Gap(gpu(), T0, T0 + S, "power_unknown"),)


@laws(150)
@given(
    st.integers(0, 2**70),
    st.lists(st.integers(0, 10**10), min_size=2, max_size=12, unique=True),
)
def test_cutting_anywhere_preserves_the_total(energy: int, cuts: list[int]) -> None:
    edges = sorted(cuts)
    whole = Interval(gpu(), edges[0], edges[-1], energy, Method.COUNTER)
    pieces = [whole.cut(a, b) for a, b in pairwise(edges)]
    assert sum(piece.energy_uj for piece in pieces) == energy
    assert all(piece.energy_uj >= 0 for piece in pieces)
    again = [
        part.energy_uj
        for piece in pieces
        for middle in [(piece.t0_ns + piece.t1_ns) // 2]
        for part in (
            [piece.cut(piece.t0_ns, middle), piece.cut(middle, piece.t1_ns)]
            if piece.t0_ns < middle
            else [piece]
        )
    ]
    assert sum(again) == energy
