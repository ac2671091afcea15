"""The audit of counters: a wrong rate is named within a minute, and noise is not."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from random import Random

import msgspec
import pytest
from tests.scale import scaled
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

    def poll(self, watts: float, *, use: int, ragged: float = 0.0, in_step: float = 1.0) -> Reading:
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
        reading = sensor.poll(**load)  # type: ignore[arg-type]
        state = begin(reading) if state is None else take(state, reading).state
        verdicts.append(state.audit.verdict)
    assert state is not None
    return verdicts, state


@pytest.mark.parametrize("rate", [0.9, 1.1, 0.5, 1.5])
def test_a_wrong_rate_is_named_within_a_minute_at_rest(rate: float) -> None:
    for seed in range(20):
        verdicts, state = watched(Sensor(seed, rate=rate), 60, watts=60.0, use=0, ragged=0.02)
        assert verdicts[-1] is Verdict.WRONG
        assert state.audit.ratio == pytest.approx(rate, rel=0.03)


@pytest.mark.parametrize("rate", [0.9, 1.1, 0.5, 1.5])
@pytest.mark.parametrize("rested_s", [0, 70])
def test_one_under_load_alone_is_named_within_a_minute(rate: float, rested_s: int) -> None:
    for seed in range(20):
        sensor, state = Sensor(seed), None
        if rested_s:
            _, state = watched(sensor, rested_s, watts=60.0, use=0)
        sensor.rate = rate
        verdicts, state = watched(sensor, 60, state, watts=300.0, use=100, ragged=0.02)
        assert verdicts[-1] is Verdict.CANNOT_TELL
        assert state.audit.in_question == pytest.approx(rate, rel=0.03)


def test_a_right_counter_is_sound_and_its_ratio_learnt_by_load() -> None:
    sensor = Sensor(3)
    _, state = watched(sensor, 1500, watts=60.0, use=0)
    verdicts, state = watched(sensor, 1500, state, watts=400.0, use=100, ragged=0.05)
    assert verdicts[-1] is Verdict.SOUND
    assert {load: known.blocks >= 220 for load, known in state.audit.learnt.items()} == {
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


@pytest.mark.parametrize("in_step", [0.5, 0.7, 0.9, 1.1, 1.3, 1.5])
@pytest.mark.parametrize("rested_s", [0, 70])
def test_nor_of_one_that_keeps_the_card_busy(in_step: float, rested_s: int) -> None:
    sensor, state = Sensor(6), None
    if rested_s:
        _, state = watched(sensor, rested_s, watts=60.0, use=0)
    verdicts, _ = watched(sensor, 300, state, watts=300.0, use=100, in_step=in_step)
    assert Verdict.WRONG not in verdicts
    assert set(verdicts[60:]) == {Verdict.CANNOT_TELL}


def test_at_rest_nothing_is_in_step() -> None:
    sensor = Sensor(6)
    _, state = watched(sensor, 70, watts=60.0, use=0)
    sensor.rate = 0.9
    verdicts, _ = watched(sensor, 120, state, watts=60.0, use=0)
    assert verdicts[60] is verdicts[-1] is Verdict.WRONG


@pytest.mark.parametrize("rate", [0.9, 1.1, 0.5, 1.5])
def test_a_rate_that_changes_under_load_is_named_within_a_minute(rate: float) -> None:
    for seconds in range(100, 160, 7):
        sensor = Sensor(seconds)
        _, state = watched(sensor, 70, watts=60.0, use=0)
        _, state = watched(sensor, seconds, state, watts=300.0, use=100, ragged=0.02)
        assert (state.audit.verdict, state.audit.proven) == (Verdict.SOUND, True)
        sensor.rate = rate
        verdicts, _ = watched(sensor, 60, state, watts=300.0, use=100, ragged=0.02)
        assert verdicts[-1] is Verdict.WRONG


def test_one_ratio_under_several_loads_is_the_counters() -> None:
    sensor = Sensor(9)
    _, state = watched(sensor, 70, watts=60.0, use=0)
    sensor.rate = 0.9
    found = []
    for watts in (300.0, 310.0, 400.0, 500.0, 200.0):
        verdicts, state = watched(sensor, 90, state, watts=watts, use=100)
        found.append(verdicts[-1])
        _, state = watched(sensor, 10, state, watts=watts / 2, use=50)
    assert found == [*[Verdict.CANNOT_TELL] * 4, Verdict.WRONG]


def test_a_counter_that_began_again_has_to_show_itself_right_again() -> None:
    _, state = watched(Sensor(6), 70, watts=60.0, use=0)
    assert audit.interrupted(state.audit, anew=False).proven
    assert not audit.interrupted(state.audit, anew=True).proven


class Pulsed:
    """A load that alternates, as a part-time sensor sees it: 25 ms of every 100, and of those the
    mean of a second; the counter counts all of it, in steps. Before `rest_s` the card is at rest.
    """

    REST_W, LOW_W, HIGH_W = 60.0, 150.0, 650.0

    def __init__(self, rest_s: int, period_s: float, duty: float, step_s: float) -> None:
        self.rest_s = rest_s
        self.period_s, self.high_s, self.step_s = period_s, duty * period_s, step_s

    def joules(self, t_s: float) -> float:
        busy_s = max(t_s - self.rest_s, 0)
        periods, rest_s = divmod(busy_s, self.period_s)
        high_s = periods * self.high_s + min(rest_s, self.high_s)
        low_j = self.REST_W * (t_s - busy_s) + self.LOW_W * busy_s
        return low_j + (self.HIGH_W - self.LOW_W) * high_s

    def poll(self, t_s: float) -> Reading:
        windows = [int(t_s * 10 - n) / 10 for n in range(1, 11)]
        seen_w = sum(self.joules(w + 0.025) - self.joules(w) for w in windows) / 0.25
        counted_j = 5e6 + self.joules(t_s // self.step_s * self.step_s)
        use = 100 if t_s > self.rest_s else 0
        return Reading(
            gpu(), T0 + round(t_s * S), round(counted_j * 1e6), round(seen_w * 1000),
            busy=use > 0, utilization_pct=use, max_power_mw=1_400_000,
        )  # fmt: skip


@pytest.mark.parametrize("period_s", [0.05, 0.1, 0.2, 0.10002, 0.1001, 0.0999, 0.101, 0.07, 0.033])
@pytest.mark.parametrize("step_s", [0.02, 0.05, 0.1])
@pytest.mark.parametrize("duty", [0.25, 0.5, 0.75])
@pytest.mark.parametrize("rest_s", [0, 80])
def test_no_load_in_step_is_taken_for_a_wrong_counter(
    period_s: float, step_s: float, duty: float, rest_s: int
) -> None:
    random, load = Random(7), Pulsed(rest_s, period_s, duty, step_s)
    state = begin(load.poll(5))
    for second in range(6, 400):
        state = take(state, load.poll(second + random.uniform(0, 0.01))).state
        assert state.audit.verdict is not Verdict.WRONG
    assert state.audit.proven is bool(rest_s)


def test_a_counter_that_was_wrong_stays_named_until_a_load_that_can_tell() -> None:
    sensor = Sensor(7, rate=0.8)
    verdicts, state = watched(sensor, 60, watts=60.0, use=0)
    assert verdicts[-1] is Verdict.WRONG
    sensor.rate = 1.0
    verdicts, state = watched(sensor, 100, state, watts=300.0, use=50)
    assert verdicts[-1] is Verdict.WRONG
    verdicts, _ = watched(sensor, 120, state, watts=300.0, use=100)
    assert verdicts[-1] is Verdict.SOUND


def a_day(random: Random) -> Iterator[tuple[Load, float, float, float, int]]:
    """Stretches of a day under one load: its kind, watts, raggedness, what the sensor sees of it,
    and how many blocks. One in ten is in step with its window.
    """
    left = 17_280
    while left > 0:
        load = random.choice(list(Load))
        watts = random.uniform(40, 90) if load is Load.REST else random.uniform(90, 700)
        ragged = {Load.REST: 0.03, Load.FULL: 0.3, Load.PARTIAL: 1.0}[load] * random.random()
        is_in_step = load is Load.FULL and random.random() < 0.1
        blocks = random.randrange(12, 400)
        left -= blocks
        yield load, watts, ragged, random.uniform(0.5, 1.5) if is_in_step else 1.0, blocks


def alarms(days: int, seed: int) -> int:
    """How often the audit of a right counter cried wolf in so many simulated card-days.

    Under a partial load it never does (`Load.PARTIAL` is held to that above), so only those that
    can tell are played. Blocks of which no bound is near are not judged: nothing can be wrong.
    Each day the driver is loaded anew.
    """
    random, found, state, lag = Random(seed), 0, Audit(), 0.0
    near, half, full = audit.DRIFT / 2, audit.LEAST_BLOCKS, audit.MOST_BLOCKS
    for _ in range(days):
        state = audit.interrupted(state, anew=True)
        for load, watts, ragged, seen, count in a_day(random):
            if load is Load.PARTIAL:
                continue
            state = msgspec.structs.replace(state, load=load, blocks=())
            blocks: deque[tuple[int, int]] = deque(maxlen=full + 1)
            ratios: deque[float] = deque(maxlen=half)
            noise, known = ragged * (5 / 10) ** 0.5, state.learnt.get(load, audit.Learnt()).ratio
            for n in range(count):
                late = random.uniform(0, 0.1)
                counted = watts * (5 + lag - late)
                drawn = max(watts * seen * (5 + random.gauss(0, noise)), 1e-3)
                lag = late
                blocks.append((round(counted * 1e6), round(drawn * 1e6)))
                ratios.append(counted / drawn)
                ratio = sum(ratios) / half
                if n < half or (n % full and abs(ratio - 1) < near and abs(ratio - known) < near):
                    continue
                before = msgspec.structs.replace(state, blocks=tuple(blocks))
                after = audit._judged(before)
                found += after.verdict is Verdict.WRONG and state.verdict is not Verdict.WRONG
                state, known = after, after.learnt.get(load, audit.Learnt()).ratio
    return found


def test_noise_is_no_alarm() -> None:
    assert alarms(days=scaled(10), seed=1) == 0


def test_narrower_bounds_would_cry_wolf(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SIGMAS": 0, "BOUND": 0.004, "DRIFT": 0.008}.items():
        monkeypatch.setattr(audit, name, value)
    assert alarms(days=4, seed=1) > 0


@pytest.mark.nightly
@pytest.mark.timeout(14_400)
@pytest.mark.parametrize("seed", range(10))
def test_less_than_one_false_alarm_in_ten_thousand_card_days(seed: int) -> None:
    assert alarms(days=1_000, seed=100 + seed) == 0


def test_what_interrupts_a_counter_interrupts_its_audit() -> None:
    sensor = Sensor(8)
    _, state = watched(sensor, 30, watts=300.0, use=100)
    assert state.audit.blocks
    down = audit.interrupted(state.audit, anew=False)
    assert (down.since, down.blocks) == (None, ())
