"""What is recorded is what is played."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from tests.fakes.nvml.scenario import Gpu
from tests.unit.node.sensors.nvidia.nvml_bench import SECOND, MakeBench
from tests.unit.node.sensors.trace.test_player import HandClock

from joulebook.core.energy.readings import (
    Component,
    DeviceStatus,
    Failure,
    Meter,
    PowerSample,
    Reading,
)
from joulebook.errors import ConfigError
from joulebook.node.sensors.contract import PollResult
from joulebook.node.sensors.trace.format import TraceRecord, read_trace
from joulebook.node.sensors.trace.player import ReplaySensor
from joulebook.node.sensors.trace.recorder import TraceWriter

A, B = Meter(Component.GPU, "GPU-a"), Meter(Component.CPU, "package-0")


def test_the_nvml_sensor_recorded_and_played_again(bench: MakeBench, tmp_path: Path) -> None:
    place = bench([Gpu(tick_period_ns=0), Gpu(has_energy_counter=False)])
    sensor = place.sensor()
    path = tmp_path / "trace.jsonl.gz"
    polls: list[PollResult] = []
    with TraceWriter(path, source="a test", licence="CC0") as writer:
        for i in range(8):
            place.scenario.set_power(0, 60_000 + i * 30_000)
            place.scenario.set_utilisation(0, gpu_pct=10 * i)
            place.scenario.advance(SECOND)
            polls.append(sensor.poll(processes=True))
            writer.append(polls[-1])
        assert writer.left_out == set()
        assert writer.records > 8 * 2
    trace = read_trace(path)
    assert trace.header.source == "a test"
    assert [d.model for d in trace.header.devices] == ["NVIDIA A100-SXM4-40GB"] * 2
    clock = HandClock()
    player = ReplaySensor(clock, path, loop=False)
    player.open()
    begun_ns = min(reading.samples[0].t_ns for reading in polls[0].readings if reading.samples)
    origin_ns = clock.t_ns
    for poll in polls:
        for played, seen in zip(poll.readings, poll.statuses, strict=True):
            clock.t_ns = origin_ns + played.t_ns - begun_ns
            again = player.poll(processes=True)
            (reading,) = (r for r in again.readings if r.meter == played.meter)
            (status,) = (s for s in again.statuses if s.meter == played.meter)
            assert reading.energy_uj == played.energy_uj
            assert (reading.power_mw, reading.busy) == (played.power_mw, played.busy)
            assert status.values == seen.values
            assert (status.model, status.driver, status.pci) == (seen.model, seen.driver, seen.pci)


def test_devices_of_any_kind_failures_and_latecomers(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    with TraceWriter(path) as writer:
        writer.append(PollResult(failures=(Failure(A, 5, "timeout"),)))  # nothing to begin with
        writer.append(PollResult((Reading(A, 10, 100, max_power_mw=9), Reading(B, 12, 7))))
        writer.append(PollResult((Reading(A, 20, 200),), (Failure(B, 22, "no_permission"),)))
        late = Meter(Component.GPU, "GPU-late")
        writer.append(
            PollResult((Reading(late, 30, 1), Reading(B, 32, 8)), (Failure(late, 33, "x"),))
        )
        writer.append(PollResult((Reading(A, 20, 999),)))  # not later than the last: left out
        assert writer.left_out == {late}
        assert writer.records == 5
    trace = read_trace(path)
    assert [(d.name, d.component, d.max_power_mw) for d in trace.header.devices] == [
        ("GPU-a", Component.GPU, 9),
        ("package-0", Component.CPU, None),
    ]
    assert trace.records == (
        (TraceRecord(0, 0, 100), TraceRecord(10, 0, 200)),
        (TraceRecord(2, 1, 7), TraceRecord(12, 1, failed="no_permission"), TraceRecord(22, 1, 8)),
    )


def test_a_counter_that_began_again_is_written_on(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    with TraceWriter(path) as writer:
        for t_ns, energy_uj in enumerate((500, 600, 40, 90, 10, 30)):
            writer.append(PollResult((Reading(A, t_ns, energy_uj),)))
    (records,) = read_trace(path).records
    assert [record.energy_uj for record in records] == [500, 600, 600, 650, 650, 670]


def test_buffered_power_is_written_once_and_in_order(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    status = DeviceStatus(A, 0, 0, values={"temperature_celsius": 40.0})
    with TraceWriter(path) as writer:
        samples = (PowerSample(3, 30), PowerSample(6, 60))
        writer.append(
            PollResult((Reading(A, 10, power_mw=9, samples=samples),), statuses=(status,))
        )
        samples = (PowerSample(6, 60), PowerSample(14, 140))
        writer.append(PollResult((Reading(A, 20, samples=samples),)))
        writer.append(PollResult((Reading(A, 30, energy_uj=5),)))  # a counter, all of a sudden
        assert writer.left_out == {A}
    (records,) = read_trace(path).records
    assert records == (
        TraceRecord(0, 0, power_mw=30),
        TraceRecord(3, 0, power_mw=60),
        TraceRecord(7, 0, power_mw=9, values={"temperature_celsius": 40.0}),
        TraceRecord(11, 0, power_mw=140),
    )


def test_an_existing_trace_is_never_written_over(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text("mine")
    with pytest.raises(ConfigError, match=r"t\.jsonl: cannot be written: File exists"):
        TraceWriter(path)
    assert path.read_text() == "mine"
    with pytest.raises(ConfigError, match="No such file"):
        TraceWriter(tmp_path / "no/t.jsonl")


def test_a_full_disk_is_said_aloud() -> None:
    class Full:
        def writelines(self, lines: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    writer = TraceWriter.__new__(TraceWriter)
    writer._path, writer._file = Path("t.jsonl"), Full()  # type: ignore[assignment]
    writer._devices = {A: None}  # type: ignore[dict-item]
    with pytest.raises(ConfigError, match="No space left"):
        writer.append(PollResult())
