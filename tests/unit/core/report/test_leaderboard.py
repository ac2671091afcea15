"""The leaderboard: the worked examples to the digit, and what holds of any front."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulebook.core.report.leaderboard import (
    ComparedMetric,
    Entrant,
    Unit,
    against_budget,
    board,
    boards,
    expected_best,
)
from joulebook.units import UJ_PER_KWH

ACCURACY = ComparedMetric("accuracy", True, Unit.PERCENT)


def entrant(name: str, value: str, kwh: int, **more: object) -> Entrant:
    return Entrant(name, Fraction(value), kwh * UJ_PER_KWH, **more)  # type: ignore[arg-type]


def worked() -> list[Entrant]:
    return [
        entrant("D", "91.0", 40, cost_nano={"USD": 8 * 10**9}),
        entrant("C", "92.5", 130, cost_nano={"USD": 26 * 10**9}),
        entrant("A", "90.0", 10, cost_nano={"USD": 2 * 10**9}),
        entrant("B", "92.0", 30, cost_nano={"USD": 6 * 10**9}),
    ]


def test_the_worked_example_to_the_digit() -> None:
    found = board("", ACCURACY, "H100", worked())
    a, b, c = found.front
    assert [step.entrant.name for step in found.front] == ["A", "B", "C"]
    assert a.uj_per_point is None and a.cost_per_point is None
    assert b.uj_per_point == 10 * UJ_PER_KWH and b.gained == 2
    assert c.uj_per_point == 200 * UJ_PER_KWH and c.gained == Fraction("0.5")
    assert b.cost_per_point == {"USD": Fraction(2 * 10**9)}
    assert c.cost_per_point == {"USD": Fraction(40 * 10**9)}
    ((d, by),) = found.dominated
    assert (d.name, by.name) == ("D", "B")


def test_a_ratio_gives_the_same_points_as_a_percentage() -> None:
    ratio = ComparedMetric("accuracy", True, Unit.RATIO)
    halved = [entrant(e.name, str(e.value / 100), e.energy_uj // UJ_PER_KWH) for e in worked()]
    steps = board("", ratio, "H100", halved).front
    assert [step.uj_per_point for step in steps] == [None, 10 * UJ_PER_KWH, 200 * UJ_PER_KWH]


def test_where_less_is_better() -> None:
    loss = ComparedMetric("loss", False)
    found = board(
        "", loss, "", [entrant("a", "3", 1), entrant("b", "2.5", 2), entrant("c", "4", 3)]
    )
    assert [step.entrant.name for step in found.front] == ["a", "b"]
    assert found.front[1].uj_per_point == 2 * UJ_PER_KWH
    assert found.dominated[0].entrant.name == "c"


@pytest.mark.parametrize(
    ("trials", "value"),
    [
        (1, "0.9100"),
        (2, "0.9225"),
        (3, "0.92875"),
        (4, "0.93234"),
    ],
)
def test_expected_best_to_the_digit(trials: int, value: str) -> None:
    values = [Fraction(v) for v in ("0.92", "0.88", "0.94", "0.90")]
    ratio = ComparedMetric("accuracy", True, Unit.RATIO)
    exact = expected_best(ratio, values, trials)
    assert f"{float(exact):.{len(value) - 2}f}" == value
    lost = expected_best(ComparedMetric("error", False), [1 - v for v in values], trials)
    assert lost == 1 - exact, "an error rate is an accuracy, turned over"


def test_expected_best_against_budget() -> None:
    runs = [entrant(str(n), v, 3 + n) for n, v in enumerate(("88", "90", "92", "94", "91"))]
    found = against_budget(ACCURACY, runs)
    assert [each.trials for each in found] == [1, 2, 4, 5]
    assert found[0].energy_uj == 5 * UJ_PER_KWH and found[-1].energy_uj == 25 * UJ_PER_KWH
    assert found[0].value == 91
    assert against_budget(ACCURACY, []) == []
    with pytest.raises(ValueError, match="at least one"):
        expected_best(ACCURACY, [], 1)


def test_gpu_models_are_never_ranked_together() -> None:
    some = [
        entrant("a", "90", 10, gpu="V100"),
        entrant("b", "80", 20, gpu="A40"),
        entrant("c", "70", 30),
    ]
    found = boards("", ACCURACY, some)
    assert [(b.gpu, len(b.front), b.dominated) for b in found] == [
        ("A40", 1, ()),
        ("V100", 1, ()),
        ("", 1, ()),
    ]


def test_equal_entrants_are_both_on_the_front() -> None:
    found = board("", ACCURACY, "", [entrant("a", "90", 1), entrant("b", "90", 1)])
    assert [step.entrant.name for step in found.front] == ["a", "b"]
    assert found.front[1].uj_per_point is None


entrants = st.lists(
    st.builds(
        lambda n, value, uj: Entrant(str(n), Fraction(value, 10), uj),
        st.integers(0, 99),
        st.integers(0, 30),
        st.integers(0, 30),
    ),
    max_size=12,
)


@given(entrants, st.booleans(), st.randoms(use_true_random=False))
def test_the_front_is_exactly_what_nothing_dominates(
    some: list[Entrant], higher: bool, random: object
) -> None:
    metric = ComparedMetric("m", higher)
    found = board("", metric, "", some)

    def beats(a: Entrant, b: Entrant) -> bool:
        as_good = not metric.better(b.value, a.value) and a.energy_uj <= b.energy_uj
        return as_good and (a.value, a.energy_uj) != (b.value, b.energy_uj)

    front = [step.entrant for step in found.front]
    assert sorted(map(str, front)) == sorted(
        str(e) for e in some if not any(beats(other, e) for other in some)
    )
    assert all(beats(by, e) and by in front for e, by in found.dominated)
    assert len(front) + len(found.dominated) == len(some)
    for a, b in pairwise(found.front):
        assert a.entrant.energy_uj <= b.entrant.energy_uj
        assert b.uj_per_point is None or b.uj_per_point > 0
    random.shuffle(some)  # type: ignore[attr-defined]
    assert board("", metric, "", some).front == found.front or len(set(map(str, some))) < len(some)
