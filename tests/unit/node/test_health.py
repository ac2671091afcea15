"""A call that hangs is said after `hang_s`, be that less or more than what `lately` means."""

from __future__ import annotations

import time

import pytest
from tests.unit.node.stand_ins import Cards, until

from joulebook.clock import NodeClock
from joulebook.node.health import Health
from joulebook.node.sensor_thread import SensorThread


@pytest.mark.parametrize("lately_s", [0.05, 60.0])
def test_hang_s_alone_decides(lately_s: float, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    cards = Cards(NodeClock())
    worker = SensorThread(cards, cards.clock, kind="counter", known=set())
    health = Health([worker], lately_s=lately_s, hang_s=0.3)
    worker.start()
    try:
        cards.hang.clear()
        worker.ask(processes=False)
        until(lambda: worker.stuck_s() > 0.1)
        health.ticked(True, [])
        ready, said = health.ready()
        assert "hangs" not in said or worker.stuck_s() > 0.3
        until(lambda: worker.stuck_s() > 0.31)
        health.ticked(True, [])
        ready, said = health.ready()
        assert (ready, said) == (False, "sensor cards has been hanging in a call for 0 s")
        cards.hang.set()
        until(lambda: worker.stuck_s() == 0)
        health.ticked(True, [])
        assert health.ready() == (True, "ready")
        assert [record.getMessage() for record in caplog.records] == [
            "sensor cards hangs in a call: its meters have gaps until it returns",
            "sensor cards responds again",
        ]
    finally:
        cards.hang.set()
        worker.stop()


def test_what_is_older_than_lately_is_not_ready() -> None:
    health = Health([], lately_s=0.02, hang_s=60)
    health.ticked(True, [])
    assert health.ready()[0]
    time.sleep(0.03)
    assert "no tick for" in health.ready()[1]


def test_a_silence_without_a_reason_names_none() -> None:
    health = Health([], lately_s=60, hang_s=60)
    health.ticked(False, [""])
    assert health.ready() == (False, "no sensor was read for 0 s")
    health.ticked(False, ["", "driver gone"])
    assert health.ready() == (False, "no sensor was read for 0 s: driver gone")
