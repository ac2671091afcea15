"""Process lists and utilisation: what is billed by must not be garbage."""

from __future__ import annotations

import ctypes
import struct

import pynvml
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.nvml.build import Layout
from tests.fakes.nvml.scenario import Gpu, Kind, Process, Scenario
from tests.unit.node.sensors.nvidia.nvml_bench import SECOND, START_NS, MakeBench

from joulebook.errors import SensorRetry
from joulebook.node.sensors.nvidia.api import NvmlDevice, Session
from joulebook.node.sensors.nvidia.processes import (
    ENTRY_SIZES,
    LOOK_BACK_US,
    NO_INSTANCE,
    ProcessReader,
    SmSample,
    SmTimes,
    entry_size,
)

NOW_US = 1_700_000_000_000_000
S_US = 1_000_000


def reader(make: MakeBench, layout: Layout = 24) -> tuple[Scenario, ProcessReader]:
    scenario = make([Gpu()], layout=layout).scenario
    session = Session()
    return scenario, ProcessReader(session, NvmlDevice(session, 0))


def by_pid(processes: ProcessReader) -> dict[int, int | None] | None:
    """What is listed of a card that is not cut up, by pid."""
    listed = processes.listed()
    assert all(place[1:] == (NO_INSTANCE, NO_INSTANCE) for place in listed or ())
    return None if listed is None else {place.pid: bytes_ for place, bytes_ in listed.items()}


# ---- lists ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ENTRY_SIZES)
@pytest.mark.parametrize("count", [0, 1, 2, 3, 40])
def test_every_layout_gives_the_true_pids(bench: MakeBench, layout: Layout, count: int) -> None:
    scenario, processes = reader(bench, layout)
    true = {1000 + 7 * i: (i + 1) << 20 for i in range(count)}
    for pid, memory in true.items():
        scenario.set_process(0, Process(pid=pid, memory_bytes=memory))
    assert by_pid(processes) == true


@pytest.mark.parametrize("layout", ENTRY_SIZES)
def test_lists_are_merged_by_pid(bench: MakeBench, layout: Layout) -> None:
    scenario, processes = reader(bench, layout)
    unknown = 2**64 - 1
    for process in (
        Process(pid=1, kind=Kind.COMPUTE, memory_bytes=10),
        Process(pid=2, kind=Kind.GRAPHICS, memory_bytes=20),
        Process(pid=3, kind=Kind.MPS, memory_bytes=30),
        # The same memory, reported by two lists, is not twice as much.
        Process(pid=4, kind=Kind.COMPUTE + Kind.GRAPHICS, memory_bytes=40),
        Process(pid=5, kind=Kind.COMPUTE, memory_bytes=unknown),
    ):
        scenario.set_process(0, process)
    assert by_pid(processes) == {1: 10, 2: 20, 3: 30, 4: 40, 5: None}
    assert processes.graphics == {2}, "the others compute"


def test_each_list_is_one_call(bench: MakeBench) -> None:
    scenario, processes = reader(bench)
    scenario.set_process(0, Process(pid=1))
    scenario.reset_calls()
    processes.listed()
    assert set(scenario.calls().values()) == {1}
    assert len(scenario.calls()) == 3


def test_a_list_that_grows_is_asked_for_again_but_not_for_ever(bench: MakeBench) -> None:
    scenario, processes = reader(bench)
    scenario.set_process(0, Process(pid=1, memory_bytes=5))
    scenario.grow_process_list(0, times=2)
    scenario.reset_calls()
    assert by_pid(processes) == {1: 5}
    assert scenario.calls()["nvmlDeviceGetComputeRunningProcesses_v3"] == 3
    scenario.grow_process_list(0, times=100)
    scenario.reset_calls()
    with pytest.raises(SensorRetry) as caught:
        processes.listed()
    assert caught.value.reason == "insufficient_size"
    assert sum(scenario.calls().values()) == 4


def test_lists_that_cannot_be_had(bench: MakeBench) -> None:
    scenario, processes = reader(bench)
    scenario.set_process(0, Process(pid=1, kind=Kind.MPS))
    scenario.inject("nvmlDeviceGetComputeRunningProcesses_v3", pynvml.NVML_ERROR_NOT_SUPPORTED)
    assert by_pid(processes) == {1: 0}
    scenario.clear()
    scenario.inject("*", pynvml.NVML_ERROR_NOT_SUPPORTED)
    assert by_pid(processes) is None
    scenario.clear()
    scenario.inject("*", pynvml.NVML_ERROR_UNKNOWN)
    with pytest.raises(SensorRetry):
        processes.listed()


@given(
    st.sampled_from(ENTRY_SIZES),
    st.lists(
        st.tuples(st.integers(1, 2**22), st.integers(0, 2**40), st.integers(0, 2**32 - 1)),
        min_size=1,
        max_size=20,
    ),
)
def test_the_size_of_an_entry_is_read_off_what_was_written(
    size: int, entries: list[tuple[int, int, int]]
) -> None:
    written = b"".join(
        struct.pack("=I4xQII", pid, memory, instance, instance).ljust(size, b"\0")
        for pid, memory, instance in entries
    )
    buffer = written.ljust(40 * 64, b"\xa5")
    if buffer.rstrip(b"\xa5") == written:  # not where an instance id ends like the filling
        assert entry_size(buffer, len(entries), 24) == size


def test_a_driver_that_clears_the_rest_is_judged_by_its_symbols() -> None:
    assert entry_size(bytes(40 * 64), 3, 32) == 32
    assert entry_size(b"", 0, 24) == 24


# ---- utilisation ---------------------------------------------------------------------------------


def test_samples_after_a_time(bench: MakeBench) -> None:
    scenario, processes = reader(bench)
    begun_us = scenario.wall_us(START_NS)
    assert processes.samples(begun_us) == []
    scenario.set_process(0, Process(pid=1, sm_pct=60))
    scenario.set_process(0, Process(pid=2))  # listed, but does nothing
    now_us = scenario.wall_us(scenario.advance(SECOND))
    assert processes.samples(begun_us) == [SmSample(1, now_us, 60)]
    assert processes.samples(now_us) == []


def test_samples_that_cannot_be_had(bench: MakeBench) -> None:
    scenario, processes = reader(bench)
    scenario.set_mig_mode(0, True)
    assert processes.samples(0) is None
    scenario.inject("nvmlDeviceGetProcessUtilization", pynvml.NVML_ERROR_TIMEOUT)
    with pytest.raises(SensorRetry):
        processes.samples(0)
    processes._utilisation = None  # a driver without the function
    assert processes.samples(0) is None


def take(times: SmTimes, now_us: int, *samples: SmSample) -> dict[int, int | None]:
    """Ask and be answered at `now_us`, with processes 1, 2 and 3 on the GPU."""
    times.after_us({1, 2, 3}, now_us)
    return times.take(samples, {1, 2, 3}, now_us)


def test_sm_time_is_percent_of_the_time_since_the_last_sample() -> None:
    times = SmTimes(NOW_US)
    t_us = NOW_US + S_US
    assert take(times, t_us, SmSample(1, t_us, 50), SmSample(2, t_us, 0)) == {1: SECOND // 2, 2: 0}
    assert times.after_us({1, 2}, t_us + 1) == t_us
    t_us += 2 * S_US
    second = take(times, t_us, SmSample(1, t_us, 10), SmSample(3, t_us, 100))
    assert second == {1: SECOND // 5, 3: 2 * SECOND}


@pytest.mark.parametrize(
    ("t_us", "sm_pct"),
    [
        (NOW_US + S_US, 101),
        (NOW_US + S_US, 2**32 - 1),
        (0, 50),
        (NOW_US, 50),  # not newer than the last one
        (NOW_US - S_US, 50),
        (NOW_US + 10 * S_US, 50),  # from the future
        (0xA5A5A5A5A5A5A5A5, 50),
    ],
)
def test_garbage_is_refused_and_moves_nothing(t_us: int, sm_pct: int) -> None:
    times = SmTimes(NOW_US)
    good = SmSample(2, NOW_US + S_US, 30)
    taken = take(times, NOW_US + S_US, SmSample(1, t_us, sm_pct), good)
    assert taken == {1: None, 2: 3 * SECOND // 10}
    # What comes next counts from the good sample, not from the garbage.
    later = take(times, NOW_US + 2 * S_US, SmSample(1, NOW_US + 2 * S_US, 50))
    assert later == {1: SECOND // 2}
    # It is counted; a sample that was reported before already is no garbage.
    assert times.refused == (sm_pct > 100 or not 0 < t_us <= NOW_US)


def test_an_entry_that_was_not_filled_is_nobody() -> None:
    assert take(SmTimes(NOW_US), NOW_US + S_US, SmSample(0, 0, 0)) == {}


@pytest.mark.parametrize("idle_s", [0, 100])
def test_a_process_whose_samples_lag_is_not_starved(idle_s: int) -> None:
    """Asked for from the newest sample, the driver would never tell of the lagging process."""
    times, total = SmTimes(NOW_US), {1: 0, 2: 0}
    lag_us = {1: 0, 2: 3 * S_US}
    for i in range(1, 301):
        now_us = NOW_US + i * S_US
        after_us = times.after_us(lag_us, now_us)
        samples = [
            SmSample(pid, now_us - lag, 50)
            for pid, lag in lag_us.items()
            if now_us - lag > after_us and (pid == 1 or not 100 <= i < 100 + idle_s)
        ]
        for pid, sm_ns in times.take(samples, lag_us, now_us).items():
            total[pid] += sm_ns or 0
    busy_s = 300 - idle_s
    assert total[1] == 150 * SECOND
    assert (busy_s - 45) * SECOND // 2 <= total[2] <= busy_s * SECOND // 2


def test_nothing_older_than_the_driver_keeps_is_asked_for() -> None:
    times = SmTimes(NOW_US)
    hour_us = NOW_US + 3600 * S_US
    assert times.after_us({}, hour_us) == hour_us - LOOK_BACK_US
    assert times.after_us({}, NOW_US - S_US) == NOW_US - S_US  # the wall clock was set back


def test_a_process_without_samples_is_looked_for_further_back_now_and_then() -> None:
    times = SmTimes(NOW_US)
    asked = []
    for i in range(1, 61):
        t_us = NOW_US + i * S_US
        asked.append(t_us - times.after_us({1, 2}, t_us))
        times.take([SmSample(1, t_us, 50)], {1, 2}, t_us)
    assert [i for i, back_us in enumerate(asked, 1) if back_us == LOOK_BACK_US] == [30, 60]
    assert asked.count(S_US) == 58


# ---- traps ---------------------------------------------------------------------------------------


def test_the_binding_would_have_read_wrong_pids(bench: MakeBench) -> None:
    """What this file exists for: 24 bytes assumed, 32 written."""
    scenario, processes = reader(bench, 32)
    for pid in (100, 200, 300):
        scenario.set_process(0, Process(pid=pid))
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    assert {p.pid for p in pynvml.nvmlDeviceGetComputeRunningProcesses(handle)} != {100, 200, 300}
    assert set(by_pid(processes) or {}) == {100, 200, 300}
    assert ctypes.sizeof(pynvml.c_nvmlProcessInfo_t) == 24
