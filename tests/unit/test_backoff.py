from __future__ import annotations

import threading

import pytest

from joulebook.backoff import LastingThread, pause_s
from joulebook.node.health import Health


@pytest.mark.parametrize(
    ("failures", "wait_s"), [(1, 2.0), (2, 4.0), (3, 8.0), (6, 60.0), (10_000, 60.0)]
)
def test_each_failure_doubles_the_pause_up_to_a_bound(failures: int, wait_s: float) -> None:
    assert pause_s(failures, 2.0, 60.0, lambda: 0.5) == wait_s
    assert pause_s(failures, 2.0, 60.0, lambda: 0.0) == wait_s / 2
    assert wait_s / 2 <= pause_s(failures, 2.0, 60.0) < wait_s * 1.5


def test_a_thread_that_dies_is_begun_again_counted_and_seen(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(LastingThread, "deaths", {})
    monkeypatch.setattr(LastingThread, "_died", {})
    lives = iter([RecursionError("deep"), ValueError("digits"), None])
    served = threading.Event()

    def work() -> None:
        if fault := next(lives):
            raise fault
        served.set()

    health = Health([], lately_s=60, hang_s=60)
    health.ticked(True, [])
    assert health.ready() == (True, "ready")
    thread = LastingThread("slurm-ask", work, first_s=0.001)
    thread.start()
    assert served.wait(60)
    thread.join(60)
    assert not thread.is_alive()
    assert LastingThread.deaths == {"slurm-ask": 2}
    assert health.ready() == (False, "thread slurm-ask died 0 s ago")
    assert [r.getMessage() for r in caplog.records] == [
        "thread slurm-ask died: what it does is not done until it is begun again "
        "(please report this; repetitions are only counted)"
    ] * 2


def test_a_thread_that_dies_of_the_same_again_and_again_is_counted_and_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(LastingThread, "deaths", {})
    monkeypatch.setattr(LastingThread, "_died", {})
    lives = iter([ValueError("one"), ValueError("two"), ValueError("three"), None])

    def work() -> None:
        if fault := next(lives):
            raise fault

    thread = LastingThread("slurm-ask", work, first_s=0.001)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    assert LastingThread.deaths == {"slurm-ask": 3}
    assert len(caplog.records) == 1
    assert caplog.records[0].levelname == "CRITICAL"
    assert caplog.records[0].exc_info


def test_a_thread_that_rests_before_its_next_try_is_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LastingThread, "_died", {"rates": (0.0, float("inf")), "old": (0.0, 1.0)})
    assert list(LastingThread.died_within(5)) == ["rates"]
