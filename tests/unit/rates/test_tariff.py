"""A weekly tariff: windows by the clock on the wall, on days of 23 and 25 hours too."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.scale import scaled
from tests.unit.core.money.test_rates import cost_nano

from joulebook.core.money.rates import PPM, RateSet, StepCurve
from joulebook.rates.tariff import Schedule, TariffWindow
from joulebook.units import UJ_PER_KWH

BERLIN = ZoneInfo("Europe/Berlin")
WORKDAYS = frozenset(range(5))
EVERY_DAY = frozenset(range(7))
HOUR = 3600

DAY_NIGHT = (TariffWindow(WORKDAYS, 8 * 60, 20 * 60, 300),)


def utc(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp())


def curve(
    windows: Sequence[TariffWindow], t0_s: int, t1_s: int, zone: ZoneInfo = BERLIN
) -> StepCurve:
    return StepCurve(Schedule(zone, 200, windows, "nEUR/kWh", "tariff").fetch(t0_s, t1_s))


def spans(windows: Sequence[TariffWindow], begin: str, end: str) -> list[tuple[str, int]]:
    """When each price begins, UTC."""
    points = curve(windows, utc(begin), utc(end)).points
    return [
        (datetime.fromtimestamp(p.start_utc_s, UTC).strftime("%m-%d %H:%M"), p.value)
        for p in points
    ]


def test_a_week_with_a_weekend() -> None:
    # A Thursday in winter to the Tuesday after it.
    assert spans(DAY_NIGHT, "2026-01-15T00:00+01:00", "2026-01-20T00:00+01:00") == [
        ("01-14 23:00", 200),
        ("01-15 07:00", 300),
        ("01-15 19:00", 200),
        ("01-16 07:00", 300),
        ("01-16 19:00", 200),
        ("01-19 07:00", 300),
        ("01-19 19:00", 200),
    ]


def test_it_is_not_known_beyond_what_was_asked_for() -> None:
    found = curve(DAY_NIGHT, 1000, 5000)
    assert (found.at(999), found.at(5000)) == (None, None)
    assert found.at(1000) is not None
    assert found.at(4999) is not None


NIGHT = (TariffWindow(EVERY_DAY, 22 * 60, 6 * 60, 100),)
SMALL_HOURS = (TariffWindow(EVERY_DAY, 2 * 60, 3 * 60, 100), TariffWindow(EVERY_DAY, 150, 210, 150))


@pytest.mark.parametrize(
    ("begin", "end", "cheap_h"),
    [
        ("2026-03-28T12:00+01:00", "2026-03-29T12:00+02:00", 7),
        ("2026-10-24T12:00+02:00", "2026-10-25T12:00+01:00", 9),
        ("2026-06-01T12:00+02:00", "2026-06-02T12:00+02:00", 8),
    ],
)
def test_a_night_over_a_change_of_clocks(begin: str, end: str, cheap_h: int) -> None:
    found = curve(NIGHT, utc(begin), utc(end))
    cheap = sum(found.at(t).value == 100 for t in range(utc(begin), utc(end), 900))  # type: ignore[union-attr]
    assert cheap == cheap_h * 4


def test_the_missing_hour_and_what_begins_in_it() -> None:
    # 02:00-03:00 does not exist; of 02:30-03:30 the second half does.
    assert spans(SMALL_HOURS, "2026-03-29T00:00+01:00", "2026-03-29T12:00+02:00") == [
        ("03-28 23:00", 200),
        ("03-29 01:00", 150),
        ("03-29 01:30", 200),
    ]


def test_the_repeated_hour_has_its_price_twice() -> None:
    later = (TariffWindow(EVERY_DAY, 150, 180, 100),)  # 02:30-03:00
    assert spans(later, "2026-10-25T00:00+02:00", "2026-10-25T12:00+01:00") == [
        ("10-24 22:00", 200),
        ("10-25 00:30", 100),
        ("10-25 01:00", 200),
        ("10-25 01:30", 100),
        ("10-25 02:00", 200),
    ]


@pytest.mark.parametrize(("day", "hours"), [("2026-03-29", 23), ("2026-10-25", 25)])
def test_days_of_23_and_25_hours_cost_what_they_last(day: str, hours: int) -> None:
    midnight = datetime.fromisoformat(day).replace(tzinfo=BERLIN)
    begin = int(midnight.timestamp())
    end = int((midnight + timedelta(days=1)).timestamp())
    assert end - begin == hours * HOUR
    rates = RateSet("EUR", price=curve((), begin, end))
    assert rates.price.steps(begin, end) == []
    now = rates.at(begin).price
    assert now is not None
    assert cost_nano(hours * UJ_PER_KWH, PPM, now.value) == hours * 200  # 1 kW throughout


def test_a_zone_that_changes_its_clocks_at_midnight_and_by_half_an_hour() -> None:
    for name, begin in (
        ("Africa/Cairo", "2026-04-23T12:00+02:00"),
        ("Australia/Lord_Howe", "2026-04-04T12:00+11:00"),
    ):
        zone = ZoneInfo(name)
        windows = (TariffWindow(EVERY_DAY, 0, 90, 100), TariffWindow(WORKDAYS, 110, 200, 50))
        check_against_the_wall(windows, utc(begin), utc(begin) + 2 * 86_400, zone)


def check_against_the_wall(
    windows: Sequence[TariffWindow], t0_s: int, t1_s: int, zone: ZoneInfo
) -> None:
    found = curve(windows, t0_s, t1_s, zone)
    for t in range(t0_s, t1_s, 300):
        wall = datetime.fromtimestamp(t, zone)
        minute = wall.hour * 60 + wall.minute
        fits = [w.nano_per_kwh for w in windows if w.holds(wall.weekday(), minute)]
        now = found.at(t)
        assert now is not None
        assert now.value == (fits[0] if fits else 200)


quarters = st.integers(0, 95).map(lambda q: q * 15)
windows_of_a_week = st.lists(
    st.builds(
        TariffWindow,
        st.frozensets(st.integers(0, 6), min_size=1),
        quarters,
        quarters,
        st.integers(-50, 500),
    ),
    max_size=4,
)


@settings(max_examples=scaled(60))
@given(windows_of_a_week, st.sampled_from(["2026-03-27", "2026-10-23", "2026-07-01"]))
def test_each_instant_has_the_price_of_the_clock_on_the_wall(
    windows: list[TariffWindow], day: str
) -> None:
    begin = utc(f"{day}T13:00:00+00:00")
    check_against_the_wall(windows, begin, begin + 3 * 86_400, BERLIN)


def test_half_a_second_before_a_change_is_at_the_old_price() -> None:
    found = RateSet(price=curve(DAY_NIGHT, 0, 86_400 * 8))
    cut = found.price.steps(4 * 86_400, 5 * 86_400)[0]
    before, after = found.price.at(cut - 1), found.price.at(cut)
    assert before is not None
    assert after is not None
    assert Fraction(before.value + after.value, 2) == 250
