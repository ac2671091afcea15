"""Traces played as GPUs: at any speed and over any number of rounds a joule stays a joule."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulebook.core.energy.intervals import Interval, between
from joulebook.core.energy.readings import Component, Meter
from joulebook.core.evidence import Method
from joulebook.errors import ConfigError, SensorLost, SensorMissing
from joulebook.node.sensors.contract import Sensor
from joulebook.node.sensors.trace.format import (
    KIND,
    VERSION,
    Header,
    TraceDevice,
    TraceRecord,
    read_trace,
)
from joulebook.node.sensors.trace.player import SHIPPED, ReplaySensor, find_trace

SECOND = 1_000_000_000
BASE_UJ = 5_000_000
START_NS = 1_700_000_000 * SECOND
COUNTED = [
    TraceRecord(
        i * SECOND, 0, BASE_UJ + i * i * 1000, 2000 * i, values={"utilization_ratio": i / 10}
    )
    for i in range(11)
]
POWERED = [TraceRecord(i * SECOND, 0, power_mw=1000 * i) for i in range(11)]


class HandClock:
    """Node time that stands still."""

    epoch = "boot-1"

    def __init__(self) -> None:
        self.t_ns = START_NS

    def now_ns(self) -> int:
        return self.t_ns

    def utc_offset_ns(self) -> int:
        return 0

    def boottime_ns(self, t_ns: int) -> int:
        return t_ns


def trace_file(path: Path, *devices: list[TraceRecord]) -> Path:
    names = (TraceDevice(f"GPU-{i}", vendor="nvidia", model="A1") for i in range(len(devices)))
    lines: list[object] = [Header(VERSION, KIND, tuple(names))]
    for i, records in enumerate(devices):
        lines += [msgspec.structs.replace(record, gpu=i) for record in records]
    path.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
    return path


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def counted(tmp_path: Path) -> Path:
    return trace_file(tmp_path / "counted.jsonl", COUNTED)


def opened(clock: HandClock, path: Path, **options: float) -> ReplaySensor:
    sensor = ReplaySensor(clock, path, **options)  # type: ignore[arg-type]
    sensor.open()
    return sensor


def test_what_the_trace_says_now(clock: HandClock, counted: Path) -> None:
    sensor: Sensor = opened(clock, counted, loop=False)
    clock.t_ns += 4 * SECOND + 500
    poll = sensor.poll(processes=True)
    (reading,), (status,) = poll.readings, poll.statuses
    assert poll.failures == ()
    assert reading.meter == Meter(Component.GPU, "GPU-0")
    assert (reading.t_ns, reading.energy_uj) == (clock.t_ns, BASE_UJ + 16_000)
    assert (reading.power_mw, reading.busy, reading.processes) == (8000, True, ())
    assert (reading.epoch, reading.max_power_mw) == ("replay", 40_000)
    assert (status.vendor, status.model, status.minor) == ("nvidia", "A1", 0)
    assert status.values == {"power_watts": 8.0, "utilization_ratio": 0.4}
    assert sensor.poll(processes=False).readings[0].processes is None
    (glanced,) = sensor.poll_energy([reading.meter, Meter(Component.GPU, "GPU-9")])
    assert (glanced.energy_uj, glanced.busy) == (BASE_UJ + 16_000, None)


def test_without_a_loop_it_begins_when_opened_and_ends(clock: HandClock, counted: Path) -> None:
    sensor = opened(clock, counted, loop=False)
    assert sensor.poll(processes=False).readings[0].energy_uj == BASE_UJ
    assert sensor.poll(processes=False).readings[0].busy is False
    clock.t_ns += 10 * SECOND
    assert sensor.poll(processes=False).readings[0].energy_uj == BASE_UJ + 100_000
    clock.t_ns += 1
    poll = sensor.poll(processes=False)
    assert poll.readings == ()
    assert [failure.reason for failure in poll.failures] == ["ended"]
    assert [status.values for status in poll.statuses] == [{}]
    assert sensor.poll_energy([Meter(Component.GPU, "GPU-0")]) == []


@given(st.lists(st.integers(1, 40 * SECOND), min_size=1, max_size=30), st.integers(1, 40_000))
def test_in_a_loop_the_counter_only_rises_by_what_was_played(
    tmp_path_factory: pytest.TempPathFactory, steps: list[int], speed_milli: int
) -> None:
    clock = HandClock()
    path = tmp_path_factory.getbasetemp() / "loop.jsonl"
    if not path.exists():
        trace_file(path, COUNTED)
    sensor = opened(clock, path, speed=speed_milli / 1000)
    energies = []
    for step_ns in steps:
        clock.t_ns += step_ns
        (reading,) = sensor.poll(processes=False).readings
        rounds, place_ns = divmod(clock.t_ns * speed_milli // 1000, 10 * SECOND)
        expected = BASE_UJ + rounds * 100_000 + (place_ns // SECOND) ** 2 * 1000
        assert reading.energy_uj == expected
        energies.append(expected)
    assert energies == sorted(energies)


def test_a_restarted_daemon_finds_the_counter_where_hardware_would_have_it(
    clock: HandClock, counted: Path
) -> None:
    first = opened(clock, counted)
    before = first.poll(processes=False).readings[0].energy_uj
    first.close()
    clock.t_ns += 25 * SECOND
    after = opened(clock, counted).poll(processes=False).readings[0].energy_uj
    assert before is not None
    assert after == before + 225_000


def test_ten_times_as_fast_is_ten_times_the_power(clock: HandClock, counted: Path) -> None:
    sensor = opened(clock, counted, loop=False, speed=10)
    clock.t_ns += SECOND // 2
    poll = sensor.poll(processes=False)
    assert poll.readings[0].energy_uj == BASE_UJ + 25_000
    assert poll.readings[0].power_mw == 100_000
    assert poll.readings[0].max_power_mw == 400_000
    assert poll.statuses[0].values["power_watts"] == 100.0


def integrated_uj(sensor: ReplaySensor, clock: HandClock, steps: list[int]) -> int:
    readings = [sensor.poll(processes=False).readings[0]]
    for step_ns in steps:
        clock.t_ns += step_ns
        readings.append(sensor.poll(processes=False).readings[0])
    parts = [part for pair in pairwise(readings) for part in between(*pair)]
    assert all(isinstance(p, Interval) and p.method is Method.INTEGRATED for p in parts)
    return sum(part.energy_uj for part in parts if isinstance(part, Interval))


@pytest.mark.parametrize("speed", [1, 5])
def test_power_alone_comes_as_samples(tmp_path: Path, clock: HandClock, speed: int) -> None:
    path = trace_file(tmp_path / "powered.jsonl", POWERED)
    sensor = opened(clock, path, loop=False, speed=speed)
    (first,) = sensor.poll(processes=False).readings
    assert (first.energy_uj, first.power_mw, first.samples) == (None, 0, ())
    samples: list[tuple[int, int]] = []
    for tenths in (35, 1, 1, 63):
        clock.t_ns += tenths * SECOND // 10 // speed
        samples += sensor.poll(processes=False).readings[0].samples
    assert samples == [
        (START_NS + second * SECOND // speed, 1000 * second * speed) for second in range(1, 11)
    ]
    assert sensor.poll_energy([Meter(Component.GPU, "GPU-0")]) == []


def test_samples_go_on_over_the_end_of_a_round(tmp_path: Path, clock: HandClock) -> None:
    flat = [msgspec.structs.replace(record, power_mw=3000) for record in POWERED]
    sensor = opened(clock, trace_file(tmp_path / "powered.jsonl", flat))
    assert integrated_uj(sensor, clock, [7 * SECOND] * 10) == 210_000_000
    (reading,) = sensor.poll(processes=False).readings
    assert reading.samples == ()
    clock.t_ns += 100 * SECOND
    (reading,) = sensor.poll(processes=False).readings
    assert len(reading.samples) == 10  # like a driver's buffer it holds only so much
    times = [sample.t_ns for sample in reading.samples]
    assert times == sorted(set(times))


def test_a_failure_is_replayed_as_one(tmp_path: Path, clock: HandClock) -> None:
    records = [*COUNTED[:3], TraceRecord(3 * SECOND, 0, failed="gpu_is_lost"), *COUNTED[4:]]
    sensor = opened(clock, trace_file(tmp_path / "t.jsonl", records), loop=False)
    clock.t_ns += 3 * SECOND
    poll = sensor.poll(processes=False)
    assert poll.readings == ()
    assert [failure.reason for failure in poll.failures] == ["gpu_is_lost"]
    assert poll.statuses[0].values == {}
    assert sensor.poll_energy([poll.failures[0].meter]) == []


def test_many_devices_and_copies_out_of_step(tmp_path: Path, clock: HandClock) -> None:
    path = trace_file(tmp_path / "t.jsonl", COUNTED, POWERED)
    sensor = opened(clock, path, copies=3)
    poll = sensor.poll(processes=False)
    names = [reading.meter.name for reading in poll.readings]
    assert names == ["GPU-0", "GPU-1", "GPU-0-copy1", "GPU-1-copy1", "GPU-0-copy2", "GPU-1-copy2"]
    assert [status.index for status in poll.statuses] == list(range(6))
    assert len({poll.readings[i].energy_uj for i in (0, 2, 4)}) == 3
    before = [poll.readings[i].energy_uj or 0 for i in (0, 2, 4)]
    clock.t_ns += 10 * SECOND
    readings = sensor.poll(processes=False).readings
    assert [(readings[i].energy_uj or 0) - e for i, e in zip((0, 2, 4), before, strict=True)] == [
        100_000
    ] * 3


def test_several_traces_side_by_side(clock: HandClock) -> None:
    sensor = ReplaySensor(clock, find_trace("a100"), find_trace("v100"), loop=False)
    sensor.open()
    clock.t_ns += 100 * SECOND  # the V100 has ended by then
    poll = sensor.poll(processes=False)
    assert [reading.meter.name[:12] for reading in poll.readings] == ["GPU-00000a10"]
    assert [failure.reason for failure in poll.failures] == ["ended"]
    assert [status.index for status in poll.statuses] == [0, 1]
    with pytest.raises(SensorMissing, match="in more than one trace"):
        ReplaySensor(clock, find_trace("a100"), find_trace("a100")).open()


def test_a_device_that_does_not_say_is_not_idle(tmp_path: Path, clock: HandClock) -> None:
    path = trace_file(
        tmp_path / "t.jsonl",
        [TraceRecord(0, 0, 1), TraceRecord(SECOND, 0, 2, busy=False), TraceRecord(2, 0, 3)][:2],
    )
    sensor = opened(clock, path, loop=False)
    assert sensor.poll(processes=False).readings[0].busy is True
    clock.t_ns += SECOND
    assert sensor.poll(processes=False).readings[0].busy is False


def test_what_cannot_be_played(tmp_path: Path, clock: HandClock, counted: Path) -> None:
    sensor = ReplaySensor(clock, tmp_path / "none.jsonl")
    with pytest.raises(SensorMissing, match=r"none\.jsonl: cannot be read") as caught:
        sensor.open()
    assert caught.value.reason == "bad_trace"
    assert "joulebook record" in caught.value.remedy
    with pytest.raises(SensorLost):
        sensor.poll(processes=False)
    for options in ({"speed": 0.0}, {"speed": -1.0}, {"copies": 0}):
        with pytest.raises(ConfigError, match="speed must be"):
            ReplaySensor(clock, counted, **options)
    sensor = opened(clock, counted)
    sensor.close()
    with pytest.raises(SensorLost):
        sensor.poll_energy([])
    sensor.open()
    assert sensor.poll(processes=False).readings


# ---- the shipped traces --------------------------------------------------------------------------


def test_shipped_traces_are_small_and_say_where_they_come_from() -> None:
    traces = sorted(SHIPPED.glob("*.gz"))
    assert [path.name for path in traces] == ["a100.jsonl.gz", "v100.jsonl.gz"]
    for path in traces:
        assert path.stat().st_size < 400 << 10
        header = read_trace(path).header
        assert header.licence.startswith("MIT")
        assert "GPU_Power_Benchmark" in header.source
        assert header.devices[0].note


def test_the_counter_of_the_a100_is_its_measured_power_integrated() -> None:
    (records,) = read_trace(find_trace("a100")).records
    twice_pj, shown_uj = 0, records[0].energy_uj or 0
    base_uj, steps = shown_uj, 0
    for a, b in pairwise(records):
        twice_pj += ((a.power_mw or 0) + (b.power_mw or 0)) * (b.t_ns - a.t_ns)
        if b.energy_uj != shown_uj:
            shown_uj = b.energy_uj or 0
            assert shown_uj == base_uj + twice_pj // 2_000_000_000 * 1000
            steps += 1
    seconds = records[-1].t_ns / SECOND
    assert 200 < seconds < 210
    assert steps == pytest.approx(10 * seconds, rel=0.01)
    assert 60 < (shown_uj - base_uj) / 1e6 / seconds < 400  # watts, as an A100 draws


def test_the_v100_has_power_only(clock: HandClock) -> None:
    sensor = opened(clock, find_trace("v100"))
    (first,) = sensor.poll(processes=False).readings
    clock.t_ns += SECOND
    (reading,) = sensor.poll(processes=False).readings
    assert first.energy_uj is reading.energy_uj is None
    assert 80 < len(reading.samples) < 130


def test_a_trace_is_found_by_name_or_path(tmp_path: Path) -> None:
    assert find_trace("a100") == SHIPPED / "a100.jsonl.gz"
    assert find_trace("./a100") == Path("a100")
    assert find_trace("mine.jsonl") == Path("mine.jsonl")
