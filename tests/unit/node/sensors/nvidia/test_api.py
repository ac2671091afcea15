"""The typed seam, with the real binding over the fake driver."""

from __future__ import annotations

import ctypes

import pynvml
import pytest
from tests.fakes.nvml.scenario import FUNCTIONS, Gpu, Scenario
from tests.unit.node.sensors.nvidia.nvml_bench import MS, SECOND, START_NS, MakeBench

from joulebook.errors import SensorLost, SensorMissing, SensorRetry, SensorUnsupported
from joulebook.node.sensors.nvidia import api, fields, processes
from joulebook.node.sensors.nvidia.api import Fields, NvmlDevice, Session
from joulebook.node.sensors.nvidia.fields import THROTTLE_FIELDS

NO_COUNTER = Gpu(name="Tesla P40", has_energy_counter=False)


def opened(make: MakeBench, gpu: Gpu | None = None) -> tuple[Scenario, Session, NvmlDevice]:
    scenario = make([gpu or Gpu()]).scenario
    session = Session()
    return scenario, session, NvmlDevice(session, 0)


def test_layouts_are_those_of_the_binding() -> None:
    sizes = {
        pynvml.c_nvmlFieldValue_t: fields._FIELD.size,
        pynvml.c_nvmlSample_t: api._SAMPLE.size,
        pynvml.c_nvmlMemory_v2_t: api._MEMORY_V2.size,
        pynvml.c_nvmlMemory_t: api._MEMORY_V1.size,
        pynvml.c_nvmlProcessInfo_v3_t: processes.ENTRY_SIZES[0],
        pynvml.c_nvmlProcessUtilizationSample_t: processes._SAMPLE.size,
    }
    assert {kind: ctypes.sizeof(kind) for kind in sizes} == sizes
    assert pynvml.nvmlMemory_v2 == api._MEMORY_V2_VERSION


def test_field_ids_are_those_of_the_binding() -> None:
    names = {
        value: name
        for name, value in vars(pynvml).items()
        if name.startswith(("NVML_FI_DEV_PERF_POLICY_", "NVML_FI_DEV_CLOCKS_EVENT_REASON_"))
    }
    assert set(THROTTLE_FIELDS) == set(names)
    assert pynvml.NVML_FI_DEV_POWER_AVERAGE == fields.POWER_AVERAGE
    assert pynvml.NVML_FI_DEV_POWER_INSTANT == fields.POWER_INSTANT


def test_who_a_gpu_is(bench: MakeBench) -> None:
    gpu = Gpu(minor=5, pci_bus_id="00000000:3B:00.0", enforced_limit_mw=250_000)
    _, session, device = opened(bench, gpu)
    assert session.device_count() == 1
    assert session.driver == "550.54.15"
    assert device.uuid == "GPU-00000000-0000-0000-0000-000000000000"
    assert device.model == "NVIDIA A100-SXM4-40GB"
    assert (device.minor, device.pci) == (5, "00000000:3B:00.0")
    # This driver has no limit constraints: the enforced limit stands in for them.
    assert device.highest_limit_mw == 250_000


def test_energy_power_and_uptime(bench: MakeBench) -> None:
    gpu = Gpu(counter_base_mj=7, uptime_base_s=100, tick_period_ns=0)
    scenario, _, device = opened(bench, gpu)
    assert device.energy_mj() == 7
    scenario.set_power(0, 300_000)
    scenario.advance(10 * SECOND)
    assert device.energy_mj() == 3_000_007
    assert device.power_mw() == 300_000
    assert device.uptime_s() == 110


def test_an_older_driver_has_no_uptime(bench: MakeBench) -> None:
    bench(uptime=False)
    assert NvmlDevice(Session(), 0).uptime_s() is None


def test_all_field_values_come_in_one_call_each_with_its_own_code(bench: MakeBench) -> None:
    scenario, _, device = opened(bench)
    scenario.throttle(0, 74, True)
    scenario.throttle(0, 271, True)
    scenario.advance(3 * SECOND)
    scenario.inject("field.75", pynvml.NVML_ERROR_UNKNOWN)
    scenario.inject("field.185", pynvml.NVML_ERROR_NOT_SUPPORTED)
    scenario.reset_calls()
    fields = device.fields()
    assert scenario.calls() == {"nvmlDeviceGetFieldValues": 1}
    assert fields.power_average_mw is None
    assert fields.power_instant_mw == 50_000
    assert "thermal" not in fields.throttle_ns
    assert len(fields.throttle_ns) == len(THROTTLE_FIELDS) - 1
    assert fields.throttle_ns["power"] == fields.throttle_ns["hw_power_brake"] == 3 * SECOND
    assert fields.throttle_ns["base_clocks"] == 0
    scenario.inject("nvmlDeviceGetFieldValues", pynvml.NVML_ERROR_TIMEOUT)
    assert device.fields() == Fields(throttle_ns={})


def test_a_field_that_the_driver_leaves_alone_is_no_value(bench: MakeBench) -> None:
    _, _, device = opened(bench)
    assert device.fields().power_instant_mw == 50_000
    device.field_values._call = lambda: 0  # a driver that says success and writes nothing
    assert device.fields() == Fields(throttle_ns={})


def test_gauges(bench: MakeBench) -> None:
    gpu = Gpu(
        memory_used_bytes=1 << 30, temperature_c=61, sm_mhz=1980, memory_mhz=2619,
        enforced_limit_mw=350_000,
    )  # fmt: skip
    scenario, _, device = opened(bench, gpu)
    scenario.set_utilisation(0, gpu_pct=93, memory_pct=40, encoder_pct=7, decoder_pct=8)
    gauges = (93, 40, 7, 8, 1 << 30, 40 << 30, 61, 1980, 2619, 350_000)
    assert device.telemetry() == gauges
    scenario.inject("*", pynvml.NVML_ERROR_NOT_SUPPORTED)
    assert set(device.telemetry()) == {None}
    assert device.uptime_s() is None


def test_an_older_driver_tells_memory_by_its_first_call(bench: MakeBench) -> None:
    scenario = bench([Gpu(memory_used_bytes=123)]).scenario
    session = Session()
    function = session.function
    session.function = lambda *names: function(  # type: ignore[method-assign]
        *(n for n in names if "_v2" not in n)
    )
    device = NvmlDevice(session, 0)
    assert device.telemetry().memory_used_bytes == 123
    assert scenario.calls()["nvmlDeviceGetMemoryInfo"] == 1
    assert "nvmlDeviceGetMemoryInfo_v2" not in scenario.calls()
    scenario.inject("nvmlDeviceGetMemoryInfo", pynvml.NVML_ERROR_UNKNOWN)
    assert device.telemetry().memory_used_bytes is None


def test_whether_there_is_a_counter(bench: MakeBench) -> None:
    scenario, _, device = opened(bench)
    assert device.has_energy_counter() is True
    scenario.inject("nvmlDeviceGetTotalEnergyConsumption", pynvml.NVML_ERROR_TIMEOUT, count=2)
    assert device.has_energy_counter() is None
    with pytest.raises(SensorRetry, match="TotalEnergyConsumption: timeout"):
        device.energy_mj()


def test_a_gpu_without_a_counter_says_so(bench: MakeBench) -> None:
    _, _, device = opened(bench, NO_COUNTER)
    assert device.has_energy_counter() is False
    with pytest.raises(SensorUnsupported):
        device.energy_mj()


def test_a_function_that_the_driver_lacks_is_not_supported(bench: MakeBench) -> None:
    bench()
    session = Session()
    call = session.prepare(("nvmlNoSuchFunction",))
    assert call() == pynvml.NVML_ERROR_FUNCTION_NOT_FOUND
    assert session.function("nvmlNoSuchFunction", "nvmlDeviceGetName") is not None


def test_power_samples_are_those_after_a_time(bench: MakeBench) -> None:
    scenario, _, device = opened(bench)
    scenario.advance(SECOND)
    samples = device.power_samples(scenario.wall_us(START_NS + 900 * MS))
    assert [t_us for t_us, _ in samples] == [
        scenario.wall_us(START_NS + ms * MS) for ms in (920, 940, 960, 980, 1000)
    ]
    assert {power_mw for _, power_mw in samples} == {50_000}
    assert device.power_samples(samples[-1][0]) == []


def test_more_samples_than_room_come_in_parts(
    bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "_SAMPLES_FIRST", 4)
    scenario, _, device = opened(bench)
    scenario.advance(SECOND)
    after_us, seen = scenario.wall_us(START_NS), []
    while samples := device.power_samples(after_us):
        seen += samples
        after_us = samples[-1][0]
    assert [t_us for t_us, _ in seen] == [
        scenario.wall_us(START_NS + ms * MS) for ms in range(20, 1001, 20)
    ]
    assert device._room > 4


def test_samples_that_cannot_be_had(bench: MakeBench) -> None:
    scenario, _, device = opened(bench)
    scenario.advance(SECOND)
    fault = scenario.inject("nvmlDeviceGetSamples", pynvml.NVML_ERROR_NOT_SUPPORTED)
    assert device.power_samples(0) == []
    scenario.clear(fault)
    scenario.inject("nvmlDeviceGetSamples", pynvml.NVML_ERROR_GPU_IS_LOST)
    with pytest.raises(SensorLost):
        device.power_samples(0)


def test_mig_mode(bench: MakeBench) -> None:
    scenario, _, device = opened(bench)
    assert device.mig() is False
    scenario.set_mig_mode(0, True)
    assert device.mig() is True


def test_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pynvml, "nvmlLib", None)
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})

    def no_library(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(pynvml, "CDLL", no_library)
    with pytest.raises(SensorMissing, match="nvmlInit") as caught:
        Session()
    assert caught.value.reason == "library_not_found"
    assert "libnvidia-ml.so.1" in caught.value.remedy


@pytest.mark.parametrize("code", [9, 17, 18, 999])
def test_no_driver(bench: MakeBench, code: int) -> None:
    bench().scenario.inject("nvmlInitWithFlags", code)
    with pytest.raises(Exception, match=rf"nvmlInit: .* \(NVML code {code}\)"):
        Session()


def test_the_fake_counts_every_function_that_is_used_here(bench: MakeBench) -> None:
    scenario, session, device = opened(bench)
    device.energy_mj()
    device.fields()
    device.telemetry()
    device.power_samples(0)
    device.mig()
    session.close()
    session.close()  # a session that is over already
    assert set(scenario.calls()) <= set(FUNCTIONS)
    assert scenario.calls()["nvmlShutdown"] == 2
