from __future__ import annotations

from joulebook.clock import Timers


def test_things_are_due_in_the_order_of_their_times() -> None:
    now = [0.0]
    timers = Timers(lambda: now[0])
    done: list[str] = []
    assert timers.wait_s() is None
    timers.at(2.0, lambda: done.append("late"))
    timers.at(1.0, lambda: done.append("early"))
    timers.at(1.0, lambda: done.append("then"))
    assert timers.wait_s() == 1.0
    now[0] = 1.5
    for action in timers.due():
        action()
        timers.at(0.5, lambda: done.append("later"))
    assert done == ["early", "then"]
    now[0] = 9.0
    assert timers.wait_s() == 0.0
    for action in timers.due():
        action()
    assert done == ["early", "then", "late", "later", "later"]


def test_one_of_a_name_waits_once() -> None:
    now = [0.0]
    timers = Timers(lambda: now[0])
    done: list[int] = []
    for n in range(3):
        timers.once("x", 1.0, lambda n=n: done.append(n))  # type: ignore[misc]
    now[0] = 1.0
    for action in timers.due():
        action()
    timers.once("x", 0.0, lambda: done.append(9))
    for action in timers.due():
        action()
    assert done == [0, 9]
