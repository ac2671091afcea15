"""Energy counters that lie, from the driver to the books: each joule by power instead, and once."""

from __future__ import annotations

import pytest
from tests.fakes.nvml.scenario import Gpu
from tests.unit.core.audit import Auditor
from tests.unit.core.world import Run, job_id
from tests.unit.node.sensors.nvidia.nvml_bench import SECOND, Bench, MakeBench

from joulebook.core.attribution.claims import Claim, Evidence
from joulebook.core.energy.audit import Verdict
from joulebook.core.energy.meter import MeterState
from joulebook.core.evidence import Method
from joulebook.core.ledger.advance import BookingPolicy, Tick
from joulebook.core.ledger.state import Books
from joulebook.node.health import say_audits, say_stalls
from joulebook.node.sensors.nvidia.sensor import NvmlSensor

JOB = job_id("1")


class Node:
    """A card that a job holds, and the books of it, a look each second."""

    def __init__(self, place: Bench, use: int = 100) -> None:
        self.place, self.sensor, self.run, self.audit = place, place.sensor(), Run(), Auditor()
        self.use, self.begun_ns = use, place.scenario.now_ns()
        self.log: list[Books] = []

    def watch(self, seconds: int) -> MeterState:
        for _ in range(seconds):
            self.place.scenario.set_utilisation(0, gpu_pct=self.use)
            self.place.scenario.advance(SECOND)
            readings = self.sensor.poll(processes=True).readings
            claims = tuple(Claim(JOB, r.meter, 1, None, Evidence.PROLOG) for r in readings)
            before = self.run.books
            self.run.take(
                Tick(self.place.clock.now_ns(), readings=readings, claims=claims,
                     complete=frozenset(Evidence)),
                BookingPolicy(),
            )  # fmt: skip
            self.audit(before, self.run.books, self.run.entries[-1])
            say_audits(before, self.run.books)
            say_stalls(before, self.run.books)
        return self.state

    @property
    def state(self) -> MeterState:
        (state,) = self.run.books.meters.values()
        return state

    @property
    def true_j(self) -> float:
        return self.place.scenario.true_energy_uj(
            0, self.begun_ns + SECOND, self.place.scenario.now_ns()
        ) / 1e6  # fmt: skip

    @property
    def read_j(self) -> float:
        return self.state.read_uj / 1e6

    @property
    def methods(self) -> set[Method]:
        return {key.method for key in self.run.postings if key.subject == JOB}


@pytest.mark.parametrize("watts", [12, 60, 300, 700])
@pytest.mark.parametrize("average", [True, False])
@pytest.mark.parametrize("rate", [0, 0.01])
def test_one_that_stands_still_from_the_start_is_integrated(
    bench: MakeBench, caplog: pytest.LogCaptureFixture, watts: int, average: bool, rate: float
) -> None:
    gpu = Gpu(idle_mw=watts * 1000, power_is_average=average, enforced_limit_mw=900_000)
    node = Node(bench([gpu]))
    node.place.scenario.set_counter_rate(0, rate)
    state = node.watch(59)
    assert (state.booked_uj, node.run.postings) == (0, {}), "pending, not 0 J"
    assert node.watch(3).stalled
    assert node.state.meter.name in caplog.text and "hardly advances" in caplog.text
    node.watch(60)
    assert node.methods == {Method.INTEGRATED}
    assert node.read_j == pytest.approx(node.true_j, rel=0.02)
    assert node.state.shown_audit.verdict is Verdict.WRONG


@pytest.mark.parametrize("slept", [True, False])
def test_one_that_stands_still_after_a_while_and_comes_back(
    bench: MakeBench, caplog: pytest.LogCaptureFixture, slept: bool
) -> None:
    node = Node(bench([Gpu(idle_mw=300_000)]))
    node.watch(40)
    node.place.scenario.set_counter_rate(0, 0)
    assert node.watch(70).stalled
    # It makes up for what it slept through in one step, or never does.
    node.place.scenario.set_counter_rate(0, 300 if slept else 1)
    node.place.scenario.advance(SECOND // 4)
    node.place.scenario.set_counter_rate(0, 1)
    node.watch(60)
    assert not node.state.stalled and "advances again" in caplog.text
    assert node.methods == {Method.COUNTER, Method.INTEGRATED}
    assert node.read_j == pytest.approx(node.true_j, rel=0.02)


@pytest.mark.parametrize("rate", [0.5, 0.9, 1.1])
@pytest.mark.parametrize(("watts", "use"), [(60, 0), (300, 100)])
def test_one_at_a_wrong_rate_is_named_within_a_minute_and_booked_as_it_counts(
    bench: MakeBench, caplog: pytest.LogCaptureFixture, rate: float, watts: int, use: int
) -> None:
    node = Node(bench([Gpu(idle_mw=watts * 1000)]), use)
    node.place.scenario.set_counter_rate(0, rate)
    # Under load alone it may be the load, in step with the sensor.
    verdict = Verdict.CANNOT_TELL if use else Verdict.WRONG
    assert node.watch(60).audit.verdict is verdict
    assert node.state.audit.ratio == pytest.approx(rate, rel=0.02)
    assert f"{node.state.meter.name} shows {100 * rate:.0f} %" in caplog.text.replace("89", "90")
    assert node.read_j == pytest.approx(rate * node.true_j, rel=0.02)
    assert node.methods == {Method.COUNTER}


@pytest.mark.parametrize("unit", [1e-6, 1e-3])
def test_one_in_too_large_a_unit_is_integrated(bench: MakeBench, unit: float) -> None:
    node = Node(bench([Gpu(idle_mw=300_000)]))
    node.place.scenario.set_counter_rate(0, unit)
    assert node.watch(150).stalled
    assert node.read_j == pytest.approx(node.true_j, rel=0.02)


def test_one_in_too_small_a_unit_is_a_gap_for_a_minute_and_then_integrated(
    bench: MakeBench, caplog: pytest.LogCaptureFixture
) -> None:
    """In microjoules: no card can draw so much, nor can a counter jump for a minute."""
    node = Node(bench([Gpu(idle_mw=300_000)]))
    node.place.scenario.set_counter_rate(0, 1_000)
    node.watch(30)
    assert node.read_j == 0 and not node.state.stalled
    assert node.watch(120).stalled
    lost_s = sum(node.run.books.gaps_ns.values()) / SECOND
    assert 59 < lost_s < 63
    assert node.read_j == pytest.approx(node.true_j - lost_s * 300, rel=0.02)
    assert node.methods == {Method.INTEGRATED}
    assert "far too fast" in caplog.text
    node.place.scenario.set_counter_rate(0, 1)
    assert not node.watch(20).stalled


def test_a_counter_that_is_right_is_left_alone(
    bench: MakeBench, caplog: pytest.LogCaptureFixture
) -> None:
    node = Node(bench([Gpu(idle_mw=60_000)]), 0)
    node.watch(70)
    node.use = 100
    with node.place.scenario.load(0, 300_000):
        node.watch(120)
    node.use = 0
    node.watch(70)
    assert node.state.audit.verdict is Verdict.SOUND
    assert "energy counter" not in caplog.text
    assert node.methods == {Method.COUNTER}
    assert node.read_j == pytest.approx(node.true_j, abs=400 * 0.3)


def test_nothing_of_it_asks_the_driver_more_than_once_a_poll(bench: MakeBench) -> None:
    node = Node(bench([Gpu(idle_mw=60_000)]))
    node.watch(5)
    node.place.scenario.reset_calls()
    node.watch(10)
    calls = node.place.scenario.calls()
    assert calls["nvmlDeviceGetTotalEnergyConsumption"] == 10
    assert calls["nvmlDeviceGetFieldValues"] <= 10 + 10 // 5 + 1
    assert isinstance(node.sensor, NvmlSensor)
