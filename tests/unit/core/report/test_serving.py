"""Counters of tokens to quarter hours, and quarter hours to models."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulebook.core.report.serving import (
    FRESH_S,
    LONGEST_S,
    BookedItem,
    CounterReading,
    Increase,
    Produced,
    by_quarter,
    divided,
    increase,
    phase,
)

T = 1_793_491_200
"""A quarter hour."""
P, OUT, R = Produced.PROMPT, Produced.OUTPUT, Produced.REQUESTS


@pytest.mark.parametrize(
    ("before", "now", "looked_s", "found"),
    [
        # Between two readings.
        (CounterReading(10, T), CounterReading(25, T + 60), T, Increase(15, T, T + 60)),
        (CounterReading(10, T), CounterReading(10, T + 60), T, Increase(0, T, T + 60)),
        # The first reading: only a server that has just started is counted from its start.
        (None, CounterReading(25, T), 0, None),
        (None, CounterReading(25, T, T - FRESH_S - 1), 0, None),
        (None, CounterReading(25, T, T - 100), 0, Increase(25, T - 100, T)),
        # A model that is first used now, on a server that was read before.
        (None, CounterReading(25, T + 60), T, Increase(25, T, T + 60)),
        # A restart: it counts from 0, also where it has overtaken what it was.
        (CounterReading(90, T), CounterReading(25, T + 60), T, Increase(25, T, T + 60)),
        (CounterReading(9, T, T - 99), CounterReading(25, T + 60, T + 20), T,
         Increase(25, T + 20, T + 60)),
        (CounterReading(9, T, T - 99), CounterReading(25, T + 60, T - 98), T,
         Increase(16, T, T + 60)),
        # Nobody looked for longer than quarter hours can be told apart.
        (CounterReading(9, T), CounterReading(25, T + LONGEST_S + 1), T, None),
        # Faster than any server: nothing is known.
        (CounterReading(9, T), CounterReading(1 << 53, T + 60), T, None),
        (None, CounterReading(1 << 53, T, T - 100), 0, None),
        # A clock that went back.
        (CounterReading(9, T), CounterReading(25, T - 1), T, None),
    ],
)  # fmt: skip
def test_what_a_counter_counted(
    before: CounterReading | None, now: CounterReading, looked_s: int, found: Increase | None
) -> None:
    assert increase(before, now, looked_s) == found


@given(
    st.integers(0, 1 << 50), st.integers(T, T + 10_000), st.integers(0, LONGEST_S)
)  # fmt: skip
def test_quarter_hours_add_up_to_the_count(amount: int, from_s: int, lasted_s: int) -> None:
    found = by_quarter(Increase(amount, from_s, from_s + lasted_s))
    assert sum(found.values()) == amount
    assert all(s % 900 == 0 and s < max(from_s + lasted_s, from_s + 1) for s in found)
    assert min(found) <= from_s < min(found) + 900


def test_counts_are_spread_by_time() -> None:
    assert by_quarter(Increase(100, T + 840, T + 960)) == {T: 50, T + 900: 50}
    assert by_quarter(Increase(0, T, T + 900)) == {T: 0}


_models = st.dictionaries(
    st.sampled_from(["a", "b", "c"]),
    st.dictionaries(st.sampled_from([*Produced]), st.integers(0, 1 << 40)),
    min_size=1,
)
_items = st.dictionaries(
    st.sampled_from(["gpu", "host", "co2e"]),
    st.integers(0, 1 << 60).flatmap(
        lambda whole: st.integers(0, whole).map(lambda idle: BookedItem(whole, idle))
    ),
)


@given(_items, _models, st.integers(0, 1 << 40))
def test_models_and_idle_are_the_whole(
    booked: dict[str, BookedItem], models: dict[str, dict[Produced, int]], salt: int
) -> None:
    shares = divided(booked, models, salt)
    worked = any(any(counts.values()) for counts in models.values())
    for item, amount in booked.items():
        each = [shares[name][item] for name in models]
        assert sum(share.active + share.idle for share in each) == amount.whole
        assert sum(share.idle for share in each) == (amount.idle if worked else amount.whole)
        assert all(share.active >= 0 and share.idle >= 0 for share in each)


def test_a_server_is_shared_by_tokens_and_an_empty_one_is_idle() -> None:
    booked = {"gpu": BookedItem(1000, 100)}
    shares = divided(booked, {"a": {P: 60, OUT: 30}, "b": {OUT: 10}})
    assert (shares["a"]["gpu"], shares["b"]["gpu"]) == ((810, 90), (90, 10))
    assert divided(booked, {"a": {P: 0, OUT: 0, R: 0}})["a"]["gpu"] == (0, 1000)
    # An embedding server that counts requests only.
    assert divided(booked, {"a": {R: 3}})["a"]["gpu"] == (900, 100)


@pytest.mark.parametrize(
    ("counts", "found"),
    [
        ({P: 100, OUT: 5, R: 5}, P),  # the first token comes from the prefill
        ({P: 100, OUT: 6, R: 5}, None),
        ({P: 0, OUT: 50, R: 5}, OUT),
        ({P: 100, OUT: 50}, None),
        ({P: 100, OUT: 0}, P),
        ({OUT: 50}, None),  # whether it read prompts is not known
        ({P: 0, OUT: 0, R: 0}, None),
    ],
)
def test_a_phase_is_measured_where_a_server_does_nothing_else(
    counts: dict[Produced, int], found: Produced | None
) -> None:
    assert phase(counts) is found
