# SPDX-License-Identifier: Apache-2.0
"""The fake NVIDIA driver, seen through the real binding."""

from __future__ import annotations

import ctypes
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import pynvml
import pytest
from tests.fakes.nvml.build import Layout, build, build_power
from tests.fakes.nvml.scenario import Architecture, Gpu, Instance, Kind, Process, Scenario

MS = 1_000_000
START_NS = 1_000_000 * MS
HOPPER = Gpu(name="NVIDIA H100", architecture=Architecture.HOPPER, compute_capability=(9, 0))

Start = Callable[..., Scenario]


@pytest.fixture(scope="session")
def out_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.getbasetemp() / "fake-nvml"


def unload() -> None:
    pynvml.nvmlLib = None
    pynvml._nvmlGetFunctionPointer_cache.clear()


@pytest.fixture
def start(tmp_path: Path, out_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Create a scenario and let the binding in this process initialise against it."""
    scenarios: list[Scenario] = []

    def begin(
        gpus: Sequence[Gpu] = (Gpu(),), *, real_time: bool = False, layout: Layout = 24,
        uptime: bool = True, order: Sequence[int] | None = None,
    ) -> Scenario:  # fmt: skip
        scenario = Scenario.create(
            tmp_path / "scenario",
            gpus,
            virtual_now_ns=None if real_time else START_NS,
            order=order,
        )
        scenarios.append(scenario)
        monkeypatch.setenv("FAKE_NVML_SCENARIO", str(scenario.path))
        unload()
        pynvml.nvmlLib = ctypes.CDLL(str(build(out_dir, layout=layout, uptime=uptime)))
        pynvml.nvmlInit()
        return scenario

    yield begin
    for scenario in scenarios:
        scenario.clear()
        while True:
            try:
                pynvml.nvmlShutdown()
            except pynvml.NVMLError_Uninitialized:
                break
    unload()


def handle(index: int = 0) -> object:
    return pynvml.nvmlDeviceGetHandleByIndex(index)


def energy_mj(index: int = 0) -> int:
    return int(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle(index)))


# ---- energy and power ----------------------------------------------------------------------------


def test_counter_is_the_true_energy_at_the_last_tick(start: Start) -> None:
    rng = random.Random(7)
    scenario = start([Gpu(idle_mw=50_001, counter_base_mj=5_000_000_000_000)])
    steps = [(START_NS, 50_001)]
    values = set()
    for _ in range(400):
        now = scenario.advance(rng.randrange(1, 40 * MS))
        if rng.random() < 0.3:
            power = rng.randrange(700_000)
            steps.append((scenario.set_power(0, power), power))
        tick = max(scenario.last_tick_ns(0, now), START_NS)
        assert now - 120 * MS < tick <= now
        ends = [*(t for t, _ in steps[1:]), now]
        pj = sum(
            p * (min(end, tick) - t) for (t, p), end in zip(steps, ends, strict=True) if t < tick
        )
        shown = energy_mj()
        assert shown == (5_000_000_000_000_000 + pj // 1_000_000) // 1000
        assert shown == scenario.counter_mj(0, now)
        assert scenario.true_energy_uj(0, START_NS, tick) == pj // 1_000_000
        values.add(shown)
    assert 60 < len(values) < 100  # ~8 s at one tick in 100 ms


def test_ticks_jitter_within_their_bounds_and_are_ordered(start: Start) -> None:
    scenario = start()
    ticks = [scenario.next_tick_ns(0, START_NS)]
    for _ in range(200):
        ticks.append(scenario.next_tick_ns(0, ticks[-1]))
        assert scenario.last_tick_ns(0, ticks[-1]) == ticks[-1]
        assert scenario.last_tick_ns(0, ticks[-1] - 1) == ticks[-2]
    gaps = [b - a for a, b in pairwise(ticks)]
    assert min(gaps) >= 80 * MS and max(gaps) <= 120 * MS and len(set(gaps)) > 100


def test_instant_average_and_module_power(start: Start) -> None:
    scenario = start([Gpu(module_extra_mw=90_000), Gpu(power_is_average=False)])
    scenario.advance(2000 * MS)
    for gpu in (0, 1):
        scenario.add_power(gpu, 250_000)
    now = scenario.advance(400 * MS)
    average = (50_000 * 600 + 300_000 * 400) // 1000
    fields = [185, 186, (185, 1), (186, 1), (83, 1), (186, 2)]
    values = pynvml.nvmlDeviceGetFieldValues(handle(0), fields)
    assert [v.nvmlReturn for v in values] == [0, 0, 0, 0, 3, 2]
    shown = [v.value.uiVal for v in values[:4]]
    assert shown == [average, 300_000, average + 90_000, 390_000]
    assert values[0].timestamp == scenario.wall_us(now)
    assert pynvml.nvmlDeviceGetPowerUsage(handle(0)) == average
    assert scenario.average_power_mw(0, now) == average
    assert pynvml.nvmlDeviceGetPowerUsage(handle(1)) == 300_000
    old = pynvml.nvmlDeviceGetFieldValues(handle(1), [185, 186, (186, 1)])
    assert [v.nvmlReturn for v in old] == [3, 0, 3]


def test_energy_fields_and_a_card_without_a_counter(start: Start) -> None:
    scenario = start([Gpu(), Gpu(has_energy_counter=False)])
    scenario.advance(1000 * MS)
    values = pynvml.nvmlDeviceGetFieldValues(handle(0), [83, 191, 9999])
    assert [v.value.ullVal for v in values[:2]] == [scenario.counter_mj(0)] * 2
    assert [(v.valueType, v.nvmlReturn) for v in values[:2]] == [(3, 0)] * 2
    assert values[2].nvmlReturn == pynvml.NVML_ERROR_NOT_SUPPORTED
    assert pynvml.nvmlDeviceGetFieldValues(handle(1), [83])[0].nvmlReturn == 3
    with pytest.raises(pynvml.NVMLError_NotSupported):
        energy_mj(1)


def test_buffered_power_samples(start: Start) -> None:
    scenario = start()
    changed = scenario.add_power(0, 100_000, at_ns=START_NS + 4000 * MS)
    now = scenario.advance(5000 * MS)
    _, samples = pynvml.nvmlDeviceGetSamples(handle(), pynvml.NVML_TOTAL_POWER_SAMPLES, 0)
    seen = [(s.timeStamp, s.sampleValue.uiVal) for s in samples]
    times = [now - k * 20 * MS for k in reversed(range(120))]
    assert seen == [(scenario.wall_us(t), 50_000 + 100_000 * (t >= changed)) for t in times]
    last = seen[-1][0]
    with pytest.raises(pynvml.NVMLError_NotFound):
        pynvml.nvmlDeviceGetSamples(handle(), pynvml.NVML_TOTAL_POWER_SAMPLES, last)
    scenario.advance(45 * MS)
    _, fresh = pynvml.nvmlDeviceGetSamples(handle(), pynvml.NVML_TOTAL_POWER_SAMPLES, last)
    assert [s.timeStamp - last for s in fresh] == [20_000, 40_000]


def test_clock_events_count_while_they_hold(start: Start) -> None:
    scenario = start()
    scenario.set_event_reasons(0, pynvml.nvmlClocksEventReasonSwPowerCap)
    scenario.throttle(0, 74, True)
    scenario.advance(30 * MS)
    scenario.throttle(0, 74, False)
    scenario.throttle(0, 271, True)
    scenario.advance(5 * MS)
    values = pynvml.nvmlDeviceGetFieldValues(handle(), [74, 75, 269, 271])
    assert [v.value.ullVal for v in values] == [30 * MS, 0, 0, 5 * MS]
    assert pynvml.nvmlDeviceGetCurrentClocksEventReasons(handle()) == 4
    assert pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle()) == 4


def uptime_s() -> int:
    seconds = ctypes.c_uint()
    rc = pynvml.nvmlLib.nvmlDeviceGetGpuUptime_v1(handle(), ctypes.byref(seconds))
    assert rc == pynvml.NVML_SUCCESS
    return seconds.value


def test_a_reset_restarts_counter_and_uptime_even_if_it_overtakes(start: Start) -> None:
    scenario = start([Gpu(counter_base_mj=1000, uptime_base_s=60, tick_jitter_ns=0)])
    scenario.advance(10_000 * MS)
    assert (energy_mj(), uptime_s()) == (1000 + 500_000, 70)
    scenario.reset_counter(0)
    scenario.set_power(0, 700_000)
    assert (energy_mj(), uptime_s()) == (0, 0)
    scenario.advance(1000 * MS)
    assert (energy_mj(), uptime_s()) == (700_000, 1)
    assert scenario.counter_mj(0) == 700_000


def test_uptime_can_be_absent(start: Start) -> None:
    start(uptime=False)
    assert not hasattr(pynvml.nvmlLib, "nvmlDeviceGetGpuUptime_v1")
    assert pynvml.nvmlDeviceGetCount() == 1


# ---- identity ------------------------------------------------------------------------------------


def test_identity_and_state_with_scrambled_minors_and_a_missing_card(start: Start) -> None:
    cards = [
        Gpu(minor=5, pci_bus_id="0000:41:00.0", uuid="GPU-a", temperature_c=61),
        Gpu(minor=0),
        Gpu(minor=2, pci_bus_id="0001:0A:00.0", uuid="GPU-c", serial="1324", sm_mhz=900),
    ]
    scenario = start(cards, order=[2, 0])
    assert pynvml.nvmlDeviceGetCount() == 2
    assert [pynvml.nvmlDeviceGetUUID(handle(i)) for i in (0, 1)] == ["GPU-c", "GPU-a"]
    assert [pynvml.nvmlDeviceGetMinorNumber(handle(i)) for i in (0, 1)] == [2, 5]
    by_bus = pynvml.nvmlDeviceGetHandleByPciBusId("00000001:0a:00.0")
    assert pynvml.nvmlDeviceGetIndex(by_bus) == 0
    assert pynvml.nvmlDeviceGetIndex(pynvml.nvmlDeviceGetHandleByUUID("GPU-a")) == 1
    with pytest.raises(pynvml.NVMLError_NotFound):
        pynvml.nvmlDeviceGetHandleByUUID("GPU-00000000-0000-0000-0000-000000000001")
    with pytest.raises(pynvml.NVMLError_InvalidArgument):
        handle(2)
    pci = pynvml.nvmlDeviceGetPciInfo(handle(0))
    assert (pci.domain, pci.bus, pci.device, pci.busId) == (1, 10, 0, "00000001:0A:00.0")
    assert pynvml.nvmlDeviceGetSerial(handle(0)) == "1324"
    assert pynvml.nvmlDeviceGetName(handle(0)) == "NVIDIA A100-SXM4-40GB"
    assert pynvml.nvmlDeviceGetArchitecture(handle(0)) == pynvml.NVML_DEVICE_ARCH_AMPERE
    assert pynvml.nvmlDeviceGetCudaComputeCapability(handle(0)) == (8, 0)
    assert pynvml.nvmlDeviceGetBrand(handle(0)) == pynvml.NVML_BRAND_NVIDIA
    assert pynvml.nvmlSystemGetDriverVersion() == "550.54.15"
    assert pynvml.nvmlSystemGetNVMLVersion() == "12.550.54.15"
    assert pynvml.nvmlDeviceGetTemperature(handle(1), pynvml.NVML_TEMPERATURE_GPU) == 61
    assert pynvml.nvmlDeviceGetTemperatureV(handle(1), pynvml.NVML_TEMPERATURE_GPU) == 61
    clocks = (pynvml.NVML_CLOCK_SM, pynvml.NVML_CLOCK_MEM)
    assert [pynvml.nvmlDeviceGetClockInfo(handle(0), c) for c in clocks] == [900, 1215]
    scenario.set(2, memory_used_bytes=3 << 30, enforced_limit_mw=300_000)
    scenario.set_utilisation(2, gpu_pct=80, memory_pct=40, encoder_pct=3, decoder_pct=4)
    for version in (None, pynvml.nvmlMemory_v2):
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle(0), version)
        assert (memory.total, memory.used, memory.free) == (40 << 30, 3 << 30, 37 << 30)
    rates = pynvml.nvmlDeviceGetUtilizationRates(handle(0))
    assert (rates.gpu, rates.memory) == (80, 40)
    assert pynvml.nvmlDeviceGetEncoderUtilization(handle(0))[0] == 3
    assert pynvml.nvmlDeviceGetDecoderUtilization(handle(0))[0] == 4
    assert pynvml.nvmlDeviceGetPowerManagementLimit(handle(0)) == 400_000
    assert pynvml.nvmlDeviceGetEnforcedPowerLimit(handle(0)) == 300_000


# ---- processes -----------------------------------------------------------------------------------


def test_process_lists_by_kind(start: Start) -> None:
    scenario = start()
    scenario.set_process(0, Process(pid=11, memory_bytes=1 << 30))
    scenario.set_process(0, Process(pid=12, kind=Kind.MPS))
    scenario.set_process(0, Process(pid=13, kind=Kind.COMPUTE | Kind.GRAPHICS))
    lists = (
        pynvml.nvmlDeviceGetComputeRunningProcesses_v3,
        pynvml.nvmlDeviceGetMPSComputeRunningProcesses_v3,
        pynvml.nvmlDeviceGetGraphicsRunningProcesses_v3,
    )
    assert [[p.pid for p in f(handle())] for f in lists] == [[11, 13], [12], [13]]
    assert lists[0](handle())[0].usedGpuMemory == 1 << 30
    scenario.grow_process_list(0)
    with pytest.raises(pynvml.NVMLError_InsufficientSize):
        lists[0](handle())
    scenario.remove_process(0, 11)
    assert [p.pid for p in lists[0](handle())] == [13]


@pytest.mark.parametrize("layout", [32, 40])
def test_long_process_entries_scramble_the_binding_and_can_be_told(
    start: Start, layout: Layout
) -> None:
    class Entry(ctypes.Structure):
        _fields_ = [("pid", ctypes.c_uint), ("rest", ctypes.c_char * (layout - 4))]

    scenario = start(layout=layout)
    for pid in (11, 12, 13):
        scenario.set_process(0, Process(pid=pid))
    assert hasattr(pynvml.nvmlLib, "nvmlDeviceGetConfComputeMemSizeInfo")
    assert not hasattr(pynvml.nvmlLib, "nvmlDeviceGetRunningProcessDetailList")
    assert ctypes.sizeof(Entry) == layout
    count, entries = ctypes.c_uint(8), (Entry * 8)()
    list_processes = pynvml.nvmlLib.nvmlDeviceGetComputeRunningProcesses_v3
    assert list_processes(handle(), ctypes.byref(count), entries) == pynvml.NVML_SUCCESS
    assert [e.pid for e in entries[: count.value]] == [11, 12, 13]
    seen = [p.pid for p in pynvml.nvmlDeviceGetComputeRunningProcesses(handle())]
    assert seen != [11, 12, 13]


def test_the_usual_layout_has_the_detail_list(start: Start) -> None:
    start()
    assert hasattr(pynvml.nvmlLib, "nvmlDeviceGetConfComputeMemSizeInfo")
    assert hasattr(pynvml.nvmlLib, "nvmlDeviceGetRunningProcessDetailList")


def test_process_utilisation_honours_last_seen(start: Start) -> None:
    scenario = start()
    with pytest.raises(pynvml.NVMLError_NotFound):
        pynvml.nvmlDeviceGetProcessUtilization(handle(), 0)
    scenario.set_process(0, Process(pid=11, sm_pct=60, memory_pct=20))
    scenario.set_process(0, Process(pid=12, sm_pct=3_000_000, stale_us=2_500_000))
    scenario.set_process(0, Process(pid=13))
    scenario.advance(150 * MS)
    newest = scenario.wall_us(START_NS + 100 * MS)
    samples = pynvml.nvmlDeviceGetProcessUtilization(handle(), 0)
    assert [(s.pid, s.smUtil, s.memUtil, s.timeStamp) for s in samples] == [
        (11, 60, 20, newest),
        (12, 3_000_000, 0, newest - 2_500_000),
    ]
    only = pynvml.nvmlDeviceGetProcessUtilization(handle(), newest - 1)
    assert [s.pid for s in only] == [11]
    with pytest.raises(pynvml.NVMLError_NotFound):
        pynvml.nvmlDeviceGetProcessUtilization(handle(), newest)


# ---- MIG and GPM ---------------------------------------------------------------------------------


def test_mig_devices_come_and_go(start: Start) -> None:
    scenario = start([Gpu(), Gpu(max_instances=0)])
    assert pynvml.nvmlDeviceGetMigMode(handle()) == [0, 0]
    with pytest.raises(pynvml.NVMLError_NotSupported):
        pynvml.nvmlDeviceGetMigMode(handle(1))
    scenario.set_mig_mode(0, True)
    big = Instance(
        uuid="MIG-a", gpu_instance=1, profile="3g.20gb", gpu_slices=3, compute_slices=3,
        memory_mib=20_096,
    )  # fmt: skip
    assert scenario.create_instance(0, big) == 0
    assert scenario.create_instance(0, Instance(uuid="MIG-b", gpu_instance=7)) == 1
    assert pynvml.nvmlDeviceGetMigMode(handle()) == [1, 1]
    assert pynvml.nvmlDeviceGetMaxMigDeviceCount(handle()) == 7
    first = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle(), 0)
    second = pynvml.nvmlDeviceGetHandleByUUID("MIG-b")
    assert pynvml.nvmlDeviceGetUUID(first) == "MIG-a"
    assert pynvml.nvmlDeviceGetName(first).endswith(" MIG 3g.20gb")
    assert pynvml.nvmlDeviceGetGpuInstanceId(second) == 7
    assert pynvml.nvmlDeviceGetComputeInstanceId(second) == 0
    assert pynvml.nvmlDeviceIsMigDeviceHandle(first).value == 1
    assert pynvml.nvmlDeviceIsMigDeviceHandle(handle()).value == 0
    attributes = pynvml.nvmlDeviceGetAttributes(first)
    assert (attributes.gpuInstanceSliceCount, attributes.memorySizeMB) == (3, 20_096)
    parent = pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(first)
    assert pynvml.nvmlDeviceGetIndex(parent) == 0
    scenario.set_process(0, Process(pid=11, gpu_instance=1, compute_instance=0, sm_pct=9))
    scenario.set_process(0, Process(pid=12, gpu_instance=7, compute_instance=0))
    processes = pynvml.nvmlDeviceGetComputeRunningProcesses
    assert [(p.pid, p.gpuInstanceId) for p in processes(handle())] == [(11, 1), (12, 7)]
    assert [p.pid for p in processes(second)] == [12]
    refusals: tuple[Callable[[], object], ...] = (
        lambda: pynvml.nvmlDeviceGetProcessUtilization(handle(), 0),
        lambda: pynvml.nvmlDeviceGetUtilizationRates(handle()),
        lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(first),
        lambda: pynvml.nvmlGpmSampleGet(handle(), pynvml.nvmlGpmSampleAlloc()),
    )
    for refused in refusals:
        with pytest.raises(pynvml.NVMLError_NotSupported):
            refused()
    assert pynvml.nvmlGpmQueryDeviceSupport(handle()).isSupportedDevice == 0
    scenario.destroy_instance(0, 0)
    with pytest.raises(pynvml.NVMLError_InvalidArgument):
        pynvml.nvmlDeviceGetUUID(first)
    with pytest.raises(pynvml.NVMLError_NotFound):
        pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle(), 0)
    assert scenario.create_instance(0, Instance(uuid="MIG-c", gpu_instance=1)) == 0
    with pytest.raises(pynvml.NVMLError_InvalidArgument):
        pynvml.nvmlDeviceGetUUID(first)


def test_gpm_gives_the_mean_activity_of_each_instance(start: Start) -> None:
    scenario = start([HOPPER])
    scenario.set_mig_mode(0, True)
    slot = scenario.create_instance(0, Instance(uuid="MIG-a", gpu_instance=3))
    scenario.create_instance(0, Instance(uuid="MIG-b", gpu_instance=4))
    assert pynvml.nvmlGpmQueryDeviceSupport(handle()).isSupportedDevice == 1

    def sample(gpu_instance: int) -> object:
        return pynvml.nvmlGpmMigSampleGet(handle(), gpu_instance, pynvml.nvmlGpmSampleAlloc())

    def metrics(before: object, after: object) -> list[tuple[int, float]]:
        request = pynvml.c_nvmlGpmMetricsGet_t(
            version=pynvml.NVML_GPM_METRICS_GET_VERSION, numMetrics=2, sample1=before, sample2=after
        )
        request.metrics[0].metricId = pynvml.NVML_GPM_METRIC_SM_UTIL
        request.metrics[1].metricId = pynvml.NVML_GPM_METRIC_INTEGER_UTIL
        pynvml.nvmlGpmMetricsGet(request)
        return [(m.nvmlReturn, m.value) for m in request.metrics[:2]]

    before = [sample(3), sample(4)]
    scenario.set_instance_activity(0, slot, 80)
    scenario.advance(300 * MS)
    scenario.set_instance_activity(0, slot, 0)
    early = [sample(3), sample(3)]
    scenario.advance(50 * MS)
    assert metrics(early[0], sample(3))[0] == (pynvml.NVML_ERROR_NO_DATA, 0.0)
    scenario.advance(50 * MS)
    after = [sample(3), sample(4)]
    assert metrics(before[0], after[0]) == [(0, 60.0), (pynvml.NVML_ERROR_NOT_SUPPORTED, 0.0)]
    assert metrics(before[1], after[1])[0] == (0, 0.0)
    for one in (*before, *after, *early):
        pynvml.nvmlGpmSampleFree(one)
    with pytest.raises(pynvml.NVMLError_NotFound):
        sample(5)


# ---- faults --------------------------------------------------------------------------------------


def test_faults_by_function_gpu_and_count(start: Start) -> None:
    scenario = start([Gpu(), Gpu()])
    both = [handle(0), handle(1)]
    energy = pynvml.nvmlDeviceGetTotalEnergyConsumption
    scenario.inject(energy.__name__, pynvml.NVML_ERROR_TIMEOUT, gpu=0, count=2)
    for _ in range(2):
        with pytest.raises(pynvml.NVMLError_Timeout):
            energy(both[0])
        assert energy(both[1]) > 0
    assert energy(both[0]) > 0
    lost = scenario.inject("*", pynvml.NVML_ERROR_GPU_IS_LOST, gpu=1)
    with pytest.raises(pynvml.NVMLError_GpuIsLost):
        pynvml.nvmlDeviceGetUUID(both[1])
    assert pynvml.nvmlDeviceGetUUID(both[0]).startswith("GPU-")
    scenario.clear(lost)
    assert energy(both[1]) > 0
    scenario.inject("field.83", pynvml.NVML_ERROR_UNKNOWN)
    values = pynvml.nvmlDeviceGetFieldValues(both[0], [83, 186])
    assert [v.nvmlReturn for v in values] == [pynvml.NVML_ERROR_UNKNOWN, 0]
    with pytest.raises(ValueError, match="no function"):
        scenario.inject("nvmlDeviceGetTypo", 1)


def test_a_hang_holds_one_call_until_cleared(start: Start) -> None:
    scenario = start([Gpu(), Gpu()], real_time=True)
    both = [handle(0), handle(1)]
    fault = scenario.hang("nvmlDeviceGetPowerUsage", gpu=0)
    answers: list[int] = []
    victim = threading.Thread(
        target=lambda: answers.append(pynvml.nvmlDeviceGetPowerUsage(both[0])), daemon=True
    )
    victim.start()
    victim.join(0.05)
    assert victim.is_alive() and not answers
    scenario.add_power(1, 1000)  # the hung call holds no lock
    assert pynvml.nvmlDeviceGetPowerUsage(both[1]) >= 50_000
    scenario.clear(fault)
    victim.join(5)
    assert answers == [50_000]
    scenario.hang("nvmlDeviceGetPowerUsage", for_ms=30, code=pynvml.NVML_ERROR_TIMEOUT, count=1)
    began = time.monotonic()
    with pytest.raises(pynvml.NVMLError_Timeout):
        pynvml.nvmlDeviceGetPowerUsage(both[0])
    assert time.monotonic() - began >= 0.03


def test_a_driver_reload_ends_sessions_and_may_change_the_order(start: Start) -> None:
    scenario = start([Gpu(uuid="GPU-a"), Gpu(uuid="GPU-b")])
    old = handle(0)
    scenario.advance(5000 * MS)
    scenario.reload(order=[1, 0])
    for refused in (lambda: pynvml.nvmlDeviceGetUUID(old), pynvml.nvmlDeviceGetCount):
        with pytest.raises(pynvml.NVMLError_Uninitialized):
            refused()
    pynvml.nvmlInit()
    with pytest.raises(pynvml.NVMLError_InvalidArgument):
        pynvml.nvmlDeviceGetUUID(old)
    assert [pynvml.nvmlDeviceGetUUID(handle(i)) for i in (0, 1)] == ["GPU-b", "GPU-a"]
    assert (energy_mj(), uptime_s()) == (0, 0)
    assert scenario.calls()["nvmlInitWithFlags"] == 2
    scenario.reset_calls()
    assert scenario.calls() == {}


def test_a_writer_killed_in_the_middle_does_not_stop_readers(start: Start) -> None:
    scenario = start()
    scenario._s.seq |= 1
    assert energy_mj() == scenario.counter_mj(0)
    assert scenario._s.seq % 2 == 0


# ---- several processes, real time ----------------------------------------------------------------

READER = """
import pynvml
pynvml.nvmlInit()
handle = pynvml.nvmlDeviceGetHandleByIndex(0)
last = -1
while True:
    energy = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    assert energy >= last, (energy, last)
    last = energy
    print(energy, flush=True)
    if input() == "end":
        break
pynvml.nvmlShutdown()
"""


def test_the_binding_finds_the_fake_through_the_library_path(tmp_path: Path, out_dir: Path) -> None:
    scenario = Scenario.create(tmp_path / "scenario", [Gpu()], virtual_now_ns=START_NS)
    with subprocess.Popen(
        [sys.executable, "-c", READER],
        env={**os.environ, **scenario.env(build(out_dir))},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as reader:  # fmt: skip
        assert reader.stdin and reader.stdout
        for word in ("go", "go", "end"):
            assert int(reader.stdout.readline()) == scenario.counter_mj(0)
            scenario.advance(700 * MS)
            print(word, file=reader.stdin, flush=True)
    assert reader.returncode == 0
    calls = scenario.calls()
    assert calls["nvmlInitWithFlags"] == calls["nvmlShutdown"] == 1
    assert calls["nvmlDeviceGetTotalEnergyConsumption"] == 3


def test_concurrent_jobs_conserve_energy(start: Start, out_dir: Path) -> None:
    scenario = start([Gpu(tick_period_ns=0, tick_jitter_ns=0, counter_base_mj=0)], real_time=True)
    program = build_power(out_dir)
    began = scenario.start_ns(0)
    script = 'for i in $(seq 40); do "$0" "$1" 0 +$2; "$0" "$1" 0 -$2; done'
    watts = (1_001, 20_003, 300_007, 7)
    jobs = [
        subprocess.Popen(
            ["sh", "-c", script, program, scenario.path, str(mw)], stdout=subprocess.PIPE, text=True
        )
        for mw in watts
    ]
    readings = []
    while any(job.poll() is None for job in jobs):
        readings.append((scenario.now_ns(), energy_mj(), scenario.now_ns()))
    true_pj, end = 0, scenario.now_ns()
    for mw, job in zip(watts, jobs, strict=True):
        times = [int(line) for line in job.communicate()[0].split()]
        assert job.returncode == 0 and len(times) == 80
        true_pj += mw * sum(off - on for on, off in zip(times[::2], times[1::2], strict=True))
    true_pj += 50_000 * (end - began)
    assert scenario.true_energy_uj(0, began, end) == true_pj // 1_000_000
    assert scenario.power_mw(0, end) == 50_000
    assert scenario.counter_mj(0, end) == true_pj // 1_000_000_000
    assert len(readings) > 100
    for before, shown, after in readings:  # with hindsight: no reading missed a step
        assert scenario.counter_mj(0, before) <= shown <= scenario.counter_mj(0, after)


def test_a_burning_job_shows_and_cleans_up_when_cancelled(start: Start, out_dir: Path) -> None:
    scenario = start([Gpu(), Gpu()], real_time=True, order=[1, 0])
    program = build_power(out_dir)
    job = subprocess.Popen(
        [program, scenario.path, "0", "+250000", "--burn", "60000", "--sm", "70"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert job.stdout
    began = int(job.stdout.readline())
    assert [p.pid for p in pynvml.nvmlDeviceGetComputeRunningProcesses(handle(0))] == [job.pid]
    assert [s.smUtil for s in pynvml.nvmlDeviceGetProcessUtilization(handle(0), 0)] == [70]
    assert scenario.power_mw(1, began) == 300_000  # index 0 is slot 1
    job.send_signal(signal.SIGTERM)
    ended = int(job.communicate()[0])
    assert job.returncode == 0
    assert scenario.power_mw(1, ended) == 50_000
    assert pynvml.nvmlDeviceGetComputeRunningProcesses(handle(0)) == []
    text = subprocess.check_output([program, scenario.path, "0", "--mark"], text=True)
    at, true_uj, counter_mj = (int(word) for word in text.split())
    assert true_uj == scenario.true_energy_uj(1, scenario.start_ns(1), at)
    assert counter_mj == scenario.counter_mj(1, at)
    refused = subprocess.run(
        [program, scenario.path, "0", "-60000"], capture_output=True, check=False
    )
    assert refused.returncode == 2 and b"negative" in refused.stderr
