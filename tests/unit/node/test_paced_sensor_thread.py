"""Sensors with a pace of their own: looked at in time though nobody asks, and never waited for."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from tests.unit.node.stand_ins import METER, Cards, until

from joulebook.clock import NodeClock
from joulebook.errors import SensorRetry
from joulebook.node.sensor_thread import SensorThread
from joulebook.node.sensors.contract import Pace, PollResult


class PacedCards(Cards):
    """Cards with a pace; they have no statuses, like a meter of the host."""

    pace = Pace()

    def poll(self, *, processes: bool) -> PollResult:
        return PollResult(super().poll(processes=processes).readings)


@pytest.fixture
def cards() -> PacedCards:
    return PacedCards(NodeClock())


@pytest.fixture
def worker(cards: PacedCards) -> Iterator[SensorThread]:
    worker = SensorThread(cards, cards.clock, kind="power", known=set())
    worker.start()
    yield worker
    cards.hang.set()
    worker.stop()


def test_a_counter_that_wraps_soon_is_read_between_ticks(
    worker: SensorThread, cards: PacedCards
) -> None:
    cards.pace = Pace(most_s=0.02)
    worker.ask(processes=False)
    assert worker.wait(30)
    until(lambda: cards.polls >= 5)
    readings = worker.collect().readings
    assert len(readings) >= 4 and {r.meter for r in readings} == {METER}
    assert worker.health().up, "a meter of the host has no status, and is up nevertheless"


def test_without_a_pace_nobody_looks_but_the_tick(worker: SensorThread, cards: PacedCards) -> None:
    worker.ask(processes=False)
    worker.wait(30)
    time.sleep(0.1)
    assert cards.polls == 1


def test_no_tick_waits_for_a_slow_sensor_and_it_is_asked_seldom(cards: PacedCards) -> None:
    cards.pace = Pace(most_s=60, least_s=60)
    worker = SensorThread(cards, cards.clock, kind="power", known=set())
    cards.hang.clear()
    worker.start()
    try:
        for _ in range(20):
            worker.ask(processes=False)
            assert worker.wait(30), "at once"
            poll = worker.collect()
            assert poll.failures == (), "it is slow, and not yet silent"
            assert worker.stuck_s() == 0, "and does not hang"
        cards.hang.set()
        until(lambda: worker.collect().readings)
        for _ in range(20):
            worker.ask(processes=False)
        time.sleep(0.05)
        assert cards.polls == 1
    finally:
        cards.hang.set()
        worker.stop()


def test_a_slow_sensor_that_fails_is_a_gap(cards: PacedCards) -> None:
    cards.pace = Pace(least_s=0.001)
    worker = SensorThread(cards, cards.clock, kind="power", known={METER})
    cards.look_error = SensorRetry("the BMC is asleep", reason="timeout")
    worker.start()
    try:
        worker.ask(processes=False)
        until(lambda: [f.reason for f in worker.collect().failures] == ["timeout"])
        assert worker.health().errors == {"timeout": 1} and not worker.health().up
    finally:
        worker.stop()


def test_a_release_of_the_driver_passes_it_by(worker: SensorThread, cards: PacedCards) -> None:
    worker.release(True)
    worker.ask(processes=False)
    assert worker.wait(30) and worker.collect().readings
    assert not worker.is_open, "it holds no driver that somebody waits for"
