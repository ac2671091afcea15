from __future__ import annotations

from joulebook.node.workloads.host.timers import Timers


def test_things_are_due_in_the_order_of_their_times() -> None:
    now = [0.0]
    agenda = Timers(lambda: now[0])
    done: list[str] = []
    assert agenda.wait_s() is None
    agenda.at(2.0, lambda: done.append("late"))
    agenda.at(1.0, lambda: done.append("early"))
    agenda.at(1.0, lambda: done.append("then"))
    assert agenda.wait_s() == 1.0
    now[0] = 1.5
    for action in agenda.due():
        action()
        agenda.at(0.5, lambda: done.append("later"))
    assert done == ["early", "then"]
    now[0] = 9.0
    assert agenda.wait_s() == 0.0
    for action in agenda.due():
        action()
    assert done == ["early", "then", "late", "later", "later"]


def test_one_of_a_name_waits_once() -> None:
    now = [0.0]
    agenda = Timers(lambda: now[0])
    done: list[int] = []
    for n in range(3):
        agenda.once("x", 1.0, lambda n=n: done.append(n))  # type: ignore[misc]
    now[0] = 1.0
    for action in agenda.due():
        action()
    agenda.once("x", 0.0, lambda: done.append(9))
    for action in agenda.due():
        action()
    assert done == [0, 9]
