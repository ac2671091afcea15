"""A worker answers in time or says what is missing; a burst sees every counter step twice."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import pairwise

import pytest
from tests.unit.node.stand_ins import METER, OTHER, Cards, until

from joulebook.clock import NodeClock
from joulebook.errors import SensorDenied, SensorLost
from joulebook.node.health import Health
from joulebook.node.sensor_thread import THREAD_DIED, SensorThread
from joulebook.node.sensors.contract import SUSPENDED


@pytest.fixture
def cards() -> Cards:
    return Cards(NodeClock())


@pytest.fixture
def worker(cards: Cards) -> Iterator[SensorThread]:
    worker = SensorThread(cards, cards.clock, kind="counter", known=set())
    worker.start()
    yield worker
    cards.hang.set()
    worker.stop()


def poll(worker: SensorThread) -> bool:
    worker.ask(processes=False)
    return worker.wait(30)


def ended(cards: Cards) -> None:
    """Wait until nobody glances any more."""

    def still() -> bool:
        before = cards.of_burst
        time.sleep(0.1)
        return cards.of_burst == before

    until(still)


def test_a_look_gives_readings_and_statuses_once(worker: SensorThread) -> None:
    assert poll(worker)
    first, second = worker.collect(), worker.collect()
    assert [r.meter for r in first.readings] == [METER]
    assert [s.meter for s in first.statuses] == [METER]
    assert second.readings == ()
    assert worker.health().up
    assert worker.health().last_success_s == pytest.approx(time.time(), abs=5)


def test_processes_are_asked_for_when_wanted(worker: SensorThread, cards: Cards) -> None:
    worker.ask(processes=True)
    worker.wait(30)
    poll(worker)
    assert cards.asked_processes == [True, False]


def test_a_hung_call_leaves_a_failure_for_every_meter(worker: SensorThread, cards: Cards) -> None:
    cards.meters.append(OTHER)
    poll(worker)
    worker.collect()
    cards.hang.clear()
    worker.ask(processes=False)
    assert not worker.wait(0.05)
    hung = worker.collect()
    assert {(f.meter, f.reason) for f in hung.failures} == {(METER, "hung"), (OTHER, "hung")}
    assert hung.statuses == ()
    until(lambda: worker.stuck_s() > 0.04)
    assert not worker.health().up
    cards.hang.set()
    until(lambda: worker.stuck_s() == 0)
    assert {r.meter for r in worker.collect().readings} == {METER, OTHER}


def test_a_lost_device_fails_alone(worker: SensorThread, cards: Cards) -> None:
    cards.meters.append(OTHER)
    poll(worker)
    worker.collect()
    cards.lost[OTHER] = "gpu_is_lost"
    poll(worker)
    seen = worker.collect()
    assert [r.meter for r in seen.readings] == [METER]
    assert [(f.meter, f.reason) for f in seen.failures] == [(OTHER, "gpu_is_lost")]
    assert worker.health().errors == {"gpu_is_lost": 1}


def test_a_device_that_is_no_longer_listed_is_missing(worker: SensorThread, cards: Cards) -> None:
    cards.meters.append(OTHER)
    poll(worker)
    worker.collect()
    cards.meters.remove(OTHER)
    poll(worker)
    assert [(f.meter, f.reason) for f in worker.collect().failures] == [(OTHER, "missing")]


def test_a_sensor_that_cannot_be_opened_fails_for_known_meters_and_is_tried_again(
    cards: Cards, caplog: pytest.LogCaptureFixture
) -> None:
    cards.open_error = SensorDenied("no permission", reason="no_permission", remedy="Run as root.")
    worker = SensorThread(cards, cards.clock, kind="counter", known={METER})
    worker.start()
    try:
        for _ in range(3):
            poll(worker)
        assert {f.reason for f in worker.collect().failures} == {"no_permission"}
        assert worker.problem == "no permission"
        assert caplog.text.count("Run as root.") == 1, "a repeated failure is logged once"
        cards.open_error = None
        until(lambda: poll(worker) and worker.collect().readings)
        assert worker.problem == ""
    finally:
        worker.stop()


def test_a_look_that_fails_as_a_whole_reopens_the_sensor(
    worker: SensorThread, cards: Cards
) -> None:
    poll(worker)
    cards.look_error = SensorLost("driver gone", reason="uninitialized")
    poll(worker)
    assert cards.closed == 1
    assert [f.reason for f in worker.collect().failures] == ["uninitialized"]
    cards.look_error = None
    until(lambda: poll(worker) and worker.collect().readings)
    assert cards.opened == 2


def test_a_sensor_that_fails_is_opened_ever_less_often(cards: Cards) -> None:
    cards.open_error = SensorLost("no driver", reason="uninitialized")
    worker = SensorThread(cards, cards.clock, kind="counter", known=set())
    worker.start()
    for _ in range(5):
        worker.release(False)  # as the daemon says at every tick
        poll(worker)
    worker.stop()
    assert worker.health().errors == {"uninitialized": 1}, "not again within a second"


def test_released_closes_the_sensor_and_takes_it_up_again(
    worker: SensorThread, cards: Cards
) -> None:
    poll(worker)
    worker.collect()
    worker.release(True)
    poll(worker)
    assert cards.closed == 1
    assert not worker.is_open
    assert [f.reason for f in worker.collect().failures] == ["released"]
    worker.release(False)
    poll(worker)
    assert worker.collect().readings


def test_a_burst_keeps_the_readings_around_two_steps_and_then_ends(
    worker: SensorThread, cards: Cards
) -> None:
    poll(worker)
    worker.collect()
    worker.burst()
    until(lambda: cards.of_burst > 5)
    ended(cards)
    readings = worker.collect().readings
    energies = [r.energy_uj for r in readings]
    assert len(set(energies)) >= 3, "before, after one step, after two"
    assert len(readings) < cards.of_burst, "readings between steps are not kept"
    assert all(before.t_ns < after.t_ns for before, after in pairwise(readings))


def test_a_burst_on_a_counter_at_rest_ends_by_time(worker: SensorThread, cards: Cards) -> None:
    cards.watts = 0
    poll(worker)
    worker.burst()
    until(lambda: cards.of_burst)
    ended(cards)


def test_a_fault_of_a_sensor_is_a_failed_look_and_not_the_end(
    worker: SensorThread, cards: Cards, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    poll(worker)
    worker.collect()
    cards.look_error = ZeroDivisionError("a driver said 0")
    for _ in range(3):
        assert poll(worker)
    assert {f.reason for f in worker.collect().failures} == {"fault"}
    assert worker.health().errors == {"fault": 1}
    assert "ZeroDivisionError" in worker.problem
    reported = [r for r in caplog.records if r.levelname == "ERROR"]
    assert len(reported) == 1, "a repeated failure is logged once"
    assert "report it" in reported[0].getMessage()
    assert reported[0].exc_info, "with where it was raised"
    cards.look_error = None
    until(lambda: poll(worker) and worker.collect().readings)
    assert "sensor cards: it is read again" in caplog.text


def test_a_fault_in_a_burst_ends_the_burst_alone(worker: SensorThread, cards: Cards) -> None:
    poll(worker)
    cards.glance_error = ZeroDivisionError("a driver said 0")
    worker.burst()
    until(lambda: cards.of_burst)
    assert poll(worker)
    assert worker.collect().readings


def test_devices_that_fail_are_named_once_and_a_sensor_without_any_is_down(
    worker: SensorThread, cards: Cards, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    cards.meters.append(OTHER)
    poll(worker)
    cards.lost[OTHER] = "gpu_is_lost"
    poll(worker)
    assert worker.health().up, "the other one is read"
    assert worker.problem == ""
    cards.lost[METER] = "driver_not_loaded"
    for _ in range(3):
        poll(worker)
    assert not worker.health().up
    assert worker.problem == "gpu GPU-b: gpu_is_lost; gpu GPU-a: driver_not_loaded"
    cards.lost.clear()
    poll(worker)
    assert worker.health().up
    assert worker.problem == ""
    assert [record.getMessage() for record in caplog.records] == [
        "sensor cards: gpu GPU-b is not read: gpu_is_lost",
        "sensor cards: gpu GPU-a is not read: driver_not_loaded",
        "sensor cards: gpu GPU-a is read again (after 3 failures)",
        "sensor cards: gpu GPU-b is read again (after 4 failures)",
    ]


def test_a_sensor_whose_devices_sleep_is_up(worker: SensorThread, cards: Cards) -> None:
    poll(worker)
    cards.lost[METER] = SUSPENDED
    poll(worker)
    assert worker.health().up


class Fatal(BaseException):
    """What no `except Exception` stops."""


def test_a_thread_that_dies_is_started_again_counted_and_seen(cards: Cards) -> None:
    worker = SensorThread(cards, cards.clock, kind="counter", known={METER})
    health = Health([worker], lately_s=5.0, hang_s=5.0)
    worker.start()
    assert poll(worker) and worker.died_s() > 1e9
    worker.collect()
    cards.look_error = Fatal("no memory")  # type: ignore[assignment]
    worker.ask(processes=False)
    until(lambda: worker.died_s() < 1e9)
    assert [f.reason for f in worker.collect().failures] == [THREAD_DIED]
    cards.look_error = None
    until(lambda: poll(worker))
    assert [r.meter for r in worker.collect().readings][-1] == METER
    fares = worker.health()
    assert (fares.up, fares.errors[THREAD_DIED]) == (True, 1)
    health.ticked(True, [])
    ready, why = health.ready()
    assert not ready and "the thread of sensor cards died" in why
    worker.stop()


def test_how_long_a_look_took_is_told(worker: SensorThread) -> None:
    assert worker.health().took_s is None
    assert poll(worker)
    took_s = worker.health().took_s
    assert took_s is not None and 0 <= took_s < 5
