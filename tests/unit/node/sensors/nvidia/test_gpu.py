"""What one GPU says, and what is made of it."""

from __future__ import annotations

import os
import random

import pynvml
import pytest
from tests.fakes.nvml.build import Layout
from tests.fakes.nvml.scenario import Gpu, Kind, Process
from tests.unit.node.sensors.nvidia.nvml_bench import MS, SECOND, SHIFT_NS, START_NS, MakeBench

from joulebook.core.energy.intervals import Interval, between
from joulebook.core.energy.readings import Component, DeviceStatus, Meter
from joulebook.core.evidence import Method
from joulebook.node.sensors.contract import PollResult, Sensor
from joulebook.node.sensors.nvidia.processes import SmSample

ENERGY = "nvmlDeviceGetTotalEnergyConsumption"


def meter(slot: int = 0) -> Meter:
    return Meter(Component.GPU, f"GPU-00000000-0000-0000-0000-{slot:012x}")


def slots(poll: PollResult) -> list[int]:
    return [int(reading.meter.name[-12:], 16) for reading in poll.readings]


def failed(poll: PollResult) -> dict[int, str]:
    return {int(failure.meter.name[-12:], 16): failure.reason for failure in poll.failures}


# ---- what a look says ----------------------------------------------------------------------------


def test_a_look_says_all_there_is(bench: MakeBench) -> None:
    gpu = Gpu(minor=3, counter_base_mj=9_000, uptime_base_s=50, tick_period_ns=0,
              memory_used_bytes=1 << 30, temperature_c=44)  # fmt: skip
    place = bench([gpu])
    sensor: Sensor = place.sensor()
    place.scenario.set_power(0, 250_000)
    place.scenario.set_utilisation(0, gpu_pct=80, memory_pct=25, encoder_pct=1, decoder_pct=2)
    place.scenario.throttle(0, 270, True)
    place.scenario.advance(2 * SECOND)
    poll = sensor.poll(processes=False)
    (reading,), (status,) = poll.readings, poll.statuses
    assert poll.failures == ()
    assert reading.meter == meter()
    assert 0 < reading.t_ns - (place.scenario.now_ns() + SHIFT_NS) < 1000
    assert reading.energy_uj == 9_000_000 + 500_000_000
    assert reading.power_mw == 250_000
    assert reading.samples == ()
    assert (reading.epoch, reading.uptime_ns) == ("boot-1", 52 * SECOND)
    assert reading.max_power_mw == 800_000
    assert reading.busy is True
    assert reading.processes is None
    assert status == DeviceStatus(
        meter(),
        0,
        reading.t_ns,
        vendor="nvidia",
        model="NVIDIA A100-SXM4-40GB",
        driver="550.54.15",
        pci="00000000:10:00.0",
        minor=3,
        values={
            "power_watts": 250.0,
            "power_limit_watts": 400.0,
            "utilization_ratio": 0.8,
            "memory_utilization_ratio": 0.25,
            "encoder_utilization_ratio": 0.01,
            "decoder_utilization_ratio": 0.02,
            "memory_used_bytes": float(1 << 30),
            "memory_total_bytes": float(40 << 30),
            "temperature_celsius": 44.0,
            "sm_clock_hertz": 1.41e9,
            "memory_clock_hertz": 1.215e9,
        },
        throttle_ns={**dict.fromkeys(status.throttle_ns, 0), "hw_thermal": 2 * SECOND},
        last_xid=0,
    )


def test_the_reading_is_as_of_the_middle_of_the_call(bench: MakeBench) -> None:
    place = bench()
    sensor = place.sensor()
    (card,) = sensor._cards.values()
    energy = card.device._energy

    def slow() -> int:
        code = energy()
        place.scenario.advance(40 * MS)
        return code

    card.device._energy = slow
    before_ns = place.scenario.now_ns() + SHIFT_NS
    (reading,) = sensor.poll(processes=False).readings
    assert reading.t_ns - before_ns == pytest.approx(20 * MS, abs=1000)


def test_what_a_gpu_does_not_know_is_absent(bench: MakeBench) -> None:
    place = bench()
    sensor = place.sensor()
    place.scenario.set_mig_mode(0, True)
    place.scenario.inject("nvmlDeviceGetTemperature", pynvml.NVML_ERROR_NOT_SUPPORTED)
    place.scenario.inject("nvmlDeviceGetPowerUsage", pynvml.NVML_ERROR_NOT_SUPPORTED)
    place.scenario.inject("field.185", pynvml.NVML_ERROR_NOT_SUPPORTED)
    (status,) = sensor.poll(processes=True).statuses
    assert status.mig is True
    assert status.values["power_watts"] == 50.0  # the instant, where there is no mean
    assert not {"utilization_ratio", "temperature_celsius", "encoder_utilization_ratio"} & set(
        status.values
    )
    place.scenario.inject("field.186", pynvml.NVML_ERROR_NOT_SUPPORTED)
    (status,) = sensor.poll(processes=False).statuses
    assert "power_watts" not in status.values


# ---- processes -----------------------------------------------------------------------------------


def test_processes_with_their_starts_memory_and_sm_time(bench: MakeBench) -> None:
    place = bench([Gpu(), Gpu()])
    place.start_process(11, ticks=500)
    sensor = place.sensor()
    place.scenario.set_process(0, Process(pid=11, memory_bytes=1 << 30, sm_pct=75))
    place.scenario.set_process(0, Process(pid=12, kind=Kind.MPS, memory_bytes=5, sm_pct=10))
    place.scenario.set_process(0, Process(pid=13))
    place.scenario.set_utilisation(0, gpu_pct=85)
    place.scenario.advance(2 * SECOND)
    busy, idle = sensor.poll(processes=True).readings
    tick_ns = SECOND // os.sysconf("SC_CLK_TCK")
    assert busy.processes is not None
    assert {(p.pid, p.started_ns, p.memory_bytes, p.sm_time_ns) for p in busy.processes} == {
        (11, SHIFT_NS + 500 * tick_ns, 1 << 30, 1_500 * MS),
        (12, 0, 5, 200 * MS),
        (13, 0, 0, 0),
    }
    assert idle.processes == ()
    assert (busy.busy, idle.busy) == (True, False)


def test_sm_time_is_unknown_between_two_samples_of_the_driver(bench: MakeBench) -> None:
    place = bench([Gpu(process_period_ns=SECOND)])
    sensor = place.sensor()
    place.scenario.set_process(0, Process(pid=11, sm_pct=50))
    place.scenario.set_utilisation(0, gpu_pct=50)

    def sm_time() -> int | None:
        (reading,) = sensor.poll(processes=True).readings
        assert reading.processes is not None
        return reading.processes[0].sm_time_ns

    place.scenario.advance(SECOND // 2)
    assert sm_time() is None
    place.scenario.advance(SECOND)
    assert sm_time() == SECOND // 2  # all of it comes with the next sample
    place.scenario.set_process(0, Process(pid=11))
    place.scenario.set_utilisation(0)
    place.scenario.advance(SECOND)
    assert sm_time() == 0


def test_garbage_utilisation_is_refused(bench: MakeBench) -> None:
    place = bench()
    sensor = place.sensor()
    place.scenario.set_process(0, Process(pid=11, sm_pct=4_000_000))
    place.scenario.set_process(0, Process(pid=12, sm_pct=40))
    place.scenario.set_process(0, Process(pid=13, sm_pct=40, stale_us=3600 * 10**6))
    place.scenario.advance(SECOND)
    (reading,) = sensor.poll(processes=True).readings
    assert {p.pid: p.sm_time_ns for p in reading.processes or ()} == {
        11: None,
        12: 400 * MS,
        13: 0,
    }


def test_a_process_that_has_ended_keeps_what_it_used(bench: MakeBench) -> None:
    place = bench()
    sensor = place.sensor()
    place.start_process(11, ticks=500)
    place.scenario.set_process(0, Process(pid=12))
    (card,) = sensor._cards.values()
    now_us = place.scenario.wall_us(place.scenario.advance(SECOND))
    card._uses._reader.samples = lambda after_us: [  # type: ignore[method-assign]
        SmSample(11, now_us, 50),
        SmSample(99, now_us, 50),
    ]
    (reading,) = sensor.poll(processes=True).readings
    # 99 is neither on the GPU nor anywhere else: nobody could be billed for it.
    assert {p.pid: p.sm_time_ns for p in reading.processes or ()} == {11: SECOND // 2, 12: 0}


def test_a_list_stands_until_somebody_comes_or_goes(bench: MakeBench) -> None:
    place = bench()
    sensor = place.sensor()
    place.start_process(11, ticks=500)
    place.scenario.set_process(0, Process(pid=11, sm_pct=50))

    def polled() -> tuple[bool, dict[int, int | None]]:
        """Return whether the driver was asked for lists, and the busy times."""
        place.scenario.advance(600 * MS)
        place.scenario.reset_calls()
        (reading,) = sensor.poll(processes=True).readings
        lists = any("RunningProcesses" in name for name in place.scenario.calls())
        return lists, {p.pid: p.sm_time_ns for p in reading.processes or ()}

    assert polled() == (True, {11: 300 * MS})
    assert polled() == (False, {11: 300 * MS})
    place.start_process(12, ticks=600)
    place.scenario.set_process(0, Process(pid=12, sm_pct=25))
    listed, times = polled()
    assert listed, "a sample shows that there is another"
    assert times.keys() == {11, 12}
    assert not polled()[0]
    place.scenario.inject("nvmlDeviceGetProcessUtilization", pynvml.NVML_ERROR_NOT_SUPPORTED)
    assert polled() == (True, {11: None, 12: None}), "without samples nothing shows who comes"
    place.scenario.clear()
    polled()
    stat = place.proc / "12/stat"
    stat.write_text(stat.read_text().replace(" S ", " Z "))
    place.scenario.remove_process(0, 12)
    assert polled()[0], "one has ended"
    assert [polled()[0] for _ in range(6)] == [False, False, True] * 2, "every 1.8 s"


@pytest.mark.parametrize("layout", [24, 32, 40])
def test_pids_are_right_with_every_layout(bench: MakeBench, layout: Layout) -> None:
    place = bench(layout=layout)
    for pid in (101, 202, 303):
        place.scenario.set_process(0, Process(pid=pid, memory_bytes=pid))
    (reading,) = place.sensor().poll(processes=True).readings
    assert [(p.pid, p.memory_bytes) for p in reading.processes or ()] == [
        (101, 101),
        (202, 202),
        (303, 303),
    ]


def test_busy_is_what_the_engines_say_whoever_is_on_the_card(bench: MakeBench) -> None:
    place = bench()
    sensor = place.sensor()

    def busy(*, processes: bool = False) -> bool | None:
        return sensor.poll(processes=processes).readings[0].busy

    assert busy() is False
    place.scenario.set_process(0, Process(pid=11))
    assert busy(processes=True) is False  # it sleeps
    place.scenario.set_utilisation(0, gpu_pct=1)
    assert busy() is True
    place.scenario.set_utilisation(0, encoder_pct=5)
    assert busy() is True
    place.scenario.set_utilisation(0)
    place.scenario.inject("nvmlDeviceGetUtilizationRates", pynvml.NVML_ERROR_NOT_SUPPORTED)
    assert busy() is None
    place.scenario.inject("*", pynvml.NVML_ERROR_TIMEOUT, gpu=0)
    assert sensor.poll(processes=True).readings == ()


def test_a_driver_without_process_lists_is_judged_by_use(bench: MakeBench) -> None:
    place = bench()
    sensor = place.sensor()
    for name in ("Compute", "Graphics", "MPSCompute"):
        place.scenario.inject(
            f"nvmlDeviceGet{name}RunningProcesses_v3", pynvml.NVML_ERROR_NOT_SUPPORTED
        )
    (reading,) = sensor.poll(processes=True).readings
    assert (reading.processes, reading.busy) == (None, False)


def test_utilisation_that_fails_leaves_the_processes(bench: MakeBench) -> None:
    place = bench()
    sensor = place.sensor()
    place.scenario.set_process(0, Process(pid=11, sm_pct=50))
    place.scenario.advance(SECOND)
    place.scenario.inject("nvmlDeviceGetProcessUtilization", 999)
    (reading,) = sensor.poll(processes=True).readings
    assert [(p.pid, p.sm_time_ns) for p in reading.processes or ()] == [(11, None)]


# ---- GPUs without a counter ----------------------------------------------------------------------


def test_without_a_counter_there_are_samples_in_node_time(bench: MakeBench) -> None:
    place = bench([Gpu(has_energy_counter=False)])
    sensor = place.sensor()
    poll = sensor.poll(processes=False)
    assert poll.readings[0].energy_uj is None
    place.scenario.set_power(0, 250_000)
    now_ns = place.scenario.advance(SECOND)
    (reading,) = sensor.poll(processes=False).readings
    assert reading.energy_uj is None
    assert reading.power_mw == 250_000
    assert [s.t_ns for s in reading.samples] == [
        START_NS + SHIFT_NS + ms * MS for ms in range(20, 1001, 20)
    ]
    assert {s.power_mw for s in reading.samples} == {250_000}
    assert reading.t_ns >= now_ns + SHIFT_NS
    place.scenario.set_power(0, 100_000)
    place.scenario.advance(100 * MS)
    (reading,) = sensor.poll(processes=False).readings
    assert [s.power_mw for s in reading.samples] == [100_000] * 5
    assert sensor.poll_energy([meter()]) == []


@pytest.mark.parametrize("step_s", [-3600, 3600])
def test_samples_survive_a_step_of_the_wall_clock(bench: MakeBench, step_s: int) -> None:
    place = bench([Gpu(has_energy_counter=False)])
    sensor = place.sensor()
    seen: list[int] = []
    for i in range(30):
        if i == 10:
            place.scenario.step_wall_clock(step_s * SECOND)
        now_ns = place.scenario.advance(SECOND)
        (reading,) = sensor.poll(processes=False).readings
        times = [s.t_ns for s in reading.samples]
        assert all(now_ns + SHIFT_NS - SECOND < t <= reading.t_ns for t in times)
        seen += times
    assert seen == sorted(set(seen))
    assert len(seen) == 30 * 50


def test_power_alone_is_enough_and_none_at_all_is_a_failure(bench: MakeBench) -> None:
    place = bench([Gpu(has_energy_counter=False, power_is_average=False)])
    sensor = place.sensor()
    place.scenario.advance(SECOND)
    place.scenario.inject("nvmlDeviceGetSamples", pynvml.NVML_ERROR_UNKNOWN)
    place.scenario.inject("field.186", pynvml.NVML_ERROR_NOT_SUPPORTED)
    (reading,) = sensor.poll(processes=False).readings
    assert (reading.energy_uj, reading.power_mw, reading.samples) == (None, 50_000, ())
    place.scenario.inject("nvmlDeviceGetPowerUsage", pynvml.NVML_ERROR_TIMEOUT)
    poll = sensor.poll(processes=False)
    assert poll.readings == ()
    assert failed(poll) == {0: "timeout"}
    place.scenario.clear()
    (reading,) = sensor.poll(processes=False).readings
    assert len(reading.samples) == 50  # nothing of the buffer was lost meanwhile


def test_a_failing_counter_is_a_failure_and_never_another_method(bench: MakeBench) -> None:
    place = bench([Gpu(), Gpu()])
    sensor = place.sensor()
    for code, reason in (
        (pynvml.NVML_ERROR_TIMEOUT, "timeout"),
        (pynvml.NVML_ERROR_NOT_SUPPORTED, "not_supported"),
        (pynvml.NVML_ERROR_UNKNOWN, "unknown"),
    ):
        fault = place.scenario.inject(ENERGY, code, gpu=1)
        poll = sensor.poll(processes=False)
        assert slots(poll) == [0]
        assert failed(poll) == {1: reason}
        place.scenario.clear(fault)
        assert slots(sensor.poll(processes=False)) == [0, 1]
    # Nor after the driver was opened again.
    place.scenario.inject(ENERGY, pynvml.NVML_ERROR_NOT_SUPPORTED, gpu=1)
    sensor.close()
    sensor.open()
    assert failed(sensor.poll(processes=False)) == {1: "not_supported"}


def test_whether_there_is_a_counter_is_asked_until_it_is_known(bench: MakeBench) -> None:
    place = bench([Gpu(), Gpu(has_energy_counter=False)])
    fault = place.scenario.inject(ENERGY, pynvml.NVML_ERROR_TIMEOUT)
    sensor = place.sensor()
    assert failed(sensor.poll(processes=False)) == {0: "timeout", 1: "timeout"}
    place.scenario.clear(fault)
    with_counter, without = sensor.poll(processes=False).readings
    assert with_counter.energy_uj is not None
    assert without.energy_uj is None


def test_integrated_samples_are_the_true_energy(bench: MakeBench) -> None:
    """Looks at odd times, power that changes all the time: what the core makes of the samples."""
    place = bench([Gpu(has_energy_counter=False)])
    sensor = place.sensor()
    rng = random.Random(3)
    (before,) = sensor.poll(processes=False).readings
    begun_ns, energy_uj, covered_ns = place.scenario.now_ns(), 0, 0
    for _ in range(200):
        for _ in range(rng.randrange(1, 6)):
            place.scenario.set_power(0, rng.randrange(50_000, 400_000))
            place.scenario.advance(rng.randrange(10, 400) * MS)
        (now,) = sensor.poll(processes=False).readings
        (part,) = between(before, now)
        assert isinstance(part, Interval)
        assert part.method is Method.INTEGRATED
        energy_uj += part.energy_uj
        covered_ns += part.t1_ns - part.t0_ns
        before = now
    end_ns = place.scenario.now_ns()
    assert covered_ns == pytest.approx(end_ns - begun_ns, abs=10_000)
    assert energy_uj == pytest.approx(place.scenario.true_energy_uj(0, begun_ns, end_ns), rel=0.01)
