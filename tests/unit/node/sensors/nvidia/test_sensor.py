"""The NVML sensor: the real binding over the fake driver, most of it in virtual time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import threading
import time
from itertools import pairwise
from pathlib import Path

import pynvml
import pytest
from tests.fakes.nvml.build import build
from tests.fakes.nvml.scenario import Gpu, Process, Scenario
from tests.unit.node.sensors.nvidia.nvml_bench import SECOND, SHIFT_NS, Bench, MakeBench

from joulebook.core.energy.readings import Component, Meter
from joulebook.errors import SensorLost, SensorMissing
from joulebook.node.sensors.contract import PollResult
from joulebook.node.sensors.nvidia.sensor import REOPEN_FIRST_NS, REOPEN_MOST_NS, NvmlSensor

LOST = pynvml.NVML_ERROR_GPU_IS_LOST
ENERGY = "nvmlDeviceGetTotalEnergyConsumption"
INIT = "nvmlInitWithFlags"


def meter(slot: int = 0) -> Meter:
    return Meter(Component.GPU, f"GPU-00000000-0000-0000-0000-{slot:012x}")


def slots(poll: PollResult) -> list[int]:
    return [int(reading.meter.name[-12:], 16) for reading in poll.readings]


def failed(poll: PollResult) -> dict[int, str]:
    return {int(failure.meter.name[-12:], 16): failure.reason for failure in poll.failures}


# ---- looks and glances ---------------------------------------------------------------------------


def test_one_init_and_one_call_for_the_fields_of_each_gpu(bench: MakeBench) -> None:
    place = bench([Gpu()] * 4)
    sensor = NvmlSensor(place.clock)
    sensor.open()
    for _ in range(10):
        sensor.poll(processes=False)
    calls = place.scenario.calls()
    assert calls[INIT] == 1
    assert calls["nvmlDeviceGetFieldValues"] == 10 * 4
    assert calls[ENERGY] == (10 + 1) * 4  # one at the start tells whether there is a counter
    assert calls["nvmlDeviceGetUUID"] == calls["nvmlDeviceGetName"] == 4
    assert not [name for name in calls if "Process" in name]
    assert "nvmlDeviceGetPowerUsage" not in calls


def test_a_glance_is_one_call_for_each_gpu_that_has_a_counter(bench: MakeBench) -> None:
    place = bench([Gpu(tick_period_ns=0), Gpu(has_energy_counter=False), Gpu(), Gpu()])
    sensor = place.sensor()
    place.scenario.inject(ENERGY, pynvml.NVML_ERROR_TIMEOUT, gpu=3)
    unknown = Meter(Component.GPU, "GPU-elsewhere")
    readings = sensor.poll_energy([meter(0), meter(1), meter(2), meter(3), unknown])
    assert [reading.meter for reading in readings] == [meter(0), meter(2)]
    assert place.scenario.calls() == {ENERGY: 3}
    assert readings[0].energy_uj == place.scenario.counter_mj(0) * 1000
    assert (readings[0].epoch, readings[0].busy, readings[0].processes) == ("boot-1", None, None)


# ---- what goes wrong -----------------------------------------------------------------------------


def test_a_lost_gpu_fails_and_the_others_go_on(bench: MakeBench) -> None:
    place = bench([Gpu(), Gpu(), Gpu()])
    sensor = place.sensor()
    place.scenario.inject("*", LOST, gpu=1)
    for _ in range(5):
        poll = sensor.poll(processes=True)
        assert slots(poll) == [0, 2]
        assert failed(poll) == {1: "gpu_is_lost"}
        assert [s.meter for s in poll.statuses if s.values] == [meter(0), meter(2)]
        place.scenario.advance(SECOND)


def test_a_lost_gpu_is_sought_again_ever_less_often(bench: MakeBench) -> None:
    place = bench([Gpu(), Gpu()])
    sensor = place.sensor()
    fault = place.scenario.inject("*", LOST, gpu=1)
    opened_at: list[int] = []
    for second in range(7200):
        place.scenario.advance(SECOND)
        before = place.scenario.calls().get(INIT, 0)
        assert slots(sensor.poll(processes=False)) == [0]
        if place.scenario.calls().get(INIT, 0) > before:
            opened_at.append(second)
    gaps = [b - a for a, b in pairwise(opened_at)]
    assert gaps[:3] == [REOPEN_FIRST_NS // SECOND * factor for factor in (1, 2, 4)]
    assert max(gaps) <= REOPEN_MOST_NS // SECOND
    assert len(opened_at) < 12
    place.scenario.clear(fault)
    place.scenario.advance(REOPEN_MOST_NS)
    sensor.poll(processes=False)
    poll = sensor.poll(processes=False)
    assert slots(poll) == [0, 1]
    assert poll.failures == ()
    # Once all is well again for a while, the next loss is acted on at once.
    place.scenario.advance(2 * REOPEN_MOST_NS)
    sensor.poll(processes=False)
    place.scenario.reset_calls()
    place.scenario.inject("*", LOST, gpu=1, count=1)
    sensor.poll(processes=False)
    assert slots(sensor.poll(processes=False)) == [0, 1]
    assert place.scenario.calls()[INIT] == 1


def test_a_gpu_that_was_pulled_stays_known(bench: MakeBench) -> None:
    place = bench([Gpu(), Gpu()])
    sensor = place.sensor()
    place.scenario.reload(order=[1])
    poll = sensor.poll(processes=False)
    assert slots(poll) == [1]
    assert failed(poll) == {0: "gpu_not_found"}
    assert [(s.meter, s.index) for s in poll.statuses] == [(meter(1), 0)]
    assert [r.meter for r in sensor.poll_energy([meter(0), meter(1)])] == [meter(1)]


def test_a_driver_reload_costs_no_look_and_keeps_the_meters(bench: MakeBench) -> None:
    place = bench([Gpu(counter_base_mj=10**9), Gpu(counter_base_mj=10**9)])
    sensor = place.sensor()
    sensor.poll(processes=True)
    place.scenario.reload(order=[1, 0])
    place.scenario.advance(5 * SECOND)
    assert sensor.poll_energy([meter(0)]) == []
    poll = sensor.poll(processes=False)
    assert poll.failures == ()
    assert {s.meter: s.index for s in poll.statuses} == {meter(0): 1, meter(1): 0}
    assert [r.uptime_ns for r in poll.readings] == [5 * SECOND] * 2
    assert all((r.energy_uj or 0) < 10**12 for r in poll.readings)
    assert place.scenario.calls()[INIT] == 1
    assert [r.busy for r in poll.readings] == [False, False]
    # A driver that is reloaded all the time is left to the daemon, which waits.
    place.scenario.reload()
    with pytest.raises(SensorLost) as caught:
        sensor.poll(processes=False)
    assert caught.value.reason == "uninitialized"
    sensor.close()
    sensor.open()
    assert slots(sensor.poll(processes=False)) == [0, 1]


def test_a_driver_that_does_not_come_back(bench: MakeBench) -> None:
    place = bench()
    sensor = place.sensor()
    place.scenario.reload()
    place.scenario.inject(INIT, pynvml.NVML_ERROR_DRIVER_NOT_LOADED)
    with pytest.raises(SensorMissing) as caught:
        sensor.poll(processes=False)
    assert caught.value.reason == "driver_not_loaded"
    assert "modprobe" in caught.value.remedy
    with pytest.raises(SensorLost):
        sensor.poll(processes=False)
    assert sensor.poll_energy([meter()]) == []
    place.scenario.clear()
    sensor.open()
    assert slots(sensor.poll(processes=False)) == [0]


def test_a_gpu_that_fails_to_open_is_left_out(
    bench: MakeBench, caplog: pytest.LogCaptureFixture
) -> None:
    place = bench([Gpu(), Gpu()])
    place.scenario.inject("nvmlDeviceGetHandleByIndex_v2", LOST, gpu=0)
    sensor = place.sensor()
    assert slots(sensor.poll(processes=False)) == [1]
    assert "GPU 0: nvmlDeviceGetHandleByIndex: gpu is lost" in caplog.text


def test_an_enumeration_that_fails_closes_the_driver(bench: MakeBench) -> None:
    place = bench()
    place.scenario.inject("nvmlDeviceGetCount_v2", pynvml.NVML_ERROR_UNKNOWN)
    with pytest.raises(Exception, match="nvmlDeviceGetCount"):
        NvmlSensor(place.clock).open()
    assert place.scenario.calls()["nvmlShutdown"] == 1


def test_closing_lets_go_of_the_driver(bench: MakeBench) -> None:
    place = bench()
    sensor = place.sensor()
    sensor.close()
    sensor.close()
    assert place.scenario.calls()["nvmlShutdown"] == 1
    with pytest.raises(SensorLost):
        sensor.poll(processes=False)


def test_no_question_wakes_a_sleeping_gpu(bench: MakeBench) -> None:
    place = bench([Gpu(), Gpu()])
    power = place.sysfs / "bus/pci/devices/0000:11:00.0/power"
    power.mkdir(parents=True)
    (power / "control").write_text("auto\n")
    (power / "runtime_status").write_text("active\n")
    sensor = place.sensor()
    assert slots(sensor.poll(processes=False)) == [0, 1]
    (power / "runtime_status").write_text("suspended\n")
    place.scenario.inject("*", pynvml.NVML_ERROR_UNKNOWN, gpu=1)
    poll = sensor.poll(processes=True)
    assert failed(poll) == {1: "suspended"}
    assert [s.index for s in poll.statuses] == [0, 1]
    assert [r.meter for r in sensor.poll_energy([meter(0), meter(1)])] == [meter(0)]
    place.scenario.clear()
    (power / "runtime_status").unlink()
    assert slots(sensor.poll(processes=False)) == [0, 1]


def test_a_gpu_that_may_not_sleep_is_not_asked_whether_it_does(bench: MakeBench) -> None:
    place = bench()
    power = place.sysfs / "bus/pci/devices/0000:10:00.0/power"
    power.mkdir(parents=True)
    (power / "control").write_text("on\n")
    (power / "runtime_status").write_text("suspended\n")
    assert slots(place.sensor().poll(processes=False)) == [0]


def test_a_hang_hangs_only_its_caller(bench: MakeBench) -> None:
    place = bench()
    sensor = place.sensor()
    fault = place.scenario.hang("nvmlDeviceGetFieldValues")
    polls: list[PollResult] = []
    caller = threading.Thread(target=lambda: polls.append(sensor.poll(processes=False)))
    caller.start()
    spins, until = 0, time.monotonic() + 0.5
    while time.monotonic() < until:
        spins += 1
    assert caller.is_alive()
    assert spins > 10_000  # the interpreter was free all the time
    other = NvmlSensor(place.clock)
    other.open()  # and so is the binding
    other.close()
    place.scenario.clear(fault)
    caller.join(10)
    assert slots(polls[0]) == [0]


# ---- the real thing ------------------------------------------------------------------------------

PROGRAM = """
    import json, sys, time
    from joulebook.clock import NodeClock
    from joulebook.node.sensors.nvidia.sensor import NvmlSensor

    sensor = NvmlSensor(NodeClock())
    sensor.open()
    for line in sys.stdin:
        poll = sensor.poll(processes=True)
        print(json.dumps([
            [r.energy_uj, r.t_ns, [p.pid for p in r.processes], r.epoch] for r in poll.readings
        ]), flush=True)
"""


def test_end_to_end_through_the_loader(tmp_path: Path, fake_nvml_dir: Path) -> None:
    """The library is found by its name, and a real clock and /proc are behind it."""
    scenario = Scenario.create(tmp_path / "scenario", [Gpu(tick_period_ns=0)])
    scenario.set_process(0, Process(pid=os.getpid()))
    env = {**os.environ, **scenario.env(build(fake_nvml_dir)), "PYTHONPATH": "exporter"}
    program = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PROGRAM)],
        env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert program.stdin and program.stdout
    with program:
        polls = []
        for power_mw in (50_000, 300_000):
            scenario.set_power(0, power_mw)
            time.sleep(0.2)
            program.stdin.write("\n")
            program.stdin.flush()
            ((energy_uj, t_ns, pids, epoch),) = json.loads(program.stdout.readline())
            assert pids == [os.getpid()]
            assert epoch == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
            polls.append((energy_uj, t_ns))
        program.stdin.close()
    (e0, t0), (e1, t1) = polls
    mean_mw = (e1 - e0) * 1_000_000 / (t1 - t0)
    assert 50_000 < mean_mw < 300_001
    assert scenario.calls()[INIT] == 1


def test_without_a_driver_the_error_says_what_to_do(tmp_path: Path) -> None:
    program = """
        from joulebook.clock import NodeClock
        from joulebook.errors import SensorError
        from joulebook.node.sensors.nvidia.sensor import NvmlSensor
        try:
            NvmlSensor(NodeClock()).open()
        except SensorError as e:
            print(type(e).__name__, e.reason, e.remedy)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env={**os.environ, "PYTHONPATH": "exporter", "LD_LIBRARY_PATH": str(tmp_path)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    if "library_not_found" not in done.stdout:
        pytest.skip("this machine has an NVIDIA driver")
    assert done.stdout.startswith("SensorMissing library_not_found Install the NVIDIA driver")


def test_bench_times_are_far_apart(bench: MakeBench) -> None:
    """Node time, CLOCK_BOOTTIME and unix time differ here, so that no test can confuse them."""
    place: Bench = bench()
    now_ns = place.scenario.now_ns()
    assert place.clock.now_ns() - now_ns >= SHIFT_NS
    assert place.scenario.wall_us(now_ns) * 1000 - place.clock.now_ns() > SHIFT_NS


def test_gauges_that_nobody_books_by_are_asked_for_every_fifth_second(bench: MakeBench) -> None:
    place = bench([Gpu()])
    sensor = place.sensor()
    place.scenario.reset_calls()
    for _ in range(10):
        sensor.poll(processes=False)
        place.scenario.advance(SECOND)
    calls = place.scenario.calls()
    assert calls["nvmlDeviceGetTotalEnergyConsumption"] == 10
    assert calls["nvmlDeviceGetUtilizationRates"] == 10
    assert calls["nvmlDeviceGetTemperature"] == calls["nvmlDeviceGetEnforcedPowerLimit"] == 2
