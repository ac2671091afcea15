"""The poller in virtual time: what it publishes when feeds do and do not answer."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from joulebook.core.money.rates import NANO, Point, Quality, RateSet
from joulebook.errors import ConfigError, FeedDenied, FeedDown, FeedError, FeedLimited
from joulebook.rates.cache import Cache
from joulebook.rates.contract import DAY_S, Plan, Quantity
from joulebook.rates.poller import FeedHealth, Poller
from joulebook.rates.sources import Feed

HOUR = 3600
T0 = 1_767_225_600  # 2026-01-01T00:00Z
DOWN = FeedDown("feed: timed out", reason="timeout")


def hourly(start: int, *values: int) -> tuple[Point, ...]:
    return tuple(
        Point(start + i * HOUR, v, "nEUR/kWh", "feed", Quality.MEASURED, start + (i + 1) * HOUR)
        for i, v in enumerate(values)
    )


class Script:
    """A source that says what it is reported to, and remembers what it was asked."""

    name = "feed"

    def __init__(self) -> None:
        self.plan = Plan(every_s=900.0)
        self.answer: tuple[Point, ...] | Exception = DOWN
        self.asked: list[tuple[int, int]] = []

    def fetch(self, t0_s: int, t1_s: int) -> tuple[Point, ...]:
        self.asked.append((t0_s, t1_s))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class World:
    """A poller over one scripted source, and the time."""

    def __init__(self, folder: Path | None = None, keep_s: int = DAY_S) -> None:
        self.now = float(T0)
        self.source = Script()
        self.feed = Feed(Quantity.PRICE, self.source, keep_s, "feed|DE")
        self.folder = folder
        self.make()

    def make(self, jitter: Callable[[float, float], float] = lambda a, b: (a + b) / 2) -> Poller:
        self.poller = Poller(
            [self.feed],
            RateSet("EUR"),
            Cache(self.folder),
            now_s=lambda: self.now,
            monotonic_s=lambda: self.now,
            jitter=jitter,
        )
        return self.poller

    def step(self, answer: tuple[Point, ...] | Exception) -> float:
        self.source.answer = answer
        return self.poller.step()

    def wait(self, answer: tuple[Point, ...] | Exception) -> float:
        self.now += self.poller.step()
        return self.step(answer)

    @property
    def health(self) -> FeedHealth:
        (row,) = self.poller.health()
        return row

    @property
    def price(self) -> Point | None:
        return self.poller.current.at(int(self.now)).price


def test_nothing_is_known_before_the_first_answer() -> None:
    world = World()
    assert world.price is None
    assert (world.health.state, world.health.up, world.health.age_s(world.now)) == (
        "new",
        False,
        None,
    )
    world.step(DOWN)
    assert world.price is None
    assert (world.health.state, world.health.errors) == ("timeout", {"timeout": 1})


def test_a_good_answer_is_published_as_a_new_set() -> None:
    world = World()
    before = world.poller.current
    wait_s = world.step(hourly(T0, 5, 6))
    assert wait_s == 900
    assert (world.price and world.price.value) == 5
    assert before.at(T0).price is None
    assert (world.health.state, world.health.up) == ("ok", True)
    same = world.poller.current
    world.now += 900
    world.step(hourly(T0, 5, 6))
    assert world.poller.current is same


def test_it_is_not_asked_more_often_than_it_wants() -> None:
    world = World()
    world.step(hourly(T0, 5))
    for _ in range(5):
        world.now += 100
        world.poller.step()
    assert len(world.source.asked) == 1


def test_a_feed_that_fell_silent_is_carried_on_marked_and_for_so_long() -> None:
    world = World(keep_s=2 * HOUR)
    world.step(hourly(T0, 5))
    world.source.answer = DOWN
    world.now = T0 + HOUR
    world.poller.step()
    stand_in = world.price
    assert stand_in == Point(
        T0 + HOUR, 5, "nEUR/kWh", "feed, last good value", Quality.ESTIMATED, T0 + 3 * HOUR
    )
    assert world.health.age_s(world.now) == HOUR
    assert not world.health.up
    world.now = T0 + 3 * HOUR
    assert world.price is None


def test_back_off_doubles_to_an_hour_and_ends_with_an_answer() -> None:
    world = World()
    waits = [world.step(DOWN)]
    for _ in range(9):
        waits.append(world.wait(DOWN))
    assert waits == [30, 60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]
    assert world.health.errors == {"timeout": 10}
    world.wait(hourly(T0, *range(24)))
    assert world.health.up
    assert world.wait(DOWN) == 30


def test_waits_differ_from_node_to_node() -> None:
    waits = set()
    for seed in (0.5, 0.9, 1.3):
        world = World()
        world.make(lambda _a, _b, seed=seed: seed)  # type: ignore[misc]
        waits.add(world.step(DOWN))
        world.now += 10_000
        waits.add(world.step(hourly(int(world.now), 1)))
    assert len(waits) == 6


def test_a_feed_says_how_long_to_wait() -> None:
    world = World()
    assert world.step(FeedLimited("slow down", retry_after_s=7200)) == 7200
    world.now += 7200
    assert world.step(FeedLimited("slow down", retry_after_s=10**8)) == 6 * HOUR
    assert world.health.errors == {"limited": 2}


@pytest.mark.parametrize("error", [FeedDenied("no key", reason="no_key"), DOWN])
def test_reasons_are_told_apart(error: FeedError) -> None:
    world = World()
    world.step(error)
    assert (world.health.state, world.health.message) == (error.reason, str(error))


def test_values_that_cannot_be_are_dropped_and_the_others_used() -> None:
    world = World()
    world.step((*hourly(T0, 5), *hourly(T0 + HOUR, 99 * NANO), *hourly(T0 + 2 * HOUR, 7)))
    assert (world.health.state, world.health.up) == ("absurd", False)
    assert world.health.errors == {"absurd": 1}
    assert world.health.message == "feed: 1 values rejected: absurd"
    world.now = T0 + HOUR
    assert world.price is not None
    assert (world.price.value, world.price.quality) == (5, Quality.ESTIMATED)


def test_nothing_but_what_cannot_be_is_a_failure() -> None:
    world = World()
    world.step(hourly(T0, 99 * NANO))
    assert world.health.errors == {"absurd": 1}
    world.now += 10_000
    world.step(())
    assert world.health.errors == {"absurd": 1, "no_data": 1}
    world.now += 10_000
    world.step(hourly(T0 * 1000, 5))  # Milliseconds.
    assert world.health.errors == {"absurd": 2, "no_data": 1}


def test_late_is_not_down() -> None:
    world = World()
    world.step(hourly(T0 - 5 * HOUR, 5, 6))
    assert world.health.state == "late"
    assert world.health.message == "feed: its newest value ended 10800 s ago"
    assert world.health.age_s(world.now) == 0
    assert world.price is not None
    assert world.price.quality is Quality.ESTIMATED


def test_later_answers_revise_earlier_ones_and_leave_what_they_do_not_say() -> None:
    world = World()
    world.step(hourly(T0, 1, 2, 3))
    world.wait((*hourly(T0 + HOUR, 20),))
    curve = world.poller.current.price
    assert [curve.at(T0 + i * HOUR).value for i in range(3)] == [1, 20, 3]  # type: ignore[union-attr]


def test_a_figure_without_end_ends_where_a_later_answer_begins() -> None:
    world = World()
    world.step((Point(0, 9, "nEUR/kWh", "constant", Quality.MEASURED),))
    world.wait(hourly(T0, 1))
    curve = world.poller.current.price
    assert [p and p.value for p in (curve.at(T0 - 1), curve.at(T0))] == [9, 1]
    assert curve.at(T0 + 3 * DAY_S) is None


def test_a_restart_goes_on_from_the_cache_and_the_age_with_it(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.step(hourly(T0, 5, 6))
    world.now += HOUR
    world.make()
    assert world.price is not None
    assert world.price.value == 6
    assert (world.health.state, world.health.age_s(world.now)) == ("new", HOUR)
    # Not at once: a whole cluster may have been switched on.
    assert world.poller.step() == 45
    world.feed = world.feed._replace(identity="feed|FR")
    world.make()
    assert world.price is None


def test_what_is_missing_since_a_long_outage_is_asked_for(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.step(hourly(T0, 5))
    world.now += 5 * DAY_S
    world.make()
    world.now += 100
    world.step(DOWN)
    assert world.source.asked[-1] == (T0 + HOUR, int(world.now))
    world.now += 60 * DAY_S
    world.step(DOWN)
    assert world.source.asked[-1][0] == int(world.now) - 14 * DAY_S


def test_old_values_are_forgotten() -> None:
    world = World()
    world.step(hourly(T0, 5))
    world.now += 41 * DAY_S
    world.step(hourly(int(world.now), 6))
    assert [p.value for p in world.poller.offers[Quantity.PRICE].points] == [6]


def test_a_fault_of_ours_is_counted_and_does_not_end_the_thread() -> None:
    world = World()
    assert world.step(KeyError("x")) == 30
    assert world.health.errors == {"fault": 1}
    assert world.wait(hourly(T0, *range(5))) > 0
    assert world.health.up


def test_a_clock_that_is_set_back_does_not_stop_it() -> None:
    world = World()
    world.step(hourly(T0, 5))
    row = world.health
    assert row.age_s(T0 - 5000) == 0


def test_a_local_source_is_asked_at_once_and_must_be_right() -> None:
    world = World()
    world.source.plan = Plan(every_s=60, local=True)
    world.source.answer = (Point(0, 5, "nEUR/kWh", "file", Quality.MEASURED),)
    world.make()
    assert world.price is not None
    assert world.source.asked == [(T0 - 40 * DAY_S, T0 + 2 * DAY_S)]
    world.now += 61
    # A person edits the file: what was right stays in force, and it is looked at again soon.
    assert world.step(DOWN) == 60
    assert world.price.value == 5
    with pytest.raises(ConfigError, match="timed out"):
        world.make()


def test_the_thread_publishes_and_ends() -> None:
    world = World()
    asked = threading.Event()
    world.source.answer = hourly(T0, 5)
    fetch = world.source.fetch

    def signalling(t0_s: int, t1_s: int) -> tuple[Point, ...]:
        asked.set()
        return fetch(t0_s, t1_s)

    world.source.fetch = signalling  # type: ignore[method-assign]
    world.make()
    assert not world.poller.alive
    world.poller.start()
    assert asked.wait(10)
    assert world.poller.alive
    world.poller.stop()
    assert not world.poller.alive
    assert world.price is not None


def test_without_sources_it_sleeps() -> None:
    poller = Poller([], RateSet("EUR"), Cache(None))
    assert poller.step() > 60
    assert poller.health() == ()
    assert poller.current == RateSet("EUR")
