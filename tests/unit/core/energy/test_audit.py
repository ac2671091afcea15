"""The audit of counters: a wrong rate is named within a minute, and noise is not."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest
from tests.unit.core.world import S, gpu

from joulebook.core.energy import audit
from joulebook.core.energy.audit import Audit, Load, Verdict
from joulebook.core.energy.meter import MeterState, begin, take
from joulebook.core.energy.readings import Reading

T0 = 1000 * S


class Sensor:
    """A card as its sensors show it, second by second; the truth is known beside them.

    Power is seen for 25 of every 100 ms and reported as the mean of the last second; the counter
    moves in steps. `ragged` is how much the load varies within a window (its standard deviation to
    its mean), `in_step` what the windows see of a load that keeps their time.
    """

    def __init__(self, seed: int, *, rate: float = 1.0, step_s: float = 0.1) -> None:
        self.random, self.rate, self.step_s = Random(seed), rate, step_s
        self.second, self.shown_j, self.watts = 0, 5e6, 60.0

    def look(self, watts: float, *, use: int, ragged: float = 0.0, in_step: float = 1.0) -> Reading:
        self.second += 1
        seen = watts * in_step * (1 + self.random.gauss(0, ragged) / 10**0.5)
        mean_w, self.watts = (seen + self.watts) / 2, seen
        self.shown_j += self.rate * watts
        lag_s = self.random.uniform(0, self.step_s)
        return Reading(
            gpu(),
            T0 + self.second * S,
            round((self.shown_j - self.rate * watts * lag_s) * 1e6),
            round(max(mean_w, 0) * 1000),
            busy=use > 0,
            utilization_pct=use,
            max_power_mw=1_400_000,
        )


def watched(
    sensor: Sensor, seconds: int, state: MeterState | None = None, **load: float
) -> tuple[list[Verdict], MeterState]:
    """The verdicts of so many seconds, and the meter after them."""
    verdicts: list[Verdict] = []
    for _ in range(seconds):
        reading = sensor.look(**load)  # type: ignore[arg-type]
        state = begin(reading) if state is None else take(state, reading).state
        verdicts.append(state.audit.verdict)
    assert state is not None
    return verdicts, state


@pytest.mark.parametrize("rate", [0.9, 1.1, 0.5, 1.5])
@pytest.mark.parametrize(("watts", "use"), [(300.0, 100), (60.0, 0)])
def test_a_wrong_rate_is_named_within_a_minute(rate: float, watts: float, use: int) -> None:
    for seed in range(20):
        verdicts, state = watched(Sensor(seed, rate=rate), 60, watts=watts, use=use, ragged=0.02)
        assert verdicts[-1] is Verdict.WRONG
        assert state.audit.ratio == pytest.approx(rate, rel=0.03)


def test_a_right_counter_is_sound_and_its_ratio_learnt_by_load() -> None:
    sensor = Sensor(3)
    _, state = watched(sensor, 1500, watts=60.0, use=0)
    verdicts, state = watched(sensor, 1500, state, watts=400.0, use=100, ragged=0.05)
    assert verdicts[-1] is Verdict.SOUND
    assert {load: known.windows >= 20 for load, known in state.audit.learnt.items()} == {
        Load.REST: True, Load.FULL: True,
    }  # fmt: skip
    assert all(k.ratio == pytest.approx(1, abs=0.01) for k in state.audit.learnt.values())


def test_a_bad_start_hides_nothing() -> None:
    verdicts, state = watched(Sensor(4, rate=0.9), 4000, watts=60.0, use=0)
    assert verdicts[-1] is Verdict.WRONG
    assert not state.audit.learnt


def test_a_drift_from_what_was_learnt_is_named() -> None:
    sensor = Sensor(5, rate=1.04)
    _, state = watched(sensor, 1800, watts=60.0, use=0)
    assert state.audit.verdict is Verdict.SOUND
    sensor.rate = 0.95
    verdicts, _ = watched(sensor, 120, state, watts=60.0, use=0)
    assert verdicts[-1] is Verdict.WRONG


@pytest.mark.parametrize("in_step", [0.5, 0.7, 1.3, 1.5])
def test_of_a_load_in_step_with_the_window_nothing_can_be_told(in_step: float) -> None:
    verdicts, _ = watched(Sensor(6), 300, watts=300.0, use=50, in_step=in_step)
    assert set(verdicts) == {Verdict.NONE, Verdict.CANNOT_TELL}


def test_a_counter_that_was_wrong_stays_named_until_a_load_that_can_tell() -> None:
    sensor = Sensor(7, rate=0.8)
    verdicts, state = watched(sensor, 60, watts=300.0, use=100)
    assert verdicts[-1] is Verdict.WRONG
    sensor.rate = 1.0
    verdicts, state = watched(sensor, 100, state, watts=300.0, use=50)
    assert verdicts[-1] is Verdict.WRONG
    verdicts, _ = watched(sensor, 120, state, watts=300.0, use=100)
    assert verdicts[-1] is Verdict.SOUND


def a_day(random: Random) -> Iterator[tuple[Load, float, float, int]]:
    """Stretches of a day under one load: its kind, watts, raggedness, and how many blocks."""
    left = 17_280
    while left > 0:
        load = random.choice(list(Load))
        watts = random.uniform(40, 90) if load is Load.REST else random.uniform(90, 700)
        ragged = {Load.REST: 0.03, Load.FULL: 0.3, Load.PARTIAL: 1.0}[load] * random.random()
        blocks = random.randrange(1, 400)
        left -= blocks
        yield load, watts, ragged, blocks


def alarms(days: int, seed: int) -> int:
    """How often the audit of a right counter cried wolf in so many simulated card-days.

    Under a partial load it never does (`Load.PARTIAL` is held to that above), so only those that
    can tell are played. Windows whose ratio is far within all bounds are not judged but at their
    end: their verdict is nothing that an alarm could come of.
    """
    random, found, state, lag = Random(seed), 0, Audit(), 0.0
    for _ in range(days):
        for load, watts, ragged, count in a_day(random):
            state = Audit(None, load, (), state.learnt, state.verdict)
            if load is Load.PARTIAL:
                continue
            blocks: list[tuple[int, int]] = []
            noise, full = ragged * (5 / 10) ** 0.5, audit.MOST_BLOCKS
            for _ in range(count):
                late = random.uniform(0, 0.1)
                counted = watts * (5 + lag - late) * 1e6
                drawn = watts * (5 + random.gauss(0, noise)) * 1e6
                lag = late
                blocks.append((round(counted), round(max(drawn, 1))))
                if len(blocks) < full and _within(blocks[1:], state, load):
                    continue
                after = audit._judged(Audit(None, load, tuple(blocks), state.learnt, state.verdict))
                is_new = after.verdict is Verdict.WRONG and state.verdict is not Verdict.WRONG
                found, state, blocks = found + is_new, after, list(after.blocks)
    return found


def _within(blocks: list[tuple[int, int]], state: Audit, load: Load) -> bool:
    """Whether no bound is near, so that nothing can be wrong."""
    if len(blocks) < audit.LEAST_BLOCKS:
        return True
    ratio = sum(c for c, _ in blocks) / sum(d for _, d in blocks)
    near = audit.DRIFT / 2
    known = state.learnt.get(load, audit.Learnt())
    return abs(ratio - 1) < near and abs(ratio - known.ratio) < near


def test_noise_is_no_alarm() -> None:
    assert alarms(days=40, seed=1) == 0


@pytest.mark.nightly
@pytest.mark.timeout(14_400)
@pytest.mark.parametrize("seed", range(10))
def test_less_than_one_false_alarm_in_ten_thousand_card_days(seed: int) -> None:
    assert alarms(days=1_000, seed=100 + seed) == 0


def test_what_interrupts_a_counter_interrupts_its_audit() -> None:
    sensor = Sensor(8)
    _, state = watched(sensor, 30, watts=300.0, use=100)
    assert state.audit.blocks
    down = audit.interrupted(state.audit)
    assert (down.since, down.blocks) == (None, ())
