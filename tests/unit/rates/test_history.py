"""Rates of the past are asked for over the whole stretch, not as far back as the daemon keeps."""

from __future__ import annotations

import pytest

from joulebook.config.rates import Price, PriceWindow, Rates
from joulebook.core.money.rates import Point, Quality, nano_per_kwh
from joulebook.errors import FeedDown, FeedEmpty
from joulebook.rates import build
from joulebook.rates.contract import DAY_S, Plan, Quantity
from joulebook.rates.sources import Feed

T0_S = 1_767_225_600


def test_a_tariff_of_half_a_year_ago() -> None:
    rates = Rates(
        currency="EUR",
        pue=1.0,
        price=Price(
            kind="schedule",
            timezone="Europe/Berlin",
            default=0.1,
            windows=(PriceWindow(from_="08:00", to="20:00", per_kwh=0.3),),
        ),
    )
    known = build.rates_of(rates, {}, T0_S, T0_S + 180 * DAY_S).rates
    for day in (0, 90, 179):
        noon, night = (known.at(T0_S + day * DAY_S + h * 3600).price for h in (11, 23))
        assert noon is not None and noon.value == 300_000_000
        assert night is not None and night.value == 100_000_000


class Archive:
    """A feed with a point a day, and nothing at all for the second week."""

    name = "archive"
    plan = Plan(every_s=3600)

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []

    def fetch(self, t0_s: int, t1_s: int) -> tuple[Point, ...]:
        self.asked.append((t0_s, t1_s))
        if t0_s == T0_S + 7 * DAY_S:
            raise FeedEmpty("nothing")
        unit = nano_per_kwh("EUR")
        return tuple(
            Point(t, 10**8, unit, "archive", Quality.MEASURED, t + DAY_S)
            for t in range(t0_s, t1_s, DAY_S)
        )


def test_a_feed_is_asked_week_by_week_and_holes_stay_holes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    archive = Archive()
    feed = Feed(Quantity.PRICE, archive, 0, "archive")
    monkeypatch.setattr(build, "feeds", lambda *_: [feed])
    known = build.rates_of(Rates(currency="EUR"), {}, T0_S, T0_S + 20 * DAY_S).rates
    assert archive.asked == [
        (T0_S, T0_S + 7 * DAY_S),
        (T0_S + 7 * DAY_S, T0_S + 14 * DAY_S),
        (T0_S + 14 * DAY_S, T0_S + 20 * DAY_S),
    ]
    priced = [day for day in range(20) if known.at(T0_S + day * DAY_S).price is not None]
    assert priced == [*range(7), *range(14, 20)]


def test_a_feed_that_fails_leaves_a_hole_and_the_others_their_rates(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Down(Archive):
        def fetch(self, t0_s: int, t1_s: int) -> tuple[Point, ...]:
            raise FeedDown("https://feed.example: cannot be reached", reason="down")

    down = Feed(Quantity.CARBON, Down(), 0, "carbon feed")
    good = Feed(Quantity.PRICE, Archive(), 0, "archive")
    monkeypatch.setattr(build, "feeds", lambda *_: [down, good])
    known, problems = build.rates_of(Rates(currency="EUR"), {}, T0_S, T0_S + DAY_S)
    assert problems == {
        "carbon of archive is not known for all of this time": (
            "https://feed.example: cannot be reached"
        )
    }
    assert known.at(T0_S).carbon is None
    assert known.at(T0_S).price is not None
