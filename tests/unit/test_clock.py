"""Node time: it goes on, whatever the wall clock says; UTC follows a clock that stays."""

from __future__ import annotations

import time
from dataclasses import dataclass

import pytest

from joulebook.clock import Anchor, NodeClock

S = 10**9
DAY = 86_400 * S
NOW = 1_793_500_000 * S


@dataclass
class Machine:
    """A machine whose clocks the test sets."""

    boottime: int = 100 * S
    utc: int = NOW

    def passes(self, ns: int) -> None:
        self.boottime += ns
        self.utc += ns


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine()
    monkeypatch.setattr(time, "time_ns", lambda: machine.utc)
    monkeypatch.setattr(time, "clock_gettime_ns", lambda _: machine.boottime)
    return machine


def utc_of(clock: NodeClock) -> int:
    return clock.now_ns() + clock.utc_offset_ns()


def test_a_clock_that_is_wrong_for_a_second_dates_nothing(machine: Machine) -> None:
    clock = NodeClock(epoch="a")
    for wrong in (-NOW, -8 * 365 * DAY, 3 * DAY):
        right = utc_of(clock)
        machine.utc += wrong
        assert utc_of(clock) == right
        machine.passes(S)
        assert utc_of(clock) == right + S
        machine.utc -= wrong
        assert utc_of(clock) == right + S == machine.utc


def test_a_clock_that_was_set_is_followed_once_it_stays(machine: Machine) -> None:
    clock = NodeClock(epoch="a")
    before = clock.now_ns()
    machine.utc += 400 * DAY
    clock.utc_offset_ns()
    machine.passes(29 * S)
    assert utc_of(clock) == machine.utc - 400 * DAY
    machine.passes(S)
    assert utc_of(clock) == machine.utc
    assert clock.now_ns() == before + 30 * S
    machine.utc += 10**8  # slewed: at once
    assert utc_of(clock) == machine.utc


def test_a_boot_with_the_clock_far_ahead_does_not_leap(machine: Machine) -> None:
    kept = Anchor("a", 0, NOW, 0)
    machine.utc = NOW + 500 * DAY
    clock = NodeClock(kept, epoch="b")
    assert clock.now_ns() == NOW + 1
    machine.utc = NOW + 600 * S
    clock.utc_offset_ns()
    machine.passes(30 * S)
    assert utc_of(clock) == machine.utc
    assert NodeClock(clock.anchor(clock.now_ns()), epoch="b").now_ns() == clock.now_ns()


def test_a_boot_with_the_clock_behind_goes_on_from_what_is_on_record(machine: Machine) -> None:
    machine.utc = NOW - 400 * DAY
    clock = NodeClock(Anchor("a", 0, NOW, 5 * S), epoch="b")
    assert clock.now_ns() > NOW
    assert utc_of(clock) >= NOW + 5 * S


def test_a_machine_that_was_off_for_some_days_begins_at_utc(machine: Machine) -> None:
    machine.utc = NOW + 5 * DAY
    clock = NodeClock(Anchor("a", 0, NOW, 0), epoch="b")
    assert clock.now_ns() == machine.utc
    assert clock.utc_offset_ns() == 0


def test_a_boot_takes_as_long_as_it_took_though_the_clock_was_set_before(machine: Machine) -> None:
    # Node time began two hours ahead of UTC: a hardware clock in local time.
    kept = Anchor("a", 0, NOW + 7_200 * S, -7_200 * S)
    machine.utc = NOW + 300 * S
    clock = NodeClock(kept, epoch="b")
    assert clock.now_ns() - kept.last_ns == 300 * S
    assert utc_of(clock) == machine.utc
