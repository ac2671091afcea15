"""Starts of jobs on real prices and intensities."""

from __future__ import annotations

import random
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.scale import scaled
from tests.unit.lab.advice.curves import curve

from joulebook.lab.advice.start import (
    HISTORY_H,
    KnownUntil,
    StartPlanner,
    all_ahead,
    day_ahead,
    nothing_ahead,
    share_of_foresight,
)

AHEAD = {"BE": day_ahead, "DE": nothing_ahead, "GB": nothing_ahead}


@pytest.mark.parametrize(("zone", "least"), [("BE", 0.8), ("DE", 0.65), ("GB", 0.65)])
def test_what_is_known_at_the_time_saves_most_of_what_foresight_does(
    zone: str, least: float
) -> None:
    values = curve(zone)
    planner = StartPlanner(values, AHEAD[zone])
    # Each hour of the week comes equally often.
    arrivals = range(min(values) + HISTORY_H, max(values) - 24, 31)
    choices = [planner.choice(arrival, 4, 24) for arrival in arrivals]
    found = [each for each in choices if each is not None]
    assert len(found) > 250
    assert least <= share_of_foresight(found) <= 1
    if zone == "BE":
        assert min(each.chosen for each in found) < 0  # a negative price is used


def test_day_ahead_prices_are_known_from_their_publication_on() -> None:
    def known(year: int, month: int, day: int, at: int) -> datetime:
        hour = int(datetime(year, month, day, at, tzinfo=UTC).timestamp()) // 3600
        return datetime.fromtimestamp(day_ahead(hour) * 3600, UTC)

    assert known(2023, 1, 10, 11) == datetime(2023, 1, 10, 23, tzinfo=UTC)
    assert known(2023, 1, 10, 12) == datetime(2023, 1, 11, 23, tzinfo=UTC)
    assert known(2023, 7, 10, 11) == datetime(2023, 7, 11, 22, tzinfo=UTC)
    # The day of the change to summer time has 23 hours.
    assert known(2023, 3, 25, 23) == datetime(2023, 3, 26, 22, tzinfo=UTC)


CURVE = curve("BE")
FIRST = min(CURVE)


@settings(max_examples=scaled(60))
@given(
    st.sampled_from([day_ahead, nothing_ahead]),
    st.integers(0, len(CURVE) - 200),
    st.integers(1, 12),
    st.integers(12, 48),
    st.integers(0, 2**32),
)
def test_the_future_changes_no_decision(
    known_until: KnownUntil, at: int, length: int, window: int, seed: int
) -> None:
    arrival = FIRST + at
    planned = StartPlanner(CURVE, known_until).start(arrival, length, window)
    assert arrival <= planned <= arrival + window - length
    seen = known_until(planned)
    chance = random.Random(seed)
    other = {hour: value for hour, value in CURVE.items() if hour < seen}
    for hour in range(seen, seen + 200):
        if chance.random() < 0.9:
            other[hour] = chance.uniform(-500, 900)
    assert StartPlanner(other, known_until).start(arrival, length, window) == planned


def test_a_tariff_is_known_and_holes_are_not_zero() -> None:
    day = [30.0] * 6 + [10.0] * 4 + [30.0] * 14
    values = {n: day[n % 24] for n in range(24 * 40)}
    tariff = StartPlanner(values, all_ahead)
    assert tariff.start(24 * 30 + 1, 4, 24) == 24 * 30 + 6
    # A hole is filled with what is usual, so it draws no job.
    holed = {hour: value for hour, value in values.items() if hour not in range(733, 735)}
    assert StartPlanner(holed, all_ahead).start(24 * 30 + 1, 4, 24) == 24 * 30 + 6
    assert StartPlanner(holed, all_ahead).choice(24 * 30 + 1, 4, 24) is None
    assert StartPlanner({}, nothing_ahead).start(5, 2, 24) == 5  # nothing is known: at once
